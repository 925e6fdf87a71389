"""Identity metrics at several minimum scores, against an evaluation at each."""

import json
from pathlib import Path

import numpy as np
import pytest

from mdqe.cli.evaluate_thresholds import suggestion
from mdqe.data.synthetic_files import write_set
from mdqe.evaluation import evaluate
from mdqe.evaluation.thresholds import best_threshold, sweep_thresholds

LEVELS = (0.0, 0.2, 0.45, 0.5, 0.9, 1.0)
KEYS = ("HOTA", "DetA", "AssA", "IDF1", "IDP", "IDR", "IDSW")


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> tuple[Path, list]:
    """Three videos with a crowd; the truth with good scores, and a frame late with bad ones, some with the same id."""
    folder = tmp_path_factory.mktemp("set")
    list(write_set(folder, videos=3, frames=6, size=(48, 64), difficulty="standard"))
    path = folder / "annotations.json"
    document = json.loads(path.read_text())
    document["annotations"][1]["iscrowd"] = 1
    path.write_text(json.dumps(document))
    random, rows = np.random.default_rng(3), []
    for i, one in enumerate(document["annotations"]):
        fields = {key: one[key] for key in ("video_id", "category_id")}
        masks = one["segmentations"]
        rows.append(fields | {"score": random.uniform(0.3, 1), "track_id": 2 * i, "segmentations": masks})
        late = [None, *masks[:-1]]
        rows.append(fields | {"score": random.uniform(0, 0.6), "track_id": 2 * i + i % 2, "segmentations": late})
    return path, rows


def test_each_level_is_an_evaluation(found):
    sweep = sweep_thresholds(*found, LEVELS[::-1])
    assert list(sweep) == list(LEVELS)
    for level, numbers in sweep.items():
        alone = evaluate(*found, score_threshold=level, per_video=True)
        assert {key: numbers[key] for key in KEYS} == {key: alone[key] for key in KEYS}
    assert [sweep[level]["tracks"] for level in (0.0, 1.0)] == [len({row["track_id"] for row in found[1]}), 0]
    assert best_threshold(sweep) == max(LEVELS, key=lambda level: sweep[level]["HOTA"])


def test_equal_levels():
    """Of equal numbers, the closest to the default is chosen."""
    numbers = [0.5, 0.7, 0.7, 0.7, 0.2]
    sweep = dict(zip((0.1, 0.2, 0.28, 0.5, 0.9), ({"HOTA": one} for one in numbers), strict=True))
    assert best_threshold(sweep) == 0.28
    assert suggestion(sweep, 0.28).startswith("HOTA is highest at a score of 0.28 (")


def test_no_score_is_suggested_without_a_reason():
    for value, reason in ((-1.0, "there are no objects"), (0.25, "HOTA is 25.0 at each of them")):
        sweep = {level: {"HOTA": value} for level in LEVELS}
        assert suggestion(sweep, best_threshold(sweep)) == f"No score can be suggested, because {reason}"


def test_bad_levels(found):
    with pytest.raises(ValueError, match="no score thresholds; expected at least one"):
        sweep_thresholds(*found, ())


@pytest.mark.parametrize("threshold", [30, -0.1, float("nan"), "0.5", True])
def test_thresholds_that_are_no_scores(found, threshold):
    path, results = found
    with pytest.raises(ValueError, match=r"score_threshold is .*, expected a number from 0 to 1"):
        evaluate(path, results, score_threshold=threshold)
    with pytest.raises(ValueError, match=r"score_threshold is .*, expected a number from 0 to 1"):
        sweep_thresholds(path, results, [0.5, threshold])


def test_the_folder_of_a_set(found):
    path, results = found
    assert evaluate(path.parent, results)["AP"] == evaluate(path, results)["AP"] > 0
