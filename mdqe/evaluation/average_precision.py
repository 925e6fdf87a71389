"""Average precision and recall of YouTube-VIS: matching results to objects, and the curve over a category's results.

The procedure is the official evaluator's. Within a video and category each result, best first, takes the free object of
the largest IoU of at least the threshold; an object out of the range of areas or a crowd is taken only if there is no
other, and then the result counts neither way, and so does a free result that is itself out of the range. The precision
at a recall is the largest at that or any greater recall, read off at 101 recalls.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_RESULTS = (1, 10, 100)
"""Of a video and category, the best so many take part."""


class Matches(NamedTuple):
    """The results and objects of one video and category, under R ranges and the T IoU thresholds."""

    scores: np.ndarray
    """(D,), best first, at most the largest of `MAX_RESULTS`."""
    matched: np.ndarray
    """(R, T, D) bool: has an object."""
    ignored: np.ndarray
    """(R, T, D) bool: counts neither way."""
    objects: np.ndarray
    """(R,): objects that count."""


class Curve(NamedTuple):
    """A category under one range."""

    precision: np.ndarray
    """(T, 101)."""
    recall: np.ndarray
    """(T, 3): with the best 1, 10 and 100 results of a video."""


def match(
    scores: np.ndarray, ious: np.ndarray, crowd: np.ndarray, ignored_objects: np.ndarray, outside: np.ndarray
) -> Matches:
    """Match the results of a video and category to its objects.

    Args:
        scores: (D,), in the order of the file.
        ious: (D, G).
        crowd: (G,) bool: may be taken by many results.
        ignored_objects: (R, G) bool, crowds included.
        outside: (R, D) bool: results that count neither way where they match nothing.
    """
    order = np.argsort(-scores, kind="stable")[: MAX_RESULTS[-1]]
    scores, ious, outside = scores[order], ious[order], outside[:, order]
    ranges, number = outside.shape
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[:, None]  # (T, 1)
    matched = np.zeros((ranges, len(IOU_THRESHOLDS), number), bool)
    ignored = np.zeros_like(matched)
    taken = np.zeros((ranges, len(IOU_THRESHOLDS), ious.shape[1]), bool)  # (R, T, G)
    lowest = ious.max(axis=1, initial=0) >= thresholds[0, 0]
    for d in np.flatnonzero(lowest):
        able = (ious[d] >= thresholds) & ~(taken & ~crowd)  # (R, T, G)
        counted = able & ~ignored_objects[:, None]
        preferred = np.where(counted.any(axis=2, keepdims=True), counted, able)
        value = np.where(preferred, ious[d], -1.0)
        best = value.shape[2] - 1 - value[..., ::-1].argmax(axis=2)  # (R, T): of equal ones the last
        found = preferred.any(axis=2)
        matched[..., d] = found
        ignored[..., d] = found & np.take_along_axis(ignored_objects, best, axis=1)
        r, t = np.nonzero(found)
        taken[r, t, best[r, t]] = True
    ignored |= ~matched & outside[:, None]
    return Matches(scores, matched, ignored, (~ignored_objects).sum(axis=1))


def curves(parts: Sequence[Matches]) -> list[Curve | None]:
    """A category's curve under each range, from its videos in order of their ids; None where no object counts."""
    objects = np.sum([part.objects for part in parts], axis=0)  # (R,)
    scores = np.concatenate([part.scores for part in parts])
    rank = np.concatenate([np.arange(len(part.scores)) for part in parts])
    order = np.argsort(-scores, kind="stable")
    matched = np.concatenate([part.matched for part in parts], axis=2)[..., order]  # (R, T, D)
    counts = ~np.concatenate([part.ignored for part in parts], axis=2)[..., order]
    true, false = matched & counts, ~matched & counts
    return [_curve(true[r], false[r], rank[order], int(total)) if total else None for r, total in enumerate(objects)]


def _curve(true: np.ndarray, false: np.ndarray, rank: np.ndarray, objects: int) -> Curve:
    """From results (T, D), best first, and their rank (D,) within their video."""
    recall = np.stack([(true & (rank < most)).sum(axis=1) / objects for most in MAX_RESULTS], axis=1)
    right, wrong = true.cumsum(axis=1), false.cumsum(axis=1)
    precision = right / (right + wrong + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    at = np.zeros((len(true), len(RECALLS)))
    for line, reached, values in zip(at, right / objects, precision, strict=True):
        index = np.searchsorted(reached, RECALLS)
        held = index < len(values)
        line[held] = values[index[held]]
    return Curve(at, recall)
