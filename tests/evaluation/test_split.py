"""Development splits."""

import copy
import time

import numpy as np
import pytest

from mdqe.evaluation.split import _balance, split


def training_set(videos: int = 200, categories: int = 12) -> dict:
    """Videos of one or two categories, of which some are ten times as frequent as others."""
    random = np.random.default_rng(0)
    often = 1 / (1 + np.arange(categories))
    document = {
        "info": {"description": "a test"},
        "videos": [{"id": 3 * i, "height": 2, "width": 2, "length": 1} for i in range(1, videos + 1)],
        "categories": [{"id": i + 1, "name": str(i)} for i in range(categories)],
        "annotations": [],
    }
    for video in document["videos"]:
        for kind in random.choice(categories, random.integers(1, 3), p=often / often.sum()):
            for _ in range(random.integers(1, 6)):
                head = {"id": len(document["annotations"]) + 1, "video_id": video["id"], "category_id": int(kind) + 1}
                document["annotations"].append({**head, "segmentations": [None]})
    return document


def counts(document: dict) -> np.ndarray:
    return np.bincount([one["category_id"] for one in document["annotations"]], minlength=13)[1:]


def test_nothing_is_lost_or_shared():
    document = training_set()
    before = copy.deepcopy(document)
    train, dev = split(document, share=0.1, seed=1)
    assert document == before
    assert (len(train["videos"]), len(dev["videos"])) == (180, 20)
    for key in ("videos", "annotations"):
        ids = [[one["id"] for one in part[key]] for part in (train, dev)]
        assert sorted(ids[0] + ids[1]) == sorted(one["id"] for one in document[key])
        assert all(part == sorted(part) for part in ids), "in the order of the file"
    for part in (train, dev):
        assert {one["video_id"] for one in part["annotations"]} <= {one["id"] for one in part["videos"]}
        assert part["categories"] == document["categories"] and part["info"] == document["info"]


@pytest.mark.parametrize("seed", range(5))
def test_categories_are_in_proportion(seed):
    document = training_set()
    _, dev = split(document, share=0.1, seed=seed)
    assert np.abs(counts(dev) - 0.1 * counts(document)).max() <= 1.5
    # Drawing videos blindly is several times further off.
    blind = np.random.default_rng(seed).choice(200, 20, replace=False)
    ids = {document["videos"][i]["id"] for i in blind}
    drawn = {"annotations": [one for one in document["annotations"] if one["video_id"] in ids]}
    assert np.abs(counts(drawn) - 0.1 * counts(document)).max() > 3


def test_the_seed_decides():
    document = training_set()
    assert split(document, seed=4) == split(document, seed=4) != split(document, seed=5)


@pytest.mark.parametrize("share", [0, 1, -0.5, 2, 0.001, float("nan")])
def test_no_side_is_empty(share):
    with pytest.raises(ValueError, match=f"annotations: a share of {share} of 20 videos leaves one side empty"):
        split(training_set(videos=20), share=share)


def test_hundreds_of_categories_take_seconds():
    random = np.random.default_rng(0)
    often = 1 / np.arange(1, 401) ** 0.8
    counted = np.zeros((1500, 400))
    for row in counted:
        kinds = random.choice(400, random.integers(1, 6), p=often / often.sum())
        row[kinds] = random.integers(1, 4, len(kinds))
    counted = counted[:, counted.any(axis=0)]
    start = time.process_time()
    assert _balance(counted, 150, random).sum() == 150
    assert time.process_time() - start < 9  # 1.6 s; 20 s if each exchange computes all others anew, by category
