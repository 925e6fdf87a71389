"""Losses of the query initialisation: activation map and association embeddings (paper Sec. 3.2).

The paper names the kinds of the losses. The semantic targets, the sampling and the auxiliary loss are those of the
released code.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from mdqe.boxes import is_box
from mdqe.losses.targets import StackedTargets
from mdqe.modeling.query_init import grid_distance

MAX_PIXELS = 12544
"""Only the most uncertain pixels of a frame supervise the activation map, at most this many."""
NEGATIVES_PER_FRAME = 50
"""An anchor has at most this many negatives, times the frames of the clip."""
MAX_RATIO = 1000.0
"""Upper bound of the sum of exp(s⁻ − s⁺) over the negatives."""
MIN_SIZE = 0.05
"""Distances to the centre of a box are relative to its size, which counts as at least this."""


class SemanticTargets(NamedTuple):
    """Targets of the P = h·w pixels of the F = B·T frames of B clips."""

    labels: Tensor
    """(F, P) category, −1 on the background."""
    ids: Tensor
    """(F, P) object id, −1 on the background."""
    centerness: Tensor
    """(F, P, K) in the category of an object: 1 at its centre, less towards its border; 0 elsewhere [γ]."""


def semantic_targets(objects: StackedTargets, num_classes: int) -> SemanticTargets:
    """Paint the objects of each clip over each other in order of ascending box area.

    The label and id of a pixel are those of the last object that covers it. The centerness is that of the first object
    that covers it. An object that is present but covers no pixel gets the nearest pixel that no earlier object covers.
    """
    labels, boxes = objects.labels, objects.boxes  # of B clips with N objects
    frames, h, w = objects.inner.shape[2:]
    if not labels.numel():
        background = labels.new_full((len(labels) * frames, h * w), -1)
        return SemanticTargets(background, background, boxes.new_zeros(*background.shape, num_classes))
    # 1. Sort the objects of each clip; those without a box in any frame are last and cover nothing.
    painted = is_box(boxes).any(-1)  # (B, N)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1).mean(-1)
    order = torch.where(painted, area, float("inf")).argsort(dim=1, stable=True)
    present = (objects.ids >= 0) & painted[..., None]
    rows = torch.arange(len(order), device=order.device)[:, None], order
    columns = (boxes, objects.ids, objects.inner.flatten(3), present)
    boxes, ids, inner, present = (x[rows].transpose(0, 1).flatten(1, 2) for x in columns)  # (N, F, …)
    labels = labels[rows].T.repeat_interleave(frames, 1)  # like ids, (N, F)
    # 2. Paint.
    distance = _distance(boxes, h, w)  # (N, F, P)
    covered = _cover_at_least_one_pixel(inner & present[..., None], distance, present)  # (N, F, P)
    foreground = covered.any(0)  # (F, P)
    first = covered.byte().argmax(0)
    last = len(labels) - 1 - covered.flip(0).byte().argmax(0)
    label = labels.T.gather(1, first)  # (F, P)
    # A later object of the same category overwrites the centerness with 0.
    overwritten = (covered & (labels[..., None] == label)).sum(0) > 1
    center = 1 - 2 * distance.gather(0, first[None])[0].clamp(max=0.5)
    center = torch.where(foreground & ~overwritten, center, 0)
    centerness = boxes.new_zeros(*center.shape, num_classes).scatter_(-1, label[..., None], center[..., None])
    label, ids = (torch.where(foreground, x.T.gather(1, last), -1) for x in (labels, ids))
    return SemanticTargets(label, ids, centerness)


def _distance(boxes: Tensor, h: int, w: int) -> Tensor:
    """Squared distance of every pixel from every box centre, relative to the box size: (N, F, 4) → (N, F, h·w)."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=MIN_SIZE)
    center = (boxes[..., 2:] + boxes[..., :2]) / 2
    x, y = ((torch.arange(n, dtype=boxes.dtype, device=boxes.device) + 0.5) / n for n in (w, h))
    dx = ((center[..., :1] - x) / size[..., :1]).square()  # (N, F, w)
    dy = ((center[..., 1:] - y) / size[..., 1:]).square()  # (N, F, h)
    return (dx[..., None, :] + dy[..., :, None]).flatten(2)


def _cover_at_least_one_pixel(covered: Tensor, distance: Tensor, present: Tensor) -> Tensor:
    """Give each object (N, F, P), in painting order, at least one pixel in the frames where it is present (N, F)."""
    small = present & ~covered.any(-1)  # (N, F)
    number = small.cumsum(0)
    covered = covered.clone()
    index = torch.arange(len(covered), device=covered.device)[:, None]
    frame = torch.arange(covered.shape[1], device=covered.device)
    for i in range(1, int(number.max()) + 1):  # the i-th small object of every frame
        chosen = small & (number == i)  # (N, F), at most one per frame
        k = chosen.byte().argmax(0)  # (F,)
        taken = (covered & (index < k)[..., None]).any(0)  # (F, P)
        pixel = distance[k, frame].masked_fill(taken, float("inf")).argmin(-1)  # (F,)
        covered[k, frame, pixel] |= chosen.any(0)
    return covered


def ids_at(ids: Tensor, coords: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the id at each point: ids (F, P) of pixels (h, w), coords (F, Q, 2) xy in [0, 1] → (F, Q)."""
    image = rearrange(ids, "f (h w) -> f 1 h w", h=size[0]).to(coords.dtype)
    points = (2 * coords - 1)[:, None]  # (F, 1, Q, 2)
    sampled = F.grid_sample(image, points, mode="nearest", padding_mode="border", align_corners=False)
    return sampled[:, 0, 0].to(ids.dtype)


def activation_loss(logits: Tensor, labels: Tensor, centerness: Tensor) -> Tensor:
    """Compute `init_sem`: the focal BCE of the activation map, with larger weights towards the centres of objects.

    Args:
        logits: (N, P, K) of N frames.
        labels: (N, P) category of each pixel, −1 on the background.
        centerness: (N, P, K).

    Returns:
        (N,): the sum over pixels and categories of each frame, divided by its number of labelled pixels, at least 1.
    """
    one_hot = labels[..., None] == torch.arange(logits.shape[-1], device=logits.device)  # (N, P, K)
    if logits.shape[1] > MAX_PIXELS:
        p = logits.detach().sigmoid()
        uncertainty = torch.where(one_hot, logits.shape[-1] * (1 - p), p).sum(-1)  # (N, P)
        chosen = uncertainty.topk(MAX_PIXELS, dim=1).indices[..., None].expand(-1, -1, logits.shape[-1])
        logits, one_hot, centerness = (x.gather(1, chosen) for x in (logits, one_hot, centerness))
    t = one_hot.to(logits.dtype)
    error = (t - logits.sigmoid()).square()
    weight = torch.where(one_hot, centerness, 1 - centerness).square()
    loss = (F.binary_cross_entropy_with_logits(logits, t, reduction="none") * error * weight).sum((1, 2))
    return loss / one_hot.any(-1).sum(1).clamp(min=1)


def association_losses(
    embeddings: Tensor, ids: Tensor, object_ids: Tensor, window: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `init_reid` and `init_reid_aux`: the queries of an object attract each other, others of its clip repel.

    Args:
        embeddings: (…, T, Q, E) of the queries before association.
        ids: (…, T, Q) the object at each query, −1 on the background.
        object_ids: (…, N) the objects of each clip, all different; less than −1 for none.
        window: cells that an object may move per frame.

    Returns:
        Both losses summed over the objects that have a query, and the number of these objects.
    """
    frames, queries = ids.shape[-2:]
    flat = embeddings.flatten(-3, -2)  # (…, T·Q, E)
    same = ids.flatten(-2)[..., None, :] == object_ids[..., None]  # (…, N, T·Q)
    found = same.any(-1)
    if not same.numel():
        return flat.sum() * 0, flat.sum() * 0, found.sum()
    anchor = same.byte().argmax(-1)  # (…, N): the first query of each object
    near = _in_window(anchor, frames, queries, window) & found[..., None]  # (…, N, T·Q)
    positives, negatives = _draw(same & near, ~same & near, NEGATIVES_PER_FRAME * frames)
    similarity = _rows(flat, anchor) @ flat.mT  # (…, N, T·Q)
    # log(1 + Σ exp(s⁻ − s⁺)), in a form that cannot overflow.
    total = similarity.masked_fill(~negatives, torch.finfo(flat.dtype).min).logsumexp(-1, keepdim=True)  # (…, N, 1)
    contrast = F.softplus((total - similarity).clamp(max=math.log(MAX_RATIO)))
    directions = F.normalize(flat, dim=-1)
    cosine = _rows(directions, anchor) @ directions.mT  # (…, N, T·Q)
    aux = (cosine - positives.to(cosine.dtype)).square()
    return _mean(contrast, positives).sum(), _mean(aux, positives | negatives).sum(), found.sum()


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows (…, N, E) of x (…, M, E) at index (…, N)."""
    return x.gather(-2, index[..., None].expand(*index.shape, x.shape[-1]))


def _in_window(anchor: Tensor, frames: int, queries: int, window: float) -> Tensor:
    """Return the queries in the window of anchors (…, N): (…, N, T·Q). The window grows with the distance in frames."""
    distance = grid_distance(math.isqrt(queries), anchor.device)[anchor % queries]  # (…, N, Q)
    offset = (torch.arange(frames, device=anchor.device) - (anchor // queries)[..., None]).abs()  # (…, N, T)
    return (distance[..., None, :] <= max(window, 2) * (offset[..., None] + 1)).flatten(-2)


def _draw(positives: Tensor, negatives: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Draw random subsets of the positives and negatives (…, M) of each row: at most `most` negatives.

    The positives are a fifth as many as the negatives, but at least 2.
    """
    num_negatives = negatives.sum(-1).clamp(max=most)
    num_positives = (num_negatives // 5).clamp(min=2)
    order = torch.randperm(positives.numel(), device=positives.device).view_as(positives).argsort(-1)
    return _first(positives, order, num_positives), _first(negatives, order, num_negatives)


def _first(candidates: Tensor, order: Tensor, count: Tensor) -> Tensor:
    """Keep the first `count` (…) candidates (…, M) of each row in the given order (…, M)."""
    ordered = candidates.gather(-1, order)
    kept = ordered & (ordered.cumsum(-1) <= count[..., None])
    return torch.zeros_like(candidates).scatter(-1, order, kept)


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x (…, M) over mask (…, M): (…); 0 where the mask is empty."""
    return torch.where(mask, x, 0).sum(-1) / mask.sum(-1).clamp(min=1)
