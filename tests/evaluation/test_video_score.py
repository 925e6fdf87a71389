"""The score of a video against a plain calculation: pixels, and every way of pairing."""

import warnings
from itertools import permutations

import numpy as np
import pytest
from evaluation_cases import generate

from mdqe.evaluation import evaluate
from mdqe.evaluation.average_precision import IOU_THRESHOLDS, RECALLS

coco_mask = pytest.importorskip("pycocotools.mask")


def decoded(track, video) -> np.ndarray:
    """(T, H, W) bool, by pycocotools."""
    size = [video["height"], video["width"]]
    masks = np.zeros((video["length"], *size), bool)
    for t, one in enumerate(track["segmentations"]):
        if one is not None:
            counts = one["counts"]
            packed = coco_mask.frPyObjects(one, *size) if isinstance(counts, list) else one
            masks[t] = coco_mask.decode(packed).astype(bool)
    return masks


def plain_score(document, results, video, threshold) -> tuple[float, int, int]:
    """Of every one-to-one pairing of objects and tracks the largest sum of IoUs; objects and tracks that count."""
    total, objects_counted, tracks_counted = 0.0, 0, 0
    for category in document["categories"]:
        mine = [(i, one) for i, one in enumerate(results) if one["video_id"] == video["id"]]
        best: dict = {}
        for i, one in mine:
            key = one.get("track_id", f"alone {i}")
            known = one["category_id"] in {each["id"] for each in document["categories"]}
            if known and one["score"] >= threshold and (key not in best or one["score"] > best[key]["score"]):
                best[key] = one
        tracks = [decoded(one, video) for one in best.values() if one["category_id"] == category["id"]]
        of_video = [one for one in document["annotations"] if one["video_id"] == video["id"]]
        of_category = [one for one in of_video if one["category_id"] == category["id"]]
        objects = [decoded(one, video) for one in of_category if not one["iscrowd"]]
        crowds = [decoded(one, video) for one in of_category if one["iscrowd"]]
        ious = np.zeros((len(tracks), len(objects)))
        for d, track in enumerate(tracks):
            for g, other in enumerate(objects):
                union = (track | other).sum()
                ious[d, g] = (track & other).sum() / union if union else 0
        wide = ious if len(tracks) >= len(objects) else ious.T
        pairings = list(permutations(range(len(wide)), wide.shape[1]))
        sums = [sum(wide[row, column] for column, row in enumerate(one)) for one in pairings]
        chosen = pairings[int(np.argmax(sums))]
        total += max(sums)
        rows = [(row, c) if wide is ious else (c, row) for c, row in enumerate(chosen) if wide[row, c] > 0]
        for d, track in enumerate(tracks):
            paired = any(row == d for row, _ in rows)
            inside = any((track & crowd).sum() * 2 > track.sum() for crowd in crowds)
            tracks_counted += paired or not inside
        objects_counted += len(objects)
    count = objects_counted + tracks_counted
    return (2 * total / count if count else -1.0), objects_counted, tracks_counted


@pytest.mark.parametrize("seed", range(8))
def test_generated_sets(seed):
    document, results = generate(seed, results=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        numbers = evaluate(document, results, per_video=True, score_threshold=0.25)
        without = evaluate(document, results, per_video=True, score_threshold=0.25, identity=False)
    for video in document["videos"]:
        score, objects, tracks = plain_score(document, results, video, 0.25)
        found = numbers["per_video"][video["id"]]
        assert (found["objects"], found["tracks"]) == (objects, tracks)
        assert found["score"] == pytest.approx(score, abs=1e-12)
        assert without["per_video"][video["id"]]["score"] == found["score"]


def test_ends_of_the_scale():
    """Exact masks give 1, nothing found 0, a false track besides takes its share, and an empty video has no score."""
    mask = {"size": [4, 5], "counts": [6, 2, 12]}
    other = {"size": [4, 5], "counts": [15, 5]}
    document = {
        "videos": [{"id": i, "height": 4, "width": 5, "length": 1} for i in (1, 2)],
        "categories": [{"id": 3, "name": "fish"}],
        "annotations": [
            {"id": 8, "video_id": 1, "category_id": 3, "iscrowd": 0, "areas": [2], "segmentations": [mask]},
        ],
    }

    def score(*masks, score=0.5):
        rows = [{"video_id": 1, "category_id": 3, "score": score, "segmentations": [one]} for one in masks]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return evaluate(document, rows, per_video=True)["per_video"]

    assert score(mask)[1]["score"] == 1 and score(mask)[1]["found"] == 1
    assert score()[1]["score"] == 0 and score(other)[1]["score"] == 0
    assert score(mask, other)[1]["score"] == pytest.approx(2 / 3)
    assert score(mask, score=0.2)[1]["score"] == 0, "below the threshold"
    assert score(mask)[2]["score"] == -1


def test_the_curves_average_to_ap():
    document, results = generate(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        numbers = evaluate(document, results, precision_curves=True)
    curves = numbers["precision_curves"]
    assert curves and all(one.shape == (len(IOU_THRESHOLDS), len(RECALLS)) for one in curves.values())
    assert np.mean(list(curves.values())) == pytest.approx(numbers["AP"])
    for category, one in curves.items():
        assert one[0].mean() == pytest.approx(numbers["per_category"][category]["AP50"])
        assert (np.diff(one, axis=1) <= 1e-12).all()
