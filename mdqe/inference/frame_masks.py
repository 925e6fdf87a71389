"""The masks of one frame in any form that segmenters have: arrays, tensors, run lengths, `supervision.Detections`.

The linker compares masks on a grid of at most GRID points per side. Sampling a mask at these points takes time in
proportion to the points, or to the runs of a run-length encoding, not to the pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mdqe.annotations.records import MOST_PIXELS
from mdqe.errors import InputError
from mdqe.inference.frame_points import GRID, FramePoints, collect_points
from mdqe.results import rle
from mdqe.results.foreign_call import call, pointer

MOST_DETECTIONS = 10_000
_OBJECT = np.dtype(object)
_NUMBERS = re.compile(r"u?int\d+|b?float\d+")
_FEW_OPERATORS = ("uint16", "uint32", "uint64")  # of tensors: PyTorch finds no minimum of these

Size = tuple[int, int]


class FrameMasks:
    """D masks of H × W pixels.

    Args:
        dense: (D, H, W) bool, an array or a tensor on any device; or None.
        runs: if not, the concatenated run lengths and the number of runs of each mask, as of `rle.run_lengths`.
        size: H and W; None if there are no masks.
    """

    def __init__(self, dense: Any, runs: tuple[np.ndarray, np.ndarray] | None, size: Size | None) -> None:
        self.dense, self.runs, self.size = dense, runs, size

    def __len__(self) -> int:
        return len(self.dense) if self.runs is None else len(self.runs[1])

    def encode(self) -> list[str]:
        """Compressed run lengths of all masks."""
        if self.runs is None:
            return rle.encode(self.dense) if len(self) else []
        return rle.to_strings(*self.runs)

    def sample(self) -> FramePoints:
        """Sample the masks; there is at least one."""
        assert self.size is not None
        step = grid_step(self.size)
        if self.runs is not None:
            points = _sample_runs(*self.runs, self.size, step)
        else:
            y, x = _first_points(self.size, step)
            points = self.dense[:, y::step, x::step]
            points = _copy(points.cpu().numpy() if isinstance(points, torch.Tensor) else points)
        return collect_points(points, step, self.pixels)

    def pixels(self, mask: int) -> np.ndarray:
        """Rows and columns (2, K) of the pixels of one mask."""
        assert self.size is not None
        if self.runs is None:
            one = self.dense[mask].cpu().numpy() if isinstance(self.dense, torch.Tensor) else self.dense[mask]
            return np.array(np.divmod(np.flatnonzero(one), self.size[1]))
        end = int(self.runs[1][: mask + 1].sum())
        lengths = self.runs[0][end - self.runs[1][mask] : end]
        begins, lengths = (np.cumsum(lengths) - lengths)[1::2], lengths[1::2]
        places = np.repeat(begins - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
        return np.array(np.divmod(places, self.size[0])[::-1])


def whole_size(size: Any) -> Size | None:
    """The height and width that two whole numbers of any type are; None for anything else."""
    try:
        height, width = size
        found = int(height), int(width)
        return found if found == (height, width) else None
    except (TypeError, ValueError, OverflowError):
        return None


def grid_step(size: Size) -> int:
    """The distance in pixels of the points of the grid."""
    return max(1, -(-max(size) // GRID))


def _first_points(size: Size, step: int) -> tuple[int, int]:
    """The row and the column of the first point of the grid, which a narrow mask has too."""
    return min(step // 2, size[0] - 1), min(step // 2, size[1] - 1)


def _copy(points: np.ndarray) -> np.ndarray:
    """A contiguous copy of masks (D, h, w)."""
    library = rle.compiled_library()
    if library is None or min(points.strides) < 0:
        return np.array(points, bool, order="C")
    grid = np.empty(points.shape, bool)
    call(library.mdqe_sample, pointer(points, gaps=True), np.array(points.strides), *points.shape, grid)
    return grid


def _sample_runs(lengths: np.ndarray, num_runs: np.ndarray, size: Size, step: int) -> np.ndarray:
    """(D, h, w) bool: the pixels y, y + step, … of the columns x, x + step, …, from the first point (y, x) on."""
    y, x = _first_points(size, step)
    height, width = len(range(y, size[0], step)), len(range(x, size[1], step))
    if (library := rle.compiled_library()) is not None:
        grid = np.zeros((len(num_runs), height, width), bool)
        call(library.mdqe_sample_runs, lengths, num_runs, len(num_runs), size[0], y, x, step, height, width, grid)
        return grid
    ends = np.cumsum(lengths) - np.repeat(np.arange(len(num_runs)) * (size[0] * size[1]), num_runs)
    column, row = np.divmod(ends, size[0])
    before = np.clip(-((x - column) // step), 0, width)  # sampled columns before the column of each end
    is_sampled = (column >= x) & ((column - x) % step == 0) & (column < size[1])
    rows = np.clip(-((y - row) // step), 0, height)
    points = before * height + rows * is_sampled + np.repeat(np.arange(len(num_runs)) * (height * width), num_runs)
    filled = np.repeat(rle.foreground(num_runs), np.diff(points, prepend=0))
    return np.ascontiguousarray(filled.reshape(len(num_runs), width, height).transpose(0, 2, 1))


def read_masks(masks: Any, size: Size | None = None, *, logits: bool = False) -> FrameMasks:
    """Read the masks of a frame.

    Args:
        masks: (D, H, W) or (D, 1, H, W), an array or tensor: boolean, integers 0 and 1, probabilities from 0 to 1
            (foreground above 0.5) or, with `logits`, any numbers (foreground above 0). Or a sequence of run lengths:
            objects with "size" and "counts", or bare counts of masks of `size`. An empty sequence has no masks.
        size: H and W of bare counts.
        logits: whether floating-point masks are logits.

    Raises:
        InputError: another form, too many masks, NaN, or probabilities out of range.
    """
    counted = hasattr(masks, "__len__") and hasattr(masks, "__getitem__") and getattr(masks, "ndim", None) != 0
    if not counted or isinstance(masks, str | bytes | Mapping):
        raise InputError(f"masks are of the type {type(masks).__name__}, expected an array (D, H, W) or run lengths")
    number = len(masks)
    if number > MOST_DETECTIONS:
        raise InputError(f"masks has {number} detections, expected at most {MOST_DETECTIONS} in a frame")
    if getattr(masks, "dtype", _OBJECT) == _OBJECT:
        first = masks[0] if number else None
        if not hasattr(first, "ndim") or getattr(first, "ndim", 0) < 2:
            return _read_runs(masks, size)
        masks = _stack(list(masks))
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.ndim == 1 and not number:
        return FrameMasks(np.zeros((0, *(size or (0, 0))), bool), None, size)
    if masks.ndim != 3:
        raise InputError(f"masks have the shape {tuple(masks.shape)}, expected (D, H, W)")
    shape = (int(masks.shape[1]), int(masks.shape[2]))
    if number == 0:
        return FrameMasks(np.zeros((0, *shape), bool), None, shape if min(shape) else None)
    if not min(shape):
        raise InputError(f"masks have the shape {tuple(masks.shape)}, expected pixels")
    return FrameMasks(_binary(masks, logits), None, shape)


def _stack(masks: list[Any]) -> Any:
    """D masks (H, W), an array or a tensor each, as one."""
    tensors = isinstance(masks[0], torch.Tensor)
    for i, one in enumerate(masks):
        if not hasattr(one, "shape") or (tensors and not isinstance(one, torch.Tensor)):
            kinds = type(one).__name__, type(masks[0]).__name__
            raise InputError(f"mask {i} is of the type {kinds[0]}, expected {kinds[1]} as mask 0")
    shapes = sorted({tuple(one.shape) for one in masks})
    if len(shapes) > 1:
        raise InputError(f"masks have the shapes {shapes[0]} and {shapes[1]}, expected one size (H, W)")
    return torch.stack(masks) if tensors else np.stack(masks)


def _binary(masks: Any, logits: bool) -> Any:
    """(D, H, W) bool on the same device."""
    kind = str(masks.dtype).removeprefix("torch.")
    if isinstance(masks, torch.Tensor):
        if masks.layout != torch.strided or masks.device.type == "meta":
            kind = "on the meta device" if masks.device.type == "meta" else str(masks.layout)
            raise InputError(f"masks are {kind}, expected a dense tensor")
        masks = masks.detach()
    if kind == "bool":
        return masks
    if not _NUMBERS.fullmatch(kind):
        raise InputError(f"masks are {kind}, expected bool, integers or floating point")
    if isinstance(masks, torch.Tensor):
        masks = masks.long() if kind in _FEW_OPERATORS else masks
        low, high = (float(x) for x in torch.aminmax(masks))
    else:
        low, high = float(masks.min()), float(masks.max())
    if "float" in kind:
        if np.isnan(low) or np.isnan(high):
            raise InputError("masks have NaN, expected numbers")
        if logits:
            return masks > 0
        if not 0 <= low <= high <= 1:
            raise InputError(f"masks have values from {low:.9g} to {high:.9g}, expected 0 to 1, or logits=True")
        return masks > 0.5
    if not 0 <= low <= high <= 1:
        raise InputError(f"masks are {kind} with values from {low:g} to {high:g}, expected 0 and 1")
    return masks > 0


def _read_runs(masks: Sequence[Any], size: Size | None) -> FrameMasks:
    """Read run lengths."""
    counts = []
    for i, one in enumerate(masks):
        if isinstance(one, Mapping):
            if not {"size", "counts"} <= one.keys():
                raise InputError(f'mask {i} has the entries {sorted(map(str, one))[:4]}, expected "size" and "counts"')
            if (own := whole_size(one["size"])) is None:
                raise InputError(f"the size of mask {i} is {str(one['size'])[:40]}, expected [height, width]")
            if size is not None and own != tuple(size):
                raise InputError(f"mask {i} is {own[1]}x{own[0]}, expected {size[1]}x{size[0]} as before")
            size, one = own, one["counts"]
        counts.append(one)
    if not counts:
        return FrameMasks(np.zeros((0, *(size or (0, 0))), bool), None, size)
    if size is not None and size[0] * size[1] > MOST_PIXELS:
        raise InputError(f"masks are {size[1]}x{size[0]}, expected at most {MOST_PIXELS} pixels")
    if size is not None and not min(size):
        raise InputError(f"masks are {size[1]}x{size[0]}, expected pixels")
    if size is None:
        raise InputError("bare run lengths need the size (height, width) of the masks")
    try:
        return FrameMasks(None, rle.run_lengths(counts, size), (int(size[0]), int(size[1])))
    except (TypeError, ValueError) as error:
        raise InputError(f"masks: {error}") from None
