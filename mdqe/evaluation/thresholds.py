"""Metrics of identities at several minimum scores, to choose the score from which results are used.

Average precision uses every result with its score, but an overlay, HOTA, IDF1 and identity switches need a decision. A
low minimum adds false tracks, a high one misses objects. The best minimum depends on the model and on the data: choose
it on a validation set, and use it for other videos.
"""

from collections.abc import Sequence

import numpy as np

from mdqe.annotations.files import Source
from mdqe.annotations.reader import VIDEOS, Annotations, Track, Video, read_annotations
from mdqe.annotations.results import read_results
from mdqe.errors import InputError
from mdqe.evaluation.identity import IdentityCounts
from mdqe.evaluation.overlap import overlap
from mdqe.evaluation.tubes import by_category, identity_counts
from mdqe.evaluation.video_score import best_of_tracks, check_threshold

DEFAULT = 0.3
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))


def sweep_thresholds(
    annotations: Source, results: Source, thresholds: Sequence[float] = THRESHOLDS
) -> dict[float, dict[str, float]]:
    """HOTA, IDF1 and identity switches at several minimum scores. Masks are compared once.

    Args:
        annotations, results: as for `mdqe.evaluation.evaluate`, of videos.
        thresholds: the minimum scores, at least one.

    Returns:
        By minimum score in ascending order: "HOTA", "DetA", "AssA", "IDF1", "IDP", "IDR" and "IDSW", as
        `mdqe.evaluation.evaluate` computes them with this `score_threshold`, and the number of "tracks".

    Raises:
        OSError: a file cannot be read.
        InputError: no thresholds, or one outside [0, 1]; a file is invalid. The message names the file, the record and
            the field.
    """
    if not thresholds:
        raise InputError("no score thresholds; expected at least one")
    for threshold in thresholds:
        check_threshold(threshold)
    truth = read_annotations(annotations)
    truth.expect(VIDEOS)
    found = read_results(results, truth)
    levels = sorted(set(thresholds))
    counts = {level: IdentityCounts() for level in levels}
    tracks = dict.fromkeys(levels, 0)
    for number, video in truth.videos.items():
        best = best_of_tracks(found.tracks[number], levels[0])
        rows = [one for one, chosen in zip(found.tracks[number], best, strict=True) if chosen]
        for level in levels:
            tracks[level] += sum(one.score >= level for one in rows)
        for level, part in _counts(video, (found.name, rows), truth, levels).items():
            counts[level] += part
    return {level: counts[level].summary() | {"tracks": tracks[level]} for level in levels}


def best_threshold(sweep: dict[float, dict[str, float]]) -> float:
    """The minimum score with the highest HOTA; of several, the one closest to the default of 0.3."""
    return max(sweep, key=lambda level: (sweep[level]["HOTA"], -abs(level - DEFAULT), -level))


def _counts(
    video: Video, found: tuple[str, list[Track]], truth: Annotations, levels: Sequence[float]
) -> dict[float, IdentityCounts]:
    """The counts of a video at each minimum score, from its best result of each track."""
    name, tracks = found
    objects, rows = by_category(video.objects), by_category(tracks)
    sums = {level: IdentityCounts() for level in levels}
    for category in sorted({*objects, *rows}):
        own = [tracks[i] for i in rows.get(category, [])]
        annotated = [video.objects[i] for i in objects.get(category, [])]
        track_areas, object_areas, shared = overlap((name, own), (truth.name, annotated), video.size, video.length)
        crowd = np.array([one.is_crowd for one in annotated], bool)
        scores = np.array([one.score for one in own])
        before, counts = -1, IdentityCounts()
        for level in levels:
            chosen = scores >= level
            if chosen.sum() != before:  # otherwise they are the same tracks
                counts = identity_counts(shared[chosen], object_areas, track_areas[chosen], crowd)
                before = chosen.sum()
            sums[level] += counts
    return sums
