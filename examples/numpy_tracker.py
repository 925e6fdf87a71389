"""Post-processing of the two ONNX programs in NumPy: from the queries of clips to the tracks of a video.

The rules, the thresholds and the order of every sum are those of `mdqe.inference`, whose docstrings explain them.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import expit, softmax

Array = NDArray[np.float32]
TrackArrays = dict[int, Array]
"""Arrays by track id."""


class Detections(NamedTuple):
    """Detections of one clip, best first."""

    class_scores: Array
    """(D, K)."""
    mask_logits: Array
    """(D, T, h, w)."""
    embeddings: Array
    """(D, C)."""


def mask_logits(coefficients: Array, features: Array) -> Array:
    """Coefficients (Q, M) times mask features (T, M, h, w) → (Q, T, h, w)."""
    frames, channels, height, width = features.shape
    flat = coefficients @ features.reshape(frames, channels, -1)  # (T, Q, h·w)
    return np.ascontiguousarray(flat.transpose(1, 0, 2)).reshape(-1, frames, height, width)


def filter_clip(
    predictions: dict[str, Array], features: Array, score_threshold: float, max_detections: int
) -> Detections:
    """Select the confident, distinct, non-empty queries of a clip, and weight their scores by mask quality.

    Args:
        predictions: the outputs of the decoder.
        features: mask features of the clip, (T, M, h, w).
        score_threshold, max_detections: as in `mdqe.inference.postprocess.filter_clips`.
    """
    scores, coefficients, embeddings = (predictions[k] for k in ("class_scores", "mask_coefficients", "embeddings"))
    best = scores.max(1)
    order = np.argsort(-best, kind="stable")[: max(int((best >= score_threshold).sum()), 1)]
    directions = embeddings[order] / np.maximum(np.linalg.norm(embeddings[order], axis=1, keepdims=True), 1e-12)
    duplicates = np.triu(directions @ directions.T, 1) >= 0.99  # (better, worse)
    order = order[~duplicates.any(0)][:max_detections]

    step = 2 if len(features) >= 5 else 1
    coarse = mask_logits(coefficients[order], features[::step, :, ::2, ::2])
    nonempty = (coarse > 0).any((1, 2, 3))
    nonempty[~nonempty] = (mask_logits(coefficients[order[~nonempty]], features) > 0).any((1, 2, 3))
    overlap = overlap_with_better(coarse[nonempty])
    kept = overlap < 0.5
    order = order[nonempty][kept]

    logits = mask_logits(coefficients[order], features)
    soft = expit(logits.reshape(len(logits), -1))
    hard = soft > 0.5
    weight = (1 - overlap[kept]) * ((soft * hard).sum(1) / (hard.sum(1) + np.float32(1e-6)))
    scores = scores[order] * weight[:, None].astype(scores.dtype)
    best = scores.max(1, initial=0)
    first = np.argsort(-best, kind="stable")[: max(int((best > score_threshold).sum()), 1)]
    return Detections(scores[first], logits[first], embeddings[order[first]])


def overlap_with_better(logits: Array) -> Array:
    """Largest IoU (D,) of each binary mask with the soft masks of the better ones; logits (D, …), best first."""
    if not len(logits):
        return np.zeros(0, np.float32)
    soft = expit(logits.reshape(len(logits), -1))
    hard = (soft > 0.5).astype(soft.dtype)
    intersection = soft @ hard.T  # (better, worse)
    union = soft.sum(1)[:, None] + hard.sum(1) - intersection
    return np.triu(intersection / (union + 1), 1).max(0)


class NumpyTracker:
    """Assigns track ids to the detections of overlapping clips, as `mdqe.ClipTracker` does.

    Args:
        config: the "config" in the model.json of an exported folder.
    """

    def __init__(self, config: dict) -> None:
        self.length, self.stride = config["test_clip_length"], config["clip_stride"]
        self.window, self.threshold = config["window_length"], config["score_threshold"]
        self.weights = config["iou_weight"], config["similarity_weight"]
        self.memory = config["memory_frames"], max(self.length, config["short_memory_frames"])
        self.window_start = self.frames_end = self.clips = 0
        self.frames: dict[int, dict[int, tuple[Array, int]]] = {}  # by frame and track: sum and number of mask logits
        self.classes: dict[int, tuple[Array, int]] = {}  # by track of the window: sum and number of class scores
        self.last_seen: list[int] = []  # by track: number of clips when it was last seen
        self.embeddings: list[Array] = []  # by track: embedding to compare with
        self.clip_embeddings: deque[TrackArrays] = deque(maxlen=max(3, (self.length - 1) // self.stride))
        self.window_clips, self.carried_over = 0, set()

    def update(self, first: int, clip: Detections) -> list[int]:
        """Match a clip that starts with frame `first`. Returns the track of every detection, −1 if it was dropped."""
        frames = range(first, first + clip.mask_logits.shape[1])
        ids = self._assign(frames, clip) if self.last_seen else list(range(len(clip.class_scores)))
        rows = {track: row for row, track in enumerate(ids) if track >= 0}
        for _ in range(len(self.last_seen), max(rows, default=-1) + 1):  # new tracks get the next ids
            self.last_seen.append(0)
            self.embeddings.append(np.zeros(0, np.float32))
        self.clips, self.window_clips = self.clips + 1, self.window_clips + 1
        self.clip_embeddings.append({track: clip.embeddings[row] for track, row in rows.items()})
        averages = average_embeddings(list(self.clip_embeddings)[-3:])
        for track, row in rows.items():
            self.last_seen[track], self.embeddings[track] = self.clips, averages[track]
            total, count = self.classes.get(track, (0, 0))
            self.classes[track] = total + clip.class_scores[row], count + 1
            for t, frame in enumerate(frames):
                total, count = self.frames.setdefault(frame, {}).get(track, (0, 0))
                self.frames[frame][track] = total + clip.mask_logits[row, t], count + 1
        self.frames_end = max(self.frames_end, frames[-1] + 1)
        return ids

    def take_window(self, last: bool) -> tuple[dict[int, Array], dict[int, TrackArrays], int]:
        """End the window. Returns class scores (K,) by track, mask logits (h, w) by frame and track, and its length.

        Args:
            last: no clip follows. The window then ends with the last frame.
        """
        start = self.window_start
        end = max(self.frames_end, start) if last else start + self.window
        scores = {track: total / np.float32(count) for track, (total, count) in self.classes.items()}
        means = {f: {i: s / np.float32(n) for i, (s, n) in seen.items()} for f, seen in self.frames.items()}
        masks = {frame: seen for frame, seen in means.items() if frame < end}
        # Masks past the end of the window go to the next window as one observation, their average.
        self.frames = {f: {i: (m, 1) for i, m in seen.items()} for f, seen in means.items() if f >= end}
        newest = list(self.clip_embeddings)
        if len(newest) > self.window_clips:  # the first entry comes from the previous window
            newest[0] = {track: x for track, x in newest[0].items() if track in self.carried_over}
        self.carried_over = {track for seen in self.frames.values() for track in seen}
        self.classes = {track: (scores[track], 1) for track in self.carried_over}
        self.clip_embeddings.clear()
        self.clip_embeddings.append(average_embeddings(newest))
        self.window_clips, self.window_start = 0, end
        return scores, masks, end - start

    def _assign(self, frames: range, clip: Detections) -> list[int]:
        number = len(clip.class_scores)
        if not number:
            return []
        shared = [(t, self.frames[frame]) for t, frame in enumerate(frames) if self.frames.get(frame)]
        age = self.clips - np.array(self.last_seen)
        long, short = (age < frames // self.stride for frames in self.memory)
        tracks = sorted({*np.flatnonzero(long | short).tolist(), *(i for _, seen in shared for i in seen)})
        iou = pooled_iou(tracks, shared, clip.mask_logits)
        similarity = np.zeros((len(tracks), number), np.float32)
        if tracks:
            long, short = long[tracks], short[tracks]
            embeddings = np.stack([self.embeddings[track] for track in tracks])
            similarity[long] = bi_softmax(embeddings[long], clip.embeddings)
            similarity[short] = (similarity[short] + bi_softmax(embeddings[short], clip.embeddings)) / 2
        scores = self.weights[0] * iou + self.weights[1] * similarity
        valid = scores > self.weights[0] * 0.1 + self.weights[1] * 0.5
        ids = [-1] * number
        for row, column in zip(*linear_sum_assignment(np.where(valid, scores, 0), maximize=True), strict=True):
            if valid[row, column]:
                ids[column] = tracks[row]
        known = ((iou > 0.4) | (similarity > 0.6)).any(0)  # probably an existing track
        new = len(self.last_seen)
        for i in range(number):
            if ids[i] < 0 and not known[i] and clip.class_scores[i].max() > 2 * self.threshold:
                ids[i], new = new, new + 1
        return ids


def average_embeddings(clip_embeddings: list[TrackArrays]) -> TrackArrays:
    """Weighted mean of the embeddings of every track over the clips that have it; later clips weigh more."""
    means = {}
    for track in {track for embeddings in clip_embeddings for track in embeddings}:
        seen = [(math.exp(0.25 * age), s[track]) for age, s in enumerate(clip_embeddings) if track in s]
        means[track] = sum(np.float32(w) * x for w, x in seen) / np.float32(sum(w for w, _ in seen))
    return means


def pooled_iou(tracks: list[int], shared: list[tuple[int, dict]], logits: Array) -> Array:
    """IoU (N, D) of tracks and detections, pooled over the frames of the clip in which any track has a mask."""
    overlap = np.zeros((len(tracks), len(logits)), np.float32)
    track_area, area = np.zeros((len(tracks), 1), np.float32), np.zeros(len(logits), np.float32)
    for t, seen in shared:
        rows = np.searchsorted(tracks, list(seen))
        track_masks = np.stack([total.reshape(-1) > 0 for total, _ in seen.values()]).astype(np.float32)  # (S, h·w)
        masks = (logits[:, t].reshape(len(logits), -1) > 0).astype(np.float32)  # (D, h·w)
        overlap[rows] += track_masks @ masks.T
        track_area[rows] += track_masks.sum(1, keepdims=True)
        area += masks.sum(1)
    return overlap / (track_area + area - overlap + np.float32(1e-6))


def bi_softmax(tracks: Array, detections: Array) -> Array:
    """Similarity (N, D) of embeddings: mean of the softmax over tracks and over detections of their dot products."""
    dots = tracks @ detections.T
    if not dots.size:
        return dots
    over_tracks, over_detections = softmax(dots, 0), softmax(dots, 1)
    if len(tracks) == 1 and len(detections) > 1:
        return over_detections
    if len(detections) == 1 and len(tracks) > 1:
        return over_tracks
    return (over_tracks + over_detections) / 2
