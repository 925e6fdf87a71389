"""Box terms of losses and matching: L1 and GIoU with the floors that the published models were trained with."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_AREA = 1e-3
"""Unions and enclosing areas count at least this, of an image of area 1."""


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes (…, 4) xyxy in [0, 1] that broadcast against each other: (…)."""
    intersection, union = _overlap(a, b)
    return intersection / union.clamp(min=MIN_AREA)


def box_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of boxes (…, 4) xyxy in [0, 1] that broadcast: (…); 0 where they do not intersect."""
    intersection, union = _overlap(a, b)
    enclosing = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union_floor, enclosing_floor = union.clamp(min=MIN_AREA), enclosing.clamp(min=MIN_AREA)
    giou = intersection / union_floor - (enclosing - union) / enclosing_floor
    return torch.where(intersection > 0, giou, 0)


def is_box(boxes: Tensor) -> Tensor:
    """Where boxes (…, 4) xyxy have a width and a height: (…) bool."""
    return (boxes[..., 2:] > boxes[..., :2]).all(-1)


def box_losses(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """L1 and 1 − GIoU of matched boxes, summed over those with a target.

    Args:
        boxes: (N, T, 4) xyxy in [0, 1].
        targets: likewise; empty boxes where the object is absent.
    """
    there = is_box(targets)  # (N, T)
    l1 = (boxes - targets).abs().sum(-1)  # (N, T)
    return torch.where(there, l1, 0).sum(), torch.where(there, 1 - box_giou(boxes, targets), 0).sum()


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union."""
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    intersection = sides.clamp(min=0).prod(-1)
    return intersection, _area(a) + _area(b) - intersection


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)
