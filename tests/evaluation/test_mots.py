"""KITTI MOTS and MOTSChallenge, against the numbers of mots_tools and of TrackEval on their golden sets."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_benchmarks import GOLDEN, differences, needs_golden

from mdqe.errors import InputError
from mdqe.evaluation import evaluate
from mdqe.evaluation.benchmarks import recognise_folder
from mdqe.evaluation.mots import _breaks
from mdqe.results import rle

FOLDER = GOLDEN / "mots"
KITTI, RESULTS = FOLDER / "kitti", Path("trackers", "t1", "data")
CHALLENGE, CHALLENGE_RESULTS = FOLDER / "motschallenge", Path("trackers", "MOTS-train", "t1", "data")


def expected(name: str) -> dict:
    return json.loads((FOLDER / "expected.json").read_text())[name]


@needs_golden
@pytest.mark.parametrize("truth", ["gt", "gt/label_02", "gt/evaluate_mots.seqmap.val"])
def test_kitti(truth):
    found = evaluate(KITTI / truth, KITTI / RESULTS)["official"]
    assert differences(found, expected("mots_tools_kitti")) == []
    assert differences(found["trackeval"], expected("trackeval_kitti")) == []
    assert found["car"]["0008"]["sMOTSA"] == -np.inf and found["car"]["0008"]["MOTSP"] == np.inf


@needs_golden
def test_images():
    found = evaluate(FOLDER / "png" / "gt", FOLDER / "png" / "results", benchmark="mots")["official"]
    assert differences(found, expected("mots_tools_png")) == []


@needs_golden
@pytest.mark.parametrize("truth", ["gt", "gt/MOTS-train"])
def test_motschallenge(truth):
    found = evaluate(CHALLENGE / truth, CHALLENGE / CHALLENGE_RESULTS)["official"]
    renamed = {
        kind: {"all" if name == "all" else f"MOTS20-{name[2:]}": one for name, one in part.items()}
        for kind, part in expected("mots_tools_motschallenge").items()
    }
    assert differences(found, renamed) == []
    assert differences(found["trackeval"], expected("trackeval_motschallenge")) == []


def save(folder: Path, sequences: dict[str, list[np.ndarray]]) -> Path:
    """Text files of images (H, W) of ids."""
    folder.mkdir(parents=True)
    for name, images in sequences.items():
        lines = []
        for t, image in enumerate(images):
            for value in np.unique(image[image > 0]).tolist():
                counts = rle.encode((image == value)[None])[0]
                lines.append(f"{t} {value} {value // 1000} {image.shape[0]} {image.shape[1]} {counts}\n")
        (folder / f"{name}.txt").write_text("".join(lines))
    return folder


def square(value: int, left: int = 2) -> np.ndarray:
    image = np.zeros((10, 20), np.uint16)
    image[2:6, left : left + 4] = value
    return image


def test_ignore_regions_and_switches(tmp_path):
    """A result inside a region is ignored; a result that changes its id is a switch."""
    region = square(10000, 12)
    truth = save(tmp_path / "gt", {"0000": [square(1000) + region, square(1000)]})
    results = save(tmp_path / "results", {"0000": [square(1005) + square(1007, 12), square(1006)]})
    found = evaluate(truth, results)["official"]
    car = found["car"]["all"]
    assert (car["tp"], car["fp"], car["n_itr"], car["id_switches"], car["sMOTSA"]) == (2, 0, 1, 1, 0.5)
    assert found["trackeval"]["COMBINED_SEQ"]["car"]["CLEAR"]["IDSW"] == 1
    assert found["trackeval"]["COMBINED_SEQ"]["car"]["Count"]["Dets"] == 2


@pytest.mark.parametrize(
    ("line", "switches", "fragments"),
    [
        ([1, 1, 1], 0, 0),
        ([1, 2, 2], 1, 1),
        ([1, -1, 1], 0, 1),  # in the last frame
        ([1, -1, 1, -1], 0, 0),  # the next frame must be matched too
        ([1, -1, 1, 1], 0, 1),
        ([-1, 1, 1], 0, 0),
        ([-1, 1], 0, 1),  # the last frame needs no earlier match
        ([7], 0, 0),
    ],
)
def test_breaks(line, switches, fragments):
    assert _breaks(line) == (switches, fragments)


@pytest.mark.filterwarnings("ignore:.*are not in the sequence:UserWarning")
def test_frames_beyond_the_sequence_are_ignored(tmp_path):
    truth = save(tmp_path / "gt", {"0000": [square(1000)]})
    (truth / "val.seqmap").write_text("0000 empty 000000 000000\n")
    results = save(tmp_path / "results", {"0000": [square(1005), square(1005)]})
    with pytest.warns(UserWarning, match=r"0000.txt: 1 frames are not in the sequence \(\[1\]\); they are ignored"):
        found = evaluate(truth, results)
    assert found["official"]["car"]["all"]["MOTSA"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1000 1 10 20 " + "0" * 9, r"line 1: \"rle\": counts"),
        ("0 1000 3 10 20 PR", 'line 1: "class_id" is 3; expected 1 '),
        ("99999999 1000 1 10 20 X6", '"time_frame" is 99999999; expected at most'),
        ("video", "line 1 has 1 fields"),
    ],
)
def test_damaged_lines(tmp_path, text, message):
    truth = save(tmp_path / "gt", {"0000": [square(1000)]})
    results = save(tmp_path / "results", {"0000": []})
    (results / "0000.txt").write_text(text.replace("X6", rle.encode(square(1)[None] > 0)[0]) + "\n")
    with pytest.raises(InputError, match=message):
        evaluate(truth, results)


def test_results_that_are_a_file(tmp_path):
    truth = save(tmp_path / "truth", {"0000": [square(1001)]})
    (tmp_path / "results.json").touch()
    with pytest.raises(InputError, match=r"results\.json is a file; results of MOTS are a folder"):
        evaluate(truth, tmp_path / "results.json")


def test_other_text_files_are_not_mots(tmp_path):
    (tmp_path / "README.txt").write_text("Six words of text on MOTS\n")
    assert recognise_folder(tmp_path) is None
    save(tmp_path / "label_02", {"0000": [square(1001)]})
    assert evaluate(tmp_path, tmp_path / "label_02")["official"]["car"]["all"]["tp"] == 1
    assert recognise_folder(tmp_path) == recognise_folder(tmp_path / "label_02") == "mots"


def test_summaries_beside_results_are_not_results(tmp_path):
    """TrackEval writes them beside the folder data."""
    truth = save(tmp_path / "gt", {"0000": [square(1001)]})
    save(tmp_path / "tracker" / "data", {"0000": [square(1001)]})
    (tmp_path / "tracker" / "pedestrian_summary.txt").write_text("HOTA DetA AssA\n1 1 1\n")
    assert evaluate(truth, tmp_path / "tracker")["official"]["car"]["all"]["tp"] == 1


def test_a_named_map_selects_the_sequences(tmp_path):
    files = {name: [square(2001), square(2001)] for name in ("0000", "0001")}
    truth, results = save(tmp_path / "gt", files), save(tmp_path / "results", files)
    path = truth / "one.seqmap"
    path.write_text("0001 empty 000000 000001\n")
    assert list(evaluate(path, results)["official"]["car"]) == ["all", "0001"]
    path.write_text("0001 empty 000000 000001\n0009 empty 000000 000001\n")
    with pytest.raises(InputError, match=r"one\.seqmap lists the sequence 0009, which is not in .*gt"):
        evaluate(path, results)
    path.write_text("\n")
    with pytest.raises(InputError, match=r"one\.seqmap lists no sequence; expected lines with SEQUENCE empty FIRST"):
        evaluate(path, results)
    assert len(evaluate(truth, results)["official"]["car"]) == 3, "an empty map that is not named has no effect"
    for name in files:
        (tmp_path / "challenge" / name).mkdir(parents=True)
        save(tmp_path / "challenge" / name / "gt", {"gt": files[name]})
    path = tmp_path / "challenge" / "one.seqmap"
    path.write_text("0001 empty 000001 000001\n")
    with pytest.warns(UserWarning, match=r"1 frames are not in the sequence \(\[0\]\)"):
        found = evaluate(path, results)["official"]["pedestrian"]
    assert list(found) == ["all", "0001"] and found["all"]["tp"] == 1


def test_what_the_official_tools_reject(tmp_path):
    truth = save(tmp_path / "gt", {"0000": [square(1000)]})
    counts = rle.encode(square(1)[None] > 0)[0]
    results = save(tmp_path / "results", {"0000": []})
    (results / "0000.txt").write_text(f"0 1000 1 10 20 {counts}\n0 1001 1 10 20 {counts}\n")
    with pytest.raises(InputError, match=r"0000.txt: frame 0: masks overlap; in MOTS, a pixel belongs to one object"):
        evaluate(truth, results)
    (results / "0000.txt").write_text(f"0 1000 1 10 20 {counts}\n" * 2)
    with pytest.raises(InputError, match="frame 0: object 1000 appears twice"):
        evaluate(truth, results)
    (results / "0000.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"0000.txt, the results of a sequence; it may be empty"):
        evaluate(truth, results)
    (results / "0001.txt").write_text("")
    (truth / "all.seqmap").write_text("0000 empty 000000 99999999999\n")
    with pytest.raises(InputError, match=r"all.seqmap: line 1 is .*expected SEQUENCE empty FIRST LAST"):
        evaluate(truth, results)


def test_frames_of_videos_are_not_taken_for_mots(tmp_path):
    """Colour images, and greyscale images with other values; images without objects do not decide."""
    folder = tmp_path / "frames" / "0000"
    folder.mkdir(parents=True)
    Image.fromarray(square(0)).save(folder / "000000.png")
    assert recognise_folder(tmp_path / "frames") == "mots"
    Image.new("RGB", (20, 10), (1, 2, 3)).save(folder / "000001.png")
    with pytest.raises(InputError, match=r"000001.png has colours; the images of MOTS have one channel of 16 bits"):
        evaluate(tmp_path / "frames", tmp_path / "results.json")
    Image.new("L", (20, 10), 117).save(folder / "000001.png")
    with pytest.raises(InputError, match=r"000001.png has the value 117; .*Other annotations are a file, or a folder "):
        recognise_folder(tmp_path / "frames")
    Image.fromarray(square(2001)).save(folder / "000001.png")
    assert recognise_folder(tmp_path / "frames") == "mots"
    (tmp_path / "frames" / "annotations.json").write_text("{}")
    assert recognise_folder(tmp_path / "frames") is None


def test_an_image_with_another_class(tmp_path):
    folder = tmp_path / "gt" / "0000"
    folder.mkdir(parents=True)
    Image.fromarray(square(3000)).save(folder / "000000.png")
    with pytest.raises(InputError, match=r"000000.png: value 3000: class is 3; expected 1 \(car\)"):
        evaluate(tmp_path / "gt", tmp_path / "gt", benchmark="mots")
