"""Where the objects of a video are expected in the next frame: a constant-velocity Kalman filter of their boxes.

Each object has a centre and a velocity, and each axis has variances of its own: an object may be hidden along one axis
only. They depend on the object's size: a large object moves, and is measured, by more pixels than a small one.
"""

from __future__ import annotations

import numpy as np

ACCELERATION = 0.08  # standard deviation of the change of velocity in a frame, relative to the size
MEASUREMENT = 0.08  # of a measured centre
FIRST_VELOCITY = 0.5  # of the velocity of a new object
DAMPING = 0.9  # of the velocity in each frame in which an object is not observed


class Motion:
    """Centres, velocities and variances of N objects, as arrays with one row each.

    Attributes:
        centres: (N, 2), pixels.
        velocities: (N, 2), pixels per frame.
        variances: (N, 2, 3), along each axis: of the centre, of centre and velocity together, and of the velocity.
    """

    def __init__(self) -> None:
        self.centres, self.velocities, self.variances = np.zeros((0, 2)), np.zeros((0, 2)), np.zeros((0, 2, 3))

    def predict(self, sizes: np.ndarray, absent: np.ndarray) -> None:
        """Advance by a frame.

        Args:
            sizes: (N,), pixels.
            absent: (N,) bool: not observed in the last frame.
        """
        self.velocities = self.velocities * np.where(absent, DAMPING, 1.0)[:, None]
        self.centres = self.centres + self.velocities
        place, both, speed = (self.variances[..., i] for i in range(3))
        noise = ((ACCELERATION * sizes) ** 2)[:, None]
        place += 2 * both + speed + noise / 4
        both += speed + noise / 2
        speed += noise

    def wait_at_border(self, halves: np.ndarray, size: tuple[int, int]) -> None:
        """Stop objects that have left the frame just outside: they return where they left.

        Args:
            halves: (N, 2), half the width and height of the objects.
            size: height and width of the frame.
        """
        inside = np.minimum(np.maximum(self.centres, -halves), np.array(size[::-1]) + halves)
        self.velocities = np.where(inside == self.centres, self.velocities, 0.0)
        self.centres = inside

    def correct(self, rows: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, doubt: np.ndarray) -> None:
        """Take measurements of the objects `rows` (M,).

        Args:
            offsets: (M, 2): measured minus predicted centres.
            sizes: (M,), pixels.
            doubt: (M, 2): factor of the variance of each measurement.
        """
        variances = self.variances[rows]
        place, both, speed = (variances[..., i] for i in range(3))
        total = place + ((MEASUREMENT * sizes) ** 2)[:, None] * doubt
        gain, gain_of_velocity = place / total, both / total
        self.centres[rows] += gain * offsets
        self.velocities[rows] += gain_of_velocity * offsets
        speed -= gain_of_velocity * both
        place *= 1 - gain
        both *= 1 - gain
        self.variances[rows] = variances

    def start(self, centres: np.ndarray, sizes: np.ndarray) -> None:
        """Add objects at rest: centres (M, 2) and sizes (M,)."""
        variances = np.stack([(MEASUREMENT * sizes) ** 2, 0 * sizes, (FIRST_VELOCITY * sizes) ** 2], axis=1)
        self.centres = np.concatenate([self.centres, centres])
        self.velocities = np.concatenate([self.velocities, np.zeros_like(centres)])
        self.variances = np.concatenate([self.variances, np.repeat(variances[:, None], 2, axis=1)])

    def keep(self, rows: np.ndarray) -> None:
        """Forget all other objects."""
        self.centres, self.velocities, self.variances = (
            x[rows] for x in (self.centres, self.velocities, self.variances)
        )


def smaller_offset(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The offset of an object along an axis, from those of its two edges.

    If both edges moved to the same side, the object did. If it became shorter or longer, one edge is hidden, and the
    edge that moved less is its own.
    """
    nearer = np.where(np.abs(lower) < np.abs(upper), lower, upper)
    return np.where(lower * upper > 0, (lower + upper) / 2, nearer)


def free_offset(lower: np.ndarray, upper: np.ndarray, cut_lower: np.ndarray, cut_upper: np.ndarray) -> np.ndarray:
    """The offset of an object along an axis whose edges may be cut, from the offsets of the visible edges.

    An edge that is not cut is the object's own. Beyond an edge that is cut, the object may continue: between two such
    edges, it moved only as far as it must have to cover what is visible.
    """
    least = np.minimum(np.maximum(0, np.minimum(lower, upper)), np.maximum(lower, upper))
    return np.where(cut_lower & cut_upper, least, np.where(cut_lower, upper, lower))
