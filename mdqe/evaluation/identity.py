"""Metrics of identities over time: HOTA, IDF1 and identity switches.

All three match the objects and tracks of one category of a video in each frame by the IoU of masks, and count over all
videos and categories together.

- HOTA (Luiten et al., IJCV 2021): the square root of detection accuracy DetA times association accuracy AssA at 19
  thresholds α = 0.05 … 0.95, averaged over α.
- IDF1 (Ristani et al., 2016): each object has at most one track for the whole video, so that the number of frames with
  an IoU of at least 0.5 is largest; IDF1 is the F1 of these frames.
- Identity switches (Bernardin and Stiefelhagen, 2008): in each frame, an object keeps the track of the previous frame
  if their IoU is at least 0.5. The others are matched so that the sum of IoUs, each at least 0.5, is largest. A switch
  is counted if an object is matched to another track than at its last match, however long ago that was. Frames without
  any object or without any track are skipped.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

HOTA_THRESHOLDS = np.arange(1, 20) / 20
MATCH = 0.5
"""The minimum IoU of a match, for IDF1 and switches."""
_EPSILON = np.finfo(float).eps


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
    true: np.ndarray = field(default_factory=lambda: np.zeros(len(HOTA_THRESHOLDS), np.int64))
    """The number of matched masks at each threshold of HOTA."""
    association: np.ndarray = field(default_factory=lambda: np.zeros(len(HOTA_THRESHOLDS)))
    """The sum of their association IoUs."""

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
    objects, tracks = (object_areas > 0).sum(axis=1), (track_areas > 0).sum(axis=1)
    counts = IdentityCounts(int(objects.sum()), int(tracks.sum()))
    if not ious.size or not ious.any():
        return counts
    both = (object_areas > 0).any(axis=0) & (track_areas > 0).any(axis=0)
    frames = np.ascontiguousarray(ious.transpose(2, 0, 1)[both])  # (T, G, D)
    close = frames >= MATCH - _EPSILON
    shared = close.sum(axis=0)
    counts.identical = int(shared[linear_sum_assignment(shared, maximize=True)].sum())
    counts.switches = _count_switches(np.where(close, frames, 0))
    counts.true, counts.association = _associate(frames, objects, tracks)
    return counts


def without_crowds(ious: np.ndarray, inside: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """The areas (D, T) of tracks, 0 where a mask is unmatched and more than half of it is inside a crowd.

    Args:
        ious: (G, D, T) with the objects that are not crowds.
        inside: (C, D, T): pixels shared with each crowd.
        areas: (D, T).
    """
    free = np.ones(areas.shape, bool)
    for t in range(areas.shape[1]):
        _, d = _assign(np.where(ious[..., t] >= MATCH - _EPSILON, ious[..., t], 0))
        free[d, t] = False
    return np.where(free & (inside.max(axis=0, initial=0) > areas / 2), 0, areas)


def _associate(frames: np.ndarray, objects: np.ndarray, tracks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """HOTA's matches of the IoUs (T, G, D): their number at each threshold, and the sum of their association IoUs."""
    sums = frames.sum(axis=2, keepdims=True) + frames.sum(axis=1, keepdims=True) - frames  # (T, G, D)
    potential = np.divide(frames, sums, out=np.zeros_like(frames), where=sums > _EPSILON).sum(axis=0)
    alignment = potential / np.maximum(objects[:, None] + tracks - potential, _EPSILON)  # (G, D)
    at = np.zeros((len(HOTA_THRESHOLDS), *alignment.shape), np.int64)  # (α, G, D): frames matched
    for ious in frames[frames.any(axis=(1, 2))]:
        g, d = _assign(alignment * ious)
        at[:, g, d] += ious[g, d] >= HOTA_THRESHOLDS[:, None] - _EPSILON
    both = np.maximum(objects[:, None] + tracks - at, 1)
    return at.sum(axis=(1, 2)), (at * (at / both)).sum(axis=(1, 2))


def _count_switches(frames: np.ndarray) -> int:
    """The number of identity switches, from the IoUs (T, G, D), 0 where no match is allowed."""
    last = np.full(frames.shape[1], -1)  # (G,): the track of each object's last match
    before = np.full(frames.shape[1], -1)  # and of the frame before
    switches = 0
    for ious in frames:
        kept = before[:, None] == np.arange(ious.shape[1])
        g, d = _assign(np.where(ious > 0, ious + 1000 * kept, 0))
        switches += int(((last[g] >= 0) & (last[g] != d)).sum())
        last[g] = d
        before[:] = -1
        before[g] = d
    return switches


def _assign(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the one-to-one pairs with values above 0 whose sum is largest."""
    able = values > 0
    if (able.sum(axis=0) > 1).any() or (able.sum(axis=1) > 1).any():
        rows, columns = linear_sum_assignment(values, maximize=True)
        paired = able[rows, columns]
        return rows[paired], columns[paired]
    rows, columns = np.nonzero(able)
    return rows, columns
