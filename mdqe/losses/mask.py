"""Mask losses: the inter-instance mask repulsion loss (paper Sec. 3.4, Eq. 3–6) and the plain one. Torch alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdqe.losses.box import box_iou

MIN_SIDE = 0.05
"""Boxes count at least this wide and high when neighbours are looked for."""


class InterInstanceMaskLoss(nn.Module):
    """BCE and Dice that also push a mask off its neighbours.

    An object's neighbours are the other objects of its clip whose boxes overlap its own in some frame. With M its mask
    and M_o the union of theirs, pixels of M and M_o weigh `alpha` in the BCE, and the Dice counts pixels of M_o outside
    M as a region that must stay empty. Without neighbours the Dice is the ordinary one, and the BCE with alpha = 1 too.

    Args:
        alpha: weight of the pixels of M and M_o; others weigh 1.
        iou_threshold: boxes of neighbours overlap more than this in some frame [ε].

    Raises:
        ValueError: alpha not positive, iou_threshold outside [0, 1), or inputs whose shapes do not fit.
    """

    def __init__(self, alpha: float = 2.0, iou_threshold: float = 0.1) -> None:
        super().__init__()
        if not alpha > 0:
            raise ValueError(f"alpha is {alpha!r}, expected a positive number")
        if not 0 <= iou_threshold < 1:
            raise ValueError(f"iou_threshold is {iou_threshold!r}, expected a number from 0 up to, not including, 1")
        self.alpha = alpha
        self.iou_threshold = iou_threshold

    def forward(
        self,
        mask_logits: Tensor,
        masks: Tensor,
        boxes: Tensor,
        clip_index: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Losses of K predicted masks, each with its object. Several may have the same object.

        Args:
            mask_logits: (K, T, H, W); T = 1 for images.
            masks: (K, T, H, W) of the objects, in [0, 1]; above ½ a pixel belongs to the object.
            boxes: (K, T, 4) of the objects, xyxy in [0, 1] of the frame; zeros where absent.
            clip_index: (K,) which clip each belongs to, when several are stacked.
            normalizer: what the sums over K are divided by; None: K, at least 1.

        Returns:
            BCE and Dice, two scalars in float32 or wider.
        """
        _check(mask_logits, masks, boxes, clip_index)
        with torch.autocast(mask_logits.device.type, enabled=False):
            x, m = _flat(mask_logits, masks)
            with torch.no_grad():
                near = self.neighbors(boxes, clip_index)
                union = near.float() @ (m > 0.5).float() > 0  # (K, T·H·W): M and M_o together
                weights = 1 + (self.alpha - 1) * union.to(x.dtype)
                others = (union & (m < 0.5)).to(x.dtype)  # M_o outside M; a pixel of exactly ½ is in neither
            return _average(_bce(x, m, weights), normalizer), _average(_dice(x, m, others), normalizer)

    def neighbors(self, boxes: Tensor, clip_index: Tensor | None = None) -> Tensor:
        """Who is whose neighbour, oneself included: (K, K) bool, of boxes (K, T, 4) and clips (K,)."""
        boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
        center = (boxes[..., :2] + boxes[..., 2:]) / 2
        half = (boxes[..., 2:] - boxes[..., :2]).clamp(min=MIN_SIDE) / 2
        boxes = torch.cat([center - half, center + half], -1)
        near = (box_iou(boxes[:, None], boxes) > self.iou_threshold).any(-1)  # (K, K, T) → (K, K)
        if clip_index is not None:
            near = near & (clip_index[:, None] == clip_index)
        return near | torch.eye(len(boxes), dtype=torch.bool, device=boxes.device)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"alpha={self.alpha}, iou_threshold={self.iou_threshold}"


class PlainMaskLoss(nn.Module):
    """BCE and Dice of every mask by itself; called like `InterInstanceMaskLoss`, for the ablation."""

    def forward(
        self,
        mask_logits: Tensor,
        masks: Tensor,
        boxes: Tensor,
        clip_index: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `InterInstanceMaskLoss.forward`; boxes and clip_index make no difference."""
        _check(mask_logits, masks, boxes, clip_index)
        with torch.autocast(mask_logits.device.type, enabled=False):
            x, m = _flat(mask_logits, masks)
            return _average(_bce(x, m, None), normalizer), _average(_dice(x, m, None), normalizer)


def _bce(x: Tensor, m: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted mean over the pixels of logits x (K, P), soft masks m (K, P): (K,)."""
    loss = F.binary_cross_entropy_with_logits(x, m, weight=weights, reduction="none").sum(1)
    return loss / (x.shape[1] if weights is None else weights.sum(1))


def _dice(x: Tensor, m: Tensor, others: Tensor | None) -> Tensor:
    """1 − (2|p·m| + |(1 − p)·others| + 1) / (|p| + |m| + |others| + 1), p = sigmoid(x): (K, P) → (K,)."""
    p = x.sigmoid()
    denominator = p.sum(1) + m.sum(1) + 1
    if others is None:
        return 1 - (2 * (p * m).sum(1) + 1) / denominator
    area = others.sum(1)
    overlap = (p * (2 * m - others)).sum(1) + area
    return 1 - (overlap + 1) / (denominator + area)


def _flat(mask_logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Both as (K, T·H·W) in float32 or wider."""
    dtype = torch.promote_types(mask_logits.dtype, torch.float32)
    return mask_logits.flatten(1).to(dtype), masks.flatten(1).to(dtype)


def _average(losses: Tensor, normalizer: Tensor | float | None) -> Tensor:
    return losses.sum() / (max(len(losses), 1) if normalizer is None else normalizer)


def _check(mask_logits: Tensor, masks: Tensor, boxes: Tensor, clip_index: Tensor | None) -> None:
    shape = tuple(mask_logits.shape)
    if len(shape) != 4 or not mask_logits.is_floating_point():
        raise ValueError(f"mask_logits is {shape} {mask_logits.dtype}, expected (K, T, H, W) floating point")
    if tuple(masks.shape) != shape:
        raise ValueError(f"masks is {tuple(masks.shape)}, expected the shape of mask_logits, {shape}")
    if tuple(boxes.shape) != (*shape[:2], 4):
        raise ValueError(f"boxes is {tuple(boxes.shape)}, expected {(*shape[:2], 4)}: mask_logits is {shape}")
    if clip_index is not None and tuple(clip_index.shape) != shape[:1]:
        raise ValueError(f"clip_index is {tuple(clip_index.shape)}, expected {shape[:1]}: mask_logits is {shape}")
