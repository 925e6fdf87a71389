"""COCO run lengths of binary masks, many at a time.

A mask (H, W) is read column by column; its counts are the lengths of its alternating runs, background first (so the
first may be 0), and sum to H * W. The compressed form is COCO's string (`mdqe.results.rle_strings`).

Here a mask's run lengths are the compressed string alone; the size stands beside it, because all masks of a video share
it. `to_coco` and `from_coco` make and read the {"size": [H, W], "counts": ...} objects of the JSON formats. All work is
array work over every run of every mask given: no loop over pixels, runs or masks. Where the compiled library is, it
makes the run lengths.
"""

import ctypes
import os
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mdqe.results.rle_strings import expand, write

Counts = str | bytes | Sequence[int] | np.ndarray
"""Run lengths of one mask: the compressed string, or the plain list of counts."""


def encode(masks: Any) -> list[str]:
    """Compressed counts of boolean masks (M, H, W), a NumPy array or a tensor on any device.

    Quickest where the masks lie in memory column by column (a transposed view of (M, W, H)).

    Raises:
        TypeError: the masks are not boolean.
        ValueError: the masks do not have three axes.
    """
    columns, size = _columns(masks)
    if compiled_library() is not None and columns.size:
        return _encode_compiled(columns, size)[0]
    return write(*_lengths(columns))


def encode_with_boxes(masks: Any) -> tuple[list[str], np.ndarray]:
    """`encode(masks)`, and `boxes` of the result without reading it back."""
    columns, size = _columns(masks)
    return (
        _encode_compiled(columns, size) if compiled_library() is not None and columns.size else _encode(columns, size)
    )


def decode(counts: Sequence[Counts], size: tuple[int, int]) -> np.ndarray:
    """Masks (M, H, W), bool, of M run lengths over frames of size (H, W).

    Raises:
        ValueError: counts that are not run lengths of that size.
    """
    lengths, number = runs(counts, size)
    height, width = size
    filled = np.repeat(foreground(number), lengths)
    return np.ascontiguousarray(filled.reshape(len(number), width, height).transpose(0, 2, 1))


def area(counts: Sequence[Counts], size: tuple[int, int]) -> np.ndarray:
    """Foreground pixels (M,), int64, of M run lengths over frames of size (H, W)."""
    return _areas(*runs(counts, size))


def boxes(counts: Sequence[Counts], size: tuple[int, int]) -> np.ndarray:
    """Tight boxes (M, 4), float32, xyxy in pixels, of M run lengths over frames of size (H, W).

    The right and bottom edges are exclusive: a mask of the single pixel (x, y) has the box (x, y, x + 1, y + 1). An
    empty mask has NaN.
    """
    return _boxes(*runs(counts, size), size)


def compress(counts: Sequence[Counts], size: tuple[int, int]) -> list[str]:
    """Compressed counts of M run lengths in any form over frames of size (H, W).

    Raises:
        ValueError: counts that are not run lengths of that size.
    """
    return write(*runs(counts, size))


def compress_with_areas(counts: Sequence[Counts], size: tuple[int, int]) -> tuple[list[str], np.ndarray]:
    """`compress` and `area` of the same masks, read once."""
    lengths, number = runs(counts, size)
    return write(lengths, number), _areas(lengths, number)


def runs(counts: Sequence[Counts], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """All run lengths, int64, of M masks one after the other, and how many each mask has (M,).

    Raises:
        ValueError: counts that are not run lengths of that size.
    """
    height, width = _checked_size(size)
    if any(isinstance(one, str | bytes) for one in counts):
        lengths, number = expand(texts(counts))
    else:
        lengths, number = _plain(counts)
    totals = _per_mask(np.add, lengths, number, 0)
    lowest = _per_mask(np.minimum, lengths, number, 0)
    for i in np.flatnonzero((lowest < 0) | (totals != height * width))[:1]:
        if lowest[i] < 0:
            raise ValueError(f"counts of mask {i} hold the negative run {lowest[i]}")
        raise ValueError(f"counts of mask {i} cover {totals[i]} pixels; size {height} x {width} has {height * width}")
    return lengths, number


def texts(counts: Sequence[Counts]) -> list[bytes]:
    """Compressed bytes of M masks' counts, each in any form; all plain lists are compressed at once.

    Raises:
        ValueError: counts of another kind, or out of range.
    """
    found = [one if isinstance(one, bytes) else _ascii(one) if isinstance(one, str) else b"" for one in counts]
    plain = [i for i, one in enumerate(counts) if not isinstance(one, str | bytes)]
    if plain:
        numbers = [_numbers(counts[i]) for i in plain]
        compressed = write(np.concatenate(numbers), np.array([len(one) for one in numbers]))
        for i, text in zip(plain, compressed, strict=True):
            found[i] = text.encode("ascii")
    return found


def to_coco(counts: str, size: tuple[int, int]) -> dict[str, Any]:
    """The JSON object of one mask: {"size": [H, W], "counts": string}."""
    return {"size": [int(size[0]), int(size[1])], "counts": counts}


def from_coco(segmentation: Mapping[str, Any]) -> tuple[str, tuple[int, int]]:
    """Compressed counts and size (H, W) of a JSON object whose counts are a string, bytes or a list.

    Raises:
        ValueError: it is not such an object, or its counts do not fit its size.
    """
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError(f'run lengths are an object with "size" and "counts", not {str(segmentation)[:80]!r}')
    size = segmentation["size"]
    if not isinstance(size, Sequence | np.ndarray) or isinstance(size, str | bytes) or len(size) != 2:
        raise ValueError(f"size of run lengths is {size!r}; expected [height, width]")
    height, width = _checked_size(tuple(size))
    return compress([segmentation["counts"]], (height, width))[0], (height, width)


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    if any(isinstance(edge, bool) or not isinstance(edge, int | np.integer) or edge < 0 for edge in size):
        raise ValueError(f"size of run lengths is {list(size)!r}; expected two whole numbers, [height, width]")
    return int(size[0]), int(size[1])


def _columns(masks: Any) -> tuple[np.ndarray, tuple[int, int]]:
    """Masks (M, H, W) column by column: (M, W * H), and (H, W)."""
    masks = masks.detach().cpu().numpy() if hasattr(masks, "detach") else np.asarray(masks)
    if masks.ndim != 3:
        raise ValueError(f"masks have shape {masks.shape}; expected (M, H, W)")
    if masks.dtype != bool:
        raise TypeError(f"masks are {masks.dtype}; expected bool")
    number, height, width = masks.shape
    columns = np.ascontiguousarray(masks.transpose(0, 2, 1)).reshape(number, width * height)
    return columns, (height, width)


def _encode(columns: np.ndarray, size: tuple[int, int]) -> tuple[list[str], np.ndarray]:
    """Compressed counts and boxes of masks (M, W * H)."""
    lengths, runs = _lengths(columns)
    return write(lengths, runs), _boxes(lengths, runs, size)


def _encode_compiled(columns: np.ndarray, size: tuple[int, int]) -> tuple[list[str], np.ndarray]:
    """As `_encode`, of masks with pixels."""
    number, pixels = columns.shape
    if columns.view(np.uint8).max() > 1:  # NumPy takes any byte but 0 for true: Pillow writes 255
        columns = columns.view(np.uint8) != 0
    text, ends = np.empty(number * (2 * pixels + 2), np.uint8), np.empty(number, np.int64)
    boxes = np.empty((number, 4), np.float32)
    sizes = map(ctypes.c_int64, (number, pixels, size[0]))
    compiled_library().mdqe_encode(pointer(columns), *sizes, *map(pointer, (text, ends, boxes)))  # type: ignore[union-attr]
    characters = text[: ends[-1]].tobytes().decode("ascii")
    return [characters[start:end] for start, end in pairwise([0, *ends.tolist()])], boxes


def _lengths(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All run lengths of masks (M, W * H), int64, one mask after the other, and how many each has (M,)."""
    number, pixels = columns.shape
    if number == 0 or pixels == 0:
        return np.zeros(0, np.int64), np.zeros(number, np.int64)
    # A run ends at every pixel that differs from the next one, and at the end of the mask.
    last = np.ones((number, pixels), bool)
    np.not_equal(columns[:, 1:], columns[:, :-1], out=last[:, :-1])
    runs = np.count_nonzero(last, axis=1)
    lengths = np.diff(np.flatnonzero(last), prepend=-1)
    if not columns[:, 0].any():
        return lengths, runs
    # The first run is background: of no pixels where a mask begins with foreground.
    begins = np.flatnonzero(columns[:, 0])
    starts = np.cumsum(runs) - runs
    runs[begins] += 1
    return np.insert(lengths, starts[begins], 0), runs


def foreground(runs: np.ndarray) -> np.ndarray:
    """For every run of masks with `runs` (M,) runs, whether it is foreground: each mask's second, fourth, …"""
    starts = np.cumsum(runs) - runs
    return (np.arange(int(runs.sum())) - np.repeat(starts, runs)) % 2 == 1


def _per_mask(reduction: np.ufunc, values: np.ndarray, runs: np.ndarray, empty: int) -> np.ndarray:
    """Reduce one value per run to one per mask; `empty` for masks without runs (of no pixels)."""
    result = np.full(len(runs), empty, np.int64)
    held = runs > 0
    if held.any():
        result[held] = reduction.reduceat(values, (np.cumsum(runs) - runs)[held])
    return result


def _areas(lengths: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """`area` of run lengths, `runs` (M,) of each mask."""
    return _per_mask(np.add, lengths * foreground(runs), runs, 0)


def _boxes(lengths: np.ndarray, runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`boxes` of run lengths, `runs` (M,) of each mask."""
    height, width = size
    ends = np.cumsum(lengths) - np.repeat(np.arange(len(runs)) * height * width, runs)
    drawn = foreground(runs) & (lengths > 0)
    first, last = ends - lengths, ends - 1  # first and last pixel of each run, column-major
    left, top = np.divmod(first, max(height, 1))
    right, bottom = np.divmod(last, max(height, 1))
    wraps = right > left  # a run over a column's end touches the bottom of one column and the top of the next
    corners = (left, np.where(wraps, 0, top), -right - 1, -np.where(wraps, height - 1, bottom) - 1)
    absent = max(height, width) + 1
    found = [_per_mask(np.minimum, np.where(drawn, value, absent), runs, absent) for value in corners]
    box = np.stack(found, axis=1).astype(np.float32) * np.array([1, 1, -1, -1], np.float32)
    box[found[0] == absent] = np.nan
    return box


def _ascii(counts: str) -> bytes:
    if not counts.isascii():
        raise ValueError(f"counts {counts[:40]!r} are not a run-length string")
    return counts.encode("ascii")


def _plain(counts: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Run lengths of plain lists: all of them, int64, and how many each list has."""
    try:
        numbers = [np.asarray(one) for one in counts]
        lengths = np.concatenate([*numbers, np.zeros(0, np.int32)])
    except ValueError:  # lists of different lengths in one of them, or of other dimensions
        numbers, lengths = [], np.zeros(0)
    # All at once; one at a time where that finds anything, for the error of the first one that is wrong.
    if lengths.dtype.kind != "i" or (lengths.size and (lengths.min() < 0 or lengths.max() >= 2**31)):
        numbers = [_numbers(one) for one in counts]
        lengths = np.concatenate([*numbers, np.zeros(0, np.int64)])
    return lengths.astype(np.int64, copy=False), np.array([len(one) for one in numbers], np.int64)


def _numbers(counts: Any) -> np.ndarray:
    """A plain list of counts as int64."""
    try:
        numbers = np.asarray(counts)
    except ValueError:  # lists of different lengths in it
        numbers = np.empty(0, object)
    if numbers.ndim != 1 or (numbers.dtype.kind not in "iu" and (numbers.size or numbers.dtype == object)):
        raise ValueError(f"counts are {str(counts)[:60]}; expected a string or a list of whole numbers")
    if numbers.size and (numbers.min() < 0 or numbers.max() >= 2**31):
        raise ValueError(f"counts hold {numbers.min()} to {numbers.max()}; a run is 0 to {2**31 - 1} pixels")
    return numbers.astype(np.int64)


@cache
def compiled_library() -> ctypes.CDLL | None:
    """The compiled library `_C_rle`; None where it was not built or MDQE_DISABLE_EXT is 1."""
    package = Path(__file__).resolve().parents[1]
    found = sorted(package.glob("_C_rle.*so")) + sorted(package.glob("_C_rle.*pyd"))
    if not found or os.environ.get("MDQE_DISABLE_EXT") == "1":
        return None
    try:
        library = ctypes.CDLL(str(found[0]))
        library.mdqe_overlap.restype = ctypes.c_int64
        library.mdqe_encode.restype = None
    except (OSError, AttributeError):  # built for another machine or another version of this package
        return None
    return library


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    """The address of a contiguous array."""
    return ctypes.c_void_p(array.ctypes.data)
