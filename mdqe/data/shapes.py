"""The six shapes of the synthetic set, as outlines: how far the edge is from the centre in every direction."""

from collections.abc import Sequence
from functools import cache

import numpy as np

CATEGORIES = ("disc", "triangle", "square", "star", "cross", "heart")
STEPS = 256
"""Directions of an outline, evenly spread over the bearing of `bearing`."""


def bearing(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The direction of points, in [0, STEPS): grows with the angle like it, but takes only sums and a quotient.

    Along the square |x| + |y| = 1, from (1, 0) over (0, 1), (−1, 0) and (0, −1).
    """
    along = x / np.maximum(np.abs(x) + np.abs(y), 1e-12)
    turned = np.where(y >= 0, 1 - along, 3 + along) * (STEPS / 4)
    return turned * (turned < STEPS)


@cache
def directions() -> np.ndarray:
    """(2, STEPS): the unit vector (x, y) of every bearing."""
    turned = np.arange(STEPS) * (4 / STEPS)
    x = np.where(turned < 2, 1 - turned, turned - 3)
    y = np.where(turned < 2, 1 - np.abs(x), np.abs(x) - 1)
    return np.stack((x, y)) / np.sqrt(x * x + y * y)


@cache
def harmonic(number: int) -> np.ndarray:
    """(2, STEPS): cosine and sine of `number` times the angle of every bearing."""
    x, y = directions()
    cos, sin = x, y
    for _ in range(number - 1):
        cos, sin = cos * x - sin * y, sin * x + cos * y
    return np.stack((cos, sin))


@cache
def outline(label: int) -> np.ndarray:
    """(STEPS,): centre to edge of a category's shape with rounded corners; all cover about the same area as a disc of
    radius 0.8, and none reaches beyond 1.25."""
    return _SHAPES[CATEGORIES[label]]()


def _disc() -> np.ndarray:
    return np.full(STEPS, 0.8)


def _triangle() -> np.ndarray:
    return _rounded(_polygon([(0, -1.248), (1.08, 0.624), (-1.08, 0.624)]), 4)


def _square() -> np.ndarray:
    return _rounded(_polygon([(-0.71, -0.71), (0.71, -0.71), (0.71, 0.71), (-0.71, 0.71)]), 3)


def _star() -> np.ndarray:
    # Tips at 72° from each other, the first on top; notches between them.
    tips = [(0, -1), (0.951057, -0.309017), (0.587785, 0.809017), (-0.587785, 0.809017), (-0.951057, -0.309017)]
    corners = []
    for (x, y), (next_x, next_y) in zip(tips, tips[1:] + tips[:1], strict=True):
        corners += [(1.2 * x, 1.2 * y), (0.357 * (x + next_x), 0.357 * (y + next_y))]
    return _rounded(_polygon(corners), 3)


def _cross() -> np.ndarray:
    arm, half = 0.96, 0.31
    quarter = [(arm, -half), (arm, half), (half, half)]
    corners = []
    for cos, sin in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        corners += [(x * cos - y * sin, x * sin + y * cos) for x, y in quarter]
    return _rounded(_polygon(corners), 2)


def _heart() -> np.ndarray:
    point = _polygon([(0.79, -0.02), (0, 1.0), (-0.79, -0.02), (0, -0.44)])
    return _rounded(np.maximum(np.maximum(_disc_at(0.37, -0.28), _disc_at(-0.37, -0.28)), point), 2)


_SHAPES = {
    "disc": _disc,
    "triangle": _triangle,
    "square": _square,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
}


def _polygon(corners: Sequence[tuple[float, float]]) -> np.ndarray:
    """Centre to edge of a polygon all of whose points the centre sees; corners in the order of rising bearing."""
    x, y = directions()
    edge = np.zeros(STEPS)
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        towards_a, towards_b = x * ay - y * ax, x * by - y * bx  # signed distances of the ends from the ray
        between = (towards_a <= 0) & (towards_b > 0)
        distance = (ax * by - ay * bx) / np.where(between, towards_b - towards_a, 1)
        edge = np.where(between, distance, edge)
    return edge


def _disc_at(x: float, y: float, radius: float = 0.51) -> np.ndarray:
    """Where rays from the centre leave a disc that contains it."""
    along_x, along_y = directions()
    along, aside = along_x * x + along_y * y, along_x * y - along_y * x
    return along + np.sqrt(radius * radius - aside * aside)


def _rounded(edge: np.ndarray, times: int) -> np.ndarray:
    for _ in range(times):
        edge = 0.5 * edge + 0.25 * (np.roll(edge, 1) + np.roll(edge, -1))
    return edge
