"""Box geometry: pure functions on normalised or pixel boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """The logit of x in [0, 1], finite at both ends."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def refine(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Boxes (…, 4) in [0, 1] moved by deltas (…, 4) in logit space."""
    return (inverse_sigmoid(boxes) + deltas).sigmoid()


def union(boxes: Tensor, dim: int) -> Tensor:
    """The cxcywh box, clipped to the image, that encloses the normalised cxcywh boxes (…, 4) along `dim`."""
    x1y1x2y2 = box_convert(boxes, "cxcywh", "xyxy")
    low = x1y1x2y2[..., :2].amin(dim)
    high = x1y1x2y2[..., 2:].amax(dim)
    return box_convert(torch.cat([low, high], -1).clamp(0, 1), "xyxy", "cxcywh")


def mask_boxes(masks: Tensor) -> Tensor:
    """Tight boxes (…, 4) of masks (…, H, W) bool: float32 xyxy in pixels, right and bottom exclusive; 0 if empty."""
    rows, columns = (masks.view(torch.uint8).amax(dim) for dim in (-1, -2))  # (…, H), (…, W); any() is slow
    boxes = torch.zeros(*rows.shape[:-1], 4, device=masks.device)
    for edge, held in ((0, columns), (1, rows)):
        boxes[..., edge] = held.argmax(-1)
        boxes[..., edge + 2] = held.shape[-1] - held.flip(-1).argmax(-1)
    return boxes * (rows.amax(-1) > 0)[..., None]
