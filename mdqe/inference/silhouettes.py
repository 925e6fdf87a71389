"""Silhouettes of objects: how well a detection continues what earlier or later frames show of an object.

What another detection or the border of the frame hides of an object stays in its silhouette as it was last visible. In
another frame, a silhouette may continue where something hides it, but not where nothing is. How much it differs from
what is visible there is one correlation for all places at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2

# Points by which a silhouette differs by chance; more, times the root of its points and of the frames between.
EDGE, CHANGE = 2.0, 0.5
SPREAD = 0.12  # standard deviation of a predicted place, relative to the size, for each frame from the last one
FIRST_SPREAD = 0.5  # the same without a known velocity
FARTHEST = 10  # most frames for which a motion is continued
GAIN = 0.5  # share of a deviation from the predicted place that changes the velocity
WORST = 12.0  # most that a detection costs


class Silhouette(NamedTuple):
    """An object after one of its detections, in points of the grid."""

    key: int
    """Another one for each sequence of detections."""
    frame: int
    points: np.ndarray
    """(K, 2) int16: columns and rows, also of the hidden points and of those out of frame."""
    centre: np.ndarray
    """(2,)."""
    velocity: np.ndarray
    """(2,) for each frame in the direction in which detections are followed."""
    moves: bool
    """Whether the velocity is known."""


class _Fit(NamedTuple):
    """The most probable place of a silhouette in another frame."""

    cost: float
    place: np.ndarray
    """(2,): of its centre."""


class Silhouettes:
    """The silhouettes of the objects of a video, by their detections. Results are kept: most are needed repeatedly.

    Args:
        points: M arrays (K, 2) int16, the columns and rows of the points of each mask, at least one.
        frames: (M,) ascending.
        full: (M,) bool: whether nothing hides the object.
        shape: height and width of the grid.
    """

    def __init__(self, points: np.ndarray, frames: np.ndarray, full: np.ndarray, shape: tuple[int, int]) -> None:
        self._points, self._frames, self._full, self._shape = points, frames, full, shape
        self._fits: dict[tuple[int, int], _Fit] = {}
        self._next: dict[tuple[int, int], Silhouette] = {}
        self._covered: tuple[int, np.ndarray] = (-1, np.zeros(0))

    def follow(self, rows: np.ndarray) -> list[Silhouette]:
        """The silhouettes of an object after each of its detections `rows`, in the order of time or backwards."""
        found: list[Silhouette] = []
        for row in rows.tolist():
            before = found[-1] if found else None
            key = (-1 if before is None else before.key, row)
            if key not in self._next:
                self._next[key] = self._continue(before, row, len(self._next))
            found.append(self._next[key])
        return found

    def cost(self, before: Silhouette, row: int) -> float:
        """The negative log probability that the object `before` is visible as in a detection, at most WORST."""
        fit = self._fits.get((before.key, row))
        if fit is None and self._least_cost(before, row) > WORST:
            return WORST
        return min((fit or self._fit(before, row)).cost, WORST)

    def _continue(self, before: Silhouette | None, row: int, key: int) -> Silhouette:
        own, frame = self._points[row], int(self._frames[row])
        centre = own.mean(axis=0)
        if before is None:
            return Silhouette(key, frame, own, centre, np.zeros(2), False)
        gap, ahead = abs(frame - before.frame), _predict(before, frame)
        if self._full[row]:
            points, place = own, centre
        else:
            place = self._fit(before, row).place
            moved = before.points + np.rint(place - before.centre).astype(np.int16)
            points = np.concatenate([own, moved[self._hidden(moved, own, frame)]])
            centre = points.mean(axis=0)
        velocity = before.velocity + GAIN * (place - ahead) / gap if before.moves else (place - before.centre) / gap
        return Silhouette(key, frame, points, centre, velocity, True)

    def _cover(self, frame: int) -> np.ndarray:
        """(h, w) float32: 1 at the points of any detection of a frame."""
        if self._covered[0] != frame:
            covered = np.zeros(self._shape, np.float32)
            for row in range(*np.searchsorted(self._frames, [frame, frame + 1])):
                covered[tuple(self._points[row].T[::-1])] = 1
            self._covered = frame, covered
        return self._covered[1]

    def _hidden(self, points: np.ndarray, own: np.ndarray, frame: int) -> np.ndarray:
        """Which of the points (K, 2) other detections than the `own` points hide, or are out of frame."""
        height, width = self._shape
        inside = ((points >= 0) & (points < (width, height))).all(axis=1)
        x, y = points[inside].T
        others = self._cover(frame).astype(bool)
        others[own[:, 1], own[:, 0]] = False
        hidden = np.asarray(~inside)
        hidden[inside] = others[y, x]
        return hidden

    def _least_cost(self, before: Silhouette, row: int) -> float:
        """A lower bound of the cost, from the number of points and the distance of the boxes."""
        own, frame = self._points[row], int(self._frames[row])
        moved = before.points + (_predict(before, frame) - before.centre)
        apart = np.maximum(own.min(axis=0) - moved.max(axis=0), moved.min(axis=0) - own.max(axis=0)).clip(0)
        differ = max(len(own) - len(before.points), 0) / _scale(before, frame, len(own))
        return float(differ + 0.5 * (apart**2).sum() / _sigma(before, frame) ** 2)

    def _fit(self, before: Silhouette, row: int) -> _Fit:
        """Compare a silhouette with a detection at all places where it would cover a part of its box."""
        if (before.key, row) in self._fits:
            return self._fits[before.key, row]
        own, frame = self._points[row].astype(np.int64), int(self._frames[row])
        low, high = own.min(axis=0), own.max(axis=0) + 1
        shown = before.points.astype(np.int64)
        origin = shown.min(axis=0)
        extent = shown.max(axis=0) + 1 - origin
        # Columns and rows of the points that the silhouette may cover.
        first, last = low - extent + 1, high + extent - 1
        region = np.zeros(tuple(last - first)[::-1], np.float32)  # 1 where nothing is, 0 where it may be hidden
        (x0, y0), (x1, y1) = np.maximum(first, 0), np.minimum(last, self._shape[::-1])
        part = region[y0 - first[1] : y1 - first[1], x0 - first[0] : x1 - first[0]]
        np.subtract(1, self._cover(frame)[y0:y1, x0:x1], out=part)
        region[tuple((own - first).T[::-1])] = -1
        shape = np.zeros(tuple(extent)[::-1], np.float32)
        shape[tuple((shown - origin).T[::-1])] = 1
        rows, columns = np.array(region.shape) - shape.shape + 1
        size = [next_fast_len(edge, real=True) for edge in region.shape]
        outside = irfft2(rfft2(region, size) * rfft2(shape, size).conj(), size)[:rows, :columns]
        energy = (outside.astype(np.float64) + len(own)) / _scale(before, frame, len(own))
        ahead, sigma = _predict(before, frame), _sigma(before, frame)
        corner = first + before.centre - origin - ahead
        x, y = np.arange(columns) + corner[0], np.arange(rows) + corner[1]
        energy += 0.5 * (x**2 + y[:, None] ** 2) / sigma**2
        least = float(energy.min())
        weights = np.exp(least - energy)
        total = float(weights.sum())
        place = ahead + np.array([weights.sum(axis=0) @ x, weights.sum(axis=1) @ y]) / total
        cost = least - np.log(total) + np.log(2 * np.pi * sigma**2)
        self._fits[before.key, row] = fit = _Fit(float(cost), place)
        return fit


def _predict(before: Silhouette, frame: int) -> np.ndarray:
    """The expected centre (2,) in another frame."""
    return np.asarray(before.centre + before.velocity * min(abs(frame - before.frame), FARTHEST))


def _sigma(before: Silhouette, frame: int) -> float:
    """The standard deviation of the centre in another frame, along each axis."""
    spread = SPREAD if before.moves else FIRST_SPREAD
    return float(1 + spread * min(abs(frame - before.frame), FARTHEST) * np.sqrt(len(before.points)))


def _scale(before: Silhouette, frame: int, number: int) -> float:
    """The mean number of points, of `number`, by which the silhouette differs from a detection of the same object."""
    return float(EDGE + CHANGE * np.sqrt(number * abs(frame - before.frame)))


class Links:
    """What exchanges of two tracks cost by the silhouettes.

    At an exchange, the silhouette of each object is compared with the first detection after it, and backwards in time
    with the last one before it.

    Args:
        silhouettes: of all detections.
        tracks: the detections of both tracks, ascending in time.
        frames: their frames.
        start: the cost of a detection that begins a track.
    """

    def __init__(
        self,
        silhouettes: Silhouettes,
        tracks: tuple[np.ndarray, np.ndarray],
        frames: tuple[np.ndarray, np.ndarray],
        start: float,
    ) -> None:
        self._silhouettes, self._tracks, self._frames, self._start = silhouettes, tracks, frames, start
        self._ahead = [silhouettes.follow(own) for own in tracks]
        self._back = [silhouettes.follow(own[::-1])[::-1] for own in tracks]
        self._known: dict[tuple[int, bool], float] = {}

    def cost(self, begin: int, end: int | None) -> float:
        """How much more an exchange costs from the frame `begin` until before `end`; None: until both tracks end."""
        return self._link(begin, True) + self._link(begin if end is None else end, False)

    def _link(self, time: int, forward: bool) -> float:
        """The cost of an exchange from a frame on, by the silhouettes before it, or by those after it."""
        if (time, forward) not in self._known:
            before, after = ([int(np.searchsorted(own, time)) - back for own in self._frames] for back in (1, 0))
            self._known[time, forward] = sum(
                sign * self._one(one, before[one], other, after[other], forward)
                for one in (0, 1)
                for other, sign in ((1 - one, 1), (one, -1))
            )
        return self._known[time, forward]

    def _one(self, one: int, before: int, other: int, after: int, forward: bool) -> float:
        """The cost of a detection `after` of one track as the next one of the detection `before` of another."""
        begins, ends = before < 0, after >= len(self._tracks[other])
        if begins or ends:
            return self._start * (begins != ends and begins == forward)
        if forward:
            return self._silhouettes.cost(self._ahead[one][before], int(self._tracks[other][after]))
        return self._silhouettes.cost(self._back[other][after], int(self._tracks[one][before]))
