"""`mdqe.link`: identities for the detections of all frames of a video."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mdqe.errors import InputError
from mdqe.inference.frame_masks import read_masks
from mdqe.inference.linker import Linker, read_embeddings, read_values, unpack
from mdqe.inference.rejoin import Observations
from mdqe.inference.rejoin import rejoin as join
from mdqe.results.instances import VideoInstances


def link(
    masks: Iterable[Any],
    *,
    scores: Iterable[Any] | None = None,
    labels: Iterable[Any] | None = None,
    embeddings: Iterable[Any] | None = None,
    max_absence: int = 30,
    rejoin: bool = False,
    start_score: float = 0.5,
    logits: bool = False,
    size: tuple[int, int] | None = None,
    categories: Sequence[str] = (),
    fps: float | None = None,
) -> VideoInstances:
    """Link the detections of the frames of a video to instances with ids that persist.

    The frames are read one after the other, so `masks` may be a generator. The masks of the result are the given ones;
    frames in which an object was not detected stay empty.

    Args:
        masks, scores, labels, embeddings: for each frame, the arguments of `Linker.push`.
        max_absence, start_score, logits, size: as in `Linker`.
        rejoin: afterwards, join tracks over the whole video if the motion at their ends, their sizes, labels and
            embeddings agree. The longer an object was absent, the better they must agree; after more than 273 frames
            of absence, tracks are not joined.
        categories: names of the labels.
        fps: frames per second, for the result.

    Returns:
        One row per id, with the mean score and the most frequent label of its detections. Without labels, all labels
        are 0.

    Raises:
        InputError: as `Linker.push`, with the number of the frame; no frame, or other numbers of frames.
    """
    linker = Linker(max_absence=max_absence, start_score=start_score, logits=logits, size=size)
    collected = _Collected()
    given = {"scores": scores, "labels": labels, "embeddings": embeddings}
    others = {name: iter(values) for name, values in given.items() if values is not None}
    frame = -1
    for frame, one in enumerate(masks):
        values = {name: _next(name, rest, frame) for name, rest in others.items()}
        try:
            collected.add(frame, linker, one, **values)
        except InputError as error:
            raise InputError(f"frame {frame}: {error}") from None
    for name, rest in others.items():
        if next(rest, others) is not others:
            raise InputError(f"{name} has more frames than masks, which has {frame + 1}")
    if frame < 0:
        raise InputError("masks has no frames")
    if linker.size is None:
        raise InputError("no frame has masks; size=(height, width) is needed for a result without instances")
    return collected.result(frame + 1, linker, rejoin, tuple(categories), fps)


def _next(name: str, values: Any, frame: int) -> Any:
    end = object()
    value = next(values, end)
    if value is end:
        raise InputError(f"{name} has {frame} frames, and masks has more")
    return value


class _Collected:
    """The detections that have an id."""

    def __init__(self) -> None:
        self.frames: list[int] = []
        self.ids: list[int] = []
        self.counts: list[str] = []
        self.rows: list[tuple[float, int, float, float, float]] = []  # score, label, centre and area
        self.embeddings: dict[int, np.ndarray] = {}  # sums

    def add(
        self, frame: int, linker: Linker, masks: Any, scores: Any = None, labels: Any = None, embeddings: Any = None
    ) -> None:
        """Link a frame and keep its detections."""
        masks, scores, labels = unpack(masks, scores, labels)
        read = read_masks(masks, linker.size, logits=linker.logits)
        ids, sampled = linker.push_masks(read, scores, labels, embeddings)
        kept = np.flatnonzero(ids >= 0)
        if sampled is None or not len(kept):
            return
        confidence, classes = (read_values(x, "", len(ids), d) for x, d in ((scores, 1.0), (labels, -1.0)))
        counts = read.encode()
        centres = (sampled.boxes[:, :2] + sampled.boxes[:, 2:]) / 2
        vectors = None if embeddings is None else read_embeddings(embeddings, len(ids), None)
        for d in kept:
            self.frames.append(frame)
            self.ids.append(int(ids[d]))
            self.counts.append(counts[d])
            self.rows.append((confidence[d], int(classes[d]), *centres[d], sampled.areas[d]))
            if vectors is not None:
                self.embeddings[int(ids[d])] = self.embeddings.get(int(ids[d]), 0) + vectors[d]

    def result(
        self, frames: int, linker: Linker, rejoin: bool, categories: tuple[str, ...], fps: float | None
    ) -> VideoInstances:
        """The instances of all frames."""
        values = np.array(self.rows, np.float64).reshape(-1, 5)
        track_ids, tracks = np.unique(np.array(self.ids, np.int64), return_inverse=True)
        times = np.array(self.frames, np.int64)
        labels = _most_frequent(tracks, values[:, 1].astype(np.int64), len(track_ids))
        if rejoin and len(track_ids):
            vectors = np.array([self.embeddings.get(int(i), np.zeros(0)) for i in track_ids])
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
            origin = join(Observations(times, tracks, values[:, 2:4], values[:, 4]), labels, vectors)
            kept, tracks = np.unique(origin[tracks], return_inverse=True)
            track_ids = track_ids[kept]
            labels = _most_frequent(tracks, values[:, 1].astype(np.int64), len(track_ids))
        number = np.bincount(tracks, minlength=len(track_ids))
        scores = np.bincount(tracks, values[:, 0], len(track_ids)) / number.clip(1)
        rles = np.empty((len(track_ids), frames), object)
        for track, time, counts in zip(tracks, times, self.counts, strict=True):
            rles[track, time] = counts
        assert linker.size is not None
        return VideoInstances(scores, labels.clip(0), track_ids, rles, linker.size, categories=categories, fps=fps)


def _most_frequent(tracks: np.ndarray, labels: np.ndarray, number: int) -> np.ndarray:
    """The most frequent label (N,) of each track; the smallest one of several."""
    values, places = np.unique(labels, return_inverse=True)
    votes = np.zeros((number, max(len(values), 1)), np.int64)
    np.add.at(votes, (tracks, places), 1)
    return values[votes.argmax(axis=1)] if len(values) else np.zeros(number, np.int64)
