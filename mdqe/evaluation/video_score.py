"""The score of a video: one number that ranks videos by how well they are segmented.

Average precision uses every result with its score, and in a single video it changes much with one match. The score
rates what an overlay shows: the results with at least a given score, one per track (the one with the highest score). In
each category, objects and tracks are paired one to one so that the sum of their IoUs over the whole video is largest:

    score = 2 Σ IoU / (objects + tracks)

It is 1 if every object has a track with exactly its masks and there are no other tracks. Missed objects, false tracks
and wrong pixels reduce it. Crowds are not objects, and an unpaired track with more than half of its pixels in a crowd
is not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from mdqe.annotations.reader import Track
from mdqe.errors import InputError

FOUND = 0.5
"""The minimum IoU of a pair whose object counts as found."""


@dataclass(frozen=True)
class Paired:
    """Objects and tracks of one category of a video, or the sums of several."""

    overlap: float = 0.0
    """The sum of the IoUs of all pairs."""
    objects: int = 0
    tracks: int = 0
    found: int = 0
    """Pairs with an IoU of at least `FOUND`."""

    def __add__(self, other: "Paired") -> "Paired":
        return Paired(
            self.overlap + other.overlap,
            self.objects + other.objects,
            self.tracks + other.tracks,
            self.found + other.found,
        )

    def summary(self) -> dict[str, float]:
        """The counts, and "score" from 0 to 1, −1.0 if there are no objects and no tracks."""
        total = self.objects + self.tracks
        score = 2 * self.overlap / total if total else -1.0
        return {"score": score, "objects": self.objects, "tracks": self.tracks, "found": self.found}


def check_threshold(value: Any) -> None:
    """Raise an InputError if a minimum score is not a number from 0 to 1."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) <= 1:
        raise InputError(f"score_threshold is {value!r}, expected a number from 0 to 1")


def best_of_tracks(tracks: Sequence[Track], score_threshold: float) -> np.ndarray:
    """(N,) bool: the result of each track with the highest score, if it reaches the threshold."""
    best: dict[int, int] = {}
    for i, one in enumerate(tracks):
        if one.score >= score_threshold and (one.id not in best or one.score > tracks[best[one.id]].score):
            best[one.id] = i
    return np.isin(np.arange(len(tracks)), list(best.values()))


def pair(ious: np.ndarray, inside: np.ndarray) -> Paired:
    """Pair the tracks and objects of a category of a video.

    Args:
        ious: (D, G) of tracks and objects that are not crowds, over all frames.
        inside: (D, C): the share of a track's pixels that are in each crowd.
    """
    tracks, objects = linear_sum_assignment(ious, maximize=True)
    values = ious[tracks, objects]
    paired = np.zeros(len(ious), bool)
    paired[tracks[values > 0]] = True
    counted = paired | (inside.max(axis=1, initial=0) <= 0.5)
    return Paired(float(values.sum()), ious.shape[1], int(counted.sum()), int((values >= FOUND).sum()))
