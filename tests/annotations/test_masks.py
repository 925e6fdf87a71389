"""Masks of annotation files: read, checked, packed and drawn as COCO's tools do."""

import numpy as np
import pytest
from pycocotools import mask as coco

from mdqe.annotations.masks import coco_boxes, decode, fill, pack, read_mask, shrink, to_coco, to_rle, to_text
from mdqe.errors import InputError

SIZE = (21, 34)
CORNERS = [[3.0, 2.5, 30.25, 4, 17, 19.5], [1, 1, 5, 1, 5, 5, 1, 5]]


def filled(polygons, size):
    return coco.decode(coco.merge(coco.frPyObjects(polygons, *size))).astype(bool)


@pytest.mark.parametrize("decimals", [None, 2, 1, 0])
@pytest.mark.parametrize("twice", [False, True], ids=["", "corners twice"])
def test_polygons_cover_the_pixels_of_coco(decimals, twice):
    random = np.random.default_rng(decimals)
    visible = 0
    for _ in range(150):
        size = tuple(random.integers(1, 90, 2).tolist())
        polygons = []
        for _ in range(random.integers(1, 4)):
            corners = random.uniform(-15, 105, (random.integers(3, 12), 2))
            corners = corners if decimals is None else np.round(corners, decimals)
            polygons.append(np.repeat(corners, 1 + twice, axis=0).ravel())
        expected = filled([one.tolist() for one in polygons], size)
        visible += expected.any()
        assert np.array_equal(fill(polygons, size), expected)
    assert visible > 100


def test_a_square_of_pixels():
    expected = np.zeros((4, 6), bool)
    expected[1:3, 2:5] = True
    assert np.array_equal(fill([np.array([2.0, 1, 5, 1, 5, 3, 2, 3])], (4, 6)), expected)


def plain_counts(mask: np.ndarray) -> list[int]:
    """Uncompressed counts, pixel by pixel."""
    counts, value = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def rle_of(counts, size=SIZE):
    return {"size": list(size), "counts": counts}


@pytest.mark.parametrize("prepare", [lambda mask: mask, shrink], ids=["as in the file", "made small while parsing"])
def test_every_kind_of_mask(prepare):
    masks = np.random.default_rng(0).random((4, *SIZE)) < 0.4
    encoded = [coco.encode(np.asfortranarray(one))["counts"] for one in masks]
    segments = [
        rle_of(encoded[0].decode()), None, rle_of(plain_counts(masks[1])), CORNERS, rle_of([714]), [],
        rle_of(np.array(plain_counts(masks[2]))), {}, {"size": SIZE, "counts": encoded[3]}, [[5.0] * 6],
    ]  # fmt: skip
    read = [read_mask(prepare(one), list(SIZE)) for one in segments]
    packed = pack(read, SIZE)
    absent = [1, 4, 5, 7]
    assert [one is None for one in read] == [i in (1, 5, 7) for i in range(10)]
    assert [one == b"" for one in packed] == [i in absent for i in range(10)], "a mask without pixels is absent"
    expected = np.zeros((10, *SIZE), bool)
    expected[[0, 2, 3, 6, 8]] = masks[0], masks[1], filled(CORNERS, SIZE), masks[2], masks[3]
    assert np.array_equal(decode(packed, SIZE), expected)
    assert decode([], SIZE).shape == (0, *SIZE)
    for one, mask, pixels in zip(read, packed, expected, strict=True):
        text = to_text(mask, SIZE)
        assert (text is None) == (not pixels.any())
        if one is not None and pixels.any():
            found = coco.encode(np.asfortranarray(pixels))
            assert text == found["counts"].decode()
            assert coco_boxes([to_rle(one, SIZE)], SIZE)[0] == coco.toBbox(found).tolist()
    assert to_coco(packed[3], SIZE) == CORNERS
    assert to_coco(packed[0], SIZE) == segments[0] and coco.area(to_coco(b"", SIZE)) == 0


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        (rle_of("x1"), "hold the character 'x'"),
        (rle_of("11n"), "end in the middle of a number"),
        (rle_of("111"), "cover 3 pixels"),
        (rle_of("é"), "not a run-length string"),
        (rle_of([5, 4]), "cover 9 pixels; size 21 x 34 has 714"),
        (rle_of([-5, 719]), "hold -5"),
        (rle_of([5.5, 708.5]), "whole numbers"),
        (rle_of([2**40]), "a run is"),
        (rle_of(None), "its counts are null"),
        (rle_of([714], (34, 21)), r"its size is \[34, 21\]; expected \[21, 34\]"),
        ({"size": "large", "counts": [714]}, "its size is 'large'"),
        ({"size": [21, 34]}, "neither an RLE nor polygons"),
        ("scribble", "'scribble' is neither an RLE nor polygons"),
        ([[1, 2, 3, 4]], "three corners"),
        ([[1, 2, 3, 4, 5, 6, 7]], "three corners"),
        ([1, 2, 3, 4, 5, 6], "three corners"),
        ([[1, 2, 3, float("nan"), 5, 6]], "not finite"),
        ([["a", "b"]], "is not a list of polygons"),
        ([[1, 2, 3, 1e9, 5, 6]], "far beyond the frame"),
    ],
)
@pytest.mark.parametrize("prepare", [lambda mask: mask, shrink], ids=["", "small"])
def test_invalid_masks_among_valid_ones(segment, message, prepare):
    good = np.array([10, 704], np.int32)
    with pytest.raises(InputError, match=message):
        first, found, last = pack([good, read_mask(prepare(segment), list(SIZE)), good], SIZE)
        assert isinstance(first, bytes) and first == last
        raise found


@pytest.mark.parametrize("wrong", [[3, -1, 2], [2, 1.0, 1], [2, 2**31, 1], [[2], [2]], [2, None, 2], ["4"], [2, 1]])
def test_an_invalid_plain_list_among_many(wrong):
    """Lists are checked together; the error is the same as for the list alone."""
    good, size = np.array([1, 2, 1], np.int32), (2, 2)
    counts = read_mask(shrink(rle_of(wrong, size)), list(size))
    packed = pack([good, counts, good], size)
    assert packed[0] == packed[2] == b"121"
    assert isinstance(packed[1], InputError) and str(packed[1]) == str(pack([counts], size)[0])
