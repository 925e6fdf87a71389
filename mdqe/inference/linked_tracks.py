"""The tracks of a `mdqe.Linker`: for each one its mask, its motion, its label and its embedding.

A track keeps its last mask that was visible in full, as the points of a grid within its box. `score_frame` compares
these masks, moved to their predicted places, with the detections of a frame.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mdqe.inference.frame_masks import Sampled
from mdqe.inference.motion import Motion, smaller_offset

REACH = 1.3  # distance from the predicted place, relative to the size, at which the score of a place is exp(-1/2)
UNCERTAINTY = 0.2  # weight of the variance of a predicted place in the square of the reach
FIRST_REACH = 1.5  # factor of the reach of a track of one observation, whose velocity is unknown
FARTHEST = 5.0  # the reach of an object that has been absent for long
SMALLER, LARGER = 0.4, 0.25  # powers of the ratio of areas, for detections that are smaller or larger than the track
YOUNG, YOUNG_WEIGHT = 3, 0.8  # tracks with fewer observations, and the weight of their scores
OTHER_LABEL = 0.4  # weight of the score of a pair with different labels
SHARPNESS, LEAST_LOOKS = 12.0, 0.2  # of cosines of embeddings; weight of the score of a pair of different embeddings


ARRAYS = (
    "ids", "last_seen", "observations", "labels", "votes", "extents", "places", "origins", "embeddings", "areas",
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
        masks: N arrays (h, w) float32 of 0 and 1, the points of the grid in the box of a mask.
        origins: (N, 2): column and row of the first point of each mask.
        places: (N, 2): the centres of the masks, in pixels, when they were taken.
    """

    def __init__(self, embedding_size: int = 0) -> None:
        self.ids, self.last_seen, self.observations, self.labels, self.votes = np.zeros((5, 0), np.int64)
        self.extents, self.places = np.zeros((0, 2)), np.zeros((0, 2))
        self.origins = np.zeros((0, 2), np.int64)
        self.embeddings = np.zeros((0, embedding_size))
        self.areas = np.zeros(0)
        self.masks: list[np.ndarray] = []
        self.motion = Motion()

    def __len__(self) -> int:
        return len(self.ids)

    def take_masks(self, rows: np.ndarray, frame: Sampled, detections: np.ndarray, step: int) -> None:
        """Replace the masks of `rows` (M,) by those of `detections` (M,)."""
        boxes = frame.boxes[detections]
        self.extents[rows] = boxes[:, 2:] - boxes[:, :2]
        self.places[rows] = (boxes[:, :2] + boxes[:, 2:]) / 2
        first, last = (boxes[:, :2] // step).astype(int), np.ceil(boxes[:, 2:] / step).astype(int)
        self.origins[rows] = first
        self.areas[rows] = (frame.areas[detections] / step**2).clip(1)
        for row, d, (x, y), (right, bottom) in zip(rows, detections, first, last, strict=True):
            self.masks[row] = frame.points[d, y:bottom, x:right].astype(np.float32)

    def start(self, ids: np.ndarray, frame: Sampled, detections: np.ndarray, time: int, step: int) -> None:
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
        self.origins = np.concatenate([self.origins, np.zeros((number, 2), np.int64)])
        self.embeddings = np.concatenate([self.embeddings, np.zeros((number, self.embeddings.shape[1]))])
        self.areas = np.concatenate([self.areas, np.ones(number)])
        self.masks += [np.zeros((0, 0), np.float32)] * number
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
    offsets: np.ndarray
    """(N, D, 2): the measured minus the predicted centres of objects that are partly hidden, in pixels."""
    contained: np.ndarray
    """(N, D): share of each track's mask in each detection."""
    covered: np.ndarray
    """(N, D): share of each track's mask in other detections."""


def score_frame(
    tracks: LinkedTracks, frame: Sampled, labels: np.ndarray, embeddings: np.ndarray, step: int
) -> FrameScores:
    """Compare tracks with detections; `tracks.motion` has the predicted places.

    Args:
        frame: D masks.
        labels: (D,); −1 without labels.
        embeddings: (D, E), of length 1.
        step: distance of the points of the grid, in pixels.
    """
    inter, all_inter = _intersections(tracks, frame, step)
    areas, found = tracks.areas, (frame.areas / step**2).clip(1)
    inside = np.maximum(all_inter[:, None], inter)
    visible = inter / np.maximum(found + areas[:, None] - inside, 1)
    plain = inter / np.maximum(found + areas[:, None] - inter, 1)
    centres, half = tracks.motion.centres, tracks.extents / 2
    lower = frame.boxes[None, :, :2] - (centres - half)[:, None]
    upper = frame.boxes[None, :, 2:] - (centres + half)[:, None]
    offsets = smaller_offset(lower, upper)
    sizes = np.sqrt(areas).clip(2) * step
    distance = np.linalg.norm(offsets, axis=2) + np.linalg.norm((lower + upper) / 2, axis=2)
    reach = np.sqrt(REACH**2 + UNCERTAINTY * tracks.motion.variances[:, 0] / sizes**2).clip(max=FARTHEST)
    reach = np.where(tracks.observations > 1, reach, FIRST_REACH * reach)
    ratio = found / areas[:, None]
    place = np.exp(-0.5 * (0.5 * distance / (sizes * reach)[:, None]) ** 2)
    place *= np.minimum(ratio, 1) ** SMALLER * np.minimum(1 / ratio, 1) ** LARGER
    weight = np.where(tracks.observations < YOUNG, YOUNG_WEIGHT, 1.0)[:, None] * np.ones(len(found))
    weight[(tracks.labels[:, None] != labels) & (tracks.labels[:, None] >= 0) & (labels >= 0)] *= OTHER_LABEL
    if embeddings.shape[1]:
        weight *= LEAST_LOOKS + (1 - LEAST_LOOKS) * appearance(tracks.embeddings, embeddings)
    overlap = 0.5 * (visible + plain)
    contained = inter / areas[:, None]
    return FrameScores(overlap * weight, place * weight, offsets, contained, (inside - inter) / areas[:, None])


def appearance(tracks: np.ndarray, detections: np.ndarray) -> np.ndarray:
    """Agreement (N, D), from 0 to 1, of embeddings (N, E) and (D, E) of length 1.

    As the softmax of Eq. 7, relative to the best pair instead of the sum: several equal embeddings agree in full.
    Embeddings of length 0 say nothing, and agree with all.
    """
    cosine = tracks @ detections.T
    best = np.maximum(cosine.max(axis=0, initial=-1), cosine.max(axis=1, initial=-1)[:, None])
    known = np.asarray(tracks.any(axis=1))[:, None] & detections.any(axis=1)
    return np.where(known, np.exp(SHARPNESS * (cosine - best)) * cosine.clip(0, 1), 1.0)


def _intersections(tracks: LinkedTracks, frame: Sampled, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, D) that each predicted mask shares with each detection, and (N,) with any detection."""
    points = frame.points.view(np.uint8)
    union = np.asarray(frame.points.any(axis=0)).view(np.uint8)
    height, width = union.shape
    shift = np.round((tracks.motion.centres - tracks.places) / step).clip(-(10**6), 10**6).astype(np.int64)
    corners = tracks.origins + shift
    found = np.zeros((len(tracks), len(points) + 1), np.float32)
    for i, (mask, (x, y)) in enumerate(zip(tracks.masks, corners.tolist(), strict=True)):
        top, left = max(-y, 0), max(-x, 0)
        part = mask[top : max(height - y, 0), left : max(width - x, 0)]
        if part.size:
            rows, columns = slice(y + top, y + top + part.shape[0]), slice(x + left, x + left + part.shape[1])
            near = np.concatenate([points[:, rows, columns], union[None, rows, columns]]).reshape(len(points) + 1, -1)
            found[i] = near.astype(np.float32) @ part.ravel()
    return found[:, :-1], found[:, -1]
