"""Mask logits at stride 4 to the resolution of the frame."""

import torch.nn.functional as F
from torch import Tensor

from mdqe.inference.precision import wide

MASK_STRIDE = 4


def upsample_masks(logits: Tensor) -> Tensor:
    """Mask logits (…, h, w) interpolated to (…, 4h, 4w), in float32 or wider.

    Bilinear, sample i of an axis lying at pixel 4i + 2; before the first and after the last the edge is repeated.
    """
    *leading, height, width = logits.shape
    flat = wide(logits).reshape(-1, 1, height, width)
    # One more sample on each side, so that every pixel lies between two; pixel 0 is then half-way from the first.
    padded = F.pad(flat, (1, 1, 1, 1), mode="replicate")
    size = (MASK_STRIDE * (height + 1) + 1, MASK_STRIDE * (width + 1) + 1)
    fine = F.interpolate(padded, size=size, mode="bilinear", align_corners=True)
    edge = MASK_STRIDE // 2
    fine = fine[:, 0, edge : edge + MASK_STRIDE * height, edge : edge + MASK_STRIDE * width]
    return fine.unflatten(0, leading)
