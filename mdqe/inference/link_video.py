"""`mdqe.link`: identities for the detections of all frames of a video."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mdqe.errors import InputError
from mdqe.inference.exchanges import Observations, edge_kinds, undo_exchanges
from mdqe.inference.frame_masks import read_masks
from mdqe.inference.linker import Linker, read_embeddings, read_values, unpack
from mdqe.inference.rejoin import most_frequent
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
        rejoin: afterwards, correct the ids over the whole video. Exchanges of the ids of two objects are undone if both
            then move more smoothly and their silhouettes agree better, unless the detector misses more than 1 % of the
            visible objects. Then tracks are joined if the motion at their ends, their sizes, labels and embeddings
            agree. The longer an object was absent, the better they must agree; after more than 273 frames of absence,
            tracks are not joined.
        categories: names of the labels.
        fps: frames per second, for the result.

    Returns:
        One row per id, with the mean score of its detections and the most frequent of their known labels; 0 if none is
        known.

    Raises:
        InputError: as `Linker.push`, with the number of the frame; no frame, other numbers of frames, or a label
            without a category.
    """
    linker = Linker(max_absence=max_absence, start_score=start_score, logits=logits, size=size)
    collected = _Collected(rejoin, len(categories))
    given = {"scores": scores, "labels": labels, "embeddings": embeddings}
    others = {name: _iterator(name, values) for name, values in given.items() if values is not None}
    frame = -1
    for frame, one in enumerate(_iterator("masks", masks)):
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
    return collected.result(frame + 1, linker, tuple(categories), fps)


def _iterator(name: str, values: Any) -> Any:
    try:
        return iter(values)
    except TypeError:
        raise InputError(f"{name} is {str(values)[:40]}, expected an entry for each frame") from None


def _next(name: str, values: Any, frame: int) -> Any:
    end = object()
    value = next(values, end)
    if value is end:
        raise InputError(f"{name} has {frame} frames, and masks has more")
    return value


class _Collected:
    """The detections that have an id.

    Args:
        rejoin: whether their ids are corrected afterwards.
        categories: their number; 0 if labels are without names.
    """

    def __init__(self, rejoin: bool, categories: int) -> None:
        self.rejoin, self.categories = rejoin, categories
        self.frames: list[int] = []
        self.ids: list[int] = []
        self.counts: list[str] = []
        self.values: list[tuple[float, int]] = []  # score and label
        self.measures: list[tuple[np.ndarray, float, np.ndarray, np.ndarray]] = []  # box, area, edges and embedding
        self.points: list[np.ndarray] = []  # as in `Observations`
        self.shape = 1, 1  # of the grid

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
        if self.categories and classes.max() >= self.categories:
            raise InputError(f"a label is {int(classes.max())}, expected less than {self.categories}, the categories")
        counts = read.encode()
        for d in kept:
            self.frames.append(frame)
            self.ids.append(int(ids[d]))
            self.counts.append(counts[d])
            self.values.append((confidence[d], int(classes[d])))
        if self.rejoin:
            edges, vectors = edge_kinds(sampled), read_embeddings(embeddings, len(ids), None)
            self.measures += [(sampled.boxes[d], sampled.areas[d], edges[d], vectors[d]) for d in kept]
            self.points += sampled.places_of(kept)
            self.shape = sampled.shape

    def result(self, frames: int, linker: Linker, categories: tuple[str, ...], fps: float | None) -> VideoInstances:
        """The instances of all frames."""
        values = np.array(self.values, np.float64).reshape(-1, 2)
        track_ids, tracks = np.unique(np.array(self.ids, np.int64), return_inverse=True)
        times, classes = np.array(self.frames, np.int64), values[:, 1].astype(np.int64)
        assert linker.size is not None
        if self.rejoin and len(track_ids):
            boxes, areas, edges, vectors = (np.array(one) for one in zip(*self.measures, strict=True))
            points = np.fromiter(self.points, object, len(self.points))
            found = Observations(times, tracks, boxes, areas, edges, classes, vectors, points)
            kept, tracks = np.unique(undo_exchanges(found, self.shape, linker.size), return_inverse=True)
            found, track_ids = found._replace(tracks=tracks), track_ids[kept]
            kept, tracks = np.unique(join(found)[tracks], return_inverse=True)
            track_ids = track_ids[kept]
        labels = most_frequent(tracks, classes, len(track_ids))
        number = np.bincount(tracks, minlength=len(track_ids))
        scores = np.bincount(tracks, values[:, 0], len(track_ids)) / number.clip(1)
        rles = np.empty((len(track_ids), frames), object)
        for track, time, counts in zip(tracks, times, self.counts, strict=True):
            rles[track, time] = counts
        return VideoInstances(scores, labels.clip(0), track_ids, rles, linker.size, categories=categories, fps=fps)
