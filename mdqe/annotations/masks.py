"""Masks as annotation files hold them, kept small until they are drawn: run lengths, or the corners of polygons.

A packed mask is a string of bytes: compressed run lengths as they are (COCO's, see `mdqe.results.rle`); polygons
after a zero byte; nothing at all where the object is absent.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mdqe.annotations.polygons import fill
from mdqe.annotations.problems import DataError
from mdqe.results import rle

_POLYGONS = b"\0"
_FAR = 3  # longer edges of the picture within which corners lie


class Runs(NamedTuple):
    """Run lengths of a file, their size still to be checked."""

    counts: Any
    size: Any


Segment = Runs | bytes | DataError | None
"""A mask of a file: unchecked run lengths, packed polygons, a problem, or absent."""


def shrink(segment: Any) -> Segment:
    """What a file says of one mask, in little memory: `Runs` are as they were, lists are polygons."""
    if segment is None or segment == [] or isinstance(segment, Runs):
        return segment or None
    if not isinstance(segment, list):
        return DataError(f"{str(segment)[:60]!r} is neither run lengths nor polygons")
    try:
        polygons = [np.array(polygon, np.float64) for polygon in segment]
    except (TypeError, ValueError):
        return DataError(f"{str(segment)[:60]} are not polygons")
    for polygon in polygons:
        if polygon.ndim != 1 or polygon.size < 6 or polygon.size % 2 or not np.isfinite(polygon).all():
            return DataError("a polygon is not x and y of three corners or more")
    sizes = np.array([len(polygons), *(polygon.size for polygon in polygons)], np.int64)
    return _POLYGONS + sizes.tobytes() + np.concatenate(polygons).tobytes()


def runs(counts: Any, size: Any) -> Runs:
    """Run lengths as a JSON object holds them, plain counts in an array instead of a list."""
    if isinstance(counts, list) and counts:
        try:
            return Runs(np.frombuffer(array("i", counts), np.int32), size)
        except (TypeError, OverflowError):  # not whole numbers, or none of 32 bits: reported where they are checked
            pass
    return Runs(counts, size)


def pack(segments: Sequence[Segment], size: tuple[int, int]) -> list[bytes | DataError]:
    """Masks of one size (H, W), checked; empty ones become absent."""
    packed: list[bytes | DataError] = [segment if isinstance(segment, DataError) else b"" for segment in segments]
    texts: list[tuple[int, Any]] = []
    arrays: list[tuple[int, Any]] = []
    reach = _FAR * max(size)
    for i, segment in enumerate(segments):
        if isinstance(segment, bytes):
            far = bool(np.abs(_corners(segment)).max() > reach)
            packed[i] = DataError("a polygon reaches far outside the picture") if far else segment
        elif isinstance(segment, Runs):
            if segment.size != list(size):
                packed[i] = DataError(f"run lengths are of size {segment.size}, not {list(size)}")
            else:
                (texts if isinstance(segment.counts, str) else arrays).append((i, segment.counts))
    for places, read in ((texts, _with_areas), (arrays, rle.compress_with_areas)):
        found = _each([counts for _, counts in places], size, read)
        for (i, _), one in zip(places, found, strict=True):
            packed[i] = one
    return packed


def decode(packed: Sequence[bytes], size: tuple[int, int]) -> np.ndarray:
    """Masks (M, H, W), bool."""
    masks = np.zeros((len(packed), *size), bool)
    runs = [i for i, one in enumerate(packed) if one and not one.startswith(_POLYGONS)]
    if runs:
        masks[runs] = rle.decode([packed[i] for i in runs], size)
    for i, one in enumerate(packed):
        if one.startswith(_POLYGONS):
            masks[i] = fill(_polygons(one), size)
    return masks


def frame_lists(counts: Sequence[str | None], size: tuple[int, int]) -> dict[str, list[Any]]:
    """An object's masks as the lists of an annotation, an entry a frame: "segmentations", "bboxes" and "areas".

    Args:
        counts: (T,) compressed run lengths; None where the object is absent. A mask of no pixels is absent too.
        size: H and W.
    """
    held = {t: one for t, one in enumerate(counts) if one}
    masks = list(held.values())
    boxes = rle.boxes(masks, size)
    boxes[:, 2:] -= boxes[:, :2]
    lists: dict[str, list[Any]] = {key: [None] * len(counts) for key in ("segmentations", "bboxes", "areas")}
    for t, mask, box, area in zip(held, masks, boxes.tolist(), rle.area(masks, size).tolist(), strict=True):
        if area:
            lists["segmentations"][t] = rle.to_coco(mask, size)
            lists["bboxes"][t], lists["areas"][t] = box, area
    return lists


def _corners(packed: bytes) -> np.ndarray:
    """x and y of the corners of all polygons of a packed mask, in one row."""
    (count,) = np.frombuffer(packed, np.int64, 1, offset=1)
    return np.frombuffer(packed, np.float64, offset=9 + 8 * int(count))


def _polygons(packed: bytes) -> list[np.ndarray]:
    """The polygons (2 P,) of a packed mask."""
    (count,) = np.frombuffer(packed, np.int64, 1, offset=1)
    sizes = np.frombuffer(packed, np.int64, count, offset=9)
    return np.split(_corners(packed), np.cumsum(sizes)[:-1])


def _with_areas(texts: Sequence[str], size: tuple[int, int]) -> tuple[Sequence[str], np.ndarray]:
    return texts, rle.area(texts, size)


def _each(
    counts: list[Any],
    size: tuple[int, int],
    read: Callable[[Sequence[Any], tuple[int, int]], tuple[Sequence[str], np.ndarray]],
) -> list[bytes | DataError]:
    """Run lengths as bytes, many at a time; what is wrong is found by halves."""
    if not counts:
        return []
    try:
        texts, areas = read(counts, size)
        return [text.encode("ascii") if area else b"" for text, area in zip(texts, areas.tolist(), strict=True)]
    except (ValueError, TypeError, OverflowError) as error:
        if len(counts) == 1:
            return [DataError(str(error).replace("of mask 0 ", ""))]
        half = len(counts) // 2
        return _each(counts[:half], size, read) + _each(counts[half:], size, read)
