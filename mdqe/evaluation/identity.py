"""Metrics of identities over time: HOTA, IDF1, identity switches, and the metrics of CLEAR MOT.

All match the objects and tracks of one category of a video in each frame by an IoU, and count over all videos and
categories together. The numbers are those of TrackEval, also where several assignments are equally good: a frame is
matched over the objects and tracks that it contains, in their order.

- HOTA (Luiten et al., IJCV 2021): the square root of detection accuracy DetA times association accuracy AssA at 19
  thresholds α = 0.05 … 0.95, averaged over α.
- IDF1 (Ristani et al., 2016): each object has at most one track for the whole video, so that the number of frames with
  an IoU of at least 0.5 is largest; IDF1 is the F1 of these frames.
- Identity switches (Bernardin and Stiefelhagen, 2008): in each frame, an object keeps the track of the previous frame
  if their IoU is at least 0.5. The others are matched so that the sum of IoUs, each at least 0.5, is largest. A switch
  is counted if an object is matched to another track than at its last match, however long ago that was. Frames without
  any object or without any track are skipped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

HOTA_THRESHOLDS = np.arange(0.05, 0.99, 0.05)
MATCH = 0.5
"""The minimum IoU of a match, for IDF1 and switches."""
EPSILON = np.finfo(float).eps


class Frame(NamedTuple):
    """A frame that contains objects and tracks."""

    objects: np.ndarray
    """(g,): the numbers of its objects."""
    tracks: np.ndarray
    """(d,): the numbers of its tracks."""
    ious: np.ndarray
    """(g, d)."""


def _per_threshold() -> np.ndarray:
    return np.zeros(len(HOTA_THRESHOLDS))


@dataclass
class IdentityCounts:
    """Counts that add up over videos and categories."""

    objects: int = 0
    """The number of masks of objects, that is, of (object, frame) pairs."""
    tracks: int = 0
    """The number of masks of tracks."""
    switches: int = 0
    identical: int = 0
    """The number of masks that are correct for IDF1."""
    true: np.ndarray = field(default_factory=_per_threshold)
    """The number of matched masks at each threshold of HOTA."""
    association: np.ndarray = field(default_factory=_per_threshold)
    """The sum of their association IoUs."""
    recalled: np.ndarray = field(default_factory=_per_threshold)
    """The sum of their association recalls."""
    precise: np.ndarray = field(default_factory=_per_threshold)
    """The sum of their association precisions."""
    located: np.ndarray = field(default_factory=_per_threshold)
    """The sum of their IoUs."""
    matched: int = 0
    """The number of matches of CLEAR MOT, between which switches are counted."""
    overlap: float = 0.0
    """The sum of the IoUs of these matches."""
    fragments: int = 0
    """How often an object is matched again after a frame in which it was not."""
    mostly_tracked: int = 0
    """Objects matched in more than 80 % of their frames."""
    partly_tracked: int = 0
    """Objects matched in 20 to 80 % of their frames."""
    mostly_lost: int = 0

    def __add__(self, other: "IdentityCounts") -> "IdentityCounts":
        return IdentityCounts(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def summary(self) -> dict[str, float]:
        """HOTA, DetA, AssA, IDF1, IDP and IDR, from 0 to 1, −1 if there are no objects; and IDSW, a count."""
        if not self.objects:
            return dict.fromkeys(("HOTA", "DetA", "AssA", "IDF1", "IDP", "IDR"), -1.0) | {"IDSW": 0}
        detection = self.true / (self.objects + self.tracks - self.true)
        association = self.association / np.maximum(self.true, 1)
        return {
            "HOTA": float(np.sqrt(detection * association).mean()),
            "DetA": float(detection.mean()),
            "AssA": float(association.mean()),
            "IDF1": 2 * self.identical / (self.objects + self.tracks),
            "IDP": self.identical / max(self.tracks, 1),
            "IDR": self.identical / self.objects,
            "IDSW": self.switches,
        }


def compare_identities(ious: np.ndarray, object_areas: np.ndarray, track_areas: np.ndarray) -> IdentityCounts:
    """Counts of one category of a video.

    Args:
        ious: (G, D, T) of objects and tracks in each frame, 0 where either is absent.
        object_areas: (G, T), 0 where absent.
        track_areas: (D, T).
    """
    objects, tracks = object_areas > 0, track_areas > 0
    both = np.flatnonzero(objects.any(axis=0) & tracks.any(axis=0))
    return compare_frames(list(_frames(ious, objects, tracks, both)), objects.sum(axis=1), tracks.sum(axis=1))


def compare_frames(frames: Sequence[Frame], objects: np.ndarray, tracks: np.ndarray) -> IdentityCounts:
    """Counts of one category of a video.

    Args:
        frames: those that contain both objects and tracks, in order.
        objects: (G,) the number of frames of each object, with those that contain no track.
        tracks: (D,) the number of frames of each track, with those that contain no object.
    """
    counts = IdentityCounts(int(objects.sum()), int(tracks.sum()), mostly_lost=int((objects > 0).sum()))
    if not any(frame.ious.any() for frame in frames):
        return counts
    shared = np.zeros((len(objects), len(tracks)), np.int64)
    for frame in frames:
        shared[frame.objects[:, None], frame.tracks] += frame.ious >= MATCH
    counts.identical = int(shared[linear_sum_assignment(shared, maximize=True)].sum())
    _follow(counts, frames, objects)
    _associate(counts, frames, objects, tracks)
    return counts


def without_crowds(ious: np.ndarray, inside: np.ndarray, areas: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """The areas (D, T) of tracks, 0 where a mask is unmatched and more than half of it is inside a crowd.

    Args:
        ious: (G, D, T) with the objects that are not crowds.
        inside: (C, D, T): pixels shared with each crowd.
        areas: (D, T).
        objects: (G, T) areas of the objects.
    """
    free = np.ones(areas.shape, bool)
    both = np.flatnonzero(objects.any(axis=0) & areas.any(axis=0))
    for t, frame in zip(both, _frames(ious, objects > 0, areas > 0, both), strict=True):
        _, d = assign(np.where(frame.ious >= MATCH - EPSILON, frame.ious, 0))
        free[frame.tracks[d], t] = False
    return np.where(free & (inside.max(axis=0, initial=0) > areas / 2), 0, areas)


def assign(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the one-to-one pairs with values above 0 whose sum is largest; no value is negative."""
    rows, columns = values.nonzero()
    if len(rows) > 1 and (np.bincount(rows).max() > 1 or np.bincount(columns).max() > 1):
        rows, columns = linear_sum_assignment(values, maximize=True)
        paired = values[rows, columns] > 0
        return rows[paired], columns[paired]
    return rows, columns


def _frames(ious: np.ndarray, objects: np.ndarray, tracks: np.ndarray, times: np.ndarray) -> Iterator[Frame]:
    """The frames `times` of IoUs (G, D, T), where `objects` (G, T) and `tracks` (D, T) are present."""
    by_frame = np.ascontiguousarray(ious.transpose(2, 0, 1)[times])
    for t, values in zip(times, by_frame, strict=True):
        g, d = np.flatnonzero(objects[:, t]), np.flatnonzero(tracks[:, t])
        yield Frame(g, d, values[g[:, None], d])


def _associate(counts: IdentityCounts, frames: Sequence[Frame], objects: np.ndarray, tracks: np.ndarray) -> None:
    """Add HOTA's matches. `objects` (G,) and `tracks` (D,) are numbers of frames.

    Sums are in TrackEval's order, so that values which are equal there are equal here.
    """
    potential = np.zeros((len(objects), len(tracks)))
    for g, d, ious in frames:
        sums = ious.sum(axis=0) + ious.sum(axis=1)[:, None] - ious
        potential[g[:, None], d] += ious / np.maximum(sums, EPSILON)
    both = objects[:, None] + tracks
    alignment = potential / np.maximum(both - potential, EPSILON)  # (G, D)
    pairs, values = [], []
    for g, d, ious in frames:
        rows, columns = assign(alignment[g[:, None], d] * ious)
        pairs.append(g[rows] * len(tracks) + d[columns])
        values.append(ious[rows, columns])
    pair, value = np.concatenate(pairs), np.concatenate(values)
    reached = value >= HOTA_THRESHOLDS[:, None] - EPSILON  # (α, matches)
    at = np.stack(
        [np.bincount(pair[one], minlength=both.size).reshape(both.shape) for one in reached]
    )  # frames matched
    counts.located += reached @ value
    counts.true += at.sum(axis=(1, 2))
    counts.association += (at * (at / np.maximum(both - at, 1))).sum(axis=(1, 2))
    counts.recalled += (at * (at / np.maximum(objects, 1)[:, None])).sum(axis=(1, 2))
    counts.precise += (at * (at / np.maximum(tracks, 1))).sum(axis=(1, 2))


def _follow(counts: IdentityCounts, frames: Sequence[Frame], objects: np.ndarray) -> None:
    """Add the matches of CLEAR MOT. `objects` (G,) are numbers of frames."""
    last = np.full(len(objects), -1)  # (G,): the track of each object's last match
    before = np.full(len(objects), -1)  # and of the frame before
    times, starts = np.zeros(len(objects), int), np.zeros(len(objects), int)  # frames matched, and runs of them
    for g, d, ious in frames:
        kept = before[g]
        values = np.where(ious >= MATCH - EPSILON, ious + 1000 * (kept[:, None] == d), 0)
        rows, columns = assign(values)
        before[:] = -1
        matched, owners = g[rows], d[columns]
        counts.switches += int(((last[matched] >= 0) & (last[matched] != owners)).sum())
        counts.matched += len(matched)
        counts.overlap += float(ious[rows, columns].sum())
        times[matched] += 1
        starts[matched] += kept[rows] < 0
        last[matched] = owners
        before[matched] = owners
    counts.fragments = int((starts[starts > 0] - 1).sum())
    share = times[objects > 0] / objects[objects > 0]
    counts.mostly_tracked = int((share > 0.8).sum())
    counts.partly_tracked = int((share >= 0.2).sum()) - counts.mostly_tracked
    counts.mostly_lost = len(share) - counts.mostly_tracked - counts.partly_tracked
