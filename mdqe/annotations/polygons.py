"""Polygons as masks, pixel for pixel as COCO's tools fill them."""

from collections.abc import Sequence

import numpy as np

_SCALE = 5  # steps of a pixel in which an outline is followed


def fill(polygons: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The union (H, W), bool, of polygons.

    Args:
        polygons: (2 P,) float64 each, x and y of its P corners in turn, in pixels; pixel centres lie at halves.
        size: H and W.
    """
    filled = np.zeros(size, bool)
    for polygon in polygons:
        filled |= _fill_one(polygon.reshape(-1, 2), size)
    return filled


def _fill_one(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A polygon of corners (P, 2), (x, y).

    Its outline is followed in fifths of pixels. Where it steps across the middle of a column of pixels, the pixels of
    that column change from outside to inside, or back, from the row it is at downward.
    """
    height, width = size
    x, y = _outline(np.trunc(_SCALE * corners + 0.5).astype(np.int64))
    moved = np.flatnonzero(np.diff(x))
    column = (np.minimum(x[moved], x[moved + 1]) + 0.5) / _SCALE - 0.5
    row = (np.minimum(y[moved], y[moved + 1]) + 0.5) / _SCALE - 0.5
    crossed = (column == np.floor(column)) & (column >= 0) & (column <= width - 1)
    row = np.ceil(np.clip(row[crossed], 0, height))
    changes = np.sort(column[crossed] * height + row).astype(np.int64)  # column by column
    runs = np.diff(changes, prepend=0, append=height * width)
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return inside.reshape(width, height).T


def _outline(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the points, one a step along the longer axis, on the edges between whole-numbered corners (P, 2)."""
    ends = np.roll(corners, -1, axis=0)
    steps = np.abs(ends - corners)  # (P, 2)
    tall = steps[:, 1] > steps[:, 0]
    # Along the longer axis, a, and across, b; edges are traced from the lower a, so both directions round alike.
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
