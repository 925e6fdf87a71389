"""The masks of a frame at the points of a grid, as the linker compares them, and which edges of their boxes are cut.

A list of the points that masks cover takes less time and memory than the masks themselves: most masks cover a small
part of a frame.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

GRID = 128  # most points of a frame along each side
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
    cut: np.ndarray
    """(D, 4) bool: the edges of the box beyond which the object may continue, hidden by another one or out of frame."""

    def points_of(self, detection: int) -> np.ndarray:
        """The points (K,) of a detection."""
        points, ends = self.own
        return points[ends[detection] : ends[detection + 1]]

    def places_of(self, detection: int) -> np.ndarray:
        """Columns and rows (K, 2), int16, of the points of a detection."""
        rows, columns = np.divmod(self.points_of(detection), self.shape[1])
        return np.stack([columns, rows], axis=1).astype(np.int16)

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


def collect_points(
    points: np.ndarray, areas: np.ndarray, boxes: np.ndarray, step: int, small: np.ndarray
) -> FramePoints:
    """List the points of masks (D, h, w), with the areas (D,) and boxes (D, 4) in pixels."""
    number, height, width = points.shape
    owners, places = np.divmod(np.flatnonzero(points), height * width)
    order = np.argsort(places.astype(np.int16), kind="stable")  # quick for small integers
    counts = np.bincount(places, minlength=height * width)
    ends = np.searchsorted(owners, np.arange(number + 1))
    labels = np.full(height * width, -1)
    labels[places] = owners
    for detection in small:  # larger masks must not hide them
        labels[places[ends[detection] : ends[detection + 1]]] = detection
    edges = np.concatenate([boxes[:, :2] // step, -(-boxes[:, 2:] // step)], axis=1)
    cut = np.concatenate([edges[:, :2] <= 0, edges[:, 2:] >= (width, height)], axis=1)
    _mark_contacts(cut, labels.reshape(height, width), edges)
    return FramePoints(
        (height, width), np.cumsum(counts) - counts, counts, owners[order], (places, ends), areas, boxes, cut
    )


def _mark_contacts(cut: np.ndarray, labels: np.ndarray, edges: np.ndarray) -> None:
    """Mark the edges (D, 4) at which a mask touches another one, of the labels (h, w) of points."""
    width = labels.shape[1]
    flat = labels.ravel()
    for axis, stride in ((0, 1), (1, width)):
        for gap in range(1, NEAR + 1):
            before, after = flat[: -gap * stride], flat[gap * stride :]
            contact = np.flatnonzero((before != after) & (before >= 0) & (after >= 0))
            if not len(contact):
                continue
            a, b = before[contact], after[contact]
            place = contact % width if axis == 0 else contact // width
            cut[a[edges[a, 2 + axis] - 2 <= place], 2 + axis] = True
            cut[b[edges[b, axis] + 1 >= place + gap], axis] = True
