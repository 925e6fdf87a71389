"""The metrics of BURST: HOTA over all, common and uncommon classes, and average precision of tracks.

- Class-guided: results count in a frame for a class if it has an annotated object there, or is one of the video's
  negative categories; if it is not annotated exhaustively, only results that match an object count.
- Exemplar-guided: all results count.
- Open-world: all objects and results are one class; OWTA, detection recall and association accuracy, against the
  annotations of all, of common and of uncommon classes.

HOTA compares the boxes of the masks, as the official code does; its variant with masks is reported too. Average
precision compares masks.

Athar et al., BURST: A Benchmark for Unifying Object Recognition, Segmentation and Tracking in Video, WACV 2023.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from mdqe.annotations.burst import ALL_CLASSES, Burst, BurstMask, BurstSequence, read_burst
from mdqe.annotations.files import Source
from mdqe.errors import InputError
from mdqe.evaluation import trackeval
from mdqe.evaluation.average_precision import Curve, Matches, curves, match
from mdqe.evaluation.burst_videos import (
    DISTRACTORS,
    MERGED,
    MERGED_NAMES,
    Choice,
    Found,
    Shown,
    Tracks,
    Video,
    arrange,
    prepare,
)
from mdqe.evaluation.identity import EPSILON, MATCH, Frame, IdentityCounts, assign, compare_frames

COMMON = frozenset((
    4, 13, 34, 35, 36, 41, 45, 58, 60, 78, 79, 81, 91, 95, 99, 118, 126, 133, 139, 154, 174, 185, 211, 221,
    229, 235, 237, 276, 299, 347, 371, 382, 392, 428, 429, 452, 475, 480, 502, 544, 579, 621, 625, 642, 699,
    714, 717, 729, 747, 779, 805, 829, 852, 896, 926, 937, 961, 979, 980, 982, 993, 1001, 1018, 1038, 1057,
    1091, 1097, 1099, 1115, 1117, 1122, 1132, 1135, 1144, 1155, 1162, 1215, 1229,
))  # fmt: skip
"""The categories that COCO has too."""
SUBSETS = {"all": ALL_CLASSES, "common": "common_classes.json", "uncommon": "uncommon_classes.json"}
AREAS = {"area_s": (0, 32**2), "area_m": (32**2, 96**2), "area_l": (96**2, 1e10)}
"""Mean pixels of the masks of a track, including both ends."""
LENGTHS = {"time_s": (0, 3), "time_m": (3, 10), "time_l": (10, 1e5)}
"""Numbers of masks of a track, including both ends."""
RANGES = ("all", *AREAS, *LENGTHS)
THRESHOLDS = np.arange(0.5, 0.96, 0.05) - EPSILON
"""The IoU thresholds of the official code; some are a few roundings above 0.5, 0.55, … 0.95."""
OBJECT = 1
"""The class of everything in the open world."""


def evaluate_burst(annotations: Source, results: Source) -> dict[str, Any]:
    """Compare results with the annotations of BURST.

    Args:
        annotations: the folder with all_classes.json, common_classes.json and uncommon_classes.json, or the first file.
        results: a path or the loaded JSON. Frames that are not annotated are ignored.

    Returns:
        A dictionary with two entries.

        - "official": "class_guided", "exemplar_guided" and "open_world". The "summary" of the first two has "HOTA",
          "DetA", "AssA" and "AP", that of the third "OWTA", "DetRe" and "AssA", each for "all", "common" and "uncommon"
          classes in percent, NaN where there is no class. "per_class_mean" has the numbers of each class, from 0 to 1,
          −1 where there is no object; "det_averaged" those of all classes counted together. "open_world" also has the
          numbers for each file. "exemplar_guided_switch_set_first" has the class of the annotated track of the same id
          instead of that in the results; it is missing if results have tracks that are not annotated;
        - "mask_hota": the summaries with HOTA by the IoU of masks, which are not official.

    Raises:
        OSError: a file does not exist.
        InputError: a file is not JSON of BURST or has invalid records, or the results are for another split.

    Warns:
        UserWarning: results of sequences that are not annotated, which are ignored; no results in annotated frames.
    """
    folder = _folder(annotations)
    truth = read_burst(folder / ALL_CLASSES)
    found = read_burst(results, "results", results=True)
    arranged = arrange(truth, found)
    _warn_of_ignored(truth, found, arranged)
    classes = {merged(one) for video in truth.sequences for one in _shown(video)}
    known = {**MERGED_NAMES, **truth.categories}
    names = {number: known.get(number, str(number)) for number in sorted(classes)}
    official: dict[str, Any] = {}
    masks: dict[str, Any] = {}
    videos = prepare(truth, found.name, arranged, lambda _, mask: merged(mask.category))
    for task, filtered in (("class_guided", True), ("exemplar_guided", False)):
        official[task] = _by_class(videos, names, filtered, "boxes")
        masks[task] = {"summary": _by_class(videos, names, filtered, "masks")["summary"]}
    if (owned := _of_exemplars(truth, found)) is not None:
        same = prepare(truth, found.name, arranged, owned)
        summary = _by_class(same, names, False, "boxes")["summary"]
        official["exemplar_guided_switch_set_first"] = {"summary": summary}
    subsets = {
        name: _open_videos(read_burst(folder / file) if name != "all" else truth, found)
        for name, file in SUBSETS.items()
    }
    official["open_world"] = _open_world(subsets, "boxes")
    masks["open_world"] = {"summary": _open_world(subsets, "masks")["summary"]}
    return {"official": official, "mask_hota": masks}


def merged(category: int) -> int:
    """The category that a category counts as."""
    return MERGED.get(category, category)


def _warn_of_ignored(truth: Burst, results: Burst, found: Found) -> None:
    unknown = [one for one in results.sequences if one.key not in found]
    if unknown:
        names = ", ".join("/".join(one.key) for one in unknown[:4])
        warnings.warn(
            f"{results.name}: {len(unknown)} of {len(results.sequences)} sequences are not in {truth.name} ({names}); "
            "they are ignored",
            stacklevel=4,
        )
    if not any(found.values()):
        warnings.warn(
            f"{results.name}: no results in annotated frames: the numbers are those of an empty result", stacklevel=4
        )


def _folder(source: Source) -> Path:
    if not isinstance(source, str | PathLike):
        raise InputError(f"annotations of BURST are a {type(source).__name__}; expected the folder with {ALL_CLASSES}")
    path = Path(source)
    if path.is_file() and path.name != ALL_CLASSES:
        raise InputError(f"{path} is a file; expected the folder with {ALL_CLASSES}, as BURST has")
    return path.parent if path.name == ALL_CLASSES else path


def _shown(video: BurstSequence) -> set[int]:
    """The categories of the annotated masks, without distractors."""
    return {mask.category for frame in video.frames for mask in frame.masks} - DISTRACTORS


def _of_exemplars(truth: Burst, results: Burst) -> Choice | None:
    """Chooses the category of the annotated track with the same id, or None if that has no mask.

    None if a track of the results is not annotated.
    """
    known = {one.id: one for one in truth.sequences}
    for one in results.sequences:
        if one.id not in known or any(str(int(track)) not in known[one.id].tracks for track in one.tracks):
            return None
    visible = {
        one.key: {mask.track for frame in one.frames for mask in frame.masks if mask.category not in DISTRACTORS}
        for one in truth.sequences
    }

    def choose(sequence: BurstSequence, mask: BurstMask) -> int | None:
        track = str(int(mask.track))
        return merged(sequence.tracks[track]) if track in visible[sequence.key] else None

    return choose


def _by_class(videos: Sequence[Video], names: Mapping[int, str], filtered: bool, similarity: str) -> dict[str, Any]:
    """The numbers of a task that distinguishes classes."""
    numbers, total = {}, IdentityCounts()
    for category in names:
        counts = IdentityCounts()
        for video in videos:
            if (part := _identities(video, category, filtered, similarity)) is not None:
                counts += part
        hota = trackeval.hota(counts)
        numbers[category] = {key: float(hota[key].mean()) for key in ("HOTA", "DetA", "AssA")}
        numbers[category] |= _precision(videos, category)
        numbers[category] |= {key: hota[key].tolist() for key in ("HOTA_TP", "HOTA_FN", "HOTA_FP")}
        total += counts
    groups = {"all": list(names), "common": [one for one in names if one in COMMON]}
    groups["uncommon"] = [one for one in names if one not in COMMON]
    summary = {
        key: {group: _percent(numbers[one][field] for one in members) for group, members in groups.items()}
        for key, field in (("HOTA", "HOTA"), ("DetA", "DetA"), ("AssA", "AssA"), ("AP", "AP_all"))
    }
    together = {key: one.tolist() for key, one in trackeval.hota(total).items()}
    return {
        "summary": summary,
        "per_class_mean": {names[one]: numbers[one] for one in names},
        "det_averaged": together,
    }


def _percent(values: Iterable[float]) -> float:
    known = list(values)
    return 100 * float(np.mean(known)) if known else float("nan")


def _open_videos(truth: Burst, results: Burst) -> list[Video]:
    return prepare(truth, results.name, arrange(truth, results), lambda *_: OBJECT)


def _open_world(subsets: Mapping[str, Sequence[Video]], similarity: str) -> dict[str, Any]:
    """The numbers against the annotations of all, of common and of uncommon classes."""
    lists = {}
    for name, videos in subsets.items():
        counts = IdentityCounts()
        for video in videos:
            counts += _identities(video, None, True, similarity) or IdentityCounts()
        lists[name] = {key: one.tolist() for key, one in trackeval.hota(counts).items()}
    summary = {key: {name: _percent(one[key]) for name, one in lists.items()} for key in ("OWTA", "DetRe", "AssA")}
    return {"summary": summary, **lists}


def _identities(video: Video, category: int | None, filtered: bool, similarity: str) -> IdentityCounts | None:
    """HOTA's counts of a class of a video; None if nothing counts, as for most of the many classes.

    Args:
        category: None: all objects are one class.
        filtered: leave out results without a match, except those that must be wrong.
        similarity: "boxes" or "masks".
    """
    number = OBJECT if category is None else category
    wrong, incomplete = number in video.negative, number in video.incomplete
    own = np.ones(len(video.objects.lengths), bool) if category is None else video.objects.categories == category
    if category is not None and not own.any() and ((filtered and not wrong) or category not in video.found):
        return None
    objects, tracks = np.zeros(len(own), int), np.zeros(len(video.results.lengths), int)
    frames = []
    for shown in video.frames:
        rows = np.flatnonzero(own[shown.objects])
        columns = np.flatnonzero((shown.categories == number) | (category is None))
        ious = _similarity(shown, similarity)[rows[:, None], columns]
        if filtered and (incomplete or (not wrong and not len(rows))):
            _, kept = assign(np.where(ious >= MATCH - EPSILON, ious, 0))
            kept = np.sort(kept)
            columns, ious = columns[kept], ious[:, kept]
        one = Frame(shown.objects[rows], shown.results[columns], ious)
        objects[one.objects] += 1
        tracks[one.tracks] += 1
        if ious.size:
            frames.append(one)
    return compare_frames(frames, objects, tracks)


def _similarity(shown: Shown, name: str) -> np.ndarray:
    return shown.boxes if name == "boxes" else shown.masks


def _precision(videos: Sequence[Video], category: int) -> dict[str, float]:
    """Average precision and recall of the tracks of a class."""
    parts = [one for video in videos if (one := _matches(video, category)) is not None]
    found: list[Curve | None] = curves(parts, ranked=False) if parts else [None] * len(RANGES)
    numbers = {}
    for name, curve in zip(RANGES, found, strict=True):
        numbers[f"AP_{name}"] = -1.0 if curve is None else float(curve.precision.mean())
        numbers[f"AR_{name}"] = -1.0 if curve is None else float(curve.recall[:, -1].mean())
    return numbers


def _matches(video: Video, category: int) -> Matches | None:
    """The matches of a class of a video; None if it has no track."""
    g = np.flatnonzero(video.objects.categories == category)
    considered = len(g) or category in video.negative
    d = np.flatnonzero((video.results.categories == category) & bool(considered))
    if not len(g) and not len(d):
        return None
    shared = video.shared[d[:, None], g]
    union = video.results.pixels[d][:, None] + video.objects.pixels[g] - shared
    ious = shared / np.maximum(union, 1)
    ignored, outside = _outside(video.objects, g), _outside(video.results, d)
    if category in video.incomplete:
        outside[:] = True
    crowd = np.zeros(len(g), bool)
    unmarked = video.results.unmarked[d]
    return match(
        video.results.scores[d], ious, crowd, ignored, outside, most=None, thresholds=THRESHOLDS, unmarked=unmarked
    )


def _outside(tracks: Tracks, which: np.ndarray) -> np.ndarray:
    """(R, N) bool: the tracks outside of each range."""
    lengths = tracks.lengths[which]
    areas = tracks.pixels[which] / np.maximum(lengths, 1)
    rows = [np.zeros(len(which), bool)]
    rows += [(areas < low) | (areas > high) for low, high in AREAS.values()]
    rows += [(lengths < low) | (lengths > high) for low, high in LENGTHS.values()]
    return np.array(rows)
