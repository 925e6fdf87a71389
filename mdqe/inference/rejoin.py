"""Joins the tracks of a whole video whose objects were absent for longer than the linker remembers them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mdqe.inference.association import match_pairs
from mdqe.inference.exchanges import Observations
from mdqe.inference.frame_scores import OTHER_LABEL
from mdqe.inference.pair_places import LARGER

JOIN = 0.4  # least score of two tracks that are joined
ENDS = 5  # frames at the end and the beginning of tracks from which the motion is measured
FADING = 30.0  # frames of absence after which the motion says nothing more
REACH, FARTHEST = 1.5, 6.0  # distance of places, relative to the size; it grows to FARTHEST with the absence
LONG = 300.0  # frames of absence after which the score has fallen to exp(-1)
LONGEST = int(-LONG * np.log(JOIN))  # frames from one track to the next, 274: after more, the score is below JOIN
BLOCK = 2**18  # pairs that are scored at once
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
    ends = _Ends.of(found, number)
    known = np.flatnonzero(ends.frames >= UNSURE)
    labels = most_frequent(found.tracks, found.labels, number)
    embeddings = np.zeros((number, found.embeddings.shape[1]))
    np.add.at(embeddings, found.tracks, found.embeddings)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12)
    parts = []
    for before, after in _following(ends, known):
        scores = _scores(ends, before, after)
        own, other = labels[before], labels[after]
        scores[(own != other) & (own >= 0) & (other >= 0)] *= OTHER_LABEL
        if embeddings.shape[1]:
            scores *= (embeddings[before] * embeddings[after]).sum(axis=1).clip(0, 1)
        kept = scores > JOIN
        parts.append((before[kept], after[kept], scores[kept]))
    origin = np.arange(number)
    if not parts:
        return origin
    before, after, scores = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.lexsort((after, before))
    pairs = order[match_pairs(before[order], after[order], scores[order], (number, number))]
    for one in pairs[np.argsort(ends.first[after[pairs]], kind="stable")]:
        origin[after[one]] = origin[before[one]]
    return origin


class _Ends(NamedTuple):
    """The first and last frames (N,) of tracks, and the places, velocities and areas there."""

    first: np.ndarray
    last: np.ndarray
    frames: np.ndarray
    """(N,): numbers of observations."""
    places: np.ndarray
    """(N, 2, 2): at the first and the last frame."""
    velocities: np.ndarray
    """(N, 2, 2)."""
    areas: np.ndarray
    """(N,)."""

    @classmethod
    def of(cls, found: Observations, number: int) -> _Ends:
        frames, places, velocities = np.zeros((number, 3), np.int64), np.zeros((number, 2, 2)), np.zeros((number, 2, 2))
        areas = np.zeros(number)
        for track, rows in enumerate(found.rows_of_tracks(number)):
            times, centres = found.frames[rows], found.centres(rows)
            frames[track] = times[0], times[-1], len(rows)
            places[track] = centres[0], centres[-1]
            for end, part in enumerate((slice(None, ENDS), slice(-ENDS, None))):
                span = times[part][-1] - times[part][0]
                velocities[track, end] = (centres[part][-1] - centres[part][0]) / max(int(span), 1)
            areas[track] = np.median(found.areas[rows])
        return cls(frames[:, 0], frames[:, 1], frames[:, 2], places, velocities, areas)


def _following(ends: _Ends, known: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pairs, tracks before and after (P,), of tracks `known` that follow each other soon enough, in blocks."""
    known = known[np.argsort(ends.first[known], kind="stable")]
    begins = ends.first[known]
    low = np.searchsorted(begins, ends.last[known], side="right")
    high = np.searchsorted(begins, ends.last[known] + LONGEST, side="right")
    blocks = np.cumsum(high - low) // BLOCK
    for some in np.split(np.arange(len(known)), np.flatnonzero(np.diff(blocks)) + 1):
        sizes = high[some] - low[some]
        if sizes.any():
            starts = np.repeat(low[some] - np.cumsum(sizes) + sizes, sizes)
            yield np.repeat(known[some], sizes), known[starts + np.arange(sizes.sum())]


def _scores(ends: _Ends, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How well the tracks `after` continue the tracks `before` (P,), from 0 to 1."""
    gap = ends.first[after] - ends.last[before]
    smaller, larger = np.sort([ends.areas[before], ends.areas[after]], axis=0)
    size = np.sqrt(larger).clip(1)
    # Each motion counts for a while: the distance is measured where both meet, with velocities that fade.
    reach = FADING * (1 - np.exp(-gap / 2 / FADING))[:, None]
    plain = ends.places[after, 0] - ends.places[before, 1]
    met = plain - reach * (ends.velocities[after, 0] + ends.velocities[before, 1])
    distance = np.minimum(np.linalg.norm(met, axis=1), np.linalg.norm(plain, axis=1)) / size
    sigma = np.minimum(REACH + gap / FADING, FARTHEST)
    return np.asarray(np.exp(-0.5 * (distance / sigma) ** 2 - gap / LONG) * (smaller / larger.clip(1)) ** LARGER)


def most_frequent(tracks: np.ndarray, labels: np.ndarray, number: int) -> np.ndarray:
    """The most frequent known label (N,) of each track, the smallest one of several; −1 if all are unknown."""
    values, places = np.unique(labels, return_inverse=True)
    some, found = labels >= 0, np.full(number, -1, np.int64)
    pairs, votes = np.unique(tracks[some] * len(values) + places[some], return_counts=True)
    order = np.lexsort((-pairs, votes))  # later ones count
    found[pairs[order] // len(values)] = values[pairs[order] % len(values)]
    return found
