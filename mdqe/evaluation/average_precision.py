"""Average precision and recall of YouTube-VIS: the matching of results to objects, and the curve of a category.

The procedure is that of the official evaluator. Within a video and category, results are matched in descending order of
their scores, each to the unmatched object with the largest IoU of at least the threshold. Crowds and objects outside
the range of areas are matched only if there is no other; the result is then ignored. An unmatched result outside the
range is ignored too. The precision at a recall is the largest precision at this or any greater recall, at 101 recalls.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_RESULTS = (1, 10, 100)
"""Recall is computed with this many best results per video and category."""


class Matches(NamedTuple):
    """The results and objects of one video and category, under R ranges and the T IoU thresholds."""

    scores: np.ndarray
    """(D,), in descending order; at most the largest of `MAX_RESULTS`."""
    matched: np.ndarray
    """(R, T, D) bool: the result is matched to an object."""
    ignored: np.ndarray
    """(R, T, D) bool: the result is ignored."""
    objects: np.ndarray
    """(R,): the number of objects that are not ignored."""


class Curve(NamedTuple):
    """A category under one range."""

    precision: np.ndarray
    """(T, 101)."""
    recall: np.ndarray
    """(T, 3): with the best 1, 10 and 100 results per video."""


def match(
    scores: np.ndarray,
    ious: np.ndarray,
    crowd: np.ndarray,
    ignored_objects: np.ndarray,
    outside: np.ndarray,
    *,
    most: int | None = MAX_RESULTS[-1],
    thresholds: np.ndarray = IOU_THRESHOLDS,
    unmarked: np.ndarray | None = None,
) -> Matches:
    """Match the results of a video and category to its objects.

    Args:
        scores: (D,), in the order of the file.
        ious: (D, G).
        crowd: (G,) bool: may be matched to many results.
        ignored_objects: (R, G) bool, including crowds.
        outside: (R, D) bool: results that are ignored if unmatched.
        most: the number of best results that are matched; None: all.
        thresholds: (T,) the IoUs from which a result matches.
        unmarked: (D,) bool: results that leave the object that they match to others.
    """
    order = np.argsort(-scores, kind="stable")[:most]
    scores, ious, outside = scores[order], ious[order], outside[:, order]
    marks = np.ones(len(order), bool) if unmarked is None else ~unmarked[order]
    ranges, number = outside.shape
    thresholds = np.minimum(thresholds, 1 - 1e-10)[:, None]  # (T, 1)
    matched = np.zeros((ranges, len(IOU_THRESHOLDS), number), bool)
    ignored = np.zeros_like(matched)
    taken = np.zeros((ranges, len(IOU_THRESHOLDS), ious.shape[1]), bool)  # (R, T, G)
    lowest = ious.max(axis=1, initial=0) >= thresholds[0, 0]
    for d in np.flatnonzero(lowest):
        able = (ious[d] >= thresholds) & ~(taken & ~crowd)  # (R, T, G)
        counted = able & ~ignored_objects[:, None]
        preferred = np.where(counted.any(axis=2, keepdims=True), counted, able)
        value = np.where(preferred, ious[d], -1.0)
        best = value.shape[2] - 1 - value[..., ::-1].argmax(axis=2)  # (R, T): the last of equal ones
        found = preferred.any(axis=2)
        matched[..., d] = found
        ignored[..., d] = found & np.take_along_axis(ignored_objects, best, axis=1)
        r, t = np.nonzero(found)
        taken[r, t, best[r, t]] |= marks[d]
    ignored |= ~matched & outside[:, None]
    return Matches(scores, matched, ignored, (~ignored_objects).sum(axis=1))


def curves(parts: Sequence[Matches], ranked: bool = True) -> list[Curve | None]:
    """A category's curve under each range, from its videos in order of their ids; None if all objects are ignored.

    Without `ranked`, every recall is with all results.
    """
    objects = np.sum([part.objects for part in parts], axis=0)  # (R,)
    scores = np.concatenate([part.scores for part in parts])
    rank = np.concatenate([np.arange(len(part.scores)) * ranked for part in parts])
    order = np.argsort(-scores, kind="stable")
    matched = np.concatenate([part.matched for part in parts], axis=2)[..., order]  # (R, T, D)
    counts = ~np.concatenate([part.ignored for part in parts], axis=2)[..., order]
    true, false = matched & counts, ~matched & counts
    return [_curve(true[r], false[r], rank[order], int(total)) if total else None for r, total in enumerate(objects)]


def _curve(true: np.ndarray, false: np.ndarray, rank: np.ndarray, objects: int) -> Curve:
    """The curve of results (T, D) in descending order of scores, with their rank (D,) within their video."""
    recall = np.stack([(true & (rank < most)).sum(axis=1) / objects for most in MAX_RESULTS], axis=1)
    right, wrong = true.cumsum(axis=1), false.cumsum(axis=1)
    precision = right / (right + wrong + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    at = np.zeros((len(true), len(RECALLS)))
    for line, reached, values in zip(at, right / objects, precision, strict=True):
        index = np.searchsorted(reached, RECALLS)
        reached_at = index < len(values)
        line[reached_at] = values[index[reached_at]]
    return Curve(at, recall)
