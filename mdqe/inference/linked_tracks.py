"""The tracks of a `mdqe.Linker`: for each one its mask, its motion, its label and its embedding.

A track keeps its last mask as points of a grid. What other objects hide, or what is out of frame, stays in it as it was
last visible.
"""

from __future__ import annotations

import numpy as np

from mdqe.inference.frame_points import GRID, FramePoints
from mdqe.inference.motion import Motion
from mdqe.results import rle
from mdqe.results.foreign_call import call

SAME = 0.15  # difference of two lengths, relative to the length, up to which they are equal
SAMPLES = 64  # points of a mask that are compared in other places
FARTHEST_POINT = 2 * GRID  # of the hidden points that a track remembers

ARRAYS = (
    "ids", "last_seen", "observations", "labels", "votes", "labelled", "extents", "places", "embeddings", "areas",
    "cut", "seen", "outlines",
)  # fmt: skip


class LinkedTracks:
    """N tracks that may be observed again, as arrays with one row each.

    Attributes:
        ids: (N,).
        last_seen: (N,), frames.
        observations: (N,), number of frames.
        extents: (N, 2): width and height in pixels.
        labels, votes: (N,): the label that most observations have, and by how many more; −1 without labels.
        labelled: (N,), number of observations with a label.
        embeddings: (N, E), of length 1, averaged over the observations.
        motion: their centres, in pixels, and velocities.
        areas: (N,) points of the masks, at least 1.
        seen: (N,) points of the detection of the previous frame; 0 for none.
        outlines: (N, SAMPLES, 2) int16: points of the last detection, relative to the centre of its box, doubled.
        cut: (N, 4) bool: the edges of each mask beyond which the object may have continued.
        masks: N arrays (K, 2) int16, columns and rows of the points of the grid in a mask.
        places: (N, 2): the centres of the masks, in pixels, when they were taken.
    """

    def __init__(self, embedding_size: int = 0) -> None:
        self.ids, self.last_seen, self.observations = np.zeros((3, 0), np.int64)
        self.labels, self.votes, self.labelled = np.zeros((3, 0), np.int64)
        self.extents, self.places = np.zeros((0, 2)), np.zeros((0, 2))
        self.embeddings = np.zeros((0, embedding_size))
        self.areas, self.seen, self.cut = np.zeros(0), np.zeros(0), np.zeros((0, 4), bool)
        self.outlines = np.zeros((0, SAMPLES, 2), np.int16)
        self.masks: list[np.ndarray] = []
        self.motion = Motion()

    def __len__(self) -> int:
        return len(self.ids)

    def take_masks(self, rows: np.ndarray, frame: FramePoints, detections: np.ndarray, step: int) -> None:
        """Replace the masks of `rows` (M,) by those of `detections` (M,)."""
        boxes = frame.boxes[detections]
        self.extents[rows] = boxes[:, 2:] - boxes[:, :2]
        self.places[rows] = (boxes[:, :2] + boxes[:, 2:]) / 2
        self.areas[rows] = frame.sizes[detections]
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
        if len(partial):
            self._extend(rows[partial], cut[partial], found[partial], centres[partial], old[partial] / 2)
        self.motion.centres[rows] += (self.extents[rows] - old) / 2 * (cut[:, 2:] * 1.0 - cut[:, :2])

    def _extend(
        self, rows: np.ndarray, cut: np.ndarray, found: np.ndarray, centres: np.ndarray, halves: np.ndarray
    ) -> None:
        """Extend boxes `found` (M, 4) beyond edges that are cut, to the boxes of the objects in full."""
        lower = np.where(cut[:, :2], np.minimum(found[:, :2], centres - halves), found[:, :2])
        upper = np.where(cut[:, 2:], np.maximum(found[:, 2:], centres + halves), found[:, 2:])
        self.extents[rows], self.places[rows] = upper - lower, (lower + upper) / 2

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
        self.motion.start((boxes[:, :2] + boxes[:, 2:]) / 2, np.maximum(np.sqrt(frame.areas[detections]), 4))
        none = np.full(number, -1)
        self.ids, self.labels = np.concatenate([self.ids, ids]), np.concatenate([self.labels, none])
        self.last_seen = np.concatenate([self.last_seen, np.full(number, time)])
        self.observations = np.concatenate([self.observations, np.ones(number, np.int64)])
        self.votes, self.labelled = (np.concatenate([x, np.zeros_like(ids)]) for x in (self.votes, self.labelled))
        self.extents, self.places = (np.concatenate([x, np.zeros((number, 2))]) for x in (self.extents, self.places))
        self.embeddings = np.concatenate([self.embeddings, np.zeros((number, self.embeddings.shape[1]))])
        self.areas, self.seen = (np.concatenate([x, np.ones(number)]) for x in (self.areas, self.seen))
        self.outlines = np.concatenate([self.outlines, np.zeros((number, SAMPLES, 2), np.int16)])
        self.cut = np.concatenate([self.cut, np.zeros((number, 4), bool)])
        self.masks += [np.zeros((0, 2), np.int16)] * number
        self.take_masks(rows, frame, detections, step)

    def see(self, rows: np.ndarray, frame: FramePoints, detections: np.ndarray, step: int) -> None:
        """Remember what is visible of the tracks `rows` (M,): the `detections` (M,) of this frame."""
        self.seen[:] = 0
        self.seen[rows] = frame.sizes[detections]
        ends = frame.own[1]
        if (library := rle.compiled_library()) is not None:
            found = (ends, frame.positions, frame.boxes)
            call(library.mdqe_take_outlines, rows, detections, len(rows), SAMPLES, *found, step, self.outlines)
            return
        begin, length = ends[detections], ends[detections + 1] - ends[detections]
        some = frame.positions[begin[:, None] + (np.arange(SAMPLES) * length[:, None]) // SAMPLES]
        self.outlines[rows] = some * 2 - doubled_centres(frame, detections, step)[:, None]

    def vote(self, rows: np.ndarray, labels: np.ndarray) -> None:
        """Count the labels (M,) of the tracks `rows`; another label takes over when it has more votes."""
        same = self.labels[rows] == labels
        other = ~same & (self.votes[rows] <= 0)
        self.votes[rows] += np.where(same | other, 1, -1)
        self.labels[rows[other]] = labels[other]
        self.labelled[rows] += 1

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


def doubled_centres(frame: FramePoints, detections: np.ndarray, step: int) -> np.ndarray:
    """Twice the centres (M, 2) of boxes, in points, as whole numbers."""
    boxes = frame.boxes[detections]
    return np.rint((boxes[:, :2] + boxes[:, 2:]) / step - 1).astype(np.int64)
