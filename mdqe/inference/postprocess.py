"""Post-processing of predictions: the queries of a clip → detections for the tracker; mask logits → full resolution."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mdqe.modeling.mask_head import mask_logits
from mdqe.ops.reference import widen

MASK_STRIDE = 4
DUPLICATE_SIMILARITY = 0.99  # cosine at which a query repeats a better one
SUPPRESSION_IOU = 0.5  # overlap with a better detection at which one is dropped
THINNED_CLIP = 5  # frames from which suppression looks at every second frame only


class ClipDetections(NamedTuple):
    """Detections of one clip, best first.

    class_scores: (D, K), probabilities weighted by overlap with better detections and by mask quality.
    mask_logits: (D, T, h, w) at stride 4, over the padded frames.
    embeddings: (D, C).
    """

    class_scores: Tensor
    mask_logits: Tensor
    embeddings: Tensor


def filter_clip(
    class_scores: Tensor,
    mask_coefficients: Tensor,
    embeddings: Tensor,
    mask_features: Tensor,
    *,
    score_threshold: float,
    max_detections: int,
) -> ClipDetections:
    """Keep the confident, distinct, non-empty queries of a clip and weight their scores by the quality of their masks.

    Masks are computed only for queries that pass the threshold and do not repeat a better query's embedding; whole ones
    only for those whose mask, thinned, does not repeat a better one's.

    Args:
        class_scores: (Q, K), after the sigmoid.
        mask_coefficients: (Q, M).
        embeddings: (Q, C), the clip queries before the shared norm.
        mask_features: (M, T, h, w) of the clip's frames, padding included.
        score_threshold: least class score of a query, before and after weighting; the best one always stays, unless
            all masks are empty.
        max_detections: most queries to compute masks for.

    Raises:
        ValueError: misshapen input.
    """
    _check_shapes(class_scores, mask_coefficients, embeddings, mask_features)
    if max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, got {max_detections}")
    order = _distinct_queries(class_scores, embeddings, score_threshold)[:max_detections]  # (D,)
    thin = mask_logits(mask_coefficients[order], _thinned(mask_features))

    held = (thin > 0).flatten(1).any(dim=1)
    unsure = (~held).nonzero().flatten()  # empty there; between the pixels looked at there may be some
    held[unsure] = (mask_logits(mask_coefficients[order[unsure]], mask_features) > 0).flatten(1).any(dim=1)
    overlap = overlap_with_better(thin[held])
    kept = overlap < SUPPRESSION_IOU
    order = order[held][kept]

    logits = mask_logits(mask_coefficients[order], mask_features)  # (D, T, h, w)
    weight = (1 - overlap[kept]) * foreground_confidence(logits)
    class_scores, embeddings = class_scores[order] * weight[:, None].to(class_scores), embeddings[order]
    best, order = class_scores.amax(dim=1).sort(descending=True, stable=True)
    number = max(int((best > score_threshold).sum()), 1)
    order = order[:number]
    return ClipDetections(class_scores[order], logits[order], embeddings[order])


def upsample_masks(logits: Tensor) -> Tensor:
    """Mask logits (…, h, w) interpolated to (…, 4h, 4w), in float32 or wider.

    Bilinear, sample i of an axis lying at pixel 4i + 2; before the first and after the last the edge is repeated.
    """
    *leading, height, width = logits.shape
    flat = widen(logits).reshape(-1, 1, height, width)
    # One more sample on each side, so that every pixel lies between two; pixel 0 is then half-way from the first.
    padded = F.pad(flat, (1, 1, 1, 1), mode="replicate")
    size = (MASK_STRIDE * (height + 1) + 1, MASK_STRIDE * (width + 1) + 1)
    fine = F.interpolate(padded, size=size, mode="bilinear", align_corners=True)
    edge = MASK_STRIDE // 2
    fine = fine[:, 0, edge : edge + MASK_STRIDE * height, edge : edge + MASK_STRIDE * width]
    return fine.unflatten(0, leading)


def _distinct_queries(class_scores: Tensor, embeddings: Tensor, score_threshold: float) -> Tensor:
    """Indices of the confident queries, best first, without those that nearly repeat a better one, kept or not."""
    best, order = class_scores.amax(dim=1).sort(descending=True, stable=True)
    order = order[: max(int((best >= score_threshold).sum()), 1)]
    directions = F.normalize(widen(embeddings[order]), dim=1)
    with torch.autocast(directions.device.type, enabled=False):
        similarity = (directions @ directions.T).triu(diagonal=1)  # (better, worse)
    return order[(similarity < DUPLICATE_SIMILARITY).all(dim=0)]


def overlap_with_better(logits: Tensor) -> Tensor:
    """Largest IoU (D,) of each mask, hardened, with the soft masks of the better ones; logits (D, …), best first."""
    if len(logits) == 0:
        return logits.new_zeros(0)
    soft = widen(logits).flatten(1).sigmoid()
    hard = (soft > 0.5).to(soft)
    with torch.autocast(soft.device.type, enabled=False):
        intersection = soft @ hard.T  # (better, worse)
    union = soft.sum(dim=1)[:, None] + hard.sum(dim=1) - intersection
    return (intersection / (union + 1)).triu(diagonal=1).amax(dim=0)


def foreground_confidence(logits: Tensor) -> Tensor:
    """Mean probability (D,) of the pixels that each mask takes as foreground; logits (D, …)."""
    soft = widen(logits).flatten(1).sigmoid()
    hard = (soft > 0.5).to(soft)
    return (soft * hard).sum(dim=1) / (hard.sum(dim=1) + 1e-6)


def _thinned(features: Tensor) -> Tensor:
    """Every second pixel of each axis, and of long clips every second frame, of (M, T, h, w)."""
    step = 2 if features.shape[1] >= THINNED_CLIP else 1
    return features[:, ::step, ::2, ::2]


def _check_shapes(class_scores: Tensor, mask_coefficients: Tensor, embeddings: Tensor, mask_features: Tensor) -> None:
    for name, x, axes in (
        ("class_scores", class_scores, "(Q, K)"),
        ("mask_coefficients", mask_coefficients, "(Q, M)"),
        ("embeddings", embeddings, "(Q, C)"),
        ("mask_features", mask_features, "(M, T, h, w)"),
    ):
        if x.dim() != axes.count(",") + 1 or 0 in x.shape:
            raise ValueError(f"{name} must be {axes}, none empty, got {tuple(x.shape)}")
    queries = [len(class_scores), len(mask_coefficients), len(embeddings)]
    if len(set(queries)) > 1:
        raise ValueError(f"class_scores, mask_coefficients and embeddings must have as many queries, got {queries}")
    if mask_coefficients.shape[1] != len(mask_features):
        raise ValueError(
            f"mask_coefficients and mask_features must have as many channels, "
            f"got {mask_coefficients.shape[1]} and {len(mask_features)}"
        )
