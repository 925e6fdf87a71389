"""Losses of the query initialisation: the activation map and the embeddings that associate queries (paper Sec. 3.2)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mdqe.boxes import is_box
from mdqe.losses.targets import ScaledTargets
from mdqe.modeling.query_init import grid_distance

MAX_PIXELS = 12544
"""The activation map is supervised on each frame's most uncertain pixels, at most this many."""
NEGATIVES_PER_FRAME = 50
"""An anchor is compared with at most this many queries of other objects, times the frames of the clip."""
MAX_RATIO = 1000.0
"""The sum over negatives of exp(s⁻ − s⁺) counts at most this."""
MIN_SIZE = 0.05
"""Distances to a box's centre are in units of its size, of at least this."""


class SemanticTargets(NamedTuple):
    """The P = h·w pixels of every frame of a clip."""

    labels: Tensor
    """(T, P) category, −1 on background."""
    ids: Tensor
    """(T, P) object id, −1 on background."""
    centerness: Tensor
    """(T, P, K) 1 in the middle of an object, falling towards its border, in its category; 0 elsewhere [γ]."""


def semantic_targets(targets: ScaledTargets, num_classes: int) -> SemanticTargets:
    """Paint the objects over each other by ascending box area, the largest last.

    A pixel is labelled by the last object that covers it; its centerness belongs to the first, which had it alone. An
    object that is present but covers no pixel takes the nearest one not covered yet.
    """
    frames, (h, w) = targets.ids.shape[1], targets.inner.shape[-2:]
    boxes, labels = targets.boxes, targets.labels
    order = (boxes[..., 2:] - boxes[..., :2]).prod(-1).mean(1).argsort(stable=True)
    order = order[is_box(boxes[order]).any(1)]
    if not len(order):
        nothing = labels.new_full((frames, h * w), -1)
        return SemanticTargets(nothing, nothing, boxes.new_zeros(frames, h * w, num_classes))
    boxes, labels, ids = boxes[order], labels[order], targets.ids[order]
    distance = _distance(boxes, h, w)  # (K, T, P)
    covered = _give_small_ones_a_pixel(targets.inner[order].flatten(2), distance, ids >= 0)  # (K, T, P)
    count = covered.sum(0)  # (T, P)
    shown = count > 0
    first = covered.byte().argmax(0)
    last = len(order) - 1 - covered.flip(0).byte().argmax(0)
    # A later object of the first one's category takes the centerness away, too.
    again = (covered & (labels[:, None, None] == labels[first])).sum(0) > 1  # (T, P)
    center = 1 - 2 * distance.gather(0, first[None])[0].clamp(max=0.5)
    center = torch.where(shown & ~again, center, 0)
    centerness = boxes.new_zeros(*center.shape, num_classes).scatter_(-1, labels[first][..., None], center[..., None])
    label = torch.where(shown, labels[last], -1)
    return SemanticTargets(label, torch.where(shown, ids.T.gather(1, last), -1), centerness)


def _distance(boxes: Tensor, h: int, w: int) -> Tensor:
    """Squared distance of every pixel's centre from every box's, in box sizes: (K, T, 4) → (K, T, h·w)."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=MIN_SIZE)
    center = (boxes[..., 2:] + boxes[..., :2]) / 2
    x, y = ((torch.arange(n, dtype=boxes.dtype, device=boxes.device) + 0.5) / n for n in (w, h))
    dx = ((center[..., :1] - x) / size[..., :1]).square()  # (K, T, w)
    dy = ((center[..., 1:] - y) / size[..., 1:]).square()  # (K, T, h)
    return (dx[..., None, :] + dy[..., :, None]).flatten(2)


def _give_small_ones_a_pixel(covered: Tensor, distance: Tensor, present: Tensor) -> Tensor:
    """Objects (K, T, P), in painting order, each with at least one pixel where it is present (K, T)."""
    lost = present & ~covered.any(-1)  # (K, T)
    place = lost.cumsum(0)
    covered = covered.clone()
    index = torch.arange(len(covered), device=covered.device)[:, None]
    frame = torch.arange(covered.shape[1], device=covered.device)
    for i in range(1, int(place.max()) + 1):  # every frame's i-th such object
        turn = lost & (place == i)  # (K, T), at most one a frame
        k = turn.byte().argmax(0)  # (T,)
        taken = (covered & (index < k)[..., None]).any(0)  # (T, P)
        pixel = distance[k, frame].masked_fill(taken, float("inf")).argmin(-1)  # (T,)
        covered[k, frame, pixel] |= turn.any(0)
    return covered


def ids_at(ids: Tensor, coords: Tensor, size: tuple[int, int]) -> Tensor:
    """The id under each point: ids (T, P) of pixels (h, w), coords (T, Q, 2) xy in [0, 1] → (T, Q)."""
    plane = ids.unflatten(1, size)[:, None].to(coords.dtype)  # (T, 1, h, w)
    points = (2 * coords - 1)[:, None]  # (T, 1, Q, 2)
    sampled = F.grid_sample(plane, points, mode="nearest", padding_mode="border", align_corners=False)
    return sampled[:, 0, 0].to(ids.dtype)


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
    """Queries within the window of anchors (N,); the window grows with the distance in frames: (N, T·Q)."""
    distance = grid_distance(math.isqrt(queries), anchor.device)[anchor % queries]  # (N, Q)
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
