"""The curves and the page of `mdqe evaluate`."""

import csv
import json
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from mdqe.data.synthetic_files import write_set
from mdqe.results.instances import VideoInstances

HOSTILE = "<script>alert(1)</script><img src=x> $\\frac{ & _\" ' --> \ud800"


@pytest.fixture
def found(tmp_path):
    """Four videos and results: of the first the truth, of the second half of it, of the others a frame early."""
    folder = tmp_path / "shapes"
    list(write_set(folder, videos=4, frames=6, size=(48, 64), difficulty="easy"))
    document = json.loads((folder / "annotations.json").read_text())
    rows = []
    for i, one in enumerate(document["annotations"]):
        masks = one["segmentations"]
        if one["video_id"] == 2 and i % 2:
            continue
        if one["video_id"] > 2:
            masks = [*masks[1:], None]
        fields = {"video_id": one["video_id"], "category_id": one["category_id"], "score": 0.9, "track_id": i}
        rows.append(fields | {"segmentations": masks})
    (tmp_path / "results.json").write_text(json.dumps(rows))
    return tmp_path


def evaluate(run, found, *options):
    out = found / "out"
    status, stdout, stderr = run("evaluate", found / "results.json", "--data", found / "shapes", "-o", out, *options)
    return status, stdout, stderr, out


def test_best_and_worst(run, found):
    status, _, stderr, out = evaluate(run, found, "--show-videos", "1")
    assert (status, stderr) == (0, "")
    numbers = json.loads((out / "numbers.json").read_text())
    scores = {int(number): one["score"] for number, one in numbers["per_video"].items()}
    assert scores[1] == 1 and max(scores, key=scores.get) == 1
    worst = min(scores, key=lambda number: (scores[number], number))
    page = (out / "report.html").read_text()
    assert re.findall(r'<section id="video-(\d+)">', page) == [str(worst), "1"], "the worst, then the best"
    assert re.findall(r'href="#video-(\d+)"', page) == [str(worst), "1"], "linked from the list of all"
    assert page.count("data:image/jpeg;base64,") == 2 * 2 * 4, "videos, sides, frames"
    assert page.count("data:image/svg+xml;base64,") == 1 and "Left out" not in page
    assert not re.search(r'(src|href)="(?!data:|#)', page), "nothing to fetch"
    total = len(json.loads((found / "shapes" / "annotations.json").read_text())["annotations"])
    assert sum(one["objects"] for one in numbers["per_video"].values()) == total
    commands = re.findall(r"<code>mdqe (.*?)</code>", page)
    assert run(*commands[0].split()[:-1], out / "3.html")[0] == 0, "the command on the page works"


def test_the_files_of_the_curves(run, found):
    _, _, _, out = evaluate(run, found, "--show-videos", "0")
    numbers = json.loads((out / "numbers.json").read_text())
    assert "precision_curves" not in numbers
    with (out / "precision_recall.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows[:10]] == ["all"] * 10 and rows[0]["iou"] == "0.50"
    values = np.array([[float(row[f"{i / 100:.2f}"]) for i in range(101)] for row in rows[:10]])
    assert values.mean() == pytest.approx(numbers["AP"], abs=1e-5)
    assert values[0].mean() == pytest.approx(numbers["AP50"], abs=1e-5)
    picture = (out / "precision_recall.svg").read_bytes()
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    evaluate(run, found, "--show-videos", "0")
    assert (out / "precision_recall.svg").read_bytes() == picture
    assert "<section" not in (out / "report.html").read_text()


def test_without_frames(run, found):
    (found / "shapes" / "JPEGImages").rename(found / "frames")
    status, _, stderr, out = evaluate(run, found)
    assert status == 0 and stderr.count("\n") == 1
    assert "left out: the frames, which are not in" in stderr and "masks are drawn on a plain background" in stderr
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4 * 2 * 4 and "Left out: the frames" in page
    status, _, stderr, _ = evaluate(run, found, "--images", found / "frames")
    assert (status, stderr) == (0, "")


def test_a_damaged_frame_loses_nothing_else(run, found):
    frame = sorted((found / "shapes" / "JPEGImages" / "00002").iterdir())[0]
    frame.write_text("no picture")
    status, stdout, stderr, out = evaluate(run, found)
    assert status == 0 and "AP50" in stdout and stderr.count("\n") == 1
    assert f"left out: the frames of video 3: {frame} cannot be read" in stderr
    assert (out / "report.html").read_text().count("data:image/jpeg;base64,") == 4 * 2 * 4


@pytest.mark.parametrize(
    ("package", "message", "pictures"),
    [
        ("matplotlib", "the picture of the curves: drawing curves needs matplotlib", 32),
        ("PIL", "the pictures: reading images needs pillow", 0),
    ],
)
def test_a_missing_extra_does_not_lose_the_evaluation(run, found, monkeypatch, package, message, pictures):
    for name in [one for one in sys.modules if one.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    status, stdout, stderr, out = evaluate(run, found)
    assert status == 0 and "AP50" in stdout
    assert message in stderr and "pip install 'mdqe[" in stderr and stderr.count("\n") == 1
    assert (out / "report.html").read_text().count("data:image/jpeg;base64,") == pictures
    assert (out / "precision_recall.csv").exists()


def test_names_are_text(run, found):
    path = found / "shapes" / "annotations.json"
    document = json.loads(path.read_text())
    for one in document["categories"]:
        one["name"] = HOSTILE
    for one in document["videos"]:
        one["file_names"] = ["<img src=x>/" + name.split("/")[1] for name in one["file_names"]]
    path.write_text(json.dumps(document))
    status, _, _, out = evaluate(run, found)
    assert status == 0
    page = (out / "report.html").read_text()
    assert "<script" not in page and "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "&lt;img src=x&gt;" in page
    assert ElementTree.fromstring((out / "precision_recall.svg").read_bytes()) is not None


def test_a_set_without_objects(run, found):
    path = found / "shapes" / "annotations.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    status, _, stderr, out = evaluate(run, found)
    assert status == 0 and "left out: curves of precision and recall: there is no object to find" in stderr
    assert "Ground truth" not in (out / "report.html").read_text()


def test_an_output_that_cannot_be_written(run, found):
    (found / "out").write_text("a file")
    status, _, stderr, _ = evaluate(run, found)
    assert status == 2 and stderr.count("\n") == 1 and str(found / "out") in stderr


def test_several_score_thresholds(run, found):
    """The best one is suggested, used, drawn and written; the page says which results it uses."""
    path = found / "results.json"
    rows = json.loads(path.read_text())
    for one in rows:
        one["score"] = 0.6 if one["video_id"] == 1 else 0.1
    path.write_text(json.dumps(rows))
    status, stdout, stderr, out = evaluate(run, found, "--score-threshold", "sweep", "--show-videos", "1")
    assert (status, stderr) == (0, "")
    numbers = json.loads((out / "numbers.json").read_text())
    levels = {float(level): one for level, one in numbers["score_thresholds"].items()}
    best = numbers["score_threshold"]
    assert len(levels) == 19 and levels[best]["HOTA"] == max(one["HOTA"] for one in levels.values()) == numbers["HOTA"]
    assert f"HOTA is highest at a score of {best:g} (" in stdout and f"(score ≥ {best:g})" in stdout
    assert f"{best:g} *" in stdout
    with (out / "score_thresholds.csv").open() as file:
        table = {float(row["score"]): float(row["HOTA"]) for row in csv.DictReader(file)}
    assert table == {level: one["HOTA"] for level, one in levels.items()}
    page = (out / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 2
    assert f"with a score of at least {best:g}" in page and "Choose it on a validation set" in page
    assert ElementTree.fromstring((out / "score_thresholds.svg").read_bytes()).tag.endswith("svg")
    _, stdout, _, _ = evaluate(run, found, "--score-threshold", "0.05,0.3")
    assert "HOTA is highest at a score of 0.05 (" in stdout
    assert len(json.loads((out / "numbers.json").read_text())["score_thresholds"]) == 2


def test_groups_of_a_benchmark(run, found):
    """LV-VIS has base and novel categories, which the page shows too."""
    path = found / "shapes" / "annotations.json"
    document = json.loads(path.read_text())
    for one in document["categories"]:
        one["partition"] = 2 * (one["id"] % 2)
    path.write_text(json.dumps(document))
    status, stdout, _, out = evaluate(run, found, "--show-videos", "0")
    assert status == 0 and [line.split()[0] for line in stdout.splitlines()[1:]] == ["all", "base", "novel"]
    assert f"<pre>{stdout.rstrip()}</pre>" in (out / "report.html").read_text()


def test_a_category_below_the_minimum_score(run, found):
    """HOTA is 0 beside a good AP if all results are below the minimum score: the page says so."""
    path = found / "results.json"
    rows = json.loads(path.read_text())
    for one in rows:
        one["score"] = 0.2
    path.write_text(json.dumps(rows))
    status, _, _, out = evaluate(run, found)
    numbers = json.loads((out / "numbers.json").read_text())
    assert status == 0 and numbers["HOTA"] == 0 < numbers["AP"] and numbers["score_threshold"] == 0.3
    page = (out / "report.html").read_text()
    assert "has a score of at least 0.3, so HOTA and IDF1 are 0 there, whatever AP is" in page
    assert "--score-threshold sweep" in page and "tracks ≥ 0.3" in page


def test_several_score_thresholds_of_images(run, found):
    """Average precision needs no minimum score."""
    options = ("--score-threshold", "0.1,0.2", "--benchmark", "coco")
    status, stdout, stderr, _ = evaluate(run, found, *options)
    assert (status, stdout) == (2, "") and "several score thresholds are for ytvis, ovis, lvvis, hqvis; the " in stderr


@pytest.mark.parametrize("value", ["2", "0.1,x", "sweeps", ""])
def test_bad_score_thresholds(run, found, value):
    status, stdout, stderr, _ = evaluate(run, found, "--score-threshold", value)
    assert (status, stdout) == (2, "") and stderr.count("\n") == 1
    assert 'is not a number from 0 to 1, several of them, or "sweep"' in stderr


def test_the_files_of_mots(run, tmp_path):
    """Tables on the page, and a line for each class and sequence."""
    masks = np.zeros((2, 3, *(6, 8)), bool)
    masks[0, :, 1:3, 2:5] = masks[1, :2, 4:, 1:4] = True
    for name in ("0001", "0002"):
        (tmp_path / "segmented" / name).mkdir(parents=True)
        found = VideoInstances.from_masks([0.9, 0.8], [0, 1], [0, 1], masks, categories=("car", "pedestrian"))
        found.save(tmp_path / "segmented" / name / "instances.json")
    assert run("write", tmp_path / "segmented", "-o", tmp_path / "mots", "--format", "mots")[0] == 0
    out = tmp_path / "out"
    status, stdout, _ = run("evaluate", tmp_path / "mots", "--data", tmp_path / "mots", "-o", out)
    assert status == 0 and "sMOTSA" in stdout
    with (out / "per_video.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], row["sequence"]) for row in rows] == [
        (kind, name) for kind in ("car", "pedestrian") for name in ("all", "0001", "0002")
    ]
    assert {row["sMOTSA"] for row in rows} == {"1.0"} and [row["tp"] for row in rows] == ["6", "3", "3", "4", "2", "2"]
    page = (out / "report.html").read_text()
    assert stdout.strip() in page and "Evaluation · mots" in page and not re.search(r'(src|href)="(?!data:|#)', page)
