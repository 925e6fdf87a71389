"""`Linker`: ids that persist for the detections of any segmenter of single frames, as soon as each frame arrives.

Where `ClipTracker` compares the masks of clips in the frames that they share, the linker moves the last mask of every
track to its predicted place and compares it with the new frame. Detections are assigned to tracks as there (`match`),
by the sum of mask IoU and agreement of place, size, label and embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdqe.annotations.records import is_finite
from mdqe.errors import InputError
from mdqe.inference.association import match_pairs
from mdqe.inference.frame_masks import FrameMasks, grid_step, read_masks, whole_size
from mdqe.inference.frame_points import FramePoints
from mdqe.inference.frame_scores import BLOCK, YOUNG, Detections, FrameScores, score_frame
from mdqe.inference.hidden_match import match_hidden
from mdqe.inference.linked_tracks import LinkedTracks
from mdqe.inference.linker_file import COUNTS, ENTRIES, read_linker, read_tracks, track_tensors, write_linker
from mdqe.inference.pair_places import HIDDEN, compare_edges
from mdqe.inference.saved_state import MOST, SavedTensors, is_whole

DUPLICATE = 0.5  # IoU with a matched detection of the same frame, above which a detection starts no track
YOUNG_ABSENCE = 5  # frames; a track of few observations is forgotten earlier
MERGED = 1.4  # a mask of this many times a track's area, which also covers another track, has two objects
COVERED = 0.2  # share of a track's mask in other detections, above which these hide it
SLIVER = 0.3  # share of a track's area below which the visible part of a cut mask does not show where it ends
MERGED_VARIANCE = 30.0  # of measured places, relative to those of single visible objects
MOST_ABSENCE = 100_000
MOST_EDGE = 2**31 - 1


class Linker:
    """Assigns ids that persist over a video of any length to the detections of its frames.

    Args:
        max_absence: number of frames without a detection after which a track is forgotten. Until then, an object that
            returns keeps its id if place, size, label and embedding agree. Tracks of fewer than 3 observations are
            forgotten after 5 frames.
        start_score: a detection that no track matches starts a track if its score is above this value.
        logits: whether masks of floating point are logits, with foreground above 0, instead of probabilities.
        size: (height, width) of the masks; only run lengths without a size need it.

    The memory does not depend on the number of frames: it contains the tracks of the last `max_absence` frames.

    Attributes:
        num_frames: index of the next frame.
        num_tracks: number of ids so far; ids are 0, 1, … in order of first appearance.
        size: (height, width) of the masks; None before the first mask.

    Raises:
        InputError: an argument out of range.
    """

    def __init__(
        self,
        *,
        max_absence: int = 30,
        start_score: float = 0.5,
        logits: bool = False,
        size: tuple[int, int] | None = None,
    ) -> None:
        max_absence = int(max_absence) if isinstance(max_absence, np.integer) else max_absence
        if not is_whole(max_absence, 1, MOST_ABSENCE):
            given = str(max_absence)[:40]
            raise InputError(f"max_absence is {given}, expected a whole number from 1 to {MOST_ABSENCE}")
        if not is_finite(start_score) or not 0 <= start_score <= 1:
            raise InputError(f"start_score is {str(start_score)[:40]}, expected a number from 0 to 1")
        self.max_absence, self.start_score, self.logits = max_absence, float(start_score), bool(logits)
        self.size = None if size is None else _read_size(size)
        self.num_frames = self.num_tracks = 0
        self._tracks: LinkedTracks | None = None  # created at the first detections, which may have embeddings
        self._ended = False

    def push(
        self, masks: Any, scores: Any = None, labels: Any = None, embeddings: Any = None, *, frame: int | None = None
    ) -> np.ndarray:
        """Take the D detections of the next frame and return their ids at once.

        Args:
            masks: (D, H, W) bool, probabilities or logits, an array or tensor; run lengths; or
                `supervision.Detections`, whose confidences and class ids count if `scores` and `labels` are None.
            scores: (D,), from 0 to 1; None: all detections are sure.
            labels: (D,), whole numbers from 0; None: unknown.
            embeddings: (D, E), any vectors that are similar for the same object; None: masks and motion decide.
            frame: index of the frame, above that of the previous one, if frames may be missing.

        Returns:
            Ids (D,) int64; −1 where a detection is dropped: its mask is empty, or no track matches it and it repeats a
            matched detection or its score is not above `start_score`.

        Raises:
            InputError: masks of another form or size than before, too many, NaN, values of another length, or a frame
                out of order. The linker does not change.
        """
        masks, scores, labels = unpack(masks, scores, labels)
        return self.push_masks(read_masks(masks, self.size, logits=self.logits), scores, labels, embeddings, frame)[0]

    def push_masks(
        self, masks: FrameMasks, scores: Any, labels: Any, embeddings: Any, frame: int | None = None
    ) -> tuple[np.ndarray, FramePoints | None]:
        """`push` of masks that were read; also returns their measures."""
        self._check_open()
        time = self.num_frames if frame is None else int(frame) if isinstance(frame, np.integer) else frame
        if not is_whole(time, self.num_frames):
            raise InputError(f"frame is {str(frame)[:40]}, expected a whole number from {self.num_frames} in order")
        if self.size is not None and masks.size not in (None, tuple(self.size)) and len(masks):
            height, width = masks.size or (0, 0)
            raise InputError(f"masks are {width}x{height}, expected {self.size[1]}x{self.size[0]} as before")
        number = len(masks)
        confidence = read_values(scores, "scores", number, 1.0)
        if number and not 0 <= confidence.min() <= confidence.max() <= 1:
            raise InputError(f"scores are {confidence.min():g} to {confidence.max():g}, expected 0 to 1")
        classes = read_values(labels, "labels", number, -1.0)
        if labels is not None and number and not _is_label(classes).all():
            raise InputError(f"labels are {str(labels)[:40]}, expected whole numbers from 0")
        known = None if self._tracks is None else self._tracks.embeddings.shape[1]
        vectors = read_embeddings(embeddings, number, known)
        tracks = self._tracks or LinkedTracks(vectors.shape[1])
        size = self.size or masks.size
        step = grid_step(size) if size else 1
        for passed in range(max(self.num_frames, time - self.max_absence), time + 1):
            tracks.motion.predict(np.maximum(np.sqrt(tracks.areas), 2) * step, tracks.last_seen < passed - 1)
            if size is not None:
                tracks.motion.wait_at_border(tracks.extents / 2, size)
        self._forget(tracks, time)
        ids, sampled = np.full(number, -1), None
        if number:
            sampled = masks.sample()
            found = Detections(sampled, confidence, classes.astype(np.int64), vectors, step)
            ids = self._link(tracks, found, time)
            self._tracks = tracks
        else:
            tracks.seen[:] = 0
        self.size = self.size or masks.size
        self.num_frames = time + 1
        return ids, sampled

    def flush(self) -> np.ndarray:
        """End the video. Returns the ids (M,) of the tracks that were not forgotten yet."""
        self._check_open()
        self._ended = True
        return np.zeros(0, np.int64) if self._tracks is None else np.sort(self._tracks.ids)

    def save(self, path: str | Path) -> None:
        """Write the state to a safetensors file, completely or not at all; `resume` continues from it.

        Raises:
            InputError: the linker has ended.
            OSError: the file cannot be written.
        """
        self._check_open()
        write_linker(Path(path), {name: getattr(self, name) for name in ENTRIES}, self._tracks)

    @classmethod
    def resume(cls, path: str | Path) -> Linker:
        """Continue from a file that `save` wrote; later ids are the same as without the interruption.

        Raises:
            FileNotFoundError: the file does not exist.
            InputError: not a saved linker, or damaged.
        """
        options, counts, tracks = read_linker(Path(path))
        linker = cls(**options)
        linker.num_frames, linker.num_tracks, linker._tracks = counts["num_frames"], counts["num_tracks"], tracks
        return linker

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state in the video by name, for `restore`, without the arguments."""
        state = {name: torch.tensor(getattr(self, name)) for name in COUNTS}
        if self.size is not None:
            state["size"] = torch.tensor(self.size)
        return state if self._tracks is None else state | track_tensors(self._tracks)

    def restore(self, saved: SavedTensors) -> None:
        """Continue from the state of another linker with the same arguments, which is all that `saved` has.

        Raises:
            InputError: a tensor is missing, unknown or does not fit the others; names it.
        """
        counts = {name: saved.integer(name, 0) for name in COUNTS}
        size = tuple(saved.integers("size", 1, MOST_EDGE, 2).tolist()) if saved.names else None
        tracks = read_tracks(saved, **counts) if saved.names else None
        self.size, self._tracks = size, tracks
        vars(self).update(counts)

    def _check_open(self) -> None:
        if self._ended:
            raise InputError("the linker has ended with flush(): create another for the next video")

    def _link(self, tracks: LinkedTracks, detections: Detections, time: int) -> np.ndarray:
        """Assign detections to tracks, update these, and start others. Returns ids (D,)."""
        frame, scores, labels, embeddings, step = detections
        found = score_frame(tracks, detections)
        pairs = match_pairs(found.rows, found.columns, found.scores, (len(tracks), len(scores)))
        rows, columns, shared, offsets, doubt = (
            array[pairs] for array in (found.rows, found.columns, found.shared, found.offsets, found.doubt)
        )
        others, free = np.ones(len(tracks), bool), frame.areas > 0
        others[rows] = free[columns] = False
        if others.any() and free.any():
            more = match_hidden(tracks, detections, found.inside, np.flatnonzero(others), np.flatnonzero(free))
            if len(more[0]):
                edges = compare_edges(tracks, frame, *more, step)
                rows, columns = np.concatenate([rows, more[0]]), np.concatenate([columns, more[1]])
                shared = np.concatenate([shared, np.zeros(len(more[0]), np.int64)])
                offsets, doubt = np.concatenate([offsets, edges.offsets]), np.concatenate([doubt, edges.doubt])
        ids = np.full(len(scores), -1)
        ids[columns] = tracks.ids[rows]
        self._update(tracks, (rows, columns), shared, (offsets, doubt), frame, found, step)
        tracks.last_seen[rows] = time
        tracks.observations[rows] += 1
        new = np.flatnonzero((ids < 0) & (frame.areas > 0) & (scores > self.start_score))
        new = new[~_repeat(frame, new, columns)]
        ids[new] = self.num_tracks + np.arange(len(new))
        if len(new):
            tracks.start(ids[new], frame, new, time, step)
            self.num_tracks += len(new)
        kept = np.concatenate([columns, new])
        rows = np.concatenate([rows, len(tracks) - len(new) + np.arange(len(new))])
        if (labels >= 0).any():
            tracks.vote(rows, labels[kept])
        if embeddings.shape[1]:
            tracks.average(rows, embeddings[kept])
        tracks.see(rows, frame, kept, step)
        return ids

    def _update(
        self,
        tracks: LinkedTracks,
        pairs: tuple[np.ndarray, np.ndarray],
        shared: np.ndarray,
        measured: tuple[np.ndarray, np.ndarray],
        frame: FramePoints,
        found: FrameScores,
        step: int,
    ) -> None:
        """Correct the places of matched tracks, and take their masks unless these are hidden or merged with others."""
        (rows, columns), (offsets, doubt) = pairs, measured
        areas, cut = tracks.areas[rows], frame.cut[columns].any(axis=1)
        centres = tracks.motion.centres[rows] + offsets
        ratio = frame.sizes[columns] / areas
        merged = (found.contents[columns] > 1) & (ratio > MERGED)
        doubt = doubt * np.where(merged, MERGED_VARIANCE, 1.0)[:, None]
        tracks.motion.correct(rows, offsets, np.maximum(np.sqrt(areas), 2) * step, doubt)
        hidden = found.inside[rows] - shared > COVERED * areas
        covered = ~cut & (ratio < HIDDEN) & hidden
        taken = ~(merged | covered | cut & (ratio < SLIVER))
        tracks.complete_masks(rows[taken], frame, columns[taken], centres[taken], step)

    def _forget(self, tracks: LinkedTracks, time: int) -> None:
        """Forget the tracks that were absent for too long."""
        limits = np.where(tracks.observations < YOUNG, min(YOUNG_ABSENCE, self.max_absence), self.max_absence)
        kept = time - tracks.last_seen - 1 <= limits
        if not kept.all():
            tracks.keep(np.flatnonzero(kept))


def _repeat(frame: FramePoints, new: np.ndarray, matched: np.ndarray) -> np.ndarray:
    """Whether the masks `new` (M,) of a frame repeat one of the masks `matched`."""
    if not len(new) or not len(matched):
        return np.zeros(len(new), bool)
    points, ends = frame.own
    sizes = np.diff(ends)
    repeat, height = [], max(1, BLOCK // len(sizes))
    for begin in range(0, len(new), height):  # in blocks, for frames of many detections
        some = new[begin : begin + height]
        rows = np.repeat(np.arange(len(some)), sizes[some])
        covered = np.concatenate([points[ends[d] : ends[d + 1]] for d in some])
        shared = frame.shared(rows, covered, len(some))[:, matched]
        ious = shared / np.maximum(sizes[some][:, None] + sizes[matched] - shared, 1)
        repeat.append((ious > DUPLICATE).any(axis=1))
    return np.concatenate(repeat)


def _read_size(size: Any) -> tuple[int, int]:
    """(height, width) as Python's numbers."""
    height, width = whole_size(size) or (0, 0)
    if not (is_whole(height, 1, MOST_EDGE) and is_whole(width, 1, MOST_EDGE)):
        raise InputError(f"size is {str(size)[:40]}, expected (height, width) of the masks")
    return height, width


def _is_label(values: np.ndarray) -> np.ndarray:
    """Whether finite numbers are whole numbers from 0 that int64 and float64 both hold."""
    return (values == np.floor(values)) & (values >= 0) & (values <= MOST)


def unpack(masks: Any, scores: Any, labels: Any) -> tuple[Any, Any, Any]:
    """The masks, scores and labels of `supervision.Detections`; other masks are returned as they are."""
    if not (hasattr(masks, "xyxy") and hasattr(masks, "mask")):
        return masks, scores, labels
    if masks.mask is None and len(masks.xyxy):
        raise InputError("the Detections have no masks, expected mask (D, H, W)")
    scores = masks.confidence if scores is None else scores
    labels = masks.class_id if labels is None else labels
    return ([] if masks.mask is None else masks.mask), scores, labels


def read_values(values: Any, name: str, number: int, default: float) -> np.ndarray:
    """`number` finite numbers as float64; the default for None."""
    if values is None:
        return np.full(number, default)
    array = _array(values, name)
    if array.shape != (number,):
        raise InputError(f"{name} have the shape {array.shape}, expected ({number},), one for each mask")
    if not np.isfinite(array).all():
        raise InputError(f"{name} have NaN or infinity, expected finite numbers")
    return array


def read_embeddings(embeddings: Any, number: int, known: int | None) -> np.ndarray:
    """(D, E) float64 of length 1; E is 0 for None.

    Args:
        known: E of previous frames.
    """
    if embeddings is None:
        array = np.zeros((number, 0 if known is None or not number else known))
        if known and number:
            raise InputError(f"embeddings is None, expected ({number}, {known}) as in previous frames")
        return array
    array = _array(embeddings, "embeddings")
    if not number and not array.size:  # such as an empty list
        return np.zeros((0, known or 0))
    wanted = "E" if known is None else known
    if array.ndim != 2 or len(array) != number or (known is not None and number and array.shape[1] != known):
        raise InputError(f"embeddings have the shape {array.shape}, expected ({number}, {wanted})")
    if not np.isfinite(array).all():
        raise InputError("embeddings have NaN or infinity, expected finite numbers")
    array = array / abs(array).max(axis=1, initial=1, keepdims=True)  # so that the squares of large numbers are finite
    return array / np.linalg.norm(array, axis=1, keepdims=True).clip(1e-12)


def _array(values: Any, name: str) -> np.ndarray:
    try:
        values = values.detach().cpu().double().numpy() if hasattr(values, "detach") else values
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} are {str(values)[:40]}, expected numbers") from None
