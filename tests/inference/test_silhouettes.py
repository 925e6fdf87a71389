"""Silhouettes of objects through a video, and how well detections continue them."""

import numpy as np
import pytest

from mdqe.inference.silhouettes import CHANGE, EDGE, FIRST_SPREAD, WORST, Links, Silhouettes

SIZE = (40, 60)


def points_of(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask)[:, ::-1].astype(np.int16)


def silhouettes(masks: list[np.ndarray], frames: list[int], full: list[bool]) -> Silhouettes:
    points = np.fromiter([points_of(mask) for mask in masks], object, len(masks))
    return Silhouettes(points, np.array(frames), np.array(full), masks[0].shape)


def square(x: int, y: int, side: int = 10) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[max(y, 0) : y + side, max(x, 0) : x + side] = True
    return mask


def diamond(x: int, y: int, side: int = 10) -> np.ndarray:
    """With the box of the square."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    middle = (side - 1) / 2
    return abs(columns - x - middle) + abs(rows - y - middle) <= side / 2


def test_the_cost_is_that_of_all_places_one_by_one():
    """A square that another mask and the border of the frame partly hide, two frames later."""
    before, other = square(4, 12), square(8, 16, 12)
    seen = square(-3, 14) & ~other
    found = silhouettes([before, other, seen], [0, 2, 2], [True, False, False])
    (state,) = found.follow(np.array([0]))
    shape = np.argwhere(before)
    free, sigma = ~(other | seen), 1 + 2 * FIRST_SPREAD * 10
    energies = {}
    for down in range(-30, 31):
        for right in range(-30, 31):
            rows, columns = (shape + np.array([down, right])).T
            inside = (rows >= 0) & (columns >= 0) & (rows < SIZE[0]) & (columns < SIZE[1])
            rows, columns = rows[inside], columns[inside]
            if seen[rows, columns].any():
                differ = free[rows, columns].sum() + seen.sum() - seen[rows, columns].sum()
                scale = EDGE + CHANGE * np.sqrt(seen.sum() * 2)
                energies[right, down] = differ / scale + (right**2 + down**2) / 2 / sigma**2
    weights = np.exp(-np.array(list(energies.values())))
    expected = -np.log(weights.sum() / (2 * np.pi * sigma**2))
    assert 0 < expected < WORST
    # Places beside the visible part, within its box, are also compared, but each of them costs all of its points.
    assert found.cost(state, 2) == pytest.approx(expected, abs=0.05)
    place = np.array(list(energies)).T @ weights / weights.sum() + (8.5, 16.5)
    assert found._fit(state, 2).place == pytest.approx(place, abs=0.1)


def test_what_is_hidden_stays_as_it_was_last_visible():
    near = square(24, 10, 16)
    masks, frames = [], []
    for t in range(6):  # the square moves behind the near one
        masks += [near, square(6 + 3 * t, 12) & ~near]
        frames += [t, t]
    found = silhouettes(masks, frames, [False, True] * 3 + [False, False] * 3)
    states = found.follow(np.arange(1, 12, 2))
    for t, state in enumerate(states):
        true = {tuple(point) for point in points_of(square(6 + 3 * t, 12)).tolist()}
        assert len(true ^ {tuple(point) for point in state.points.tolist()}) <= 10  # a row or a column
        assert state.centre == pytest.approx((10.5 + 3 * t, 16.5), abs=0.6)
    assert states[-1].velocity == pytest.approx((3, 0), abs=0.4)
    back = found.follow(np.arange(5, 0, -2))
    assert back[-1].velocity == pytest.approx((-3, 0))
    assert found.follow(np.arange(1, 12, 2))[3] is states[3]


def test_the_shape_of_the_visible_part_decides():
    """A square and a diamond with equal boxes, whose right halves are hidden in the next frame."""
    hidden = np.zeros(SIZE, bool)
    hidden[:, 25:40] = True
    shown = [square(20, 2) & ~hidden, diamond(20, 24) & ~hidden]
    masks = [square(20, 2), diamond(20, 2), square(20, 24), diamond(20, 24), hidden, *shown]
    found = silhouettes(masks, [0] * 4 + [1] * 3, [True] * 4 + [False] * 3)
    costs = [found.cost(*found.follow(np.array([row])), 5 + row // 2) for row in range(4)]
    assert costs[0] + 0.5 < costs[1]
    assert costs[3] + 0.5 < costs[2]


def test_detections_that_cannot_be_the_object_are_not_compared():
    """The lower bound is one: the cost of these detections is larger anyway."""
    masks = [square(2, 2, 4), square(50, 30, 4), square(4, 4, 30), square(3, 3, 4)]
    found = silhouettes(masks, [0, 1, 2, 3], [True] * 4)
    (state,) = found.follow(np.array([0]))
    for row, least in ((1, WORST), (2, WORST), (3, 0.0)):
        assert least <= found._least_cost(state, row) <= found._fit(state, row).cost
    assert [found.cost(state, row) for row in (1, 2)] == [WORST, WORST]
    assert found.cost(state, 3) < WORST


def test_an_exchange_costs_what_it_changes():
    """The square and the diamond pass; the second track begins in frame 2."""
    masks = [square(5, 5), square(8, 5), square(11, 5), diamond(30, 20), square(14, 5), diamond(33, 20)]
    found = silhouettes(masks, [0, 1, 2, 2, 3, 3], [True] * 6)
    tracks = np.array([0, 1, 2, 4]), np.array([3, 5])
    links = Links(found, tracks, (np.array([0, 1, 2, 3]), np.array([2, 3])), start=7.0)
    ahead = found.follow(tracks[0])
    # From frame 2 on, the first track would continue as the diamond; the second one would begin as the square.
    forward = found.cost(ahead[1], 3) - found.cost(ahead[1], 2)
    back = [found.follow(own[::-1])[-1] for own in (np.array([2, 4]), np.array([3, 5]))]
    backward = found.cost(back[1], 1) - found.cost(back[0], 1)
    assert links.cost(2, None) == pytest.approx(forward + backward)
    assert links.cost(2, None) > 0
    assert links.cost(0, None) == 0  # other names, but the same objects
