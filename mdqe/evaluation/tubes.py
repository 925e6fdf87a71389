"""Comparison of results and annotations of videos by the IoU of tubes, as several benchmarks use it.

A tube is the masks of an object over all frames. The IoU of two tubes is the sum of the intersections over all frames,
divided by the sum of the unions.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdqe.annotations.reader import Annotations, Track, Video
from mdqe.annotations.results import Results
from mdqe.evaluation.average_precision import IOU_THRESHOLDS, MAX_RESULTS, Curve, Matches, curves, match
from mdqe.evaluation.identity import IdentityCounts, compare_identities, without_crowds
from mdqe.evaluation.overlap import overlap, tube_ious
from mdqe.evaluation.video_score import Paired, best_of_tracks, check_threshold, pair

AREAS = {"": (0, 1e10), "s": (0, 128**2), "m": (128**2, 256**2), "l": (256**2, 1e10)}
"""Pixels of all, small, medium and large objects of YouTube-VIS, including both ends."""
OCCLUSIONS = {"_so": (0, 0.25), "_mo": (0.25, 0.5), "_ho": (0.5, 1)}
"""Degrees of slightly, moderately and heavily occluded objects, including both ends."""
OFFICIAL = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "AP_small": "APs",
    "AP_medium": "APm",
    "AP_large": "APl",
    "AR1": "AR1",
    "AR10": "AR10",
    "AR100": "AR100",
    "AR_small": "ARs",
    "AR_medium": "ARm",
    "AR_large": "ARl",
}
"""The twelve metrics of the official evaluators, and their names here."""

Refine = Callable[[Video, Sequence[Track], Sequence[Track], np.ndarray], np.ndarray]
"""Returns the IoUs (D, G) for average precision from a video, its D results, its G objects, and their mask IoUs."""


@dataclass(frozen=True)
class Compared:
    """One category of a video."""

    matches: Matches
    identity: IdentityCounts
    paired: Paired
    objects: int
    results: int


def compare_tubes(
    truth: Annotations,
    found: Results,
    *,
    score_threshold: float = 0.3,
    identity: bool = True,
    occlusion: bool = False,
    crowds_count: bool = False,
    refine: Refine | None = None,
) -> dict[int, dict[int, Compared]]:
    """Compare results with a data set. Returns the comparisons by the id of the video and by that of the category.

    Args:
        truth, found: the data set and the results.
        score_threshold: results from this score count for the score of a video and for identities.
        identity: compare identities.
        occlusion: include the ranges of occlusion.
        crowds_count: in average precision, crowds are objects like others, but any number of results can match them.
            Otherwise they are ignored.
        refine: changes the IoUs for average precision.

    Raises:
        InputError: a threshold outside [0, 1], or counts that are not an RLE of the size of their video.
    """
    check_threshold(score_threshold)
    compared: dict[int, dict[int, Compared]] = {}
    for number in sorted(truth.videos):
        video, tracks = truth.videos[number], found.tracks[number]
        chosen = best_of_tracks(tracks, score_threshold)
        objects, rows = by_category(video.objects), by_category(tracks)
        compared[number] = {
            category: _compare(
                video,
                (truth.name, [video.objects[i] for i in objects[category]]),
                (found.name, [tracks[i] for i in rows[category]]),
                chosen[rows[category]],
                identity,
                occlusion,
                crowds_count,
                refine,
            )
            for category in sorted({*objects, *rows})
        }
    return compared


def report(
    videos: Mapping[int, Mapping[int, Compared]],
    truth: Annotations,
    *,
    identity: bool,
    occlusion: bool = False,
    per_video: bool,
    precision_curves: bool,
) -> tuple[dict[str, Any], dict[int, list[Curve | None]]]:
    """The metrics of a set, as `mdqe.evaluation.ytvis.evaluate_ytvis` returns them, and the curves of each category."""
    lines, parts = category_curves(videos.values()), _parts(videos.values())
    counts = {category: sum((one.identity for one in part), IdentityCounts()) for category, part in parts.items()}
    numbers: dict[str, Any] = averages(lines.values(), occlusion)
    if identity:
        numbers |= sum(counts.values(), IdentityCounts()).summary()
    numbers["per_category"] = {
        category: {
            "name": name,
            "objects": sum(one.objects for one in parts.get(category, ())),
            "results": sum(one.results for one in parts.get(category, ())),
            **averages([lines.get(category, [])], occlusion),
            **(counts.get(category, IdentityCounts()).summary() if identity else {}),
            **({"tracks": sum(one.paired.tracks for one in parts.get(category, ()))} if identity else {}),
        }
        for category, name in truth.categories.items()
    }
    if precision_curves:
        defined = {category: lines[category][0] for category in truth.categories if lines.get(category)}
        numbers["precision_curves"] = {key: one.precision for key, one in defined.items() if one is not None}
    if per_video:
        numbers["per_video"] = {
            number: sum((one.paired for one in video.values()), Paired()).summary()
            | averages(category_curves([video]).values(), occlusion)
            | (sum((one.identity for one in video.values()), IdentityCounts()).summary() if identity else {})
            for number, video in videos.items()
        }
    return numbers, lines


def category_curves(videos: Iterable[Mapping[int, Compared]]) -> dict[int, list[Curve | None]]:
    """The curves of each category that has objects or results, for each range."""
    return {category: curves([one.matches for one in part]) for category, part in _parts(videos).items()}


def averages(categories: Iterable[list[Curve | None]], occlusion: bool = False) -> dict[str, float]:
    """The metrics of average precision: averages over the categories that have a curve, for each range."""
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


def official(numbers: Mapping[str, Any], occlusion: bool = False) -> dict[str, float]:
    """The twelve metrics, and those by occlusion, under the names of the official evaluators."""
    more = {kind + key: kind + key for kind in ("AP", "AR") for key in OCCLUSIONS} if occlusion else {}
    return {name: numbers[key] for name, key in {**OFFICIAL, **more}.items()}


def by_category(tracks: Sequence[Track]) -> dict[int, list[int]]:
    """The places of tracks in their list, by category."""
    found = defaultdict(list)
    for i, one in enumerate(tracks):
        found[one.category].append(i)
    return found


def _parts(videos: Iterable[Mapping[int, Compared]]) -> dict[int, list[Compared]]:
    """The comparisons of each category, in order of the videos."""
    parts = defaultdict(list)
    for video in videos:
        for category, one in video.items():
            parts[category].append(one)
    return dict(sorted(parts.items()))


def _compare(
    video: Video,
    truth: tuple[str, list[Track]],
    found: tuple[str, list[Track]],
    chosen: np.ndarray,
    identity: bool,
    occlusion: bool,
    crowds_count: bool,
    refine: Refine | None,
) -> Compared:
    """One category of a video; the results `chosen` (N,) bool count for its score and identities."""
    objects, tracks = truth[1], found[1]
    pixels = overlap(found, truth, video.size, video.length)
    track_areas, object_areas, shared = pixels
    ious = tube_ious(pixels)
    crowd = np.array([one.is_crowd for one in objects], bool)
    sizes = _mean_areas(object_areas)
    sizes = np.array([size if one.area is None else one.area for one, size in zip(objects, sizes, strict=True)], float)
    left_out = np.zeros_like(crowd) if crowds_count else crowd
    ignored, outside = _ranges(objects, left_out, sizes, _mean_areas(track_areas), occlusion)
    scores = np.array([one.score for one in tracks], float)
    precise = refine(video, tracks, objects, ious) if refine is not None else ious
    matches = match(scores, precise, crowd, ignored, outside)
    inside = shared[chosen][:, crowd].sum(axis=2) / np.maximum(track_areas[chosen].sum(axis=1), 1)[:, None]
    paired = pair(ious[chosen][:, ~crowd], inside)
    counts = IdentityCounts()
    if identity:
        counts = identity_counts(shared[chosen], object_areas, track_areas[chosen], crowd)
    return Compared(matches, counts, paired, int((~crowd).sum()), len(tracks))


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


def identity_counts(
    shared: np.ndarray, object_areas: np.ndarray, track_areas: np.ndarray, crowd: np.ndarray
) -> IdentityCounts:
    """Compare identities of one category of a video.

    Args:
        shared: (D, G, T) the pixels that tracks and objects share.
        object_areas, track_areas: (G, T) and (D, T) pixels.
        crowd: (G,) bool.
    """
    shared = shared.transpose(1, 0, 2)  # (G, D, T)
    union = object_areas[:, None] + track_areas - shared
    ious = np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)
    if crowd.any():
        track_areas = without_crowds(ious[~crowd], shared[crowd], track_areas, object_areas[~crowd])
        ious = np.where(track_areas > 0, ious, 0)
    return compare_identities(ious[~crowd], object_areas[~crowd], track_areas)
