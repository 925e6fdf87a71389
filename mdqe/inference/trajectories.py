"""How well the boxes of an object agree with one smooth motion, for many sequences of boxes at once.

A trajectory is a lower and an upper edge in each frame, along each axis. Its centre has small third differences, and
its extent small first ones. The cost of a sequence is the least negative logarithm of its probability: of the
trajectory, of the visible edges, which measure it with noise, and of the edges that may be hidden, from which the
trajectory may continue only outwards. All trajectories form one linear system with few diagonals, which is solved
repeatedly with other weights of the edges.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from scipy.linalg import cho_solve_banded, cholesky_banded

CLEAR, BESIDE, CUT = 0, 1, 2  # an edge of an object alone; another edge of a touched object; an edge at which it is cut
NOISE, NOISE_PIXELS = 0.03, 1.0  # standard deviation of an edge, relative to the size, and in pixels
PLACE, VELOCITY, ACCELERATION, JERK = 8.0, 2.0, 0.2, 0.03  # of the centre and its differences, relative to the size
EXTENT = 0.05  # of the change of an extent in a frame, relative to the size
OUTLIER = 6.0  # most that an edge costs which is not hidden
HIDDEN = np.array([OUTLIER, 0.3, 0.3])  # most that an edge costs beyond which the object continues
KNOWN = np.array([1.0, 0.2, 0.05])  # first weights of edges
ROUNDS = 6
DIAGONALS = 8  # of the lower half: third differences of two edges


def costs(boxes: np.ndarray, edges: np.ndarray, present: np.ndarray, size: float, noise: float = 1.0) -> np.ndarray:
    """The cost (B,) of each of B sequences of T boxes; 0 for a sequence without boxes.

    Args:
        boxes: (B, T, 4) xyxy in pixels.
        edges: (B, T, 4): CLEAR, BESIDE or CUT.
        present: (B, T) bool: whether there is a box.
        size: of the objects, in pixels.
        noise: standard deviation of an edge, relative to that of exact masks.
    """
    number, total = len(boxes), np.zeros(len(boxes))
    if not present.any():
        return total
    both = [boxes[..., axis::2] - boxes[..., axis::2][present].mean() for axis in (0, 1)]
    kinds = np.concatenate([edges[..., axis::2] for axis in (0, 1)])
    found = _axis_costs(np.concatenate(both), kinds, np.tile(present, (2, 1))[..., None], size, noise * deviation(size))
    return np.where(present.any(axis=1), found[:number] + found[number:], 0.0)


def deviation(size: Any) -> Any:
    """The standard deviation of an edge of an exact mask, for objects of a size in pixels."""
    return np.sqrt(NOISE_PIXELS**2 + (NOISE * size) ** 2)


def _axis_costs(edges: np.ndarray, kinds: np.ndarray, present: np.ndarray, size: float, noise: float) -> np.ndarray:
    """The costs (B,) along one axis, of lower and upper edges (B, T, 2) with noise in pixels."""
    number, frames = edges.shape[:2]
    band, prior = _smoothness(frames)
    system = np.tile(band / size**2, (1, number))
    diagonal = system[0].copy()
    measured = np.where(present, edges, 0.0)
    known = present / noise**2
    weights = KNOWN[kinds] * known
    spread = np.zeros(number)
    for turn in range(ROUNDS):
        system[0] = diagonal + weights.reshape(-1)
        factor = cholesky_banded(system, lower=True, check_finite=False)
        if turn == 0:  # later weights would reward edges that are explained as hidden
            spread = np.log(factor[0] * size).reshape(number, -1).sum(axis=1) - prior
        right = (weights * measured).reshape(-1)
        fitted = cho_solve_banded((factor, True), right, check_finite=False).reshape(edges.shape)
        residual = (fitted - measured) / noise
        most = np.where(residual * (1, -1) < 0, HIDDEN[kinds], OUTLIER)
        share = 2 * most / (residual**2 + 2 * most)  # Geman and McClure: the cost grows to `most`
        weights = share**2 * known
    centres, extents = fitted.mean(axis=2), fitted[..., 1] - fitted[..., 0]
    cost = (residual**2 * share * present).sum(axis=(1, 2)) + (np.diff(extents) ** 2).sum(axis=1) / (EXTENT * size) ** 2
    for order, deviation in ((1, VELOCITY), (2, ACCELERATION), (3, JERK)):
        cost += (np.diff(centres, order) ** 2).sum(axis=1) / (deviation * size) ** 2
    return 0.5 * cost + spread


@lru_cache(maxsize=256)
def _smoothness(frames: int) -> tuple[np.ndarray, float]:
    """The diagonals (DIAGONALS, 2T) of the precision of a trajectory of size 1, and half its log determinant.

    The unknowns are the lower and the upper edge of the first frame, of the second one, and so on.
    """
    one = np.eye(frames)
    orders = ((1, VELOCITY), (2, ACCELERATION), (3, JERK))
    steps = [np.diff(one, order, axis=0) / deviation for order, deviation in orders]
    centre = sum((step.T @ step for step in steps), np.zeros((frames, frames)))
    change = np.diff(one, axis=0) / EXTENT
    extent = change.T @ change
    full = np.kron(centre, np.full((2, 2), 0.25)) + np.kron(extent, np.array([[1.0, -1], [-1, 1]]))
    full += np.eye(2 * frames) / (PLACE**2 * frames)
    band = np.zeros((DIAGONALS, 2 * frames))
    for i in range(min(DIAGONALS, 2 * frames)):
        band[i, : 2 * frames - i] = np.diagonal(full, -i)
    return band, float(np.linalg.slogdet(full)[1]) / 2
