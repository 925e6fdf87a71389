"""COCO run lengths of binary masks, many at a time.

A mask (H, W) is read column by column; its counts are the lengths of its alternating runs, background first (so the
first may be 0), and sum to H * W. The compressed form is COCO's: each count from the fourth on as the difference from
the one two before it, in groups of 5 bits, lowest first, one printable character per group (offset 48; bit 5 says that
another group follows, bit 4 of the last group is the sign).

Here a mask's run lengths are the compressed string alone; the size stands beside it, because all masks of a video share
it. `to_coco` and `from_coco` make and read the {"size": [H, W], "counts": ...} objects of the JSON formats. All work is
array work over every run of every mask given: no loop over pixels, runs or masks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Counts = str | bytes | Sequence[int] | np.ndarray
"""Run lengths of one mask: the compressed string, or the plain list of counts."""

_GROUPS = 7  # 5-bit groups that hold any signed difference of counts below 2 ** 31


def encode(masks: Any) -> list[str]:
    """Compressed counts of boolean masks (M, H, W), a NumPy array or a tensor on any device.

    Raises:
        TypeError: the masks are not boolean.
        ValueError: the masks do not have three axes.
    """
    masks = masks.detach().cpu().numpy() if hasattr(masks, "detach") else np.asarray(masks)
    if masks.ndim != 3:
        raise ValueError(f"masks have shape {masks.shape}; expected (M, H, W)")
    if masks.dtype != bool:
        raise TypeError(f"masks are {masks.dtype}; expected bool")
    number, height, width = masks.shape
    pixels = height * width
    if number == 0 or pixels == 0:
        return [""] * number
    # Where a pixel differs from the one before it in column order: above it or, in the top row, the bottom of the
    # column to the left. Only these few positions are sorted; the masks are never transposed.
    changes = np.empty_like(masks, order="C")
    np.not_equal(masks[:, 1:], masks[:, :-1], out=changes[:, 1:])
    np.not_equal(masks[:, 0, 1:], masks[:, -1, :-1], out=changes[:, 0, 1:])
    changes[:, 0, 0] = masks[:, 0, 0]
    mask, rest = np.divmod(np.flatnonzero(changes), pixels)
    row, column = np.divmod(rest, width)
    position = np.sort(mask * pixels + column * height + row)
    # A run ends at every change and at the end of the mask.
    runs = np.bincount(mask, minlength=number) + 1  # (M,)
    last = np.cumsum(runs) - 1
    ends = np.empty(int(runs.sum()), np.int64)
    inner = np.ones(len(ends), bool)
    inner[last] = False
    ends[inner] = position
    ends[last] = np.arange(1, number + 1) * pixels
    return _compress(np.diff(ends, prepend=0), runs)


def decode(counts: Sequence[Counts], size: tuple[int, int]) -> np.ndarray:
    """Masks (M, H, W), bool, of M run lengths over frames of size (H, W).

    Raises:
        ValueError: counts that are not run lengths of that size.
    """
    lengths, runs = _parse(counts, size)
    number, (height, width) = len(runs), size
    filled = np.repeat(_foreground(runs), lengths)
    return np.ascontiguousarray(filled.reshape(number, width, height).transpose(0, 2, 1))


def area(counts: Sequence[Counts], size: tuple[int, int]) -> np.ndarray:
    """Foreground pixels (M,), int64, of M run lengths over frames of size (H, W)."""
    lengths, runs = _parse(counts, size)
    return _per_mask(np.add, lengths * _foreground(runs), runs, 0)


def boxes(counts: Sequence[Counts], size: tuple[int, int]) -> np.ndarray:
    """Tight boxes (M, 4), float32, xyxy in pixels, of M run lengths over frames of size (H, W).

    The right and bottom edges are exclusive: a mask of the single pixel (x, y) has the box (x, y, x + 1, y + 1). An
    empty mask has NaN.
    """
    lengths, runs = _parse(counts, size)
    height, width = size
    ends = np.cumsum(lengths) - np.repeat(np.arange(len(runs)) * height * width, runs)
    drawn = _foreground(runs) & (lengths > 0)
    first, last = ends - lengths, ends - 1  # first and last pixel of each run, column-major
    left, top = np.divmod(first, max(height, 1))
    right, bottom = np.divmod(last, max(height, 1))
    wraps = right > left  # a run over a column's end touches the bottom of one column and the top of the next
    corners = (left, np.where(wraps, 0, top), -right - 1, -np.where(wraps, height - 1, bottom) - 1)
    absent = max(height, width) + 1
    found = [_per_mask(np.minimum, np.where(drawn, value, absent), runs, absent) for value in corners]
    box = np.stack(found, axis=1).astype(np.float32) * np.float32([1, 1, -1, -1])
    box[found[0] == absent] = np.nan
    return box


def compress(counts: Sequence[Counts], size: tuple[int, int]) -> list[str]:
    """Compressed counts of M run lengths in any form over frames of size (H, W).

    Raises:
        ValueError: counts that are not run lengths of that size.
    """
    return _compress(*_parse(counts, size))


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


def _foreground(runs: np.ndarray) -> np.ndarray:
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


def _compress(lengths: np.ndarray, runs: np.ndarray) -> list[str]:
    """Strings of M masks from all their run lengths one after the other, `runs` (M,) of each."""
    if not len(lengths):
        return [""] * len(runs)
    place = np.arange(len(lengths)) - np.repeat(np.cumsum(runs) - runs, runs)
    values = lengths.copy()
    later = np.flatnonzero(place > 2)
    values[later] -= lengths[later - 2]
    # Groups of 5 bits: another follows until the rest is all sign, and the group's own top bit shows that sign.
    groups = values[:, None] >> (5 * np.arange(_GROUPS))  # (runs, groups)
    negative = groups & 0x10 != 0
    more = np.where(negative, groups >> 5 != -1, groups >> 5 != 0)
    kept = np.ones_like(more)
    np.logical_and.accumulate(more[:, :-1], axis=1, out=kept[:, 1:])
    characters = ((groups & 0x1F) | (more << 5)) + 48
    text = characters[kept].astype(np.uint8).tobytes().decode("ascii")
    ends = np.cumsum(np.add.reduceat(kept.sum(axis=1), (np.cumsum(runs) - runs)[runs > 0]))
    strings = iter([text[start:end] for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)])
    return [next(strings) if held else "" for held in runs > 0]


def _parse(counts: Sequence[Counts], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """All run lengths, int64, of M masks one after the other, and how many each has (M,); checked against the size."""
    height, width = _checked_size(tuple(size))
    if any(isinstance(one, str | bytes) for one in counts):
        lengths, runs = _expand([_text(one) for one in counts])
    else:
        numbers = [_numbers(one) for one in counts]
        lengths = np.concatenate([*numbers, np.zeros(0, np.int64)])
        runs = np.array([len(one) for one in numbers], np.int64)
    totals = _per_mask(np.add, lengths, runs, 0)
    lowest = _per_mask(np.minimum, lengths, runs, 0)
    for i in np.flatnonzero((lowest < 0) | (totals != height * width))[:1]:
        if lowest[i] < 0:
            raise ValueError(f"counts of mask {i} hold the negative run {lowest[i]}")
        raise ValueError(f"counts of mask {i} cover {totals[i]} pixels; size {height} x {width} has {height * width}")
    return lengths, runs


def _text(counts: Counts) -> bytes:
    """Compressed bytes of one mask's counts in any form."""
    if isinstance(counts, str):
        if not counts.isascii():
            raise ValueError(f"counts {counts[:40]!r} are not a run-length string")
        return counts.encode("ascii")
    if isinstance(counts, bytes):
        return counts
    numbers = _numbers(counts)
    return _compress(numbers, np.array([numbers.size]))[0].encode("ascii")


def _numbers(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Plain counts of one mask as int64."""
    numbers = np.asarray(counts)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise ValueError(f"counts are {str(counts)[:60]}; expected a string or a list of whole numbers")
    if numbers.size and (numbers.min() < 0 or numbers.max() >= 2**31):
        raise ValueError(f"counts hold {numbers.min()} to {numbers.max()}; a run is 0 to {2**31 - 1} pixels")
    return numbers.astype(np.int64)


def _expand(texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Run lengths of compressed strings: all of them, and how many each string has."""
    size = np.array([len(text) for text in texts], np.int64)
    until = np.cumsum(size)
    groups = np.frombuffer(b"".join(texts), np.uint8) - np.uint8(48)
    if not len(groups):
        return np.zeros(0, np.int64), size
    if groups.max() > 63:
        place = int(np.argmax(groups > 63))
        mask, character = np.searchsorted(until, place, "right"), chr(int(groups[place]) + 48 & 0xFF)
        raise ValueError(f"counts of mask {mask} hold the character {character!r}")
    last = groups < 32  # of its number
    cut = np.flatnonzero(~last[until[size > 0] - 1])
    if len(cut):
        raise ValueError(f"counts of mask {np.flatnonzero(size)[cut[0]]} end in the middle of a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    length = ends - starts + 1  # of each number, in groups
    longest = int(length.max())
    if longest > _GROUPS:
        mask = np.searchsorted(until, ends[length.argmax()], "right")
        raise ValueError(f"counts of mask {mask} hold a number of {longest} groups")
    values = (groups[starts] & 0x1F).astype(np.int64)
    for place in range(1, longest):
        held = np.flatnonzero(length > place)
        values[held] |= (groups[starts[held] + place] & 0x1F).astype(np.int64) << (5 * place)
    negative = np.flatnonzero(groups[ends] & 0x10)
    values[negative] -= np.int64(1) << (5 * length[negative])
    runs = np.diff(np.searchsorted(ends, until), prepend=0)
    return _undo_differences(values, runs), runs


def _undo_differences(values: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Counts from COCO's differences: each mask's first as it is, its odd and its even ones summed up apart."""
    held = runs[runs > 0]
    starts = np.cumsum(held) - held
    rest = np.delete(values, starts)
    if not len(rest):
        return values
    # Two columns, odd and even ones; a mask with an odd number of them is filled up by a zero.
    filled = np.flatnonzero((held - 1) % 2)
    pairs = np.insert(rest, np.cumsum(held - 1)[filled], 0).reshape(-1, 2)
    total = np.cumsum(pairs, axis=0)
    rows = held // 2  # of each mask
    before = np.concatenate([np.zeros((1, 2), np.int64), total])[np.cumsum(rows) - rows]
    total -= np.repeat(before, rows, axis=0)
    counts = values.copy()
    keep = np.ones(len(values), bool)
    keep[starts] = False
    counts[keep] = np.delete(total.ravel(), 2 * np.cumsum(rows)[filled] - 1)
    return counts
