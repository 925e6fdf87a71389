"""Outlines of masks as polygons, against the pixels that they enclose."""

import numpy as np
import pytest

from mdqe.annotations.masks import fill
from mdqe.results import rle
from mdqe.writing.outlines import outline, simplify, trace


def random_masks(count: int) -> list[np.ndarray]:
    """Noise of all densities, in which pixels touch at corners, and blocks."""
    random = np.random.default_rng(5)
    masks = []
    for i in range(count):
        height, width = random.integers(1, 12, 2)
        mask = random.random((height, width)) < random.random()
        masks.append(np.kron(mask, np.ones((2, 3), bool)) if i % 3 == 0 else mask)
    return masks


ACROSS = [(1, 0), (-1, 0), (0, 1), (0, -1)]
CORNERS = [(1, 1), (1, -1), (-1, 1), (-1, -1)]


def parts(pixels: np.ndarray, steps: list[tuple[int, int]]) -> int:
    """The number of parts of pixels (H, W) that are connected by these steps."""
    left, count = {(int(y), int(x)) for y, x in np.argwhere(pixels)}, 0
    while left:
        todo = [left.pop()]
        count += 1
        while todo:
            y, x = todo.pop()
            for one in {(y + down, x + right) for down, right in steps} & left:
                left.remove(one)
                todo.append(one)
    return count


def test_loops_enclose_exactly_the_mask():
    for mask in random_masks(300):
        loops = trace(mask)
        drawn = np.zeros_like(mask)
        for loop in loops:
            drawn ^= fill([loop.ravel().astype(float)], mask.shape)
            assert np.abs(np.diff(loop, axis=0, append=loop[:1])).min(1).max() == 0, "edges are along one axis"
        assert np.array_equal(drawn, mask)
        around = [loop for loop in loops if mask[loop[0, 1], loop[0, 0]]]
        assert len(around) == parts(mask, ACROSS + CORNERS)
        assert len(loops) - len(around) == parts(~np.pad(mask, 1), ACROSS) - 1, "without the part around everything"


def test_wrong_pixels_are_counted():
    for mask in random_masks(60):
        if mask.any():
            for tolerance in (0, 1.0):
                found = outline(rle.encode(mask[None])[0], mask.shape, tolerance)
                drawn = fill([one.ravel().astype(float) for one in found.polygons], mask.shape)
                assert found.wrong == (drawn != mask).sum()
            (largest,) = outline(rle.encode(mask[None])[0], mask.shape, 0, most=1).polygons
            assert np.array_equal(largest, outline(rle.encode(mask[None])[0], mask.shape, 0).polygons[0])


@pytest.mark.parametrize("tolerance", [0.0, 0.6, 2.0])
def test_simplified_outlines_stay_within_the_tolerance(tolerance):
    y, x = np.mgrid[:80, :90]
    disc = (y - 40) ** 2 + (x - 44) ** 2 < 30**2
    (loop,) = trace(disc)
    found = simplify(loop, tolerance)
    assert len(found) == len(loop) if tolerance == 0 else len(found) < len(loop)
    starts, ends = found.astype(float), np.roll(found, -1, axis=0).astype(float)
    for corner in loop.astype(float):
        along = ends - starts
        share = np.clip(((corner - starts) * along).sum(1) / (along**2).sum(1), 0, 1)
        assert np.hypot(*(corner - starts - share[:, None] * along).T).min() <= tolerance + 1e-9


def test_small_loops_are_kept():
    (loop,) = trace(np.ones((1, 1), bool))
    assert simplify(loop, 50).tolist() == loop.tolist() and len(loop) == 4
