"""Tracks of a whole video that are joined after long absences."""

import tracemalloc

import numpy as np
import pytest

from mdqe.inference import rejoin as module
from mdqe.inference.exchanges import Observations
from mdqe.inference.rejoin import most_frequent, rejoin


def observations(tracks: list[list[tuple[int, float, float]]], size: float = 10.0) -> Observations:
    """Squares at (frame, x, y), for each track."""
    rows = np.array([(t, track, x, y) for track, path in enumerate(tracks) for t, x, y in path])
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    number, centres = len(rows), rows[:, 2:]
    return Observations(
        rows[:, 0].astype(np.int64),
        rows[:, 1].astype(np.int64),
        np.concatenate([centres - size / 2, centres + size / 2], axis=1),
        np.full(number, size**2),
        np.zeros((number, 4), np.int8),
        np.full(number, -1),
        np.zeros((number, 0)),
        np.zeros(number, object),
    )


def moving(first: int, x: float, y: float, speed: float = 0.0, frames: int = 4) -> list[tuple[int, float, float]]:
    return [(first + t, x + speed * t, y) for t in range(frames)]


def test_a_chain_of_tracks_is_one_object():
    paths = [moving(start, 20 + 2.0 * start, 30, 2.0) for start in (0, 10, 20, 30)]
    other = [moving(start, 20, 130) for start in (5, 15)]
    assert rejoin(observations(paths + other)).tolist() == [0, 0, 0, 0, 4, 4]


def test_the_best_pairs_are_joined_whatever_their_order():
    """Two objects are absent at the same time; each returns near its own place."""
    ends, returns = [moving(0, 20, 30), moving(0, 20, 42)], [moving(20, 20, 43), moving(20, 20, 31)]
    assert rejoin(observations(ends + returns)).tolist() == [0, 1, 1, 0]


def test_blocks_do_not_change_the_result(monkeypatch):
    random = np.random.default_rng(0)
    paths = [
        moving(int(random.integers(0, 200)), *random.uniform(0, 60, 2), speed=random.normal())  # near each other
        for _ in range(50)
    ]
    whole = rejoin(observations(paths))
    assert len(set(whole.tolist())) < 25
    monkeypatch.setattr(module, "BLOCK", 7)
    assert np.array_equal(rejoin(observations(paths)), whole)


def test_memory_does_not_grow_with_the_square_of_the_tracks():
    """A table of scores of all pairs would need 512 MB."""
    paths = [moving(4 * track, 20, 30.0 if track % 2 else 300.0) for track in range(8000)]
    found = observations(paths)
    tracemalloc.start()
    origins = rejoin(found)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert origins.tolist() == [0, 1] * 4000
    assert peak < 100e6


@pytest.mark.parametrize(
    ("tracks", "labels", "expected"),
    [
        ([0, 0, 0, 1], [7, 2, 7, 2], [7, 2]),
        ([0, 0, 1, 1], [7, 2, 2, 7], [2, 2]),  # of several, the smallest one
        ([0, 0, 1, 1], [-1, -1, -1, 3], [-1, 3]),
        ([], [], []),
    ],
)
def test_most_frequent_label(tracks, labels, expected):
    found = most_frequent(np.array(tracks, np.int64), np.array(labels, np.int64), len(expected))
    assert found.tolist() == expected
