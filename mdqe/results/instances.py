"""`VideoInstances`: the instances found in a video, their masks held as run lengths."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mdqe.atomic import whole_file
from mdqe.errors import DependencyError, InputError
from mdqe.results import rle
from mdqe.results.document import from_document, to_document


@dataclass(frozen=True, eq=False, repr=False)
class VideoInstances:
    """N instances of a video, or of a window of one, over T frames of H x W pixels.

    Attributes:
        scores: (N,) floats in 0..1.
        labels: (N,) integers, indices into `categories`.
        track_ids: (N,) integers that persist over the whole video. An id stands in several rows only where one track is
            reported with several classes.
        runs: (N, T) objects: the compressed COCO run lengths of each mask (`mdqe.results.rle`), None where absent.
        size: (H, W) of every mask and frame.
        boxes: (N, T, 4) float32, xyxy in pixels, right and bottom exclusive, NaN where absent: the tight boxes of the
            masks, computed from them when not given.
        categories: names by label; may be empty.
        category_ids: the data set's ids by label; may be empty.
        fps: frames per second, None where unknown.
        first_frame: index in the video of the first of the T frames.

    `len(result)` is N. An index (a number, slice, boolean or integer array) selects instances and gives a
    `VideoInstances`.
    """

    scores: np.ndarray
    labels: np.ndarray
    track_ids: np.ndarray
    runs: np.ndarray
    size: tuple[int, int]
    boxes: np.ndarray = None  # type: ignore[assignment]  # filled in below
    categories: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    fps: float | None = None
    first_frame: int = 0

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("scores", _array(self.scores, np.floating, np.float64))
        put("labels", _array(self.labels, np.integer, np.int64))
        put("track_ids", _array(self.track_ids, np.integer, np.int64))
        put("size", (int(self.size[0]), int(self.size[1])))
        put("categories", tuple(self.categories))
        put("category_ids", tuple(int(i) for i in self.category_ids))
        if self.runs.ndim != 2:
            raise ValueError(f"runs have shape {self.runs.shape}; expected (instances, frames)")
        if self.boxes is None:
            put("boxes", _boxes(self.runs, self.size))
        number = len(self.runs)
        shapes = {"scores": (number,), "labels": (number,), "track_ids": (number,), "boxes": (*self.runs.shape, 4)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} have shape {getattr(self, name).shape}; {number} run lengths need {shape}")
        classes = len(self.categories or self.category_ids)
        if classes and number and not 0 <= self.labels.min() <= self.labels.max() < classes:
            raise ValueError(f"labels are {self.labels.min()}..{self.labels.max()}; there are {classes} categories")

    @classmethod
    def from_masks(cls, scores: Any, labels: Any, track_ids: Any, masks: Any, **fields: Any) -> "VideoInstances":
        """Instances from boolean masks.

        Args:
            scores, labels, track_ids: (N,) arrays or tensors.
            masks: (N, T, H, W), an array or tensor, or an iterable of N of (T, H, W); encoded one instance at a time.
                An empty mask counts as absent.
            fields: the further attributes. `size` and `frames` (T) are needed only where an iterable yields nothing.
        """
        shape = getattr(masks, "shape", None)
        frames, size = fields.pop("frames", None), fields.pop("size", None)
        if shape is not None and len(shape) == 4:
            frames, size = shape[1], shape[2:]
        rows, boxes = [], []
        for mask in masks:
            frames, size = mask.shape[0], tuple(mask.shape[1:])
            counts, box = rle.encode_with_boxes(mask)
            absent = np.isnan(box[:, 0])
            boxes.append(box)
            rows.append([None if empty else one for one, empty in zip(counts, absent, strict=True)])
        if frames is None or size is None:
            raise ValueError("no masks: give frames and size")
        runs = np.empty((len(rows), frames), object)
        for row, held in zip(runs, rows, strict=True):
            row[:] = held
        together = np.array(boxes, np.float32).reshape(len(rows), frames, 4)
        return cls(scores, labels, track_ids, runs, size, boxes=together, **fields)

    @classmethod
    def concatenate(
        cls, chunks: Sequence["VideoInstances"], *, scores: Any = None, labels: Any = None, track_ids: Any = None
    ) -> "VideoInstances":
        """One result of consecutive windows of one video. A track is absent in the windows that do not hold it.

        Args:
            chunks: windows in order, at least one.
            scores, labels, track_ids: (N,) of the final rows, given together; a track may stand in several. Without
                them there is one row per track, in order of first appearance, with the score and label of its last
                window.

        Raises:
            ValueError: no windows, windows that do not follow each other, or of different frame sizes.
        """
        if not chunks:
            raise ValueError("no windows to concatenate")
        for before, after in pairwise(chunks):
            if after.size != before.size:
                raise ValueError(f"windows of different sizes: {_edges(before.size)} and {_edges(after.size)}")
            if after.first_frame != before.first_frame + before.num_frames:
                end = before.first_frame + before.num_frames
                raise ValueError(f"a window starts at frame {after.first_frame}; the one before ends at {end}")
        if track_ids is None:
            last = {int(t): (s, c) for w in chunks for t, s, c in zip(w.track_ids, w.scores, w.labels, strict=True)}
            track_ids = list(last)
            scores, labels = [last[t][0] for t in track_ids], [last[t][1] for t in track_ids]
        track_ids = _array(track_ids, np.integer, np.int64)
        frames = sum(w.num_frames for w in chunks)
        runs = np.empty((len(track_ids), frames), object)
        boxes = np.full((len(track_ids), frames, 4), np.nan, np.float32)
        start = 0
        for window in chunks:
            row = {int(t): i for i, t in reversed(list(enumerate(window.track_ids)))}
            held = np.array([int(t) in row for t in track_ids], bool)
            picked = np.array([row[int(t)] for t in track_ids[held]], np.int64)
            runs[held, start : start + window.num_frames] = window.runs[picked]
            boxes[held, start : start + window.num_frames] = window.boxes[picked]
            start += window.num_frames
        return replace(chunks[0], scores=scores, labels=labels, track_ids=track_ids, runs=runs, boxes=boxes)

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, index: Any) -> "VideoInstances":
        if isinstance(index, int | np.integer):
            index = [range(len(self))[index]]  # IndexError where out of range, so iteration ends
        index = np.asarray(index, None if len(index) else int) if not isinstance(index, slice) else index
        rows = {name: getattr(self, name)[index] for name in ("scores", "labels", "track_ids", "runs", "boxes")}
        return replace(self, **rows)

    def __repr__(self) -> str:
        rate = f" at {self.fps:.4g} fps" if self.fps else ""
        lines = [f"VideoInstances: {len(self)} in {self.num_frames} frames of {_edges(self.size)}{rate}"]
        for i in range(min(len(self), 12)):
            seen = np.flatnonzero(self.present[i]) + self.first_frame
            where = f"frames {seen[0]}-{seen[-1]}, visible in {len(seen)}" if len(seen) else "never visible"
            lines.append(f"  track {self.track_ids[i]}  {self.category(i)}  {self.scores[i]:.2f}  {where}")
        if len(self) > 12:
            lines.append(f"  ... {len(self) - 12} more")
        return "\n".join(lines)

    @property
    def num_frames(self) -> int:
        """T."""
        return self.runs.shape[1]

    @property
    def present(self) -> np.ndarray:
        """(N, T) bool: which instance has a mask in which frame."""
        return ~np.isnan(self.boxes[..., 0])

    @property
    def masks(self) -> np.ndarray:
        """(N, T, H, W) bool, decoded anew at each use: hold on to it, or ask for `frame_masks` or `mask`."""
        masks = np.zeros((*self.runs.shape, *self.size), bool)
        for t in range(self.num_frames):
            masks[:, t] = self.frame_masks(t)
        return masks

    def mask(self, instance: int, frame: int) -> np.ndarray:
        """(H, W) bool: one mask, decoding no other. `frame` counts from this result's first."""
        counts = self.runs[instance, frame]
        return np.zeros(self.size, bool) if counts is None else rle.decode([counts], self.size)[0]

    def frame_masks(self, frame: int) -> np.ndarray:
        """(N, H, W) bool: the masks of one frame, counted from this result's first."""
        masks = np.zeros((len(self), *self.size), bool)
        held = self.present[:, frame]
        masks[held] = rle.decode(list(self.runs[held, frame]), self.size)
        return masks

    def above(self, score: float) -> "VideoInstances":
        """The instances whose score is at least `score`."""
        return self[self.scores >= score]

    def category(self, instance: int) -> str:
        """The name of an instance's class; "class K" where names are unknown."""
        label = int(self.labels[instance])
        return self.categories[label] if self.categories else f"class {label}"

    def to_ytvis(self, video_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Results of this video in the YouTube-VIS form, each with its `track_id` besides.

        Args:
            video_id: the data set's id of the video.
            category_ids: the data set's ids by label; this result's own by default, else label + 1.
        """
        ids = self.category_ids if category_ids is None else category_ids
        if len(ids) and len(self) and self.labels.max() >= len(ids):
            raise ValueError(f"category_ids has {len(ids)} entries; labels go up to {self.labels.max()}")
        return [
            {
                "video_id": video_id,
                "category_id": int(ids[self.labels[i]]) if len(ids) else int(self.labels[i]) + 1,
                "score": float(self.scores[i]),
                "track_id": int(self.track_ids[i]),
                "segmentations": [None if c is None else rle.to_coco(c, self.size) for c in self.runs[i]],
            }
            for i in range(len(self))
        ]

    def to_supervision(self, frame: int) -> Any:
        """The instances of one frame (counted from this result's first) as `supervision.Detections`.

        Raises:
            ImportError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise DependencyError("to_supervision needs supervision: pip install 'mdqe[viz]'") from None
        seen = self[self.present[:, frame]]
        return supervision.Detections(
            xyxy=seen.boxes[:, frame],
            mask=seen.frame_masks(frame),
            confidence=seen.scores,
            class_id=seen.labels,
            tracker_id=seen.track_ids,
            data={"class_name": np.array([seen.category(i) for i in range(len(seen))], dtype=str)},
        )

    def save(self, path: str | Path, **notes: Any) -> None:
        """Write as JSON, whole or not at all; `load` reads it back.

        The list "results" in it is what `to_ytvis(1)` gives, with the category's name in each entry. `notes` are
        further entries of the file that JSON can hold, such as the settings that were used.
        """
        document = to_document(self, notes)
        with whole_file(path) as partial:
            partial.write_text(json.dumps(document, separators=(",", ":"), allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "VideoInstances":
        """Read what `save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not such a file, or of a newer version.
        """
        try:
            return cls(**from_document(json.loads(Path(path).read_text(encoding="utf-8"))))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
            reason = f"no entry {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise InputError(f"{path} does not hold saved instances: {reason}") from error


def _array(values: Any, kind: type, default: type) -> np.ndarray:
    """A NumPy array of that kind of number, from a sequence, an array or a tensor."""
    array = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    return array if np.issubdtype(array.dtype, kind) else array.astype(default)


def _boxes(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N, T, 4) tight boxes of run lengths (N, T), NaN where absent; one instance at a time, to bound the memory."""
    boxes = np.full((*runs.shape, 4), np.nan, np.float32)
    for row, box in zip(runs, boxes, strict=True):
        held = [t for t, counts in enumerate(row) if counts is not None]
        box[held] = rle.boxes(list(row[held]), size)
    return boxes


def _edges(size: tuple[int, int]) -> str:
    """A size (H, W) the way people write it, width first."""
    return f"{size[1]}x{size[0]}"
