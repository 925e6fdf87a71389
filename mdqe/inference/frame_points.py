"""The masks of a frame at the points of a grid, as the linker compares them, and which edges of their boxes are cut.

A list of the points that masks cover takes less time and memory than the masks themselves: most masks cover a small
part of a frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

GRID = 128  # most points of a frame along each side
FEW = 16  # points; a mask with fewer is measured by its pixels
NEAR = 2  # points between two masks that touch, for outlines that are not exact


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
    areas: np.ndarray
    """(D,) pixels, 0 for an empty mask."""
    boxes: np.ndarray
    """(D, 4) xyxy in pixels. Those of masks with many points have the precision of the grid."""
    grid: np.ndarray
    """(D, h · w) bool."""
    cut: np.ndarray
    """(D, 4) bool: the edges of the box beyond which the object may continue, hidden by another one or out of frame."""

    def points_of(self, detection: int) -> np.ndarray:
        """The points (K,) of a detection."""
        points, ends = self.own
        return points[ends[detection] : ends[detection + 1]]

    def places_of(self, detections: np.ndarray) -> list[np.ndarray]:
        """Columns and rows (K, 2), int16, of the points of each detection."""
        if not len(detections):
            return []
        parts = [self.points_of(detection) for detection in detections.tolist()]
        rows, columns = np.divmod(np.concatenate(parts), self.shape[1])
        places = np.empty((len(rows), 2), np.int16)
        places[:, 0], places[:, 1] = columns, rows
        ends = np.cumsum([len(part) for part in parts]).tolist()
        return [places[end - len(part) : end].copy() for part, end in zip(parts, ends, strict=True)]

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
    found, ends = _nonzero(points)
    areas = np.diff(ends).astype(np.float64)
    small = np.flatnonzero(areas < FEW).tolist() if step > 1 else []
    areas *= step**2
    exact = {}
    for i in small:
        pixels = pixels_of(i)
        areas[i] = pixels.shape[1]
        if areas[i]:
            exact[i] = *pixels.min(axis=1)[::-1], *pixels.max(axis=1)[::-1] + 1
            y, x = np.minimum(pixels // step, [[height - 1], [width - 1]])
            points[i, y, x] = True
    if exact:
        found, ends = _nonzero(points)
    owners = np.repeat(np.arange(number), np.diff(ends))
    places = found - owners * (height * width)
    boxes = _boxes(places, ends, width) * float(step)
    for i, box in exact.items():
        boxes[i] = box
    order = np.argsort(places.astype(np.int16), kind="stable")  # quick for small integers
    counts = np.bincount(places, minlength=height * width)
    labels = np.full(height * width, -1, np.int16)
    labels[places] = owners
    for i in small:  # larger masks must not hide them
        labels[places[ends[i] : ends[i + 1]]] = i
    edges = np.concatenate([boxes[:, :2] // step, -(-boxes[:, 2:] // step)], axis=1)
    cut = np.concatenate([edges[:, :2] <= 0, edges[:, 2:] >= (width, height)], axis=1)
    _mark_contacts(cut, labels, width, edges)
    return FramePoints(
        shape=(height, width),
        starts=np.cumsum(counts) - counts,
        counts=counts,
        detections=owners[order],
        own=(places, ends),
        areas=areas,
        boxes=boxes,
        grid=points.reshape(number, -1),
        cut=cut,
    )


def _nonzero(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices (P,) of the points of masks (D, h, w), and (D + 1,) where those of each mask begin."""
    found = np.flatnonzero(points)
    return found, np.searchsorted(found, np.arange(len(points) + 1) * (points.shape[1] * points.shape[2]))


def _boxes(places: np.ndarray, ends: np.ndarray, width: int) -> np.ndarray:
    """Boxes (D, 4) in points, xyxy, of masks with the points places[ends[d]:ends[d + 1]]; 0 for an empty mask."""
    boxes = np.zeros((len(ends) - 1, 4))
    filled = np.flatnonzero(ends[1:] > ends[:-1])
    if len(filled):
        rows, columns = np.divmod(places, width)
        first, last = ends[filled], ends[filled + 1] - 1
        boxes[filled, 0], boxes[filled, 1] = np.minimum.reduceat(columns, first), rows[first]
        boxes[filled, 2], boxes[filled, 3] = np.maximum.reduceat(columns, first) + 1, rows[last] + 1
    return boxes


def _mark_contacts(cut: np.ndarray, labels: np.ndarray, width: int, edges: np.ndarray) -> None:
    """Mark the edges (D, 4) at which a mask touches another one, of the labels (h · w,) of points."""
    for axis, stride in ((0, 1), (1, width)):
        for gap in range(1, NEAR + 1):
            before, after = labels[: -gap * stride], labels[gap * stride :]
            place = np.flatnonzero(before != after)
            a, b = before[place], after[place]
            contact = np.flatnonzero(np.minimum(a, b) >= 0)
            if not len(contact):
                continue
            a, b, place = a[contact], b[contact], place[contact]
            place = place % width if axis == 0 else place // width
            cut[a[edges[a, 2 + axis] - 2 <= place], 2 + axis] = True
            cut[b[edges[b, axis] + 1 >= place + gap], axis] = True
