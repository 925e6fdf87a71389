"""HOTA, IDF1 and identity switches, against the plain procedure and small cases worked out by hand."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import plain_evaluation as plain
import pytest
from tie_cases import numbers_of, tied, trackeval_of

from mdqe.evaluation.identity import IdentityCounts, compare_identities, without_crowds

TIES = Path(__file__).parent / "data" / "identity_ties.json"


def sequence(seed: int, frames: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IoUs (G, D, T) of rectangles that jitter, cross and vanish, and areas (G, T) and (D, T)."""
    random = np.random.default_rng(seed)
    objects, tracks = random.integers(1, 4), random.integers(1, 5)
    start, speed = random.uniform(0, 60, (objects, 1, 2)), random.uniform(-6, 6, (objects, 1, 2))
    place = start + speed * np.arange(frames)[:, None]  # (G, T, 2)
    present = random.random((objects, frames)) < 0.8
    owner = random.integers(0, objects, (tracks, 1)) + (random.random((tracks, frames)) < 0.2)  # some hop to another
    track = place[owner % objects, np.arange(frames)] + random.normal(0, 3, (tracks, frames, 2))
    seen = random.random((tracks, frames)) < 0.8
    if seed % 3 == 0:
        present[:, 3], seen[:, 5] = False, False  # frames without any object, without any track
    overlap = np.clip(30 - np.abs(place[:, None] - track), 0, None).prod(axis=-1)  # (G, D, T), of 30 × 30 squares
    ious = overlap / (1800 - overlap) * present[:, None] * seen
    return ious, 900 * present, 900 * seen


def as_plain(ious, objects, tracks):
    iou = {(g, d, t): ious[g, d, t] for g, d, t in zip(*np.nonzero(ious), strict=True)}
    return [np.flatnonzero(one).tolist() for one in objects], [np.flatnonzero(one).tolist() for one in tracks], iou


def compare(sequences):
    counts = sum((compare_identities(*one) for one in sequences), IdentityCounts())
    return counts.summary()


@pytest.mark.parametrize("seed", range(30))
def test_equals_the_plain_procedure(seed):
    sequences = [sequence(3 * seed + i) for i in range(3)]
    parts = [as_plain(*one) for one in sequences]
    found = compare(sequences)
    assert (found["HOTA"], found["DetA"], found["AssA"]) == pytest.approx(plain.hota(parts), abs=1e-12)
    identical = sum(plain.identical_masks(*one) for one in parts)
    objects, tracks = (sum(len(one) for part in parts for one in part[i]) for i in (0, 1))
    assert found["IDF1"] == pytest.approx(2 * identical / (objects + tracks))
    assert found["IDP"] == pytest.approx(identical / max(tracks, 1)) and found["IDR"] == pytest.approx(
        identical / objects
    )
    assert found["IDSW"] == sum(plain.switches(*one, 8) for one in parts)


def test_the_generated_sequences_have_switches():
    assert sum(compare([sequence(seed)])["IDSW"] for seed in range(90)) > 50


def line(*owners: int | None, tracks: int = 3) -> np.ndarray:
    """IoUs (1, D, T) of one object whose perfect match in each frame is the named track."""
    ious = np.zeros((1, tracks, len(owners)))
    for t, owner in enumerate(owners):
        if owner is not None:
            ious[0, owner, t] = 1
    return ious


@pytest.mark.parametrize(
    ("owners", "expected"),
    [
        ((0, 0, 0, 0), 0),
        ((0, 0, 1, 1), 1),
        ((0, None, None, 0), 0),  # it comes back as itself
        ((0, None, None, 1), 1),  # it comes back as another
        ((0, 1, 0, 1), 3),
        ((0, 1, 2, 0), 3),
    ],
)
def test_switches_of_one_object(owners, expected):
    ious = line(*owners)
    assert compare([(ious, np.ones((1, len(owners))), ious[0])])["IDSW"] == expected


def test_a_match_is_kept_while_it_is_good_enough():
    """The object stays with its track although another one fits better, until the first falls below one half."""
    ious = np.array([[[0.9, 0.6, 0.4], [0.0, 0.9, 0.9]]])  # (1, 2, 3)
    assert compare([(ious, np.ones((1, 3)), np.ones((2, 3)))])["IDSW"] == 1
    assert compare([(ious[..., :2], np.ones((1, 2)), np.ones((2, 2)))])["IDSW"] == 0


def test_one_identity_for_half_of_the_time():
    ious = line(0, 0, 1, 1, tracks=2)
    found = compare([(ious, np.ones((1, 4)), ious[0])])
    assert found["IDF1"] == 0.5 and found["DetA"] == 1 and found["AssA"] == 0.5
    assert found["HOTA"] == pytest.approx(np.sqrt(0.5))


def test_what_lies_in_a_crowd_is_not_counted():
    ious = np.zeros((1, 2, 2))
    ious[0, 0] = 0.8  # track 0 is the object's
    inside = np.array([[[90, 90], [60, 40]]])  # (1, 2, 2): pixels of the tracks within a crowd
    areas = np.full((2, 2), 100)
    assert without_crowds(ious, inside, areas, np.ones((1, 2))).tolist() == [[100, 100], [0, 100]]


def test_ties_are_decided_as_in_trackeval():
    """The numbers of TrackEval (12c8791) for 60 sets with ties."""
    expected = json.loads(TIES.read_text())
    assert len(expected) == 60 and sum(one[5] for one in expected) > 20
    for seed, one in enumerate(expected):
        assert numbers_of(*tied(seed)) == pytest.approx(one, abs=1e-9), seed


@pytest.mark.parametrize("seed", range(20))
def test_what_is_never_present_changes_nothing(seed):
    ious, objects, tracks = tied(seed)
    more = [np.insert(one, 0, 0, axis=0) for one in (objects, tracks)]
    wider = np.pad(ious, ((1, 0), (1, 0), (0, 0)))
    assert numbers_of(wider, *more) == pytest.approx(numbers_of(ious, objects, tracks), abs=1e-12)


@pytest.mark.skipif(not importlib.util.find_spec("trackeval"), reason="TrackEval is not installed")
@pytest.mark.parametrize("seed", range(10))
def test_equals_trackeval(seed):
    case = sequence(seed, frames=20)
    found = compare([case])
    hota, identity, clear = trackeval_of(*case)
    assert [found[key] for key in ("HOTA", "DetA", "AssA")] == pytest.approx(
        [hota[key].mean() for key in ("HOTA", "DetA", "AssA")], abs=1e-12
    )
    assert [found[key] for key in ("IDF1", "IDP", "IDR")] == pytest.approx(
        [identity[k] for k in ("IDF1", "IDP", "IDR")]
    )
    assert found["IDSW"] == clear["IDSW"]
