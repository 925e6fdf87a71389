"""HOTA, IDF1 and identity switches, against the plain procedure and small cases worked out by hand."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import plain_evaluation as plain
import pytest

from mdqe.evaluation.identity import IdentityCounts, compare_identities, without_crowds

TIES = Path(__file__).parent / "data" / "identity_ties.json"
CLEAR = ("IDSW", "CLR_TP", "MOTP_sum", "Frag", "MT", "PT", "ML")


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


def tied(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `sequence`, with few different IoUs, so that several assignments are equally good, and absent objects."""
    random = np.random.default_rng(seed)
    objects, tracks, frames = (int(random.integers(1, most)) for most in (7, 7, 9))
    present, seen = (random.random((one, frames)) < random.choice([0.4, 0.8, 1]) for one in (objects, tracks))
    present[0] &= objects == 1 or seed % 3 > 0
    steps = int(random.integers(2, 6))
    ious = random.integers(0, steps + 1, (objects, tracks, frames)) / steps
    return ious * (random.random(ious.shape) < 0.7) * present[:, None] * seen, 1.0 * present, 1.0 * seen


def numbers_of(ious, objects, tracks) -> list[float]:
    counts = compare_identities(ious, objects, tracks)
    matched = np.maximum(counts.true, 1)
    named = [counts.true, counts.association / matched, counts.recalled / matched, counts.precise / matched]
    clear = [counts.identical, counts.switches, counts.matched, counts.overlap, counts.fragments]
    tracked = [counts.mostly_tracked, counts.partly_tracked, counts.mostly_lost]
    return [*(float(one.mean()) for one in named), *clear, *tracked]


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


def trackeval_of(ious, objects, tracks):
    """HOTA, Identity and CLEAR of TrackEval."""
    from trackeval import metrics

    # TrackEval counts ids without gaps: those that are ever there.
    ious = ious[objects.any(axis=1)][:, tracks.any(axis=1)]
    objects, tracks = objects[objects.any(axis=1)], tracks[tracks.any(axis=1)]
    frames = range(ious.shape[2])
    data = {
        "num_gt_ids": len(objects),
        "num_tracker_ids": len(tracks),
        "num_gt_dets": int((objects > 0).sum()),
        "num_tracker_dets": int((tracks > 0).sum()),
        "num_timesteps": len(frames),
        "gt_ids": [np.flatnonzero(objects[:, t]) for t in frames],
        "tracker_ids": [np.flatnonzero(tracks[:, t]) for t in frames],
    }
    data["similarity_scores"] = [ious[..., t][np.ix_(data["gt_ids"][t], data["tracker_ids"][t])] for t in frames]
    quiet = {"PRINT_CONFIG": False}
    parts = metrics.HOTA(), metrics.Identity(quiet), metrics.CLEAR(quiet)
    return [part.eval_sequence(data) for part in parts]


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


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("trackeval"), reason="TrackEval is not installed")
def test_equals_trackeval_with_ties():
    for seed in range(1000):
        case = tied(seed)
        hota, identity, clear = trackeval_of(*case)
        expected = [hota[key].mean() for key in ("HOTA_TP", "AssA", "AssRe", "AssPr")]
        expected += [identity["IDTP"], *(clear[key] for key in CLEAR)]
        assert numbers_of(*case) == pytest.approx(expected, abs=1e-9), seed
