"""Masks of annotation files: packed small, checked, and drawn as they were."""

import numpy as np
import pytest
from pycocotools import mask as coco

from mdqe.annotations.masks import Runs, decode, pack, runs, shrink
from mdqe.annotations.problems import DataError

SIZE = (21, 34)


def plain_counts(mask: np.ndarray) -> list[int]:
    """Uncompressed run lengths, pixel by pixel."""
    counts, value = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def test_every_kind_of_mask():
    masks = np.random.default_rng(0).random((3, *SIZE)) < 0.4
    text = coco.encode(np.asfortranarray(masks[0]))["counts"].decode()
    corners = [[3.0, 2.5, 30.25, 4, 17, 19.5], [1, 1, 5, 1, 5, 5, 1, 5]]
    polygons = coco.decode(coco.merge(coco.frPyObjects(corners, *SIZE))).astype(bool)
    empty = plain_counts(np.zeros(SIZE, bool))
    segments = [
        runs(text, list(SIZE)),
        shrink(None),
        runs(plain_counts(masks[1]), list(SIZE)),
        shrink(corners),
        runs(empty, list(SIZE)),
        shrink([]),
        runs(plain_counts(masks[2]), list(SIZE)),
    ]
    packed = pack(segments, SIZE)
    assert all(isinstance(one, bytes) for one in packed)
    assert [bool(one) for one in packed] == [True, False, True, True, False, False, True], "empty is absent"
    expected = np.zeros((7, *SIZE), bool)
    expected[[0, 2, 3, 6]] = masks[0], masks[1], polygons, masks[2]
    assert np.array_equal(decode(packed, SIZE), expected)
    assert decode([], SIZE).shape == (0, *SIZE)


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        (runs("x1", list(SIZE)), "hold the character 'x'"),
        (runs("11n", list(SIZE)), "end in the middle of a number"),
        (runs("111", list(SIZE)), "cover 3 pixels"),
        (runs("é", list(SIZE)), "not a run-length string"),
        (runs([5, 4], list(SIZE)), "cover 9 pixels; size 21 x 34 has 714"),
        (runs([-5, 719], list(SIZE)), "hold -5"),
        (runs([5.5, 708.5], list(SIZE)), "whole numbers"),
        (runs([2**40], list(SIZE)), "a run is"),
        (runs(None, list(SIZE)), "whole numbers"),
        (runs([714], [34, 21]), r"size \[34, 21\], not \[21, 34\]"),
        (runs([714], "large"), "size large"),
        (shrink("scribble"), "'scribble'.* is neither run lengths nor polygons"),
        (shrink([[1, 2, 3, 4]]), "three corners or more"),
        (shrink([[1, 2, 3, 4, 5, 6, 7]]), "three corners or more"),
        (shrink([[1, 2, 3, float("nan"), 5, 6]]), "three corners or more"),
        (shrink([["a", "b"]]), "are not polygons"),
        (shrink([1, 2, 3, 4, 5, 6]), "three corners or more"),
        (shrink([[1, 2, 3, 1e9, 5, 6]]), "far outside"),
    ],
)
def test_bad_masks_are_found_among_good_ones(segment, message):
    good = Runs(np.array([10, 704], np.int32), list(SIZE))
    packed = pack([good, segment, good], SIZE)
    assert isinstance(packed[0], bytes) and packed[0] == packed[2]
    assert isinstance(packed[1], DataError)
    with pytest.raises(DataError, match=message):
        raise packed[1]


@pytest.mark.parametrize("wrong", [[3, -1, 2], [2, 1.0, 1], [2, 2**31, 1], [[2], [2]], [2, None, 2], ["4"], [2, 1]])
def test_one_wrong_plain_list_among_many_is_the_one_that_is_found(wrong):
    """Lists are looked at together; the error is still that of the list alone."""
    good = Runs(np.array([1, 2, 1], np.int32), [2, 2])
    packed = pack([good, runs(wrong, [2, 2]), good], (2, 2))
    assert packed[0] == packed[2] == b"121"
    assert isinstance(packed[1], DataError)
    assert str(packed[1]) == str(pack([runs(wrong, [2, 2])], (2, 2))[0])
