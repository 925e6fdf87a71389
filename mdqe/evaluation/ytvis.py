"""The metrics of YouTube-VIS and OVIS: `evaluate`."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdqe.annotations.files import Source
from mdqe.annotations.reader import VIDEOS, Annotations, Track, Video, read_annotations
from mdqe.annotations.results import Results, read_results
from mdqe.evaluation.average_precision import IOU_THRESHOLDS, MAX_RESULTS, Curve, Matches, curves, match
from mdqe.evaluation.identity import IdentityCounts, compare_identities, without_crowds
from mdqe.evaluation.overlap import overlap
from mdqe.evaluation.video_score import Paired, best_of_tracks, pair

AREAS = {"": (0, 1e10), "s": (0, 128**2), "m": (128**2, 256**2), "l": (256**2, 1e10)}
"""Pixels of all, small, medium and large objects of YouTube-VIS, including both ends."""
OCCLUSIONS = {"_so": (0, 0.25), "_mo": (0.25, 0.5), "_ho": (0.5, 1)}
"""Degrees of slightly, moderately and heavily occluded objects, including both ends."""


def evaluate(
    annotations: Source,
    results: Source,
    *,
    identity: bool = True,
    score_threshold: float = 0.3,
    per_video: bool = False,
    precision_curves: bool = False,
) -> dict[str, Any]:
    """Compare results with annotations.

    Args:
        annotations: a path or the loaded JSON, in the form of YouTube-VIS; or what `read_annotations` made of it. With
            the "occlusion" labels of OVIS, metrics by degree of occlusion are included.
        results: a path or the loaded JSON: the list that the server of YouTube-VIS accepts.
        identity: compute HOTA, IDF1 and identity switches.
        score_threshold: of these metrics, which need a decision: they use results with at least this score, and only
            the best result of each "track_id" in a video. A result without a "track_id" is a track of its own.
        per_video: include the metrics of each video alone.
        precision_curves: include the precision at 101 recalls.

    Returns:
        Metrics from 0 to 1, as the official evaluators compute them, −1.0 where there is no object to count:

        - "AP" (mean over IoU thresholds 0.5 … 0.95 and categories), "AP50", "AP75"; "APs", "APm", "APl" of small
          (area up to 128²), medium and large objects (from 256²); "AR1", "AR10", "AR100" with the best 1, 10 and 100
          results per video and category; "ARs", "ARm", "ARl". The area of an object is the mean of its "areas" over the
          frames where they are not 0; without "areas", that of its masks;
        - "AP_so", "AP_mo", "AP_ho", "AR_so", "AR_mo", "AR_ho" where every object has occlusion labels: objects whose
          degree, the mean of the upper half of their frames' degrees (none 0, slight 0.25, severe 0.75), is within
          0 … 0.25, 0.25 … 0.5 and 0.5 … 1;
        - "HOTA", "DetA", "AssA", "IDF1", "IDP", "IDR" and "IDSW", the number of identity switches: see
          `mdqe.evaluation.identity`;
        - "per_category": by category id, its "name", the number of "objects" (without crowds) and of "results", and the
          same metrics;
        - "per_video", if requested: the same by the id of the video, its "score", the number of "objects", of "tracks"
          (from `score_threshold`) and of objects that are "found": see `mdqe.evaluation.video_score`;
        - "precision_curves", if requested: by the id of each category that has an object, an array (10, 101) of
          precisions at the IoU thresholds 0.5, 0.55, … and the recalls 0, 0.01, …; their mean is AP.

    Raises:
        OSError: a file cannot be read.
        InputError: a file is not JSON or has invalid records; the message names the file, the record and the field.

    Warns:
        UserWarning: results of unknown categories, which are ignored; no results at all; occlusion labels on only some
            of the annotations; an annotation with the id 0.
    """
    truth = read_annotations(annotations)
    truth.expect(VIDEOS, "; evaluate_coco compares images")
    found = read_results(results, truth)
    warn_of_id_0(truth)
    has_labels = [one.occlusion is not None for one in truth.objects]
    occlusion = bool(has_labels) and all(has_labels)
    if any(has_labels) and not occlusion:
        warnings.warn(
            f"{truth.name}: {has_labels.count(False)} of {len(has_labels)} annotations have no occlusion labels; "
            "there are no metrics by degree of occlusion",
            stacklevel=2,
        )
    videos = {
        number: _compare_video(truth, found, number, occlusion, score_threshold, identity)
        for number in sorted(truth.videos)
    }
    numbers = _summarize(videos.values(), truth, occlusion, identity)
    if per_video:
        numbers["per_video"] = {
            number: sum((part.paired for part in one.values()), Paired()).summary()
            | _summarize([one], truth, occlusion, identity)
            for number, one in videos.items()
        }
        for one in numbers["per_video"].values():
            del one["per_category"], one["precision_curves"]
    if not precision_curves:
        del numbers["precision_curves"]
    return numbers


def warn_of_id_0(truth: Annotations) -> None:
    """Warn of an annotation that the official evaluators treat in another way."""
    for one in truth.objects:
        if one.id == 0:
            warnings.warn(
                f"{truth.name}: {one.label}: matches with the id 0 count here; the official evaluator ignores them",
                stacklevel=3,
            )


@dataclass(frozen=True)
class _Compared:
    """One category of a video."""

    matches: Matches
    identity: IdentityCounts
    paired: Paired
    objects: int
    results: int


def _compare_video(
    truth: Annotations, found: Results, number: int, occlusion: bool, score_threshold: float, identity: bool
) -> dict[int, _Compared]:
    """A video by category; results from `score_threshold` count for its score and for identities."""
    video, tracks = truth.videos[number], found.tracks[number]
    chosen = best_of_tracks(tracks, score_threshold)
    compared = {}
    for category in sorted({one.category for one in (*video.objects, *tracks)}):
        objects = [one for one in video.objects if one.category == category]
        rows = [i for i, one in enumerate(tracks) if one.category == category]
        compared[category] = _compare(
            video, (truth.name, objects), (found.name, [tracks[i] for i in rows]), occlusion, chosen[rows], identity
        )
    return compared


def _compare(
    video: Video,
    truth: tuple[str, list[Track]],
    found: tuple[str, list[Track]],
    occlusion: bool,
    chosen: np.ndarray,
    identity: bool,
) -> _Compared:
    """One category of a video; the results `chosen` (N,) bool count for its score and identities."""
    objects, tracks = truth[1], found[1]
    track_areas, object_areas, shared = overlap(found, truth, video.size, video.length)
    common = shared.sum(axis=2)
    union = track_areas.sum(axis=1)[:, None] + object_areas.sum(axis=1) - common
    ious = np.divide(common, union, out=np.zeros(common.shape), where=union > 0)
    crowd = np.array([one.is_crowd for one in objects], bool)
    sizes = _mean_areas(object_areas)
    sizes = np.array([size if one.area is None else one.area for one, size in zip(objects, sizes, strict=True)], float)
    ignored, outside = _ranges(objects, crowd, sizes, _mean_areas(track_areas), occlusion)
    matches = match(np.array([one.score for one in tracks], float), ious, crowd, ignored, outside)
    inside = common[chosen][:, crowd] / np.maximum(track_areas[chosen].sum(axis=1), 1)[:, None]
    paired = pair(ious[chosen][:, ~crowd], inside)
    chosen &= identity
    counts = _compare_identities(shared[chosen], object_areas, track_areas[chosen], crowd)
    return _Compared(matches, counts, paired, int((~crowd).sum()), len(tracks))


def _mean_areas(areas: np.ndarray) -> np.ndarray:
    """(D,): the means of areas (D, T) over the frames where they are not 0."""
    return areas.sum(axis=1) / np.maximum((areas > 0).sum(axis=1), 1)


def _ranges(
    objects: list[Track], crowd: np.ndarray, sizes: np.ndarray, areas: np.ndarray, occlusion: bool
) -> tuple[np.ndarray, np.ndarray]:
    """For each range, the objects (R, G) that are ignored, and the results (R, D) that are ignored if unmatched.

    Args:
        objects: G annotations.
        crowd, sizes: (G,) bool, and their areas.
        areas: (D,) of the results.
        occlusion: include the ranges of occlusion.
    """
    ignored = [crowd | (sizes < low) | (sizes > high) for low, high in AREAS.values()]
    outside = [(areas < low) | (areas > high) for low, high in AREAS.values()]
    if occlusion:
        degrees = np.array([one.occlusion for one in objects], float)
        ignored += [crowd | (degrees < low) | (degrees > high) for low, high in OCCLUSIONS.values()]
        outside += [np.zeros(len(areas), bool)] * len(OCCLUSIONS)
    return np.array(ignored), np.array(outside)


def _compare_identities(
    shared: np.ndarray, object_areas: np.ndarray, track_areas: np.ndarray, crowd: np.ndarray
) -> IdentityCounts:
    """Compare identities by the pixels (D, G, T) that tracks and objects share; `crowd` (G,) bool."""
    shared = shared.transpose(1, 0, 2)  # (G, D, T)
    union = object_areas[:, None] + track_areas - shared
    ious = np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)
    if crowd.any():
        track_areas = without_crowds(ious[~crowd], shared[crowd], track_areas, object_areas[~crowd])
        ious = np.where(track_areas > 0, ious, 0)
    return compare_identities(ious[~crowd], object_areas[~crowd], track_areas)


def _summarize(
    videos: Iterable[dict[int, _Compared]], truth: Annotations, occlusion: bool, identity: bool
) -> dict[str, Any]:
    """The metrics of some videos, as `evaluate` returns them."""
    per_category = {}
    parts: dict[int, list[_Compared]] = {category: [] for category in truth.categories}
    for video in videos:
        for category, one in video.items():
            parts[category].append(one)
    lines = {category: curves([one.matches for one in part]) if part else [] for category, part in parts.items()}
    counts = {category: sum((one.identity for one in part), IdentityCounts()) for category, part in parts.items()}
    for category, name in truth.categories.items():
        per_category[category] = {
            "name": name,
            "objects": sum(one.objects for one in parts[category]),
            "results": sum(one.results for one in parts[category]),
            **_numbers([lines[category]], occlusion),
            **(counts[category].summary() if identity else {}),
        }
    total = sum(counts.values(), IdentityCounts()).summary() if identity else {}
    precision = {category: one[0].precision for category, one in lines.items() if one and one[0] is not None}
    numbers = _numbers(lines.values(), occlusion)
    return {**numbers, **total, "per_category": per_category, "precision_curves": precision}


def _numbers(categories: Iterable[list[Curve | None]], occlusion: bool) -> dict[str, float]:
    """The averages over the categories that have a curve, for each range."""
    categories = [one for one in categories if one]
    keys = [*AREAS, *(OCCLUSIONS if occlusion else ())]
    defined = {key: [curve for one in categories if (curve := one[i]) is not None] for i, key in enumerate(keys)}

    def precision(key: str, threshold: slice | int = slice(None)) -> float:
        return float(np.mean([one.precision[threshold] for one in defined[key]])) if defined[key] else -1.0

    def recall(key: str, most: int = MAX_RESULTS[-1]) -> float:
        at = MAX_RESULTS.index(most)
        return float(np.mean([one.recall[:, at] for one in defined[key]])) if defined[key] else -1.0

    half, three_quarters = (int(np.abs(IOU_THRESHOLDS - value).argmin()) for value in (0.5, 0.75))
    numbers = {"AP": precision(""), "AP50": precision("", half), "AP75": precision("", three_quarters)}
    numbers |= {f"AP{key}": precision(key) for key in AREAS if key}
    numbers |= {f"AR{most}": recall("", most) for most in MAX_RESULTS}
    numbers |= {f"AR{key}": recall(key) for key in AREAS if key}
    if occlusion:
        numbers |= {f"AP{key}": precision(key) for key in OCCLUSIONS}
        numbers |= {f"AR{key}": recall(key) for key in OCCLUSIONS}
    return numbers
