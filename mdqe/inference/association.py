"""Matching of the detections of a clip with tracks (paper Sec. 3.4, Eq. 7): scores and assignment. Pure functions."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor

MIN_IOU, MIN_SIMILARITY = 0.1, 0.5  # a pair matches above iou_weight * MIN_IOU + similarity_weight * MIN_SIMILARITY
REPEAT_IOU, REPEAT_SIMILARITY = 0.4, 0.6  # an unmatched detection above one of these repeats a track


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
    similarity[long] = bi_softmax(tracks[long], detections)
    similarity[short] = (similarity[short] + bi_softmax(tracks[short], detections)) / 2
    return similarity


def match(
    iou: np.ndarray, similarity: np.ndarray, *, iou_weight: float = 1.0, similarity_weight: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Assign N tracks to D detections one to one with the largest total score, without pairs below the threshold.

    Args:
        iou, similarity: (N, D) each, in [0, 1].

    Returns:
        tracks, detections: indices of the matched pairs, ascending by track.
        repeats: (D,) bool: detections so similar to a track that they must not start another one.
    """
    scores = iou_weight * iou + similarity_weight * similarity
    valid = scores > iou_weight * MIN_IOU + similarity_weight * MIN_SIMILARITY
    repeats = ((iou > REPEAT_IOU) | (similarity > REPEAT_SIMILARITY)).any(axis=0)
    # Pairs below the threshold count as 0 in the assignment, so they cannot displace a valid pair.
    rows, columns = linear_sum_assignment(np.where(valid, scores, 0), maximize=True)
    keep = valid[rows, columns]
    return rows[keep], columns[keep], repeats
