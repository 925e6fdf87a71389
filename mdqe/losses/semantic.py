"""Semantic targets of the activation map: which object and category every pixel at stride 8 shows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mdqe.losses.box import is_box
from mdqe.losses.targets import ScaledTargets

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
