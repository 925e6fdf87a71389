"""`VideoInstances`: the instances of a video, with their masks as run-length encodings (RLE), and their JSON file."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mdqe.errors import DependencyError, InputError, printable
from mdqe.files import read_json, whole_file
from mdqe.results import rle

FORMAT, VERSION = "mdqe-instances", 1


@dataclass(frozen=True, eq=False, repr=False)
class VideoInstances:
    """N instances of a video, or of a window of one, over T frames of H x W pixels.

    Attributes:
        scores: (N,) floats in 0..1.
        labels: (N,) integers, indices into `categories`.
        track_ids: (N,) integers that persist over the whole video. Several rows have the same id only if a track is
            reported with several classes.
        rles: (N, T) objects: each mask as a compressed COCO RLE string (`mdqe.results.rle`), None where absent.
        size: (H, W) of every mask and frame.
        boxes: (N, T, 4) float32, xyxy in pixels, right and bottom exclusive, NaN where absent: the tight boxes of the
            masks. They are computed from the masks if not given.
        categories: names by label; may be empty.
        category_ids: category ids of the data set by label; may be empty.
        fps: frames per second; None if unknown.
        first_frame: index in the video of the first of the T frames.

    `len(result)` is N. An index (number, slice, boolean or integer array) selects instances and returns a
    `VideoInstances`.
    """

    scores: np.ndarray
    labels: np.ndarray
    track_ids: np.ndarray
    rles: np.ndarray
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
        if self.rles.ndim != 2:
            raise ValueError(f"rles have shape {self.rles.shape}; expected (instances, frames)")
        if self.boxes is None:
            put("boxes", _boxes(self.rles, self.size))
        number = len(self.rles)
        shapes = {"scores": (number,), "labels": (number,), "track_ids": (number,), "boxes": (*self.rles.shape, 4)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} have shape {getattr(self, name).shape}; {number} rows of rles need {shape}")
        classes = len(self.categories or self.category_ids)
        if classes and number and not 0 <= self.labels.min() <= self.labels.max() < classes:
            raise ValueError(f"labels are {self.labels.min()}..{self.labels.max()}; there are {classes} categories")

    @classmethod
    def from_masks(cls, scores: Any, labels: Any, track_ids: Any, masks: Any, **fields: Any) -> "VideoInstances":
        """Create instances from boolean masks.

        Args:
            scores, labels, track_ids: (N,) arrays or tensors.
            masks: (N, T, H, W), an array or tensor, or an iterable of N arrays (T, H, W) or of chunks (n, T, H, W) of
                them, arrays or tensors, which are encoded one by one. An empty mask counts as absent.
            fields: the other attributes. `size` and `frames` (T) are needed only if an iterable may be empty.
        """
        shape = getattr(masks, "shape", None)
        frames, size = fields.pop("frames", None), fields.pop("size", None)
        if shape is not None and len(shape) == 4:
            frames, size = shape[1], shape[2:]
        rows, boxes = [], []
        for mask in masks:
            frames, size = mask.shape[-3], tuple(mask.shape[-2:])
            encoded, box = rle.encode_with_boxes(mask.reshape(math.prod(mask.shape[:-2]), *size))
            absent = np.isnan(box[:, 0])
            rows += [None if empty else counts for counts, empty in zip(encoded, absent, strict=True)]
            boxes.append(box)
        if frames is None or size is None:
            raise ValueError("no masks: give frames and size")
        rles = np.array(rows, object).reshape(len(rows) // frames if frames else len(scores), frames)
        corners = np.concatenate([*boxes, np.zeros((0, 4), np.float32)]).reshape(*rles.shape, 4)
        return cls(scores, labels, track_ids, rles, size, corners, **fields)

    @classmethod
    def concatenate(
        cls, chunks: Sequence["VideoInstances"], *, scores: Any = None, labels: Any = None, track_ids: Any = None
    ) -> "VideoInstances":
        """Join consecutive windows of one video. A track is absent in the windows that do not contain it.

        Args:
            chunks: windows in order, at least one.
            scores, labels, track_ids: (N,) of the rows of the result, given together; see `rows`. Default: one row per
                track in order of first appearance, with the score and label of its last window.

        Raises:
            ValueError: no windows, gaps between windows, or windows of different frame sizes.
        """
        if not chunks:
            raise ValueError("no windows to concatenate")
        for before, after in pairwise(chunks):
            if after.size != before.size:
                raise ValueError(f"windows of different sizes: {_edges(before.size)} and {_edges(after.size)}")
            end = before.first_frame + before.num_frames
            if after.first_frame != end:
                raise ValueError(f"a window starts at frame {after.first_frame}; the one before ends at {end}")
        if track_ids is None:
            last = {int(t): (s, c) for w in chunks for t, s, c in zip(w.track_ids, w.scores, w.labels, strict=True)}
            track_ids = list(last)
            scores, labels = [last[t][0] for t in track_ids], [last[t][1] for t in track_ids]
        parts = [window.rows(track_ids, scores, labels) for window in chunks]
        rles, boxes = (np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("rles", "boxes"))
        return replace(parts[0], rles=rles, boxes=boxes)

    def rows(self, track_ids: Any, scores: Any, labels: Any) -> "VideoInstances":
        """Return new rows (M,) with the masks of these tracks; a track may have several rows.

        A track that is not in this result is absent in all frames. If it has several rows, the first one is used.
        """
        track_ids = _array(track_ids, np.integer, np.int64)
        order = np.argsort(self.track_ids, kind="stable")
        known = np.isin(track_ids, self.track_ids)
        source = order[np.searchsorted(self.track_ids[order], track_ids[known])]
        rles = np.empty((len(track_ids), self.num_frames), object)
        boxes = np.full((*rles.shape, 4), np.nan, np.float32)
        rles[known], boxes[known] = self.rles[source], self.boxes[source]
        return replace(self, scores=scores, labels=labels, track_ids=track_ids, rles=rles, boxes=boxes)

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, index: Any) -> "VideoInstances":
        if isinstance(index, int | np.integer):
            index = [range(len(self))[index]]  # IndexError where out of range, so iteration ends
        index = np.asarray(index, None if len(index) else int) if not isinstance(index, slice) else index
        rows = {name: getattr(self, name)[index] for name in ("scores", "labels", "track_ids", "rles", "boxes")}
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
        return self.rles.shape[1]

    @property
    def present(self) -> np.ndarray:
        """(N, T) bool: whether an instance has a mask in a frame."""
        return ~np.isnan(self.boxes[..., 0])

    @property
    def masks(self) -> np.ndarray:
        """(N, T, H, W) bool. Every access decodes all masks; see `frame_masks` and `mask` for a part of them."""
        masks = np.zeros((*self.rles.shape, *self.size), bool)
        for t in range(self.num_frames):
            masks[:, t] = self.frame_masks(t)
        return masks

    def mask(self, instance: int, frame: int) -> np.ndarray:
        """(H, W) bool: one mask. `frame` 0 is the first frame of this result."""
        counts = self.rles[instance, frame]
        return np.zeros(self.size, bool) if counts is None else rle.decode([counts], self.size)[0]

    def frame_masks(self, frame: int) -> np.ndarray:
        """(N, H, W) bool: the masks of one frame. `frame` 0 is the first frame of this result."""
        masks = np.zeros((len(self), *self.size), bool)
        present = self.present[:, frame]
        masks[present] = rle.decode(list(self.rles[present, frame]), self.size)
        return masks

    def above(self, score: float) -> "VideoInstances":
        """The instances whose score is at least `score`."""
        return self[self.scores >= score]

    def category(self, instance: int) -> str:
        """The class name of an instance; "class K" if names are unknown."""
        label = int(self.labels[instance])
        return self.categories[label] if self.categories else f"class {label}"

    def to_ytvis(self, video_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Return the results in the YouTube-VIS format, with an additional `track_id`.

        Args:
            video_id: id of the video in the data set.
            category_ids: category ids of the data set by label. Default: `category_ids` of this result, or label + 1.
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
                "segmentations": [None if c is None else rle.to_coco(c, self.size) for c in self.rles[i]],
            }
            for i in range(len(self))
        ]

    def to_supervision(self, frame: int) -> Any:
        """Return the instances of one frame as `supervision.Detections`. `frame` 0 is the first frame of this result.

        Raises:
            DependencyError: supervision is not installed.
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
        """Write a JSON file for `load`, completely or not at all.

        Its list "results" is `to_ytvis(1)` with the category name in each entry. `notes` are additional entries of the
        file with values that JSON can hold, such as settings.
        """
        height, width = self.size
        video = {"id": 1, "height": height, "width": width, "length": self.num_frames}
        ids = self.category_ids or range(1, len(self.categories) + 1)
        document = {
            "format": FORMAT,
            "version": VERSION,
            "video": video | {"first_frame": self.first_frame, "fps": self.fps},
            "categories": [
                {"id": k} | ({"name": self.categories[i]} if self.categories else {}) for i, k in enumerate(ids)
            ],
        }
        if taken := sorted((document.keys() | {"results"}) & notes.keys()):
            raise InputError(f"notes must not replace entries of the format: {', '.join(taken)}")
        document |= notes | {"results": [{"category": self.category(i)} | r for i, r in enumerate(self.to_ytvis(1))]}
        with whole_file(path) as partial:
            partial.write_text(json.dumps(document, separators=(",", ":"), allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "VideoInstances":
        """Read a file written by `save`.

        Raises:
            OSError: the file cannot be read.
            InputError: the file is damaged, of another format or of a newer version.
        """
        document = read_json(path, max_bytes=None)
        try:
            return cls(**_fields(document))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
            reason = f"no entry {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise InputError(f"{path} does not hold saved instances: {printable(reason, 300)}") from error


def _fields(document: Any) -> dict[str, Any]:
    """The fields of the `VideoInstances` in a document that `VideoInstances.save` wrote.

    Raises:
        ValueError, KeyError, TypeError: another format, a newer version or damage.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f'expected an object with "format": "{FORMAT}"')
    if document["version"] != VERSION:
        raise ValueError(f"version {document['version']}; this library reads version {VERSION}")
    video, categories, rows = document["video"], document["categories"], document["results"]
    for key in ("height", "width", "length", "first_frame"):
        if type(video[key]) is not int or not 0 <= video[key] < 2**31:
            raise ValueError(f"{key} of the video is {str(video[key])[:40]!r}; expected a whole number from 0")
    if video["fps"] is not None and not (type(video["fps"]) in (int, float) and 0 < video["fps"] < math.inf):
        raise ValueError(f"fps of the video is {str(video['fps'])[:40]!r}; expected a number above 0 or null")
    size, frames = (video["height"], video["width"]), video["length"]
    labels = {category["id"]: k for k, category in enumerate(categories)}
    rles = np.empty((len(rows), frames), object)
    for i, row in enumerate(rows):
        if len(row["segmentations"]) != frames:
            raise ValueError(f"result {i} has {len(row['segmentations'])} masks; the video has {frames} frames")
        if type(row["score"]) not in (int, float) or not math.isfinite(row["score"]):
            raise ValueError(f"the score of result {i} is {str(row['score'])[:40]!r}; expected a finite number")
        if type(row["track_id"]) is not int or type(row["category_id"]) is not int:
            raise ValueError(f"the track_id or category_id of result {i} is not a whole number")
        if labels and row["category_id"] not in labels:
            raise ValueError(f"result {i} has the category id {row['category_id']}, which is not listed")
        for t, mask in enumerate(row["segmentations"]):
            if mask is not None:
                rles[i, t], mask_size = rle.from_coco(mask)
                if mask_size != size:
                    raise ValueError(f"a mask of result {i} is {list(mask_size)}; the video is {list(size)}")
    return {
        "scores": np.array([row["score"] for row in rows], np.float64),
        "labels": np.array([labels.get(row["category_id"], row["category_id"] - 1) for row in rows], np.int64),
        "track_ids": np.array([row["track_id"] for row in rows], np.int64),
        "rles": rles,
        "size": size,
        "categories": tuple(category["name"] for category in categories if "name" in category),
        "category_ids": tuple(category["id"] for category in categories),
        "fps": video["fps"],
        "first_frame": video["first_frame"],
    }


def _array(values: Any, kind: type, default: type) -> np.ndarray:
    """Convert a sequence, array or tensor to a NumPy array of this kind of number."""
    array = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    return array if np.issubdtype(array.dtype, kind) else array.astype(default)


def _boxes(rles: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Tight boxes (N, T, 4) of RLE masks (N, T), NaN where absent; one instance at a time, to bound the memory."""
    boxes = np.full((*rles.shape, 4), np.nan, np.float32)
    for row, box in zip(rles, boxes, strict=True):
        present = [t for t, counts in enumerate(row) if counts is not None]
        box[present] = rle.boxes(list(row[present]), size)
    return boxes


def _edges(size: tuple[int, int]) -> str:
    """Format a size (H, W) as WIDTHxHEIGHT."""
    return f"{size[1]}x{size[0]}"
