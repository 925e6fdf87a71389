"""Which detection of a clip is which track: scores of all pairs and their assignment. Pure functions."""

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mdqe.inference.memory import FrameSums

MIN_IOU, MIN_SIMILARITY = 0.1, 0.5  # a pair matches above iou_weight * MIN_IOU + similarity_weight * MIN_SIMILARITY
REPEAT_IOU, REPEAT_SIMILARITY = 0.4, 0.6  # an unmatched detection above either repeats a track


def pooled_iou(tracks: Tensor, shared: Sequence[tuple[int, FrameSums]], mask_logits: Tensor) -> Tensor:
    """IoU (N, D) of tracks and the detections of a clip, pooled over the clip's frames that some track has.

    Args:
        tracks: (N,) ascending ids, on the CPU, all those of `shared` among them.
        shared: index t in the clip and memory of each such frame; a track that a frame lacks is empty there.
        mask_logits: (D, T, h, w) of the detections; a mask is where its logit, or a track's average, is positive.
    """
    overlap = mask_logits.new_zeros(len(tracks), len(mask_logits))
    track_area, area = overlap.new_zeros(len(tracks), 1), overlap.new_zeros(len(mask_logits))
    for t, seen in shared:
        track_masks = (seen.sums > 0).flatten(1).to(overlap)  # (S, h*w); a sum has the sign of its average
        masks = (mask_logits[:, t] > 0).flatten(1).to(overlap)  # (D, h*w)
        rows = torch.searchsorted(tracks, seen.ids)
        overlap[rows] += track_masks @ masks.T
        track_area[rows] += track_masks.sum(dim=1, keepdim=True)
        area += masks.sum(dim=1)
    return overlap / (track_area + area - overlap + 1e-6)


def bi_softmax(tracks: Tensor, detections: Tensor) -> Tensor:
    """Similarity in [0, 1] of track embeddings (N, E) and detection embeddings (D, E), as (N, D).

    Dot products through a softmax over the tracks and one over the detections, averaged. A softmax over a single entry
    says nothing, so where one side is single only the other direction counts; a single pair has similarity 1.
    """
    dots = tracks @ detections.T  # (N, D)
    over_tracks, over_detections = dots.softmax(dim=0), dots.softmax(dim=1)
    if len(tracks) == 1 and len(detections) > 1:
        return over_detections
    if len(detections) == 1 and len(tracks) > 1:
        return over_tracks
    return (over_tracks + over_detections) / 2


def memory_similarity(tracks: Tensor, detections: Tensor, long: Tensor, short: Tensor) -> Tensor:
    """Similarity (N, D) to the tracks seen lately, `long` (N,) bool, on the CPU; 0 to the others.

    The tracks seen very lately, `short` (N,), are also compared among themselves and have the average of the two.
    """
    similarity = detections.new_zeros(len(tracks), len(detections))
    similarity[long] = bi_softmax(tracks[long], detections)
    similarity[short] = (similarity[short] + bi_softmax(tracks[short], detections)) / 2
    return similarity


def match(
    iou: Tensor, similarity: Tensor, *, iou_weight: float = 1.0, similarity_weight: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The best one-to-one assignment of N tracks to D detections, pairs below the threshold left out.

    Args:
        iou, similarity: (N, D) each, in [0, 1].

    Returns:
        tracks, detections: int64 indices of the matched pairs, on the CPU, ascending by track.
        repeats: (D,) bool, on the CPU: detections so close to some track that, unmatched, they must not start another.
    """
    scores = iou_weight * iou + similarity_weight * similarity
    valid = scores > iou_weight * MIN_IOU + similarity_weight * MIN_SIMILARITY
    repeats = ((iou > REPEAT_IOU) | (similarity > REPEAT_SIMILARITY)).any(dim=0).cpu()
    # Pairs below the threshold are worth nothing before the assignment, so none can displace a valid pair.
    rows, columns = map(torch.from_numpy, linear_sum_assignment(scores.where(valid, 0).cpu().numpy(), maximize=True))
    keep = valid.cpu()[rows, columns]
    return rows[keep], columns[keep], repeats
