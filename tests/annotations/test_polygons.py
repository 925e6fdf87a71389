"""Polygons are filled as COCO's own tools fill them."""

import numpy as np
import pytest
from pycocotools import mask as coco

from mdqe.annotations.polygons import fill


def reference(polygons, size):
    return coco.decode(coco.merge(coco.frPyObjects([one.tolist() for one in polygons], *size))).astype(bool)


@pytest.mark.parametrize("decimals", [None, 2, 1, 0])
@pytest.mark.parametrize("twice", [False, True], ids=["", "corners twice"])
def test_as_coco_fills_them(decimals, twice):
    random = np.random.default_rng(decimals)
    filled = 0
    for _ in range(150):
        size = tuple(random.integers(1, 90, 2).tolist())
        polygons = []
        for _ in range(random.integers(1, 4)):
            corners = random.uniform(-15, 105, (random.integers(3, 12), 2))
            corners = corners if decimals is None else np.round(corners, decimals)
            polygons.append(np.repeat(corners, 1 + twice, axis=0).ravel())
        expected = reference(polygons, size)
        filled += expected.any()
        assert np.array_equal(fill(polygons, size), expected)
    assert filled > 100


def test_a_square_of_pixels():
    filled = fill([np.array([2.0, 1, 5, 1, 5, 3, 2, 3])], (4, 6))
    expected = np.zeros((4, 6), bool)
    expected[1:3, 2:5] = True
    assert np.array_equal(filled, expected)
