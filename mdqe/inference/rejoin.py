"""Joins the tracks of a whole video whose objects were absent for longer than the linker remembers them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mdqe.inference.association import match
from mdqe.inference.exchanges import Observations
from mdqe.inference.frame_scores import OTHER_LABEL
from mdqe.inference.pair_places import LARGER

JOIN = 0.4  # least score of two tracks that are joined
ENDS = 5  # frames at the end and the beginning of tracks from which the motion is measured
FADING = 30.0  # frames of absence after which the motion says nothing more
REACH, FARTHEST = 1.5, 6.0  # distance of places, relative to the size; it grows to FARTHEST with the absence
LONG = 300.0  # frames of absence after which the score has fallen to exp(-1)
LONGEST = int(-LONG * np.log(JOIN))  # frames from one track to the next, 274: after more, the score is below JOIN
UNSURE = 3  # tracks of fewer frames are not joined


def rejoin(found: Observations) -> np.ndarray:
    """Join N tracks that follow each other.

    A track may continue another one that ended at most LONGEST frames before it began, if the places to which both were
    moving, their sizes, labels and embeddings agree. Pairs are assigned one to one with the largest total score.

    Args:
        found: the observations; each of the tracks 0 … N − 1 has one.

    Returns:
        (N,): for each track, the first track of its object.
    """
    number = 1 + int(found.tracks.max(initial=-1))
    labels = most_frequent(found.tracks, found.labels, number)
    embeddings = np.zeros((number, found.embeddings.shape[1]))
    np.add.at(embeddings, found.tracks, found.embeddings)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12)
    ends = [_Ends.of(found, track) for track in range(number)]
    first, last = np.array([one.first for one in ends]), np.array([one.last for one in ends])
    gap = first[None, :] - last[:, None]  # from the end of the row to the beginning of the column
    scores = np.zeros((number, number))
    known = np.array([one.frames >= UNSURE for one in ends], bool)
    for i, j in zip(*np.nonzero((gap > 0) & (gap <= LONGEST) & known[:, None] & known), strict=True):
        scores[i, j] = _score(ends[i], ends[j], int(gap[i, j]))
    scores[(labels[:, None] != labels) & (labels[:, None] >= 0) & (labels >= 0)] *= OTHER_LABEL
    if embeddings.shape[1]:
        scores *= (embeddings @ embeddings.T).clip(0, 1)
    before, after, _ = match(scores, np.zeros_like(scores), threshold=JOIN)
    origin = np.arange(number)
    for i, j in sorted(zip(before, after, strict=True), key=lambda pair: first[pair[1]]):
        origin[j] = origin[i]
    return origin


class _Ends(NamedTuple):
    """The first and last frames of a track, and the places, velocities and the area there."""

    first: int
    last: int
    frames: int
    places: np.ndarray
    """(2, 2): at the first and the last frame."""
    velocities: np.ndarray
    """(2, 2)."""
    area: float

    @classmethod
    def of(cls, found: Observations, track: int) -> _Ends:
        rows = np.flatnonzero(found.tracks == track)
        frames, centres = found.frames[rows], found.centres(rows)
        places, velocities = [], []
        for part, edge in ((slice(None, ENDS), 0), (slice(-ENDS, None), -1)):
            span = frames[part][-1] - frames[part][0]
            velocities.append((centres[part][-1] - centres[part][0]) / max(int(span), 1))
            places.append(centres[edge])
        area = float(np.median(found.areas[rows]))
        return cls(int(frames[0]), int(frames[-1]), len(rows), np.array(places), np.array(velocities), area)


def _score(before: _Ends, after: _Ends, gap: int) -> float:
    """How well a track continues another one after `gap` frames, from 0 to 1."""
    size = max(np.sqrt(max(before.area, after.area)), 1.0)
    # Each motion counts for a while: the distance is measured where both meet, with velocities that fade.
    reach = FADING * (1 - np.exp(-gap / 2 / FADING))
    ahead = before.places[1] + reach * before.velocities[1]
    back = after.places[0] - reach * after.velocities[0]
    plain = after.places[0] - before.places[1]
    distance = min(np.linalg.norm(back - ahead), np.linalg.norm(plain)) / size
    sigma = min(REACH + gap / FADING, FARTHEST)
    ratio = min(before.area, after.area) / max(before.area, after.area, 1.0)
    return float(np.exp(-0.5 * (distance / sigma) ** 2 - gap / LONG) * ratio**LARGER)


def most_frequent(tracks: np.ndarray, labels: np.ndarray, number: int) -> np.ndarray:
    """The most frequent known label (N,) of each track, the smallest one of several; −1 if all are unknown."""
    values, places = np.unique(labels, return_inverse=True)
    votes = np.zeros((number, max(len(values), 1)), np.int64)
    np.add.at(votes, (tracks, places), 1)
    votes[:, : np.count_nonzero(values < 0)] = 0
    return values[votes.argmax(axis=1)] if len(values) else np.zeros(number, np.int64)
