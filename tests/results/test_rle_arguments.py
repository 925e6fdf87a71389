"""Invalid arguments of the run-length functions: a TypeError or a ValueError that names the argument."""

import numpy as np
import pytest
import torch

from mdqe.results import rle
from mdqe.results.foreign_call import pointer

META = torch.ones(1, 6, dtype=torch.int64, device="meta")
SIZES = (
    (6,), (2, 3, 1), (), None, 6, "23", (2.0, 3.0), (-2, -3), (True, 6), (2**70, 1), (2**31, 0), {"h": 2, "w": 3},
    [[2, 3], [2, 3]], META, (float("nan"), 3), ("2", "3"), np.array([2.0, 3.0]),
)  # fmt: skip
COUNTS = (
    (None, TypeError), (6, TypeError), ("06", TypeError), (b"06", TypeError), (META, TypeError), ({6: 1}, TypeError),
    (torch.tensor([[6]]), TypeError), ([6], ValueError), ([None], ValueError), ([[6.0]], ValueError),
    ([["6"]], ValueError), ([[6], None], ValueError), ([META[0]], ValueError), ([[2**70]], ValueError),
    ([[2**31]], ValueError), ([[-1, 7]], ValueError), ([{}], ValueError), ([[[6]]], ValueError),
    ([b"\xff"], ValueError), (["é"], ValueError), ([""], ValueError), (["o"], ValueError), ([object()], ValueError),
    ([[float("nan")]], ValueError), ([[5]], ValueError), ([[3, 4]], ValueError),
)  # fmt: skip
MASKS = (
    (None, ValueError), ("masks", ValueError), (np.ones((2, 3), bool), ValueError), (np.ones((1, 2, 3)), TypeError),
    (torch.ones(1, 2, 3), TypeError), (torch.ones(1, 2, 3).bfloat16(), TypeError), ([[1], [1, 2]], TypeError),
    (torch.ones(1, 2, 3, dtype=torch.bool, device="meta"), TypeError),
    (torch.ones(1, 2, 3, dtype=torch.bool).to_sparse(), TypeError),
)  # fmt: skip
FUNCTIONS = (rle.decode, rle.area, rle.boxes, rle.compress, rle.compress_with_areas, rle.run_lengths)


def short(value: object) -> str:
    """A name of a case, without addresses, which differ from process to process."""
    return str(value).split(" at 0x")[0][:30]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("size", SIZES, ids=short)
def test_invalid_sizes(function, size):
    with pytest.raises(ValueError, match=r"^size of run lengths is .*; expected two whole numbers"):
        function([[6]], size)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("counts", "error"), COUNTS, ids=short)
def test_invalid_counts(function, counts, error):
    with pytest.raises(error, match=r"^counts "):
        function(counts, (2, 3))


@pytest.mark.parametrize(("masks", "error"), MASKS, ids=short)
def test_invalid_masks(masks, error):
    with pytest.raises(error, match=r"^masks "):
        rle.encode(masks)


@pytest.mark.parametrize("size", SIZES, ids=short)
def test_invalid_json_objects(size):
    with pytest.raises(ValueError, match=r"^size of run lengths is"):
        rle.from_coco({"size": size, "counts": [6]})
    with pytest.raises(ValueError, match=r"^size of run lengths is"):
        rle.to_coco("6", size)


def test_numpy_sizes_and_counts_are_valid():
    assert rle.decode(np.array([[2, 4]]), np.array([2, 3])).sum() == 4
    assert rle.decode([torch.tensor([2, 4])], (np.int32(2), 3)).sum() == 4


def test_the_library_reads_no_array_with_gaps():
    whole = np.arange(24).reshape(4, 6)
    for array in (whole, whole.T, whole[1:3], whole[:0, ::2]):
        assert pointer(array).value == array.ctypes.data
    for array in (whole[:, ::2], whole[::2], whole.T[:2], whole[:, :1], np.broadcast_to(whole[:1], (3, 6))):
        with pytest.raises(ValueError, match=r"contiguous, got shape .* with strides"):
            pointer(array)
        assert pointer(array, gaps=True).value == array.ctypes.data
