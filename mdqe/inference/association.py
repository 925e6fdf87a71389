"""Matching of the detections of a clip with tracks (paper Sec. 3.4, Eq. 7): scores and assignment. Pure functions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from mdqe.inference.mask_iou import mask_iou
from mdqe.inference.memory import TrackMemory

MIN_IOU, MIN_SIMILARITY = 0.1, 0.5  # a pair matches above iou_weight * MIN_IOU + similarity_weight * MIN_SIMILARITY
REPEAT_IOU, REPEAT_SIMILARITY = 0.4, 0.6  # an unmatched detection above one of these repeats a track
ROUNDING = 1e-3  # by which a probability may lie outside [0, 1]
DENSE = 2**22  # entries of the largest table of scores that is assigned as such
LOOK_ALIKE = 0.03  # distance, relative to the length, up to which embeddings are equal but for noise


class ClipScores(NamedTuple):
    """Scores of the D detections of a clip against R tracks, on the host."""

    best: np.ndarray
    """(D,): the largest class score of each detection."""
    tracks: np.ndarray
    """(R,): ids, ascending, of the tracks that can match the clip."""
    iou: np.ndarray
    """(R, D)."""
    similarity: np.ndarray
    """(R, D). All other tracks have an IoU and a similarity of 0."""
    seen: np.ndarray
    """(R,) bool: whether a track was observed in the frames of the clip."""


def score_clip(
    memory: TrackMemory,
    frames: Sequence[int],
    class_scores: Tensor,
    mask_logits: Tensor,
    embeddings: Tensor,
    long_memory: int,
    short_memory: int,
) -> ClipScores:
    """Score the detections of a clip against the tracks in memory, with one transfer to the host.

    Args:
        memory: of the tracks.
        frames: T indices, ascending.
        class_scores: (D, K).
        mask_logits: (D, T, h, w); the masks of detections and tracks are compared in the frames that have any track.
        embeddings: (D, E); E is 0 if there are none, and then the similarity is 0.
        long_memory, short_memory: embeddings are compared with tracks of so many clips; see `memory_groups`.

    Raises:
        ValueError: a value of the detections is not finite, or a class score is no probability.
    """
    # 1. The tracks that can match: those observed in the frames of the clip, and those of the long memory.
    places, observed, logits = memory.masks.sums(frames)
    age = memory.clips - memory.last_seen  # (N,) in clips; 0 for the tracks of the previous clip
    seen = np.zeros(len(age), bool)
    seen[observed] = True
    tracks = (seen | (age < max(long_memory, short_memory))).nonzero()[0]
    # 2. Compare on the device.
    groups = memory_groups(age[tracks], (long_memory, short_memory)) if embeddings.shape[1] else []
    known = (memory.embeddings.index_select(0, torch.from_numpy(tracks[rows]).to(embeddings.device)) for rows in groups)
    overlaps, mask_checks = mask_iou(logits, mask_logits, places)
    scores, extremes, checks, (overlap,), similarities = to_host(
        class_scores.aminmax(dim=1),
        embeddings.aminmax() if embeddings.numel() else (),
        mask_checks,
        (overlaps,),
        [bi_softmax(x, embeddings) for x in known],
    )
    # 3. Check and combine on the host. The minimum and the maximum are finite only if all numbers are.
    for name, values in (("class_scores", scores), ("embeddings", extremes), ("mask_logits", checks)):
        if not all(np.isfinite(x).all() for x in values):
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    best = scores[1]
    for extreme in (scores[0].min(initial=0), best.max(initial=0)):
        if not -ROUNDING <= extreme <= 1 + ROUNDING:
            raise ValueError(f"class_scores must be probabilities in [0, 1], got {extreme:g}")
    iou, similarity = np.zeros((2, len(tracks), len(best)), best.dtype)
    iou[tracks.searchsorted(observed)] = overlap
    for i, (rows, one) in enumerate(zip(groups, similarities, strict=True)):
        similarity[rows] = (similarity[rows] + one) / 2 if i else one
    return ClipScores(best, tracks, iou, similarity, seen[tracks])


def memory_groups(age: np.ndarray, limits: tuple[int, int]) -> list[np.ndarray]:
    """Rows of the tracks observed in the last so many clips; one group if both are equal.

    Embeddings are compared with each group alone. The similarity is that to the first group, the long memory, and for
    tracks of the second one, the short memory, the average of both. The average of equal numbers is the same number.

    Args:
        age: (R,) clips since the last observation.
        limits: numbers of clips, of the long and of the short memory.
    """
    long, short = ((age < limit).nonzero()[0] for limit in limits)
    return [long] if np.array_equal(long, short) else [long, short]


def reads_in_place(device: torch.device) -> bool:
    """Whether the host can read tensors of a device without a transfer."""
    return device.type == "cpu"


def to_host(*groups: Sequence[Tensor]) -> list[list[np.ndarray]]:
    """The tensors of each group, all on one device, as arrays of the type of the first tensor, with one transfer."""
    dtype = groups[0][0].dtype
    tensors = [x if x.dtype == dtype else x.to(dtype) for group in groups for x in group]
    if reads_in_place(tensors[0].device):
        arrays = [x.numpy() for x in tensors]
    else:
        packed = torch.cat([x.flatten() for x in tensors]).cpu().numpy()
        parts = np.split(packed, np.cumsum([x.numel() for x in tensors[:-1]]))
        arrays = [part.reshape(x.shape) for part, x in zip(parts, tensors, strict=True)]
    rest = iter(arrays)
    return [[next(rest) for _ in group] for group in groups]


def bi_softmax(tracks: Tensor, detections: Tensor) -> Tensor:
    """Similarity in [0, 1] of track embeddings (N, E) and detection embeddings (D, E), as (N, D).

    The average of two softmaxes of the dot products: over the tracks and over the detections. A softmax over a single
    entry is always 1, so with one track or one detection only the other softmax counts. A single pair has similarity 1.
    """
    dots = tracks @ detections.T  # (N, D)
    over_tracks, over_detections = dots.softmax(dim=0), dots.softmax(dim=1)
    if len(tracks) == 1 and len(detections) > 1:
        return over_detections
    if len(detections) == 1 and len(tracks) > 1:
        return over_tracks
    return (over_tracks + over_detections) / 2


def match(
    iou: np.ndarray,
    similarity: np.ndarray,
    *,
    iou_weight: float = 1.0,
    similarity_weight: float = 1.0,
    threshold: float | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Assign N tracks to D detections one to one with the largest total score, without pairs below the threshold.

    Args:
        iou, similarity: (N, D) each, in [0, 1].
        threshold: pairs match above this score; None: above the weighted sum of MIN_IOU and MIN_SIMILARITY.

    Returns:
        tracks, detections: indices of the matched pairs, ascending by track.
        repeats: (D,) bool: detections so similar to a track that they must not start another one.
    """
    scores = iou_weight * iou + similarity_weight * similarity
    least = iou_weight * MIN_IOU + similarity_weight * MIN_SIMILARITY if threshold is None else threshold
    valid = scores > least
    repeats = np.any((iou > REPEAT_IOU) | (similarity > REPEAT_SIMILARITY), axis=0)
    # Pairs below the threshold count as 0 in the assignment, so they cannot displace a valid pair.
    rows, columns = linear_sum_assignment(np.where(valid, scores, 0), maximize=True)
    keep = valid[rows, columns]
    return rows[keep], columns[keep], repeats


def match_pairs(rows: np.ndarray, columns: np.ndarray, scores: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Assign N tracks to D detections one to one with the largest total score, from P pairs that can match.

    Args:
        rows, columns: (P,) tracks and detections, ascending by track and then by detection.
        scores: (P,), positive.
        shape: N and D.

    Returns:
        The indices of the matched pairs, ascending.
    """
    number, size = shape
    if not len(scores):
        return np.zeros(0, np.int64)
    if number * size <= DENSE:
        table = np.zeros(shape)
        table[rows, columns] = scores
        chosen = linear_sum_assignment(table, maximize=True)
        matched = table[chosen] > 0
        row, column = chosen[0][matched], chosen[1][matched]
    else:  # a solver for few pairs; each track may stay without a detection, at the cost of a score of 0
        most = scores.max() + 1
        costs = np.concatenate([most - scores, np.full(number, most)])
        places = np.concatenate([columns, size + np.arange(number)])
        table = csr_array((costs, (np.concatenate([rows, np.arange(number)]), places)), (number, size + number))
        row, column = min_weight_full_bipartite_matching(table)
        row, column = row[column < size], column[column < size]
    return np.searchsorted(rows * size + columns, row * size + column)


def match_look_alikes(tracks: Tensor, detections: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Assign track embeddings (N, E) to detection embeddings (D, E) that are equal to them up to noise, one to one.

    Several equal tracks share the softmax of `bi_softmax`, so none of them reaches the threshold of `match`. The
    distance of a pair does not depend on other pairs.

    Returns:
        tracks, detections: indices of the pairs.
    """
    scale = torch.maximum(tracks.norm(dim=1)[:, None], detections.norm(dim=1)).clamp(min=1e-12)
    distance = (torch.cdist(tracks, detections) / scale).cpu().numpy()
    alike = distance <= LOOK_ALIKE
    rows, columns = linear_sum_assignment(np.where(alike, 1 + LOOK_ALIKE - distance, 0), maximize=True)
    keep = alike[rows, columns]
    return rows[keep], columns[keep]
