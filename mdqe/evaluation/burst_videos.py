"""The videos of BURST, prepared for comparison: which masks count, and how much the masks of each frame overlap."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mdqe.annotations.burst import Burst, BurstMask, BurstSequence, frame_number
from mdqe.annotations.masks import coco_boxes
from mdqe.annotations.records import Record
from mdqe.errors import InputError
from mdqe.evaluation.overlap import frame_overlap
from mdqe.results import rle

DISTRACTORS = frozenset((
    20, 63, 108, 180, 188, 204, 212, 247, 303, 403, 407, 415, 490, 504, 507, 513, 529, 567, 569, 588, 672,
    691, 702, 708, 711, 720, 736, 737, 798, 813, 815, 827, 831, 851, 877, 883, 912, 971, 976, 1130, 1133,
    1134, 1169, 1184, 1220,
))  # fmt: skip
"""Categories whose annotations are left out."""
MERGED = {504: 347, 720: 347, 912: 529, 967: 529, 207: 554, 153: 943, 201: 1175}
"""Categories that count as another one."""
MERGED_NAMES = {347: "cup", 529: "grocery_bag", 554: "hat", 943: "scrubbing_brush", 1175: "walking_stick"}
MOST_MASKS = 300
"""The number of masks with the best scores that a frame of results may have."""

Key = tuple[str, str]
Found = Mapping[Key, Mapping[str, Sequence[BurstMask]]]
"""The masks of results by sequence and by file."""
Choice = Callable[[BurstSequence, BurstMask], int | None]
"""The category of the mask of a result; None leaves it out."""


class Tracks(NamedTuple):
    """The N tracks of a video."""

    categories: np.ndarray
    """(N,): of the first mask."""
    lengths: np.ndarray
    """(N,): the number of masks."""
    pixels: np.ndarray
    """(N,): the sum of their areas."""
    scores: np.ndarray
    """(N,): the mean of their scores."""
    unmarked: np.ndarray
    """(N,) bool: an object that the track matches can be matched again. See `prepare`."""


class Shown(NamedTuple):
    """A frame with annotated objects."""

    objects: np.ndarray
    """(g,): indices of tracks."""
    results: np.ndarray
    """(d,)."""
    categories: np.ndarray
    """(d,): of the masks of the results."""
    boxes: np.ndarray
    """(g, d): IoUs of the boxes of the masks."""
    masks: np.ndarray
    """(g, d): IoUs of the masks."""


@dataclass(frozen=True)
class Video:
    """A sequence."""

    negative: set[int]
    incomplete: set[int]
    objects: Tracks
    results: Tracks
    frames: list[Shown]
    """In order of time."""
    shared: np.ndarray
    """(D, G): pixels that the tracks share, over all frames."""

    @cached_property
    def found(self) -> set[int]:
        """The categories of the masks of the results in these frames."""
        return {category for frame in self.frames for category in frame.categories.tolist()}


class _Placed(NamedTuple):
    track: int
    category: int
    score: float
    counts: str
    area: int
    box: list[float]


def arrange(truth: Burst, results: Burst) -> Found:
    """The masks of results in the frames of the truth; frames that are not annotated are left out.

    Raises:
        InputError: the results are for another split.
    """
    if results.split is not None and results.split != truth.split:
        raise InputError(f'{results.name}: "split" is {results.split!r}; {truth.name} has the split {truth.split!r}')
    known = {one.key: {frame.file for frame in one.frames} for one in truth.sequences}
    found: dict[Key, dict[str, list[BurstMask]]] = {key: {} for key in known}
    for sequence in results.sequences:
        for frame in sequence.frames:
            if frame.file in known.get(sequence.key, ()) and frame.masks:
                found[sequence.key].setdefault(frame.file, []).extend(frame.masks)
    for frames in found.values():
        for file, masks in frames.items():
            if len(masks) > MOST_MASKS:
                frames[file] = sorted(masks, key=lambda one: -one.score)[:MOST_MASKS]
    return found


def prepare(truth: Burst, results: str, found: Found, choose: Choice) -> list[Video]:
    """The videos in the order in which the official code joins them.

    In the official code, a track with the id 0 or a negative one, if no other video has this id, does not mark the
    object that it matches in average precision.

    Args:
        truth: the annotations.
        results: what errors call the results.
        found: their masks, of `arrange`.
        choose: the categories of the results.

    Raises:
        InputError: a mask is not an RLE of the size of its video.
    """
    owners: dict[int, set[Key]] = defaultdict(set)
    for key, frames in found.items():
        for masks in frames.values():
            for mask in masks:
                if int(mask.track) <= 0:
                    owners[int(mask.track)].add(key)
    alone = {track for track, keys in owners.items() if len(keys) == 1}
    order = sorted(truth.sequences, key=lambda one: f"{truth.split}/{'/'.join(one.key)}".replace("/", "-"))
    return [_prepare(truth, results, one, found[one.key], choose, alone) for one in order]


def _prepare(
    truth: Burst,
    results: str,
    sequence: BurstSequence,
    found: Mapping[str, Sequence[BurstMask]],
    choose: Choice,
    alone: set[int],
) -> Video:
    record = Record(truth.name, sequence.label, {})
    annotated = {
        frame.file: [
            (mask, MERGED.get(mask.category, mask.category)) for mask in frame.masks if mask.category not in DISTRACTORS
        ]
        for frame in sequence.frames
    }
    chosen = {
        file: [(mask, category) for mask in masks if (category := choose(sequence, mask)) is not None]
        for file, masks in found.items()
    }
    objects, ids = _place(truth.name, sequence, annotated)
    tracks, names = _place(results, sequence, chosen)
    shared = np.zeros((len(names), len(ids)), np.int64)
    frames: dict[str, Shown] = {}
    for file, own in objects.items():
        others = tracks.get(file, [])
        if own:
            frames[file] = _compare(own, others, sequence, shared)
    shown = sorted(frames, key=lambda file: frame_number(record, file))
    unmarked = np.array([name in alone for name in names], bool)
    return Video(
        sequence.negative,
        sequence.incomplete,
        _tracks(objects, np.zeros(len(ids), bool)),
        _tracks(tracks, unmarked),
        [frames[file] for file in shown],
        shared,
    )


def _place(
    name: str, sequence: BurstSequence, frames: Mapping[str, Sequence[tuple[BurstMask, int]]]
) -> tuple[dict[str, list[_Placed]], list[int]]:
    """The masks by file, with the index of their track; and the ids of the tracks."""
    size = sequence.size or (0, 0)
    counts = [mask.counts for part in frames.values() for mask, _ in part]
    try:
        areas, boxes = iter(rle.area(counts, size).tolist()), iter(coco_boxes(counts, size))
    except ValueError:
        raise _damaged(name, sequence, frames, size) from None
    indices: dict[int, int] = {}
    placed = {
        file: [
            _Placed(
                indices.setdefault(int(one.track), len(indices)),
                category,
                one.score,
                one.counts,
                next(areas),
                next(boxes),
            )
            for one, category in part
        ]
        for file, part in frames.items()
    }
    return placed, list(indices)


def _damaged(
    name: str, sequence: BurstSequence, frames: Mapping[str, Sequence[tuple[BurstMask, int]]], size: tuple[int, int]
) -> InputError:
    """The error of the first mask that is not an RLE of the size."""
    for file, part in frames.items():
        for mask, _ in part:
            try:
                rle.area([mask.counts], size)
            except ValueError as error:
                reason = str(error).replace(" of mask 0", "")
                return InputError(f"{name}: {'/'.join(sequence.key)}: track {mask.track} in {file}: {reason}")
    raise AssertionError("all masks are valid alone")


def _compare(own: list[_Placed], others: list[_Placed], sequence: BurstSequence, shared: np.ndarray) -> Shown:
    """A frame; the pixels that its masks share are added to `shared` (D, G)."""
    rows, columns = (np.array([one.track for one in part], int) for part in (own, others))
    categories = np.array([one.category for one in others], int)
    if not others:
        empty = np.zeros((len(own), 0))
        return Shown(rows, columns, categories, empty, empty)
    pixels = frame_overlap([one.counts for one in others], [one.counts for one in own], sequence.size or (0, 0))
    common = pixels.shared[..., 0]
    shared[columns[:, None], rows] += common
    union = pixels.results + pixels.objects[:, 0] - common
    ious = common / np.maximum(union, 1)
    return Shown(rows, columns, categories, _box_ious(own, others), np.ascontiguousarray(ious.T))


def _box_ious(own: list[_Placed], others: list[_Placed]) -> np.ndarray:
    """IoUs (g, d) of boxes [x, y, width, height]."""
    a, b = (np.array([one.box for one in part]).reshape(-1, 4) for part in (own, others))
    low = np.maximum(a[:, None, :2], b[:, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[:, :2] + b[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [one[:, 2] * one[:, 3] for one in (a, b)]
    union = areas[0][:, None] + areas[1] - common
    return np.divide(common, union, out=np.zeros(common.shape), where=common > 0)


def _tracks(frames: Mapping[str, Sequence[_Placed]], unmarked: np.ndarray) -> Tracks:
    placed = [one for part in frames.values() for one in part]
    index = np.array([one.track for one in placed], int)
    lengths = np.bincount(index, minlength=len(unmarked))
    first = {one.track: one.category for one in reversed(placed)}
    scores = [[] for _ in unmarked]  # type: list[list[float]]
    for one in placed:
        scores[one.track].append(one.score)
    return Tracks(
        np.array([first[i] for i in range(len(unmarked))], int),
        lengths,
        np.bincount(index, [one.area for one in placed], minlength=len(unmarked)),
        np.array([np.mean(one) for one in scores], float),
        unmarked,
    )
