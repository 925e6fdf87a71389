"""Matching of the detections of a clip with tracks (paper Sec. 3.4, Eq. 7): scores and assignment. Pure functions."""

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mdqe.inference.memory import FrameSums

MIN_IOU, MIN_SIMILARITY = 0.1, 0.5  # a pair matches above iou_weight * MIN_IOU + similarity_weight * MIN_SIMILARITY
REPEAT_IOU, REPEAT_SIMILARITY = 0.4, 0.6  # an unmatched detection above one of these repeats a track


def pooled_iou(tracks: Tensor, shared: Sequence[tuple[int, FrameSums]], mask_logits: Tensor) -> Tensor:
    """IoU (N, D) of tracks and the detections of a clip, pooled over the frames of the clip that have any track.

    Args:
        tracks: (N,) ascending ids, on the CPU, including all ids in `shared`.
        shared: index t in the clip and sums of each such frame. A track that is not in a frame has an empty mask there.
        mask_logits: (D, T, h, w) of the detections. The mask of a detection or track consists of the pixels with a
            positive logit or average logit.
    """
    overlap = mask_logits.new_zeros(len(tracks), len(mask_logits))
    track_area, area = overlap.new_zeros(len(tracks), 1), overlap.new_zeros(len(mask_logits))
    for t, frame in shared:
        track_masks = (frame.sums > 0).flatten(1).to(overlap)  # (S, h*w); a sum has the sign of its average
        masks = (mask_logits[:, t] > 0).flatten(1).to(overlap)  # (D, h*w)
        rows = torch.searchsorted(tracks, frame.ids)
        overlap[rows] += track_masks @ masks.T
        track_area[rows] += track_masks.sum(dim=1, keepdim=True)
        area += masks.sum(dim=1)
    return overlap / (track_area + area - overlap + 1e-6)


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
    """Similarity (N, D) of detections to recently observed tracks, `long` (N,) bool, on the CPU; 0 for other tracks.

    For the most recent tracks, `short` (N,), it is the average with the similarity computed among these tracks alone.
    """
    similarity = detections.new_zeros(len(tracks), len(detections))
    similarity[long] = bi_softmax(tracks[long], detections)
    similarity[short] = (similarity[short] + bi_softmax(tracks[short], detections)) / 2
    return similarity


def match(
    iou: Tensor, similarity: Tensor, *, iou_weight: float = 1.0, similarity_weight: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Assign N tracks to D detections one to one with the largest total score, without pairs below the threshold.

    Args:
        iou, similarity: (N, D) each, in [0, 1].

    Returns:
        tracks, detections: int64 indices of the matched pairs, on the CPU, ascending by track.
        repeats: (D,) bool, on the CPU: detections so similar to a track that they must not start another one.
    """
    scores = iou_weight * iou + similarity_weight * similarity
    valid = scores > iou_weight * MIN_IOU + similarity_weight * MIN_SIMILARITY
    repeats = ((iou > REPEAT_IOU) | (similarity > REPEAT_SIMILARITY)).any(dim=0).cpu()
    # Pairs below the threshold count as 0 in the assignment, so they cannot displace a valid pair.
    rows, columns = map(torch.from_numpy, linear_sum_assignment(scores.where(valid, 0).cpu().numpy(), maximize=True))
    keep = valid.cpu()[rows, columns]
    return rows[keep], columns[keep], repeats
