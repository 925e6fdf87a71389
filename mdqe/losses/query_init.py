"""Losses of the query initialisation: the activation map and the embeddings that associate queries (paper Sec. 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_PIXELS = 12544
"""The activation map is supervised on each frame's most uncertain pixels, at most this many."""
NEGATIVES_PER_FRAME = 50
"""An anchor is compared with at most this many queries of other objects, times the frames of the clip."""
MAX_RATIO = 1000.0
"""The sum over negatives of exp(s⁻ − s⁺) counts at most this."""


def activation_loss(logits: Tensor, labels: Tensor, centerness: Tensor) -> Tensor:
    """`init_sem`: BCE of the activation map, focal, weighted towards objects' middles.

    Args:
        logits: (N, P, K) of N frames.
        labels: (N, P) category of each pixel, −1 on background.
        centerness: (N, P, K).

    Returns:
        (N,): each frame's sum over pixels and categories, divided by its number of labelled pixels, at least 1.
    """
    categories = torch.arange(logits.shape[-1], device=logits.device)
    wanted = labels[..., None] == categories  # (N, P, K)
    if logits.shape[1] > MAX_PIXELS:
        p = logits.detach().sigmoid()
        uncertainty = torch.where(wanted, logits.shape[-1] * (1 - p), p).sum(-1)  # (N, P)
        chosen = uncertainty.topk(MAX_PIXELS, dim=1).indices[..., None].expand(-1, -1, logits.shape[-1])
        logits, wanted, centerness = (x.gather(1, chosen) for x in (logits, wanted, centerness))
    t = wanted.to(logits.dtype)
    error = (t - logits.sigmoid()).square()
    weight = torch.where(wanted, centerness, 1 - centerness).square()
    loss = (F.binary_cross_entropy_with_logits(logits, t, reduction="none") * error * weight).sum((1, 2))
    return loss / wanted.any(-1).sum(1).clamp(min=1)


def association_losses(
    embeddings: Tensor, ids: Tensor, object_ids: Tensor, window: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`init_reid` and its auxiliary, of one clip: an object's queries attract each other and repel all others.

    Args:
        embeddings: (T, Q, E) of each frame's own queries.
        ids: (T, Q) the object under each query, −1 on background.
        object_ids: (N,) the clip's objects, all different.
        window: cells that an object may move per frame.

    Returns:
        Both losses summed over the objects that have a query, and the number of these.
    """
    frames, queries, _ = embeddings.shape
    flat = embeddings.flatten(0, 1)  # (T·Q, E)
    same = ids.flatten() == object_ids[:, None]  # (N, T·Q)
    found = same.any(1)
    same, anchor = same[found], same[found].byte().argmax(1)  # (N,): the first one's place
    if not len(anchor):
        return flat.sum() * 0, flat.sum() * 0, found.sum()
    reach = _in_reach(anchor, frames, queries, window)
    positives, negatives = _draw(same & reach, ~same & reach, NEGATIVES_PER_FRAME * frames)
    similarity = flat[anchor] @ flat.T  # (N, T·Q)
    # log(1 + Σ exp(s⁻ − s⁺)), in a form that cannot overflow.
    crowd = similarity.masked_fill(~negatives, torch.finfo(flat.dtype).min).logsumexp(1, keepdim=True)  # (N, 1)
    contrast = F.softplus((crowd - similarity).clamp(max=math.log(MAX_RATIO)))
    directions = F.normalize(flat, dim=-1)
    cosine = directions[anchor] @ directions.T  # (N, T·Q)
    aux = (cosine - positives.to(cosine.dtype)).square()
    return _mean(contrast, positives).sum(), _mean(aux, positives | negatives).sum(), found.sum()


def _in_reach(anchor: Tensor, frames: int, queries: int, window: float) -> Tensor:
    """Queries near enough to anchors (N,), farther ones in frames farther away: (N, T·Q)."""
    grid = math.isqrt(queries)
    cell = torch.arange(queries, device=anchor.device)
    rows = ((cell // grid)[:, None] - cell // grid).abs()  # (Q, Q)
    columns = ((cell % grid)[:, None] - cell % grid).abs()
    distance = torch.maximum(rows, columns)[anchor % queries]  # (N, Q)
    apart = (torch.arange(frames, device=anchor.device) - (anchor // queries)[:, None]).abs()  # (N, T)
    return (distance[:, None] <= max(window, 2) * (apart[..., None] + 1)).flatten(1)


def _draw(positives: Tensor, negatives: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Random subsets of each row's positives and negatives (N, M), a fifth as many positives, at least 2."""
    wanted_negatives = negatives.sum(1).clamp(max=most)
    wanted_positives = (wanted_negatives // 5).clamp(min=2)
    order = torch.randperm(positives.numel(), device=positives.device).view_as(positives).argsort(1)
    return _first(positives, order, wanted_positives), _first(negatives, order, wanted_negatives)


def _first(candidates: Tensor, order: Tensor, count: Tensor) -> Tensor:
    """Keep the first `count` (N,) candidates (N, M) of each row in the given order (N, M)."""
    sorted_candidates = candidates.gather(1, order)
    kept = sorted_candidates & (sorted_candidates.cumsum(1) <= count[:, None])
    return torch.zeros_like(candidates).scatter(1, order, kept)


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x (N, M) over mask (N, M): (N,)."""
    return torch.where(mask, x, 0).sum(1) / mask.sum(1)
