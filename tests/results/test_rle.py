"""RLE masks against pycocotools."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from mdqe.results import rle
from mdqe.results.rle import compiled_library

ENCODERS = [rle._encode] if compiled_library() is None else [rle._encode, rle._encode_compiled]

batches = hnp.arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 24), st.integers(1, 24)))


def blobs(number: int, height: int, width: int) -> np.ndarray:
    """Ragged discs, the first mask empty and the second full."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    masks = np.zeros((number, height, width), bool)
    for mask in masks[2:]:
        centre_y, centre_x, radius = random.uniform(0, height), random.uniform(0, width), random.uniform(9, height / 2)
        mask[:] = (y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2 * (1 + 0.3 * np.sin(0.3 * x))
    masks[1] = True
    return masks


def oracle(masks: np.ndarray) -> list[dict]:
    return coco.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))


def check_batch(masks: np.ndarray) -> None:
    size = masks.shape[1:]
    expected = oracle(masks)
    counts = rle.encode(masks)
    assert counts == [one["counts"].decode() for one in expected]
    for encode in ENCODERS:
        found = encode(*rle._columns(masks))
        assert found[0] == counts
        assert np.array_equal(found[1], rle.boxes(counts, size), equal_nan=True)
    on_device = rle._encode_on_device(torch.from_numpy(masks))
    assert on_device[0] == counts
    assert np.array_equal(on_device[1], rle.boxes(counts, size), equal_nan=True)
    assert np.array_equal(rle.decode(counts, size), masks)
    assert np.array_equal(rle.area(counts, size), coco.area(expected))
    xywh, boxes = coco.toBbox(expected), rle.boxes(counts, size)
    full = masks.any(axis=(1, 2))
    assert np.array_equal(boxes[full], np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)[full])
    assert np.isnan(boxes[~full]).all()


@settings(deadline=None)  # the machine may be busy
@given(batches)
def test_equals_pycocotools(masks):
    check_batch(masks)


def test_equals_pycocotools_on_large_masks():
    check_batch(blobs(8, 360, 640))
    long = np.zeros((2, 3000, 4000), bool)  # runs whose lengths need every group of bits
    long[0, 1500, 2000] = long[1, -1, -1] = True
    check_batch(long)


def test_boxes_are_tight():
    masks = blobs(9, 40, 50)
    for mask, box in zip(masks[1:], rle.boxes(rle.encode(masks), (40, 50))[1:], strict=True):
        y, x = np.nonzero(mask)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_tensors_and_views_encode_like_arrays():
    masks = blobs(4, 30, 41)
    assert rle.encode(torch.from_numpy(masks)) == rle.encode(masks)
    turned = masks.transpose(0, 2, 1)
    assert rle.encode(turned) == rle.encode(turned.copy())
    assert rle.encode(torch.zeros(0, 5, 6, dtype=torch.bool)) == []


def test_any_nonzero_byte_is_foreground():
    masks = blobs(4, 30, 41)
    pillow = (masks * np.uint8(255)).view(bool)  # as in np.asarray of a 1-bit image
    for encode in ENCODERS:
        assert encode(*rle._columns(pillow))[0] == rle.encode(masks)
    assert rle.encode(list(masks)) == rle.encode(masks)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_frames_without_pixels(size):
    counts = rle.encode(np.zeros((2, *size), bool))
    assert rle.decode(counts, size).shape == (2, *size)
    assert rle.area(counts, size).tolist() == [0, 0]
    assert np.isnan(rle.boxes(counts, size)).all()


@settings(deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_plain_lists_of_counts(mask):
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    lengths = np.diff([0, *edges, flat.size]).tolist()
    text = rle.encode(mask[None])[0]
    assert rle.from_coco({"size": list(mask.shape), "counts": lengths}) == (text, mask.shape)
    assert np.array_equal(rle.decode([lengths, text, text.encode()], mask.shape), np.stack([mask] * 3))


def test_runs_of_length_zero_inside_a_list():
    lengths, size = [3, 2, 0, 4, 5, 0, 6], (4, 5)
    mask = rle.decode([lengths], size)[0]
    assert np.array_equal(mask.ravel(order="F"), np.repeat([0, 1, 0, 1, 0, 1, 0], lengths))
    assert rle.boxes([lengths], size).tolist() == [[0, 0, 3, 4]]
    assert rle.boxes([[7, 0, 13]], size)[0].tolist() == pytest.approx([np.nan] * 4, nan_ok=True)


def test_coco_objects_round_trip():
    counts = rle.encode(blobs(3, 20, 30))[2]
    assert rle.from_coco(rle.to_coco(counts, (20, 30))) == (counts, (20, 30))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("", "cover 0 pixels; size 2 x 3 has 6"),
        ("5", "cover 5 pixels"),
        ("6 ", "the character ' '"),
        ("5P", "end in the middle of a number"),
        ("6O1", "negative run -1"),
        ("oooooooo0", "a number of 9 groups"),
        ("é", "not a run-length string"),
        ([5], "cover 5 pixels"),
        ([-1, 7], "-1 to 7"),
        ([1.5, 4.5], "whole numbers"),
        ([[6]], "whole numbers"),
        (6, "whole numbers"),
    ],
)
def test_invalid_counts_are_rejected(counts, message):
    with pytest.raises(ValueError, match=r"mask|counts") as error:
        rle.decode([counts], (2, 3))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "segmentation",
    [{"counts": "6"}, {"size": [2, 3]}, [[0, 0, 1, 1]], None, {"size": "23", "counts": "6"}]
    + [{"size": size, "counts": "6"} for size in ([2], [2, 3, 1], [2.0, 3], [-2, -3], [True, 6], 6, ["2", "3"])],
)
def test_invalid_objects_are_rejected(segmentation):
    with pytest.raises(ValueError, match="run lengths"):
        rle.from_coco(segmentation)


def test_the_invalid_mask_of_a_batch_is_named():
    with pytest.raises(ValueError, match="mask 2 "):
        rle.area(["6", "6", "5"], (2, 3))


@pytest.mark.parametrize(("masks", "error"), [(np.zeros((2, 3), bool), ValueError), (np.zeros((1, 2, 3)), TypeError)])
def test_masks_of_another_shape_or_type_are_rejected(masks, error):
    with pytest.raises(error, match="expected"):
        rle.encode(masks)


def test_three_hundred_masks_take_well_under_a_second():
    masks = blobs(300, 360, 640)
    seconds = []
    for _ in range(2):
        start = time.process_time()
        rle.encode(masks)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.8  # measured: 0.2 s on one core
