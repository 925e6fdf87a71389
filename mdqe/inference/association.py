"""Matching of the detections of a clip with tracks (paper Sec. 3.4, Eq. 7): scores and assignment. Pure functions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from mdqe.inference.mask_sums import positive
from mdqe.inference.memory import TrackMemory

MIN_IOU, MIN_SIMILARITY = 0.1, 0.5  # a pair matches above iou_weight * MIN_IOU + similarity_weight * MIN_SIMILARITY
REPEAT_IOU, REPEAT_SIMILARITY = 0.4, 0.6  # an unmatched detection above one of these repeats a track
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
        long_memory, short_memory: embeddings are compared with tracks of so many clips; see `memory_similarity`.

    Raises:
        ValueError: a value of the detections is not finite.
    """
    number, device = len(class_scores), class_scores.device
    seen, observed, masks = memory.masks.masks(frames)
    age = memory.clips - memory.last_seen  # (N,) in clips; 0 for the tracks of the previous clip
    long, short = age < long_memory, age < short_memory
    tracks = np.union1d(np.flatnonzero(long | short), observed)

    def rows(places: np.ndarray) -> Tensor:
        return torch.from_numpy(places).to(device)

    iou = mask_logits.new_zeros(len(tracks), number)
    if len(observed) and number:
        consecutive = seen[-1] - seen[0] == len(seen) - 1  # mostly: then they are not copied
        shared = mask_logits[:, seen[0] : seen[-1] + 1] if consecutive else mask_logits[:, seen]
        overlaps = mask_iou(masks, positive(shared).flatten(1))
        iou[rows(np.searchsorted(tracks, observed))] = overlaps
    known = memory.embeddings.index_select(0, rows(tracks))
    recent = (rows(np.flatnonzero(which[tracks])) for which in (long, short))
    similarity = memory_similarity(known, embeddings, *recent)
    given = {"class_scores": class_scores, "mask_logits": mask_logits, "embeddings": embeddings} if number else {}
    given = {name: x for name, x in given.items() if x.numel()}
    finite = [torch.stack(x.aminmax()).isfinite().all() for x in given.values()]
    parts = [*finite, class_scores.amax(1), iou, similarity]
    packed = torch.cat([x.flatten().to(class_scores.dtype) for x in parts]).cpu().numpy()
    is_finite, best, iou_values, similarity_values = np.split(
        packed, np.cumsum([len(finite), number, len(tracks) * number])
    )
    for name, valid in zip(given, is_finite, strict=True):
        if not valid:
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    size = (len(tracks), number)
    seen_here = np.isin(tracks, observed)
    return ClipScores(best, tracks, iou_values.reshape(size), similarity_values.reshape(size), seen_here)


def mask_iou(tracks: Tensor, detections: Tensor) -> Tensor:
    """IoU (N, D) of the masks of tracks (N, P) and detections (D, P), 0 or 1 in each of P pixels of the same frames."""
    overlap = tracks @ detections.T
    return overlap / (tracks.sum(dim=1)[:, None] + detections.sum(dim=1) - overlap + 1e-6)


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


def memory_similarity(tracks: Tensor, detections: Tensor, long: Tensor, short: Tensor) -> Tensor:
    """Similarity (N, D) of detections to the rows `long` of tracks, which were observed recently; 0 for other tracks.

    For the most recent tracks, rows `short`, it is the average with the similarity computed among these tracks alone.
    """
    similarity = detections.new_zeros(len(tracks), len(detections))
    if not detections.shape[1]:  # a softmax over no embeddings would say that all are equal
        return similarity
    similarity[long] = bi_softmax(tracks[long], detections)
    similarity[short] = (similarity[short] + bi_softmax(tracks[short], detections)) / 2
    return similarity


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
