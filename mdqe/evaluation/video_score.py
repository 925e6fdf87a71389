"""The score of a video: how much of what people see in it is right, in one number that ranks videos.

Average precision takes every result with its score, and of a video alone it jumps with a single match. The score judges
what an overlay shows: the results of at least a score, the best of each track. In each category, objects and tracks are
paired one to one so that the sum of their IoUs over the whole video is largest; it is counted twice and divided by the
number of objects and tracks:

    score = 2 Σ IoU / (objects + tracks)

1 says that every object has a track with exactly its masks and that there is no other; a missed object, a false track
and a part of the pixels each take their share. Objects that are crowds are not counted, nor is a track that is paired
with nothing and lies by more than half in one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from mdqe.annotations.reading_ import Track

FOUND = 0.5
"""IoU of a pair from which an object counts as found."""


@dataclass(frozen=True)
class Paired:
    """Objects and tracks of a category of a video, or of several together."""

    overlap: float = 0.0
    """Sum of the pairs' IoUs."""
    objects: int = 0
    tracks: int = 0
    found: int = 0
    """Pairs of an IoU of at least `FOUND`."""

    def __add__(self, other: "Paired") -> "Paired":
        return Paired(
            self.overlap + other.overlap,
            self.objects + other.objects,
            self.tracks + other.tracks,
            self.found + other.found,
        )

    def summary(self) -> dict[str, float]:
        """ "score" from 0 to 1, −1.0 where there is neither object nor track, and the counts."""
        total = self.objects + self.tracks
        score = 2 * self.overlap / total if total else -1.0
        return {"score": score, "objects": self.objects, "tracks": self.tracks, "found": self.found}


def best_of_tracks(tracks: Sequence[Track], score_threshold: float) -> np.ndarray:
    """(N,) bool: the best result of each track, if its score reaches the threshold."""
    best: dict[int, int] = {}
    for i, one in enumerate(tracks):
        if one.score >= score_threshold and (one.id not in best or one.score > tracks[best[one.id]].score):
            best[one.id] = i
    return np.isin(np.arange(len(tracks)), list(best.values()))


def pair(ious: np.ndarray, inside: np.ndarray) -> Paired:
    """Pair the tracks and objects of a category of a video.

    Args:
        ious: (D, G) of tracks with objects that are no crowds, over all frames.
        inside: (D, C): share of a track's pixels that lie in each crowd.
    """
    tracks, objects = linear_sum_assignment(ious, maximize=True)
    values = ious[tracks, objects]
    paired = np.zeros(len(ious), bool)
    paired[tracks[values > 0]] = True
    counted = paired | (inside.max(axis=1, initial=0) <= 0.5)
    return Paired(float(values.sum()), ious.shape[1], int(counted.sum()), int((values >= FOUND).sum()))
