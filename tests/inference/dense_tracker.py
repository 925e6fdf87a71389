"""An independent tracker for comparison: it keeps all clips and computes each rule from its definition."""

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass
class Observation:
    """The data of a track in one clip, or its averages over everything before the window."""

    scores: np.ndarray
    logits: dict[int, np.ndarray] = field(default_factory=dict)  # by frame
    embedding: np.ndarray | None = None


class DenseTracker:
    def __init__(self, clip_length: int, stride: int, window: int, threshold: float) -> None:
        self.length, self.stride, self.window, self.threshold = clip_length, stride, window, threshold
        self.start = self.clip = 0
        self.window_clips: list[dict[int, Observation]] = []  # the first may be the averages carried into the window
        self.covered: set[int] = set()
        self.embedding: dict[int, np.ndarray] = {}  # by track, for matching
        self.seen: dict[int, int] = {}  # by track, the last clip with it

    def update(self, frames, scores, logits, embeddings) -> list[int]:
        scores, logits, embeddings = (x.double().numpy() for x in (scores, logits, embeddings))
        ids = self.assign(frames, scores, logits, embeddings)
        clip = {}
        for d, track in enumerate(ids):
            if track >= 0:
                by_frame = {frame: logits[d, t] for t, frame in enumerate(frames)}
                clip[track] = Observation(scores[d], by_frame, embeddings[d])
        self.window_clips.append(clip)
        self.covered |= set(frames)
        for track in clip:
            self.seen[track] = self.clip
            self.embedding[track] = self.weighted([c.get(track) for c in self.window_clips[-3:]])
        self.clip += 1
        return ids

    def assign(self, frames, scores, logits, embeddings) -> list[int]:
        if not self.seen:
            return list(range(len(scores)))
        if not len(scores):
            return []
        iou = np.array([[self.iou(n, frames, logits[d]) for d in range(len(scores))] for n in sorted(self.seen)])
        similarity = self.similarity(embeddings)
        total = iou + similarity
        total[~(total > 0.6)] = 0
        ids = [-1] * len(scores)
        for n, d in zip(*linear_sum_assignment(-total), strict=True):
            if total[n, d] > 0:
                ids[d] = int(n)
        born = len(self.seen)
        for d in range(len(scores)):
            repeats = (iou[:, d] > 0.4).any() or (similarity[:, d] > 0.6).any()
            if ids[d] < 0 and not repeats and scores[d].max() > 2 * self.threshold:
                ids[d] = born
                born += 1
        return ids

    def average(self, track: int, frame: int) -> np.ndarray | None:
        logits = [c[track].logits[frame] for c in self.window_clips if track in c and frame in c[track].logits]
        return np.mean(logits, axis=0) if logits else None

    def iou(self, track: int, frames, logits) -> float:
        intersection = union = 0
        for t, frame in enumerate(frames):
            if any(self.average(other, frame) is not None for other in self.seen):
                average, b = self.average(track, frame), logits[t] > 0
                a = np.zeros_like(b) if average is None else average > 0
                intersection, union = intersection + (a & b).sum(), union + (a | b).sum()
        return intersection / (union + 1e-6)

    def similarity(self, embeddings) -> np.ndarray:
        result = np.zeros((len(self.seen), len(embeddings)))
        age = np.array([self.clip - 1 - self.seen[n] for n in sorted(self.seen)])
        long = np.flatnonzero(age < 15 // self.stride)
        short = np.flatnonzero(age < max(self.length, 5) // self.stride)
        for tracks, blend in ((long, lambda old, new: new), (short, lambda old, new: (old + new) / 2)):
            if len(tracks):
                dots = np.stack([self.embedding[n] for n in tracks]) @ embeddings.T
                ways = [softmax(dots, axis) for axis in (0, 1) if dots.shape[axis] > 1] or [np.ones((1, 1))]
                result[tracks] = blend(result[tracks], sum(ways) / len(ways))
        return result

    @staticmethod
    def weighted(observations) -> np.ndarray | None:
        pairs = [(np.exp(i / 4), o.embedding) for i, o in enumerate(observations) if o and o.embedding is not None]
        return sum(w * e for w, e in pairs) / sum(w for w, _ in pairs) if pairs else None

    def flush(self, last: bool, size: tuple[int, int], classes: int) -> tuple[np.ndarray, np.ndarray]:
        end = max(self.covered) + 1 if last else self.start + self.window
        scores, masks = np.zeros((len(self.seen), classes)), np.zeros((len(self.seen), end - self.start, *size))
        carried = {}
        recent = self.window_clips[-max(3, (self.length - 1) // self.stride) :]
        for track in self.seen:
            counted = [c[track].scores for c in self.window_clips if track in c and c[track].logits]
            if counted:
                scores[track] = np.mean(counted, axis=0)
            for frame in range(self.start, end):
                average = self.average(track, frame)
                if average is not None:
                    masks[track, frame - self.start] = average
            past = {f: self.average(track, f) for f in self.covered if f >= end}
            embedding = self.weighted([c[track] if track in c and c[track].logits else None for c in recent])
            carried[track] = Observation(scores[track], {f: m for f, m in past.items() if m is not None}, embedding)
        self.window_clips = [carried]
        self.covered = {frame for frame in self.covered if frame >= end}
        self.start = end
        return scores, masks


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)
