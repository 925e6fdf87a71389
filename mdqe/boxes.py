"""Box geometry: functions on boxes in [0, 1] or in pixels. Torch alone."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_AREA = 1e-3
"""Minimum area of a union or enclosing box, for an image of area 1, as in the training of the published models."""


def to_xyxy(boxes: Tensor) -> Tensor:
    """Convert boxes (…, 4) from cxcywh to xyxy."""
    center, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - 0.5 * size, center + 0.5 * size], -1)


def to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert boxes (…, 4) from xyxy to cxcywh."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Return the logit of x in [0, 1], finite at both ends."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def refine(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Add deltas (…, 4) in logit space to boxes (…, 4) in [0, 1]."""
    return (inverse_sigmoid(boxes) + deltas).sigmoid()


def union(boxes: Tensor, dim: int) -> Tensor:
    """Return the cxcywh box that encloses the cxcywh boxes (…, 4) in [0, 1] along `dim`, clipped to the image."""
    corners = to_xyxy(boxes)
    low, high = corners[..., :2].amin(dim), corners[..., 2:].amax(dim)
    return to_cxcywh(torch.cat([low, high], -1).clamp(0, 1))


def is_box(boxes: Tensor) -> Tensor:
    """Return whether boxes (…, 4) xyxy have a positive width and height: (…) bool."""
    return (boxes[..., 2:] > boxes[..., :2]).all(-1)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (…) of boxes (…, 4) xyxy in [0, 1], which broadcast; a union counts as at least `MIN_AREA`."""
    intersection, union_area = _overlap(a, b)
    return intersection / union_area.clamp(min=MIN_AREA)


def box_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (…) of boxes (…, 4) xyxy in [0, 1], which broadcast; 0 for boxes that do not intersect.

    The floors of the areas and the 0 without intersection are those of the released code.
    """
    intersection, union_area = _overlap(a, b)
    enclosing = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union_floor, enclosing_floor = union_area.clamp(min=MIN_AREA), enclosing.clamp(min=MIN_AREA)
    giou = intersection / union_floor - (enclosing - union_area) / enclosing_floor
    return torch.where(intersection > 0, giou, 0)


def mask_boxes(masks: Tensor) -> Tensor:
    """Boxes (…, 4) of masks (…, H, W) bool: float32 xyxy in pixels, right and bottom exclusive; zeros if empty."""
    rows, columns = (masks.view(torch.uint8).amax(dim) for dim in (-1, -2))  # (…, H), (…, W); any() is slow
    boxes = torch.zeros(*rows.shape[:-1], 4, device=masks.device)
    for edge, occupied in ((0, columns), (1, rows)):
        boxes[..., edge] = occupied.argmax(-1)
        boxes[..., edge + 2] = occupied.shape[-1] - occupied.flip(-1).argmax(-1)
    return boxes * (rows.amax(-1) > 0)[..., None]


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the areas of the intersection and the union."""
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    intersection = sides.clamp(min=0).prod(-1)
    return intersection, _area(a) + _area(b) - intersection


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)
