"""The masks of a frame at the points of a grid, as the linker compares them, and which edges of their boxes are cut.

A list of the points that masks cover takes less time and memory than the masks themselves: most masks cover a small
part of a frame.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from mdqe.results import rle
from mdqe.results.foreign_call import call

GRID = 128  # most points of a frame along each side
FEW = 16  # points; a mask with fewer is measured by its pixels
NEAR = 2  # points between two masks that touch, for outlines that are not exact
_SIDES = np.array([1, 1, -1, -1])  # signs of edges that point inwards: left, upper, right, lower
_INSIDE = np.array([1, 1, 2, 2])  # the last point is one before the right or lower edge
_NONE = 2**31 - 1


class FramePoints(NamedTuple):
    """D masks at the P points of a grid of (h, w)."""

    shape: tuple[int, int]
    """h and w."""
    starts: np.ndarray
    """(h · w,): where the detections of each point begin in `detections`."""
    counts: np.ndarray
    """(h · w,): number of detections of each point."""
    detections: np.ndarray
    """(P,): the detections that cover each point, point after point."""
    own: tuple[np.ndarray, np.ndarray]
    """(P,) points and (D + 1,): those of detection d are points[ends[d]:ends[d + 1]]."""
    positions: np.ndarray
    """(P, 2) int16: columns and rows of the points in `own`."""
    areas: np.ndarray
    """(D,) pixels, 0 for an empty mask."""
    sizes: np.ndarray
    """(D,): areas in points of the grid, at least 1."""
    boxes: np.ndarray
    """(D, 4) xyxy in pixels. Those of masks with many points have the precision of the grid."""
    grid: np.ndarray
    """(D, h · w) bool."""
    cut: np.ndarray
    """(D, 4) bool: the edges of the box beyond which the object may continue, hidden by another one or out of frame."""
    touched: np.ndarray
    """(D,) bool: whether the mask touches another one."""

    def points_of(self, detection: int) -> np.ndarray:
        """The points (K,) of a detection."""
        points, ends = self.own
        return points[ends[detection] : ends[detection + 1]]

    def places_of(self, detections: np.ndarray) -> list[np.ndarray]:
        """Columns and rows (K, 2), int16, of the points of each detection."""
        ends = self.own[1].tolist()
        return [self.positions[ends[d] : ends[d + 1]].copy() for d in detections.tolist()]

    def shared(self, rows: np.ndarray, points: np.ndarray, number: int) -> np.ndarray:
        """How many of the points (K,) of each of `number` sets each detection covers, (number, D).

        Args:
            rows: (K,) the set of each point.
        """
        counts = self.counts[points]
        hit = np.flatnonzero(counts)
        rows, counts, first = rows[hit], counts[hit], self.starts[points[hit]]
        if len(counts) and counts.max() > 1:
            first = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
            rows = np.repeat(rows, counts)
        size = len(self.areas)
        pairs = np.bincount(rows * size + self.detections[first], minlength=number * size)
        return pairs.reshape(number, size)


def collect_points(points: np.ndarray, step: int, pixels_of: Callable[[int], np.ndarray]) -> FramePoints:
    """List the points of masks (D, h, w), a contiguous array.

    Args:
        step: distance of the points, in pixels.
        pixels_of: returns the rows and columns (2, K) of the pixels of a mask. It is called for masks of few points,
            which may lie between them.
    """
    number, height, width = points.shape
    listed = _list_points(points, np.zeros(number, bool))
    areas = np.subtract(listed.ends[1:], listed.ends[:-1], dtype=np.float64)
    small = areas < FEW if step > 1 else np.zeros(number, bool)
    areas *= step**2
    exact = {}
    for i in np.flatnonzero(small).tolist():
        pixels = pixels_of(i)
        areas[i] = pixels.shape[1]
        if areas[i]:
            exact[i] = *pixels.min(axis=1)[::-1], *pixels.max(axis=1)[::-1] + 1
            y, x = np.minimum(pixels // step, [[height - 1], [width - 1]])
            points[i, y, x] = True
    if exact:
        listed = _list_points(points, small)
    boxes = listed.boxes * float(step)
    for i, box in exact.items():
        boxes[i] = box
    # Edges in points, with the signs of both sides: at the border, or with a contact at most one point inside.
    edges = _SIDES * boxes // step
    contacts = _SIDES * listed.contacts
    cut = (edges <= (0, 0, -width, -height)) | (contacts <= edges + _INSIDE)
    return FramePoints(
        shape=(height, width),
        starts=listed.starts,
        counts=listed.counts,
        detections=listed.detections,
        own=(listed.places, listed.ends),
        positions=listed.positions,
        areas=areas,
        sizes=np.maximum(areas / step**2, 1),
        boxes=boxes,
        grid=points.reshape(number, -1),
        cut=cut,
        touched=(contacts < _NONE).any(axis=1),
    )


class _Listed(NamedTuple):
    """The points of D masks, as in `FramePoints`."""

    places: np.ndarray
    positions: np.ndarray
    ends: np.ndarray
    counts: np.ndarray
    starts: np.ndarray
    detections: np.ndarray
    boxes: np.ndarray
    """(D, 4) xyxy in points; 0 for an empty mask."""
    contacts: np.ndarray
    """(D, 4): the least column and row where the mask begins behind another one, 2³¹ − 1 for none; and the largest
    column and row where it ends before another one, −2³¹ for none."""


def _list_points(points: np.ndarray, small: np.ndarray) -> _Listed:
    """List the points of masks (D, h, w), of which those that are `small` (D,) must not be hidden by others."""
    library = rle.compiled_library()
    if library is None:
        return _list_points_numpy(points, small)
    number, height, width = points.shape
    total, size = int(np.count_nonzero(points)), height * width
    lengths = (total, number + 1, 4 * number, size, size, total, 4 * number)
    bounds = [0, *accumulate(lengths)]
    numbers, positions = np.empty(bounds[-1], np.int64), np.empty(2 * total + size, np.int16)
    call(library.mdqe_list_points, points, small, number, height, width, total, numbers, positions)
    places, ends, boxes, counts, starts, detections, contacts = (numbers[a:b] for a, b in pairwise(bounds))
    positions = positions[: 2 * total].reshape(-1, 2)
    return _Listed(places, positions, ends, counts, starts, detections, boxes.reshape(-1, 4), contacts.reshape(-1, 4))


def _list_points_numpy(points: np.ndarray, small: np.ndarray) -> _Listed:
    """As `_list_points`."""
    number, height, width = points.shape
    found = np.flatnonzero(points)
    ends = np.searchsorted(found, np.arange(number + 1) * (height * width))
    owners = np.repeat(np.arange(number), np.diff(ends))
    places = found - owners * (height * width)
    order = np.argsort(places.astype(np.int16), kind="stable")  # quick for small integers
    counts = np.bincount(places, minlength=height * width)
    labels = np.full(height * width, -1, np.int16)
    labels[places] = owners
    hidden = small[owners]
    labels[places[hidden]] = owners[hidden]
    starts = np.cumsum(counts) - counts
    positions = np.stack(np.divmod(places, width)[::-1], axis=1).astype(np.int16)
    boxes, contacts = _boxes(places, ends, width), _contacts(labels, width, number)
    return _Listed(places, positions, ends, counts, starts, owners[order], boxes, contacts)


def _boxes(places: np.ndarray, ends: np.ndarray, width: int) -> np.ndarray:
    """Boxes (D, 4) in points, xyxy, of masks with the points places[ends[d]:ends[d + 1]]; 0 for an empty mask."""
    boxes = np.zeros((len(ends) - 1, 4), np.int64)
    filled = np.flatnonzero(ends[1:] > ends[:-1])
    if len(filled):
        rows, columns = np.divmod(places, width)
        first, last = ends[filled], ends[filled + 1] - 1
        boxes[filled, 0], boxes[filled, 1] = np.minimum.reduceat(columns, first), rows[first]
        boxes[filled, 2], boxes[filled, 3] = np.maximum.reduceat(columns, first) + 1, rows[last] + 1
    return boxes


def _contacts(labels: np.ndarray, width: int, number: int) -> np.ndarray:
    """Where masks touch others: see `_Listed`. `labels` (h · w,) are the masks of the points, −1 for none."""
    first, last = np.full((number, 2), _NONE), np.full((number, 2), -(2**31))
    for axis, stride in ((0, 1), (1, width)):
        for gap in range(1, NEAR + 1):
            before, after = labels[: -gap * stride], labels[gap * stride :]
            place = np.flatnonzero((before != after) & (before >= 0) & (after >= 0))
            place = place[(axis == 1) | (place % width + gap < width)]  # not in the next row
            a, b = before[place], after[place]
            place = place % width if axis == 0 else place // width
            np.maximum.at(last[:, axis], a, place)
            np.minimum.at(first[:, axis], b, place + gap)
    return np.concatenate([first, last], axis=1)
