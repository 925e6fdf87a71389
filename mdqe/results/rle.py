"""COCO's run-length encoding (RLE) of binary masks, for many masks in one call.

A mask (H, W) is read column by column. Its counts are the lengths of the alternating runs of background and foreground,
background first, so the first count may be 0. They sum to H * W. The compressed form is COCO's string
(`mdqe.results.rle_strings`).

Here a mask is the compressed string alone. The size is passed separately, because all masks of a video share it.
`to_coco` and `from_coco` convert to and from the {"size": [H, W], "counts": ...} objects of the JSON formats. All
functions use array operations over the runs of all masks, without loops over pixels, runs or masks. `encode` uses the
compiled library if it is available. It finds the runs of tensors on a GPU there, and only the runs come to the host.
"""

import ctypes
import os
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mdqe.results.foreign_call import call, pointer
from mdqe.results.rle_strings import from_strings, to_strings

Counts = str | bytes | Sequence[int] | np.ndarray
"""RLE of one mask: the compressed string or the plain list of counts."""


def encode(masks: Any) -> list[str]:
    """Encode boolean masks (M, H, W), a NumPy array or a tensor on any device, as compressed counts.

    This is fastest if the masks are column-major in memory (a transposed view of (M, W, H)).

    Raises:
        TypeError: the masks are not boolean, or have no values, such as a tensor on the meta device.
        ValueError: the masks do not have three axes.
    """
    return encode_with_boxes(masks)[0]


def encode_with_boxes(masks: Any) -> tuple[list[str], np.ndarray]:
    """`encode`, together with the `boxes` of the masks."""
    if getattr(masks, "is_cuda", False):
        return _encode_on_device(masks)
    columns, size = _columns(masks)
    compiled = compiled_library() is not None and columns.size
    return _encode_compiled(columns, size) if compiled else _encode(columns, size)


def decode(counts: Sequence[Counts], size: tuple[int, int]) -> np.ndarray:
    """Decode M masks to (M, H, W), bool.

    Raises:
        TypeError: the counts are not a sequence of RLEs.
        ValueError: counts that are not an RLE of size (H, W), or another size.
    """
    lengths, num_runs = run_lengths(counts, size)
    height, width = size
    filled = np.repeat(foreground(num_runs), lengths)
    return np.ascontiguousarray(filled.reshape(len(num_runs), width, height).transpose(0, 2, 1))


def area(counts: Sequence[Counts], size: tuple[int, int]) -> np.ndarray:
    """Number of foreground pixels (M,), int64, of M masks of size (H, W)."""
    return _areas(*run_lengths(counts, size))


def boxes(counts: Sequence[Counts], size: tuple[int, int]) -> np.ndarray:
    """Tight boxes (M, 4), float32, xyxy in pixels, of M masks of size (H, W).

    The right and bottom edges are exclusive: a mask of the single pixel (x, y) has the box (x, y, x + 1, y + 1). An
    empty mask has NaN.
    """
    return _boxes(*run_lengths(counts, size), size)


def compress(counts: Sequence[Counts], size: tuple[int, int]) -> list[str]:
    """Compressed counts of M masks of size (H, W) whose counts have any form.

    Raises:
        ValueError: counts that are not an RLE of size (H, W).
    """
    return to_strings(*run_lengths(counts, size))


def compress_with_areas(counts: Sequence[Counts], size: tuple[int, int]) -> tuple[list[str], np.ndarray]:
    """`compress` and `area` of the same masks."""
    lengths, num_runs = run_lengths(counts, size)
    return to_strings(lengths, num_runs), _areas(lengths, num_runs)


def run_lengths(counts: Sequence[Counts], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenated run lengths of M masks of size (H, W), int64, and the number of runs of each mask (M,).

    Raises:
        TypeError, ValueError: as `decode`.
    """
    height, width = _checked_size(size)
    if not isinstance(counts, Sequence | np.ndarray) or isinstance(counts, str | bytes):
        raise TypeError(f"counts have the type {type(counts).__name__}; expected a list with the RLE of each mask")
    if any(isinstance(one, str | bytes) for one in counts):
        compressed = texts(counts)
        if found := _decode_compiled(compressed, height * width):
            return found
        lengths, num_runs = from_strings(compressed)
    else:
        lengths, num_runs = _plain(counts)
    totals = _per_mask(np.add, lengths, num_runs, 0)
    lowest = _per_mask(np.minimum, lengths, num_runs, 0)
    for i in np.flatnonzero((lowest < 0) | (totals != height * width))[:1]:
        if lowest[i] < 0:
            raise ValueError(f"counts of mask {i} hold the negative run {lowest[i]}")
        raise ValueError(f"counts of mask {i} cover {totals[i]} pixels; size {height} x {width} has {height * width}")
    return lengths, num_runs


def _decode_compiled(compressed: list[bytes], pixels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """`run_lengths` of compressed counts; None if one is invalid, or without the compiled library."""
    library = compiled_library()
    if library is None or pixels >= 2**31:
        return None
    text, ends = b"".join(compressed), np.cumsum(list(map(len, compressed)), dtype=np.int64)
    lengths, num_runs = np.empty(len(text), np.int64), np.empty(len(ends), np.int64)
    invalid = call(library.mdqe_run_lengths, text, ends, len(ends), pixels, lengths, num_runs)
    return (lengths[: num_runs.sum()].copy(), num_runs) if invalid < 0 else None


def texts(counts: Sequence[Counts]) -> list[bytes]:
    """Compressed bytes of M masks whose counts have any form.

    Raises:
        ValueError: counts of another type, or out of range.
    """
    found = [one if isinstance(one, bytes) else _ascii(one) if isinstance(one, str) else b"" for one in counts]
    plain = [i for i, one in enumerate(counts) if not isinstance(one, str | bytes)]
    if plain:
        numbers = [_numbers(counts[i]) for i in plain]
        compressed = to_strings(np.concatenate(numbers), np.array([len(one) for one in numbers]))
        for i, text in zip(plain, compressed, strict=True):
            found[i] = text.encode("ascii")
    return found


def to_coco(counts: str, size: tuple[int, int]) -> dict[str, Any]:
    """JSON object of one mask: {"size": [H, W], "counts": string}."""
    return {"size": list(_checked_size(size)), "counts": counts}


def from_coco(segmentation: Mapping[str, Any]) -> tuple[str, tuple[int, int]]:
    """Compressed counts and size (H, W) of a JSON object whose counts are a string, bytes or a list.

    Raises:
        ValueError: another object, or counts that do not fit the size.
    """
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError(f'run lengths are an object with "size" and "counts", not {_short(segmentation)}')
    size = _checked_size(segmentation["size"])
    return compress([segmentation["counts"]], size)[0], size


def _checked_size(size: Any) -> tuple[int, int]:
    if isinstance(size, Sequence | np.ndarray) and len(size) == 2:
        height, width = size
        if all(
            isinstance(edge, int | np.integer) and not isinstance(edge, bool) and 0 <= edge < 2**31 for edge in size
        ):
            return int(height), int(width)
    raise ValueError(f"size of run lengths is {_short(size)}; expected two whole numbers, [height, width]")


def _short(value: Any) -> str:
    return " ".join(repr(value).split())[:60]


def _columns(masks: Any) -> tuple[np.ndarray, tuple[int, int]]:
    """Masks (M, H, W) → column-major (M, W * H), and (H, W)."""
    try:
        masks = masks.detach().cpu().numpy() if hasattr(masks, "detach") else np.asarray(masks)
    except (
        TypeError,
        ValueError,
        NotImplementedError,
    ) as error:  # on the meta device, sparse, bfloat16, or ragged lists
        raise TypeError(f"masks cannot be converted to an array: {str(error).splitlines()[0]}") from error
    _check_masks(masks)
    number, height, width = masks.shape
    columns = np.ascontiguousarray(masks.transpose(0, 2, 1)).reshape(number, width * height)
    return columns, (height, width)


def _check_masks(masks: Any) -> None:
    if masks.ndim != 3:
        raise ValueError(f"masks have shape {tuple(masks.shape)}; expected (M, H, W)")
    if str(masks.dtype) not in ("bool", "torch.bool"):
        raise TypeError(f"masks are {masks.dtype}; expected bool")


def _encode_on_device(masks: Any) -> tuple[list[str], np.ndarray]:
    """`encode_with_boxes` of a tensor on any device."""
    _check_masks(masks)
    number, height, width = masks.shape
    columns = masks.detach().mT.reshape(number, width * height)
    last = columns.new_ones(columns.shape)
    last[:, :-1] = columns[:, 1:] ^ columns[:, :-1]
    ends = last.flatten().nonzero().flatten().cpu().numpy()
    begins = columns[:, :1].flatten().nonzero().flatten().cpu().numpy()
    lengths, num_runs = _lengths_between(ends, begins, number, width * height)
    return to_strings(lengths, num_runs), _boxes(lengths, num_runs, (height, width))


def _encode(columns: np.ndarray, size: tuple[int, int]) -> tuple[list[str], np.ndarray]:
    """Compressed counts and boxes of masks (M, W * H)."""
    lengths, num_runs = _lengths(columns)
    return to_strings(lengths, num_runs), _boxes(lengths, num_runs, size)


def _encode_compiled(columns: np.ndarray, size: tuple[int, int]) -> tuple[list[str], np.ndarray]:
    """As `_encode`, for masks with at least one pixel."""
    number, pixels = columns.shape
    if columns.view(np.uint8).max() > 1:  # any byte except 0 is true in NumPy; Pillow writes 255
        columns = columns.view(np.uint8) != 0
    text, ends = np.empty(number * (2 * pixels + 2), np.uint8), np.empty(number, np.int64)
    boxes = np.empty((number, 4), np.float32)
    sizes = map(ctypes.c_int64, (number, pixels, size[0]))
    compiled_library().mdqe_encode(pointer(columns), *sizes, *map(pointer, (text, ends, boxes)))  # type: ignore[union-attr]
    characters = text[: ends[-1]].tobytes().decode("ascii")
    return [characters[start:end] for start, end in pairwise([0, *ends.tolist()])], boxes


def _lengths(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenated run lengths of masks (M, W * H), int64, and the number of runs of each mask (M,)."""
    number, pixels = columns.shape
    if number == 0 or pixels == 0:
        return np.zeros(0, np.int64), np.zeros(number, np.int64)
    # A run ends at every pixel that differs from the next one, and at the end of the mask.
    last = np.ones((number, pixels), bool)
    np.not_equal(columns[:, 1:], columns[:, :-1], out=last[:, :-1])
    return _lengths_between(np.flatnonzero(last), np.flatnonzero(columns[:, 0]), number, pixels)


def _lengths_between(ends: np.ndarray, begins: np.ndarray, number: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """As `_lengths`, from the last pixel of every run and the masks that begin with foreground."""
    num_runs = np.bincount(ends // max(pixels, 1), minlength=number)
    lengths = np.diff(ends, prepend=-1)
    # The first run is background; it has no pixels if the mask begins with foreground.
    starts = np.cumsum(num_runs) - num_runs
    num_runs[begins] += 1
    return np.insert(lengths, starts[begins], 0), num_runs


def foreground(num_runs: np.ndarray) -> np.ndarray:
    """Whether each run is foreground, for masks with `num_runs` (M,) runs: the second, fourth, … of each mask."""
    starts = np.cumsum(num_runs) - num_runs
    return (np.arange(int(num_runs.sum())) - np.repeat(starts, num_runs)) % 2 == 1


def _per_mask(reduction: np.ufunc, values: np.ndarray, num_runs: np.ndarray, empty: int) -> np.ndarray:
    """Reduce one value per run to one per mask; `empty` for masks without runs, which have no pixels."""
    result = np.full(len(num_runs), empty, np.int64)
    nonempty = num_runs > 0
    if nonempty.any():
        result[nonempty] = reduction.reduceat(values, (np.cumsum(num_runs) - num_runs)[nonempty])
    return result


def _areas(lengths: np.ndarray, num_runs: np.ndarray) -> np.ndarray:
    """`area` of masks with these run lengths."""
    return _per_mask(np.add, lengths * foreground(num_runs), num_runs, 0)


def _boxes(lengths: np.ndarray, num_runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`boxes` of masks with these run lengths."""
    height, width = size
    ends = np.cumsum(lengths) - np.repeat(np.arange(len(num_runs)) * height * width, num_runs)
    drawn = foreground(num_runs) & (lengths > 0)
    first, last = ends - lengths, ends - 1  # first and last pixel of each run, column-major
    left, top = np.divmod(first, max(height, 1))
    right, bottom = np.divmod(last, max(height, 1))
    wraps = right > left  # a run over a column's end touches the bottom of one column and the top of the next
    corners = (left, np.where(wraps, 0, top), -right - 1, -np.where(wraps, height - 1, bottom) - 1)
    absent = max(height, width) + 1
    found = [_per_mask(np.minimum, np.where(drawn, value, absent), num_runs, absent) for value in corners]
    box = np.stack(found, axis=1).astype(np.float32) * np.array([1, 1, -1, -1], np.float32)
    box[found[0] == absent] = np.nan
    return box


def _ascii(counts: str) -> bytes:
    if not counts.isascii():
        raise ValueError(f"counts {counts[:40]!r} are not a run-length string")
    return counts.encode("ascii")


def _plain(counts: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenated run lengths of plain lists, int64, and the number of runs of each list."""
    try:
        numbers = [np.asarray(one) for one in counts]
        lengths = np.concatenate([*numbers, np.zeros(0, np.int32)])
    except (TypeError, ValueError):  # no array, nested lists of different lengths, or lists of different dimensions
        numbers, lengths = [], np.zeros(0)
    # One check of all lists. If it fails, lists are checked one by one, for the error of the first invalid one.
    if lengths.dtype.kind != "i" or (lengths.size and (lengths.min() < 0 or lengths.max() >= 2**31)):
        numbers = [_numbers(one) for one in counts]
        lengths = np.concatenate([*numbers, np.zeros(0, np.int64)])
    return lengths.astype(np.int64, copy=False), np.array([len(one) for one in numbers], np.int64)


def _numbers(counts: Any) -> np.ndarray:
    """Convert a plain list of counts to int64."""
    try:
        numbers = np.asarray(counts)
    except (TypeError, ValueError):  # no array, such as a tensor on the meta device, or lists of different lengths
        numbers = np.empty(0, object)
    if numbers.ndim != 1 or (numbers.dtype.kind not in "iu" and (numbers.size or numbers.dtype == object)):
        raise ValueError(f"counts are {_short(counts)}; expected a string or a list of whole numbers")
    if numbers.size and (numbers.min() < 0 or numbers.max() >= 2**31):
        raise ValueError(f"counts hold {numbers.min()} to {numbers.max()}; a run is 0 to {2**31 - 1} pixels")
    return numbers.astype(np.int64)


@cache
def compiled_library() -> ctypes.CDLL | None:
    """The compiled library `_C_rle`; None if it was not built or MDQE_DISABLE_EXT is 1."""
    package = Path(__file__).resolve().parents[1]
    found = sorted(package.glob("_C_rle.*so")) + sorted(package.glob("_C_rle.*pyd"))
    if not found or os.environ.get("MDQE_DISABLE_EXT") == "1":
        return None
    try:
        library = ctypes.CDLL(str(found[0]))
        library.mdqe_overlap.restype = ctypes.c_int64
        library.mdqe_run_lengths.restype = library.mdqe_near_pairs.restype = ctypes.c_int64
        names = "encode sample sample_runs list_points count_shared count_visible count_outlines compare_edges"
        for name in (*names.split(), "take_outlines", "score_places"):
            getattr(library, f"mdqe_{name}").restype = None
    except (OSError, AttributeError):  # built for another machine or another version of this package
        return None
    return library
