"""Masks of annotation and result files: RLEs and polygons, kept small until they are drawn.

A file has one of these for each object and frame:

- an RLE {"size": [H, W], "counts": …}, whose counts are COCO's string or a plain list (`mdqe.results.rle`);
- polygons [[x1, y1, x2, y2, x3, y3, …], …];
- null, [] or {} where the object is absent.

`read_mask` makes a `Mask` of any of them. `pack` checks masks completely, as bytes: the compressed counts of an RLE, or
polygons; nothing where an object has no pixel.
"""

import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mdqe.annotations.records import short
from mdqe.errors import InputError
from mdqe.results import rle

_POLYGONS = b"\0"
_REACH = 3  # the largest coordinate of a corner, in longer edges of the frame
_STEPS = 5  # per pixel, in which an outline is followed


class Rle(NamedTuple):
    """An RLE of a file, unchecked; plain counts are in an array."""

    counts: Any
    size: Any


class Polygons(bytes):
    """Polygons: a zero byte, the largest absolute coordinate, the number of polygons, and for each the number of its
    coordinates; then all coordinates."""


Mask = rle.Counts | Polygons
"""A mask of a file: the counts of an RLE, or polygons."""


def shrink(value: Any) -> Rle | Polygons | InputError | None:
    """A mask of a file in little memory, unchecked; an error instead of a value that cannot be one."""
    if value is None or isinstance(value, Rle | Polygons | InputError):
        return value
    if isinstance(value, Mapping | list | tuple) and not value:
        return None
    if isinstance(value, Mapping) and "size" in value and "counts" in value:
        return Rle(_small_counts(value["counts"]), value["size"])
    if not isinstance(value, list | tuple):
        return InputError(f"{short(value)} is neither an RLE nor polygons")
    try:
        polygons = [np.array(polygon, np.float64) for polygon in value]
    except (TypeError, ValueError):
        return InputError(f"{short(value)} is not a list of polygons")
    for polygon in polygons:
        if polygon.ndim != 1 or polygon.size < 6 or polygon.size % 2:
            return InputError("a polygon is not a list of x and y of at least three corners")
    corners = np.concatenate(polygons)
    reach = float(np.abs(corners).max())
    if not reach < np.inf:
        return InputError("a polygon has a coordinate that is not finite")
    head = struct.pack(f"=cdq{len(polygons)}q", _POLYGONS, reach, len(polygons), *(one.size for one in polygons))
    return Polygons(head + corners.tobytes())


def read_mask(value: Any, size: list[int]) -> Mask | None:
    """A mask of a file, or what `shrink` makes of it; None where the object is absent.

    The size of an RLE and the corners of polygons are checked, but not the counts of an RLE.

    Args:
        value: the mask.
        size: [H, W] of the frame.

    Raises:
        InputError: it is not a mask, or not one of such a frame.
    """
    if value is None:
        return None
    if type(value) is dict and "size" in value and "counts" in value:
        counts, given = value["counts"], value["size"]
    else:
        small = value if type(value) is Rle or type(value) is Polygons else shrink(value)
        if isinstance(small, InputError):
            raise small
        if not isinstance(small, Rle):
            if small is not None and struct.unpack_from("=d", small, 1)[0] > _REACH * max(size):
                raise InputError("a polygon extends far beyond the frame")
            return small
        counts, given = small
    if given != size if type(given) is list else (not isinstance(given, tuple | np.ndarray) or [*given] != size):
        raise InputError(f"its size is {short(given)}; expected {size}")
    if counts is None:
        raise InputError("its counts are null; expected a string or a list of whole numbers")
    return counts


def pack(masks: Sequence[Mask | None], size: tuple[int, int]) -> list[bytes | InputError]:
    """Masks of frames of one size (H, W) as bytes; an error instead of counts that are not an RLE of that size."""
    packed: list[bytes | InputError] = [mask if isinstance(mask, Polygons) else b"" for mask in masks]
    rles = [(i, mask) for i, mask in enumerate(masks) if mask is not None and not isinstance(mask, Polygons)]
    texts = [(i, counts) for i, counts in rles if isinstance(counts, str)]
    others = [(i, counts) for i, counts in rles if not isinstance(counts, str)]
    for part, read in ((texts, _with_areas), (others, rle.compress_with_areas)):
        found = _pack_rles([counts for _, counts in part], size, read)
        for (i, _), one in zip(part, found, strict=True):
            packed[i] = one
    return packed


def decode(packed: Sequence[bytes], size: tuple[int, int]) -> np.ndarray:
    """Packed masks (M, H, W), bool."""
    masks = np.zeros((len(packed), *size), bool)
    rles = [i for i, one in enumerate(packed) if one and not one.startswith(_POLYGONS)]
    if rles:
        masks[rles] = rle.decode([packed[i] for i in rles], size)
    for i, one in enumerate(packed):
        if one.startswith(_POLYGONS):
            masks[i] = fill(_split(one), size)
    return masks


def to_rle(mask: Mask, size: tuple[int, int]) -> rle.Counts:
    """The counts of a mask; those of an RLE are unchanged and unchecked."""
    return rle.encode(decode([mask], size))[0] if isinstance(mask, Polygons) else mask


def to_text(packed: bytes, size: tuple[int, int]) -> str | None:
    """The compressed RLE of a packed mask; None if the mask has no pixel."""
    if packed.startswith(_POLYGONS):
        filled = decode([packed], size)
        return rle.encode(filled)[0] if filled.any() else None
    return packed.decode("ascii") or None


def to_coco(packed: bytes, size: tuple[int, int]) -> Any:
    """A packed mask in the form of COCO's files: a list of polygons, or a compressed RLE."""
    if packed.startswith(_POLYGONS):
        return [polygon.tolist() for polygon in _split(packed)]
    return rle.to_coco(packed.decode("ascii") or rle.compress([[size[0] * size[1]]], size)[0], size)


def coco_boxes(counts: Sequence[rle.Counts], size: tuple[int, int]) -> list[list[float]]:
    """[x, y, width, height] of RLEs over frames of size (H, W); zeros where empty, as COCO's tools give them."""
    boxes = np.nan_to_num(rle.boxes(counts, size))
    boxes[:, 2:] -= boxes[:, :2]
    return boxes.tolist()


def frame_lists(counts: Sequence[str | None], size: tuple[int, int]) -> dict[str, list[Any]]:
    """The lists of an annotation with an entry for each frame: "segmentations", "bboxes" and "areas".

    Args:
        counts: (T,) compressed RLEs of the object; None where it is absent. A mask without pixels is absent too.
        size: H and W.
    """
    lists: dict[str, list[Any]] = {key: [None] * len(counts) for key in ("segmentations", "bboxes", "areas")}
    present = {t: one for t, one in enumerate(counts) if one}
    masks = list(present.values())
    areas = rle.area(masks, size).tolist()
    for t, mask, box, area in zip(present, masks, coco_boxes(masks, size), areas, strict=True):
        if area:
            lists["segmentations"][t] = rle.to_coco(mask, size)
            lists["bboxes"][t], lists["areas"][t] = box, area
    return lists


def _small_counts(counts: Any) -> Any:
    """Counts of an RLE, a plain list as an array."""
    if isinstance(counts, list) and counts:
        try:
            return np.frombuffer(array("i", counts), np.int32)
        except (TypeError, OverflowError):  # they are not whole numbers of 32 bits; `pack` reports them
            pass
    return counts


def _with_areas(texts: Sequence[str], size: tuple[int, int]) -> tuple[Sequence[str], np.ndarray]:
    return texts, rle.area(texts, size)


def _pack_rles(
    counts: list[Any],
    size: tuple[int, int],
    read: Callable[[Sequence[Any], tuple[int, int]], tuple[Sequence[str], np.ndarray]],
) -> list[bytes | InputError]:
    """RLEs as bytes, many at a time; invalid ones are found by bisection."""
    if not counts:
        return []
    try:
        texts, areas = read(counts, size)
        return [text.encode("ascii") if area else b"" for text, area in zip(texts, areas.tolist(), strict=True)]
    except (ValueError, TypeError, OverflowError) as error:
        if len(counts) == 1:
            return [InputError(str(error).replace("of mask 0 ", ""))]
        half = len(counts) // 2
        return _pack_rles(counts[:half], size, read) + _pack_rles(counts[half:], size, read)


def _split(packed: bytes) -> list[np.ndarray]:
    """The packed polygons, (2 P,) each."""
    (count,) = struct.unpack_from("=q", packed, 9)
    sizes = np.frombuffer(packed, np.int64, count, offset=17)
    return np.split(np.frombuffer(packed, np.float64, offset=17 + 8 * count), np.cumsum(sizes)[:-1])


def fill(polygons: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The union (H, W), bool, of polygons, pixel for pixel as COCO's tools fill them.

    Args:
        polygons: (2 P,) float64 each, x and y of its P corners in turn, in pixels; pixel centres are at halves.
        size: H and W.
    """
    filled = np.zeros(size, bool)
    for polygon in polygons:
        filled |= _fill_one(polygon.reshape(-1, 2), size)
    return filled


def _fill_one(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A polygon with corners (P, 2), (x, y).

    Its outline is followed in fifths of pixels. Where it crosses the middle of a column of pixels, the pixels of that
    column change from outside to inside, or back, from that row downward.
    """
    height, width = size
    x, y = _outline(np.trunc(_STEPS * corners + 0.5).astype(np.int64))
    moved = np.flatnonzero(np.diff(x))
    column = (np.minimum(x[moved], x[moved + 1]) + 0.5) / _STEPS - 0.5
    row = (np.minimum(y[moved], y[moved + 1]) + 0.5) / _STEPS - 0.5
    crossed = (column == np.floor(column)) & (column >= 0) & (column <= width - 1)
    row = np.ceil(np.clip(row[crossed], 0, height))
    changes = np.sort(column[crossed] * height + row).astype(np.int64)  # column by column
    lengths = np.diff(changes, prepend=0, append=height * width)
    inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return inside.reshape(width, height).T


def _outline(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the points, one per step along the longer axis, on the edges between integer corners (P, 2)."""
    ends = np.roll(corners, -1, axis=0)
    steps = np.abs(ends - corners)  # (P, 2)
    tall = steps[:, 1] > steps[:, 0]
    # Along the longer axis, a, and across, b. Edges are traced from the lower a, so both directions round alike.
    a0, a1 = np.where(tall, corners[:, 1], corners[:, 0]), np.where(tall, ends[:, 1], ends[:, 0])
    b0, b1 = np.where(tall, corners[:, 0], corners[:, 1]), np.where(tall, ends[:, 0], ends[:, 1])
    count, back = steps.max(1), a0 > a1
    slope = np.where(back, b0 - b1, b1 - b0) / np.maximum(count, 1)
    edge = np.repeat(np.arange(len(corners)), count + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(count + 1) - count - 1, count + 1)
    step = np.where(back[edge], count[edge] - step, step)
    a = np.minimum(a0, a1)[edge] + step
    b = np.trunc(np.where(back, b1, b0)[edge] + slope[edge] * step + 0.5).astype(np.int64)
    return np.where(tall[edge], b, a), np.where(tall[edge], a, b)
