"""The tracks of a `mdqe.Linker`: for each one its mask, its motion, its label and its embedding.

A track keeps its last mask as points of a grid. What other objects hide, or what is out of frame, stays in it as it was
last visible. `score_frame` compares these masks, moved to their predicted places, with the detections of a frame.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mdqe.inference.frame_points import GRID, FramePoints
from mdqe.inference.motion import Motion, free_offset, smaller_offset

REACH = 1.15  # distance from the predicted place, relative to the size, at which the score of a place is exp(-1/2)
UNCERTAINTY = 0.3  # weight of the variance of a predicted place in the square of the reach
FIRST_REACH = 1.5  # factor of the reach of a track of one observation, whose velocity is unknown
FARTHEST = 5.0  # the reach of an object that has been absent for long
SMALLER, LARGER = 0.4, 0.25  # powers of the ratio of areas, for detections that are smaller or larger than the track
CUT = 0.15  # the power instead, where what is cut explains the difference
SAME = 0.15  # difference of two lengths, relative to the length, up to which they are equal
HIDDEN = 0.6  # share of a track's area below which a mask is not visible in full
ONE_EDGE, NARROW, NO_EDGE = 2.0, 8.0, 1000.0  # variances of places from one edge, a visible end, or two cut edges
YOUNG, YOUNG_WEIGHT = 3, 0.8  # tracks with fewer observations, and the weight of their scores
OTHER_LABEL = 0.4  # weight of the score of a pair with different labels
BLOCK = 2**18  # pairs that are scored at once
FARTHEST_POINT = 2 * GRID  # of the hidden points that a track remembers
SHARPNESS, LEAST_LOOKS = 12.0, 0.2  # of cosines of embeddings; weight of the score of a pair of different embeddings


ARRAYS = (
    "ids", "last_seen", "observations", "labels", "votes", "extents", "places", "embeddings", "areas", "cut",
)  # fmt: skip


class LinkedTracks:
    """N tracks that may be observed again, as arrays with one row each.

    Attributes:
        ids: (N,).
        last_seen: (N,), frames.
        observations: (N,), number of frames.
        extents: (N, 2): width and height in pixels.
        labels, votes: (N,): the label that most observations have, and by how many more; −1 without labels.
        embeddings: (N, E), of length 1, averaged over the observations.
        motion: their centres, in pixels, and velocities.
        areas: (N,) points of the masks, at least 1.
        cut: (N, 4) bool: the edges of each mask beyond which the object may have continued.
        masks: N arrays (K, 2) int16, columns and rows of the points of the grid in a mask.
        places: (N, 2): the centres of the masks, in pixels, when they were taken.
    """

    def __init__(self, embedding_size: int = 0) -> None:
        self.ids, self.last_seen, self.observations, self.labels, self.votes = np.zeros((5, 0), np.int64)
        self.extents, self.places = np.zeros((0, 2)), np.zeros((0, 2))
        self.embeddings = np.zeros((0, embedding_size))
        self.areas, self.cut = np.zeros(0), np.zeros((0, 4), bool)
        self.masks: list[np.ndarray] = []
        self.motion = Motion()

    def __len__(self) -> int:
        return len(self.ids)

    def take_masks(self, rows: np.ndarray, frame: FramePoints, detections: np.ndarray, step: int) -> None:
        """Replace the masks of `rows` (M,) by those of `detections` (M,)."""
        boxes = frame.boxes[detections]
        self.extents[rows] = boxes[:, 2:] - boxes[:, :2]
        self.places[rows] = (boxes[:, :2] + boxes[:, 2:]) / 2
        self.areas[rows] = (frame.areas[detections] / step**2).clip(1)
        self.cut[rows] = frame.cut[detections]
        for row, places in zip(rows.tolist(), frame.places_of(detections), strict=True):
            self.masks[row] = places

    def complete_masks(
        self, rows: np.ndarray, frame: FramePoints, detections: np.ndarray, centres: np.ndarray, step: int
    ) -> None:
        """`take_masks` of detections whose edges may be cut: what is hidden stays as it was last visible.

        The centres of the tracks move so that an edge which is not cut stays where the motion has it.

        Args:
            centres: (M, 2), the measured centres of the objects in full.
        """
        cut, found, old = frame.cut[detections], frame.boxes[detections], self.extents[rows]
        shorter = found[:, 2:] - found[:, :2] - old < -SAME * old - step
        partial = np.flatnonzero(((cut[:, :2] | cut[:, 2:]) & shorter).any(axis=1))
        hidden = [self._hidden(rows[i], frame, detections[i], centres[i], step) for i in partial]
        self.take_masks(rows, frame, detections, step)
        for i, points in zip(partial, hidden, strict=True):
            self.masks[rows[i]] = np.concatenate([self.masks[rows[i]], points])
            self.areas[rows[i]] += len(points)
        whole, at, halves = rows[partial], centres[partial], old[partial] / 2
        lower = np.where(cut[partial, :2], np.minimum(found[partial, :2], at - halves), found[partial, :2])
        upper = np.where(cut[partial, 2:], np.maximum(found[partial, 2:], at + halves), found[partial, 2:])
        self.extents[whole], self.places[whole] = upper - lower, (lower + upper) / 2
        self.motion.centres[rows] += (self.extents[rows] - old) / 2 * (cut[:, 2:] * 1.0 - cut[:, :2])

    def _hidden(self, row: int, frame: FramePoints, detection: int, centre: np.ndarray, step: int) -> np.ndarray:
        """The points (K, 2) of a track, moved to a centre, that other detections than its own hide, or out of frame."""
        height, width = frame.shape
        points = self.masks[row] + np.round((centre - self.places[row]) / step).astype(np.int64)
        points = points[(np.abs(points) <= FARTHEST_POINT).all(axis=1)]
        x, y = points.T
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        own = np.zeros(height * width, bool)
        own[frame.points_of(detection)] = True
        places = (y * width + x)[inside]
        hidden = ~inside
        hidden[inside] = (frame.counts[places] > 0) & ~own[places]
        return points[hidden].astype(np.int16)

    def start(self, ids: np.ndarray, frame: FramePoints, detections: np.ndarray, time: int, step: int) -> None:
        """Add tracks for `detections` (M,), without labels and embeddings."""
        number, rows = len(ids), len(self) + np.arange(len(ids))
        boxes = frame.boxes[detections]
        self.motion.start((boxes[:, :2] + boxes[:, 2:]) / 2, np.sqrt(frame.areas[detections]).clip(4))
        none = np.full(number, -1)
        self.ids, self.labels = np.concatenate([self.ids, ids]), np.concatenate([self.labels, none])
        self.last_seen = np.concatenate([self.last_seen, np.full(number, time)])
        self.observations = np.concatenate([self.observations, np.ones(number, np.int64)])
        self.votes = np.concatenate([self.votes, np.zeros(number, np.int64)])
        self.extents, self.places = (np.concatenate([x, np.zeros((number, 2))]) for x in (self.extents, self.places))
        self.embeddings = np.concatenate([self.embeddings, np.zeros((number, self.embeddings.shape[1]))])
        self.areas = np.concatenate([self.areas, np.ones(number)])
        self.cut = np.concatenate([self.cut, np.zeros((number, 4), bool)])
        self.masks += [np.zeros((0, 2), np.int16)] * number
        self.take_masks(rows, frame, detections, step)

    def vote(self, rows: np.ndarray, labels: np.ndarray) -> None:
        """Count the labels (M,) of the tracks `rows`; another label takes over when it has more votes."""
        same = self.labels[rows] == labels
        other = ~same & (self.votes[rows] <= 0)
        self.votes[rows] += np.where(same | other, 1, -1)
        self.labels[rows[other]] = labels[other]

    def average(self, rows: np.ndarray, embeddings: np.ndarray) -> None:
        """Add embeddings (M, E) of length 1 to the averages of the tracks `rows`."""
        means = self.embeddings[rows] * 0.9 + embeddings * 0.1
        means = np.where(self.embeddings[rows].any(axis=1, keepdims=True), means, embeddings)
        self.embeddings[rows] = means / np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)

    def keep(self, rows: np.ndarray) -> None:
        """Forget all tracks but `rows`, ascending."""
        for name in ARRAYS:
            setattr(self, name, getattr(self, name)[rows])
        self.masks = [self.masks[row] for row in rows]
        self.motion.keep(rows)


class FrameScores(NamedTuple):
    """Comparison of N tracks with D detections of a frame."""

    overlap: np.ndarray
    """(N, D): IoU of the predicted masks with the detections; hidden parts of tracks count half."""
    place: np.ndarray
    """(N, D), from 0 to 1: how well place, size, label and embedding agree."""
    shared: np.ndarray
    """(N, D): points that a track's mask shares with a detection."""
    inside: np.ndarray
    """(N,): points of a track's mask that are in any detection or outside the frame."""


def score_frame(
    tracks: LinkedTracks, frame: FramePoints, labels: np.ndarray, embeddings: np.ndarray, step: int
) -> FrameScores:
    """Compare tracks with detections; `tracks.motion` has the predicted places.

    Args:
        frame: D masks.
        labels: (D,); −1 without labels.
        embeddings: (D, E), of length 1.
        step: distance of the points of the grid, in pixels.
    """
    shared, inside, outside = _intersections(tracks, frame, step)
    overlap, place = np.empty(shared.shape), np.empty(shared.shape)
    looks = appearance(tracks.embeddings, embeddings) if embeddings.shape[1] else None
    young = np.where(tracks.observations < YOUNG, YOUNG_WEIGHT, 1.0)
    found = (frame.areas / step**2).clip(1)
    size = max(1, BLOCK // max(len(found), 1))
    for begin in range(0, len(tracks), size):  # in blocks, for frames of many detections
        rows = np.arange(begin, min(begin + size, len(tracks)))[:, None]
        areas, own = tracks.areas[rows], tracks.labels[rows]
        hidden = np.maximum(inside[rows], shared[rows[:, 0]])
        visible = shared[rows[:, 0]] / np.maximum(found + areas - hidden, 1)
        plain = shared[rows[:, 0]] / np.maximum(found + areas - outside[rows] - shared[rows[:, 0]], 1)
        weight = np.where((own != labels) & (own >= 0) & (labels >= 0), OTHER_LABEL, 1.0) * young[rows]
        if looks is not None:
            weight *= LEAST_LOOKS + (1 - LEAST_LOOKS) * looks[rows[:, 0]]
        overlap[rows[:, 0]] = 0.5 * (visible + plain) * weight
        place[rows[:, 0]] = _score_places(tracks, frame, rows, found, step) * weight
    return FrameScores(overlap, place, shared, inside)


def _score_places(
    tracks: LinkedTracks, frame: FramePoints, rows: np.ndarray, found: np.ndarray, step: int
) -> np.ndarray:
    """How well the place and the area of the tracks `rows` (M, 1) agree with D detections of areas `found`: (M, D)."""
    edges = compare_edges(tracks, frame, rows, np.arange(len(found))[None], step)
    areas = tracks.areas[rows]
    growing = np.asarray(tracks.cut[rows[:, 0]].any(axis=1))[:, None] & (found > areas)  # it was never visible in full
    sizes = np.sqrt(np.where(growing, found, areas)).clip(2)[:, :, None] * step
    variances = UNCERTAINTY * tracks.motion.variances[rows, :, 0]
    reach = np.sqrt((REACH * sizes) ** 2 + variances).clip(max=FARTHEST * sizes)
    reach *= np.where(tracks.observations > 1, 1.0, FIRST_REACH)[rows][:, :, None]
    place = np.exp(-0.5 * ((edges.distances / reach) ** 2).sum(axis=2))
    ratio = found / areas
    place *= np.minimum(ratio, 1) ** np.where(edges.partial, CUT, SMALLER)
    return np.asarray(place * np.minimum(1 / ratio, 1) ** np.where(growing, CUT, LARGER))


class Edges(NamedTuple):
    """Comparison of predicted boxes of tracks with boxes of detections, for pairs of any shape (…)."""

    offsets: np.ndarray
    """(…, 2): the measured minus the predicted centres, in pixels."""
    distances: np.ndarray
    """(…, 2): along each axis, how far the track must move at least to agree."""
    doubt: np.ndarray
    """(…, 2): factor of the variance of each offset."""
    partial: np.ndarray
    """(…) bool: the detection is smaller than the track, and its cut edges explain it."""


def compare_edges(
    tracks: LinkedTracks, frame: FramePoints, rows: np.ndarray, detections: np.ndarray, step: int
) -> Edges:
    """Measure the places of the tracks `rows` (…) from the edges of `detections` (…) that are their own.

    Edges at the border of the frame or beside another mask count only if the length of the box is that of the track.
    A box that is cut along one axis may also be shorter along the other, such as the visible end of a disc.
    """
    centres, extents = tracks.motion.centres[rows], tracks.extents[rows]
    boxes, edges = frame.boxes[detections], frame.cut[detections]
    lower = boxes[..., :2] - (centres - extents / 2)
    upper = boxes[..., 2:] - (centres + extents / 2)
    longer = upper - lower
    same = np.abs(longer) <= SAME * extents + step
    cut_lower, cut_upper = edges[..., :2] & ~same, edges[..., 2:] & ~same
    cut = cut_lower | cut_upper
    narrow = np.asarray(edges.any(axis=-1))[..., None] & ~cut & ~same & (longer < 0)
    middle, smaller = (lower + upper) / 2, smaller_offset(lower, upper)
    free = free_offset(lower, upper, cut_lower | narrow, cut_upper | narrow)
    shrunk = ((frame.areas / step**2).clip(1)[detections] < HIDDEN * tracks.areas[rows])[..., None]
    offsets = np.where(cut, free, np.where(shrunk & ~same & ~narrow, smaller, middle))
    distances = np.where(cut | narrow, np.abs(free), (np.abs(smaller) + np.abs(middle)) / 2)
    doubt = np.where(cut_lower & cut_upper, NO_EDGE, np.where(narrow, NARROW, np.where(cut | shrunk, ONE_EDGE, 1.0)))
    return Edges(offsets, distances, doubt, np.asarray(((cut | narrow) & (longer < 0)).any(axis=-1)))


def appearance(tracks: np.ndarray, detections: np.ndarray) -> np.ndarray:
    """Agreement (N, D), from 0 to 1, of embeddings (N, E) and (D, E) of length 1.

    As the softmax of Eq. 7, relative to the best pair instead of the sum: several equal embeddings agree in full.
    Embeddings of length 0 say nothing, and agree with all.
    """
    cosine = tracks @ detections.T
    best = np.maximum(cosine.max(axis=0, initial=-1), cosine.max(axis=1, initial=-1)[:, None])
    known = np.asarray(tracks.any(axis=1))[:, None] & detections.any(axis=1)
    return np.where(known, np.exp(SHARPNESS * (cosine - best)) * cosine.clip(0, 1), 1.0)


def _intersections(tracks: LinkedTracks, frame: FramePoints, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (N, D) that each predicted mask shares with each detection; (N,) those with any detection or outside the
    frame; and (N,) those outside.
    """
    height, width = frame.shape
    number = len(tracks)
    shift = np.round((tracks.motion.centres - tracks.places) / step).clip(-(10**6), 10**6).astype(np.int64)
    lengths = np.array([len(mask) for mask in tracks.masks], np.int64)
    rows = np.repeat(np.arange(number), lengths)
    points = np.concatenate([np.zeros((0, 2), np.int16), *tracks.masks]) + shift[rows]
    x, y = points.T
    inside = np.flatnonzero((x >= 0) & (x < width) & (y >= 0) & (y < height))
    rows, points = rows[inside], (y * width + x)[inside]
    outside = lengths - np.bincount(rows, minlength=number)
    covered = np.bincount(rows[frame.counts[points] > 0], minlength=number)
    return frame.shared(rows, points, number), covered + outside, outside
