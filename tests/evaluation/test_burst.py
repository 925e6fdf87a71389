"""BURST, against the numbers of the official code on its golden set, and small cases worked out by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_benchmarks import GOLDEN, differences, needs_golden

from mdqe.errors import InputError
from mdqe.evaluation import evaluate
from mdqe.results import rle

FOLDER = GOLDEN / "burst"
SIZE = (20, 30)


def golden(name: str) -> Any:
    return json.loads((FOLDER / name).read_text())


@needs_golden
@pytest.mark.parametrize(
    ("results", "tasks"),
    [
        ("pred.json", ("class_guided", "open_world")),
        ("pred_exemplar.json", ("exemplar_guided", "exemplar_guided_switch_set_first")),
    ],
)
def test_equals_the_official_numbers(results, tasks):
    found, masks = evaluate(FOLDER / "gt", FOLDER / results), golden("extra_not_official.json")
    for task in tasks:
        assert differences(found["official"][task], golden("expected.json")[task]) == []
        if task in masks:
            assert differences(found["mask_hota"][task]["summary"], masks[task]) == []


def box(top: int, left: int, height: int = 6, width: int = 6) -> dict[str, Any]:
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return {"rle": rle.encode(mask[None])[0]}


def sequence(frames: list[dict[str, Any]], tracks: dict[str, int], **more: Any) -> dict[str, Any]:
    paths = [f"frame{i + 1:04}.jpg" for i in range(len(frames))]
    found = {"id": 1, "dataset": "AVA", "seq_name": "one", "height": SIZE[0], "width": SIZE[1]}
    found |= {"annotated_image_paths": paths, "segmentations": frames, "track_category_ids": tracks}
    return found | {"neg_category_ids": [], "not_exhaustive_category_ids": []} | more


def document(*sequences: dict[str, Any], split: str = "val") -> dict[str, Any]:
    return {"split": split, "categories": [{"id": 805, "name": "person"}], "sequences": list(sequences)}


def save(folder: Path, *sequences: dict[str, Any]) -> Path:
    for name in ("all", "common", "uncommon"):
        (folder / f"{name}_classes.json").write_text(json.dumps(document(*sequences)))
    return folder


def hota(found: dict[str, Any], task: str = "class_guided") -> float:
    return found["official"][task]["summary"]["HOTA" if "guided" in task else "OWTA"]["all"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [({}, 100), ({"neg_category_ids": [805]}, 100 * np.sqrt(0.5)), ({"not_exhaustive_category_ids": [805]}, 100)],
)
def test_results_that_are_not_counted(tmp_path, more, expected):
    """A result in a frame without an object of its class counts only if the class is a negative one."""
    frames = [{"1": box(2, 2)}, {"2": box(9, 9)}]
    truth = save(tmp_path, sequence(frames, {"1": 805, "2": 58}, **more))
    tracks = sequence([{"1": box(2, 2)}, {"3": box(2, 2), "2": box(9, 9)}], {"1": 805, "2": 58, "3": 805})
    person = evaluate(truth, document(tracks))["official"]["class_guided"]["per_class_mean"]["person"]
    assert 100 * person["HOTA"] == pytest.approx(expected)


def test_boxes_are_official_and_masks_have_their_own_name(tmp_path):
    cross = np.zeros(SIZE, bool)
    cross[2:8, 4:6] = cross[4:6, 2:8] = True
    truth = save(tmp_path, sequence([{"1": box(2, 2)}], {"1": 805}))
    found = evaluate(truth, document(sequence([{"1": {"rle": rle.encode(cross[None])[0]}}], {"1": 805})))
    assert hota(found) == pytest.approx(100)
    assert found["mask_hota"]["class_guided"]["summary"]["HOTA"]["all"] < 70


def test_distractors_are_left_out_and_classes_are_merged(tmp_path):
    frames = [{"1": box(2, 2), "2": box(10, 2), "3": box(2, 12)}]
    truth = save(tmp_path, sequence(frames, {"1": 207, "2": 20, "3": 805}))
    found = evaluate(truth, document(sequence(frames, {"1": 554, "2": 20, "3": 805})))
    assert list(found["official"]["class_guided"]["per_class_mean"]) == ["hat", "person"]
    assert hota(found) == pytest.approx(100) and hota(found, "open_world") == pytest.approx(100)


def test_frames_that_are_not_annotated_are_ignored(tmp_path):
    frames = [{"1": box(2, 2)}, {"1": box(4, 2)}]
    sparse = sequence(frames, {"1": 805})
    truth = save(tmp_path, sparse | {"annotated_image_paths": ["frame0001.jpg", "frame0031.jpg"]})
    dense = sequence([frames[0], *([{"1": box(12, 20)}] * 29), frames[1]], {"1": 805})
    found = evaluate(truth, document(dense), benchmark="burst")
    assert hota(found) == pytest.approx(100)
    assert found["official"]["class_guided"]["summary"]["AP"]["common"] == pytest.approx(100)
    assert np.isnan(found["official"]["class_guided"]["summary"]["AP"]["uncommon"]), "there is no class"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentations": [{"1": {"rle": "0"}}]}, r"AVA/one: track 1 in frame0001.jpg: counts"),
        ({"segmentations": [{"x": box(2, 2)}]}, "'x' in frame0001.jpg; expected ids of tracks"),
        ({"segmentations": []}, r"sequence 0 \(AVA/one\): \"segmentations\" is a list of 0; there are 1"),
        ({"track_category_ids": {}}, "without a category for track '1' in frame0001.jpg"),
        ({"track_category_ids": {"1": "person"}}, "\"1\" is 'person'; expected a whole number"),
        ({"segmentations": [{"1": box(2, 2) | {"score": float("nan")}}]}, "the score nan for track '1'"),
        ({"seq_name": "../one"}, "expected a path inside"),
    ],
)
def test_damaged_results(tmp_path, change, message):
    one = sequence([{"1": box(2, 2)}], {"1": 805})
    with pytest.raises(InputError, match=message):
        evaluate(save(tmp_path, one), document(one | change))


def test_results_of_other_videos_are_named(tmp_path):
    one = sequence([{"1": box(2, 2)}], {"1": 805})
    with pytest.warns(UserWarning) as caught:
        found = evaluate(save(tmp_path, one), document(one | {"seq_name": "two"}))
    assert found["official"]["class_guided"]["summary"]["HOTA"]["all"] == 0
    ignored, nothing = (str(warning.message) for warning in caught)
    assert ignored.startswith("results: 1 of 1 sequences are not in ") and "(AVA/two); they are ignored" in ignored
    assert nothing == "results: no results in annotated frames: the numbers are those of an empty result"


def test_files_that_do_not_fit(tmp_path):
    one = sequence([{"1": box(2, 2)}], {"1": 805})
    truth = save(tmp_path, one)
    with pytest.raises(InputError, match=r"results: \"split\" is 'test'; .*all_classes.json has the split 'val'"):
        evaluate(truth, document(one, split="test"))
    with pytest.raises(InputError, match='results: a list; expected the JSON of BURST, an object with "sequences"'):
        evaluate(truth, [])
    (truth / "common_classes.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"common_classes\.json"):
        evaluate(truth, document(one))
