"""Mask losses: the inter-instance mask repulsion loss (paper Sec. 3.4, Eq. 3–6) and the plain one. Torch alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mdqe.boxes import box_iou
from mdqe.losses.mask_terms import MaskTerms
from mdqe.ops.reference import at_least_float32, widen

MIN_SIDE = 0.05
"""Boxes count at least this wide and high when neighbours are looked for."""


class InterInstanceMaskLoss(nn.Module):
    """BCE and Dice that also push a mask off its neighbours.

    An object's neighbours are the other objects of its clip whose boxes overlap its own in some frame. With M its mask
    and M_o the union of theirs, pixels of M and M_o weigh `alpha` in the BCE, and the Dice counts pixels of M_o outside
    M as a region that must stay empty. Without neighbours the Dice is the ordinary one; so is the BCE with alpha = 1.

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
        mask_logits: Tensor | tuple[Tensor, Tensor],
        masks: Tensor,
        boxes: Tensor | None = None,
        clip_index: Tensor | None = None,
        *,
        matched: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Losses of predicted masks, each with its object.

        Args:
            mask_logits: (K, T, H, W), T = 1 for images; or (N, T, H, W) with `matched`. Where they are products of
                coefficients (N, M) and mask features (M, T, H, W), the pair of these saves the memory of all N masks.
            masks: (K, T, H, W) of the objects, in [0, 1]; above ½ a pixel belongs to the object.
            boxes: (K, T, 4) of the objects, xyxy in [0, 1] of the frame; zeros where absent. None: those of the masks.
            clip_index: (K,) the clip of each object, when several clips are stacked.
            matched: (N,) the object of each predicted mask, when objects have several or none; those with none are
                nobody's neighbours.
            normalizer: what the sums over predicted masks are divided by; None: their number, at least 1.

        Returns:
            BCE and Dice, two scalars in float32 or wider.
        """
        _check(mask_logits, masks, boxes, clip_index, matched)
        *logits, rows, m = _prepare(mask_logits, masks, matched)
        boxes = _boxes_of(masks) if boxes is None else boxes
        emphasis, others = (r.flatten(1).to(m.dtype) for r in self.regions(masks, boxes, clip_index, matched))
        bce, dice = MaskTerms.apply(*logits, rows, m, emphasis, others, self.alpha)
        return _average(bce, normalizer), _average(dice, normalizer)

    @torch.no_grad()
    def regions(
        self, masks: Tensor, boxes: Tensor, clip_index: Tensor | None = None, matched: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Where the BCE weighs alpha, M and M_o together, and what the Dice wants empty, M_o outside M.

        Arguments as in `forward`; both results are (K, T, H, W) bool.
        """
        near = self.neighbors(boxes, clip_index)
        if matched is not None:
            near = near & near.new_zeros(len(near)).index_fill(0, matched, True)
        with torch.autocast(masks.device.type, enabled=False):
            union = near.float() @ (masks > 0.5).flatten(1).float() > 0  # (K, T·H·W)
        union = union.view(masks.shape)
        return union, union & (masks < 0.5)  # a pixel of exactly ½ is in neither

    def neighbors(self, boxes: Tensor, clip_index: Tensor | None = None) -> Tensor:
        """Who is whose neighbour, oneself included: (K, K) bool, of boxes (K, T, 4) and clips (K,)."""
        boxes = widen(boxes)
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
        mask_logits: Tensor | tuple[Tensor, Tensor],
        masks: Tensor,
        boxes: Tensor | None = None,
        clip_index: Tensor | None = None,
        *,
        matched: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `InterInstanceMaskLoss.forward`; boxes and clip_index make no difference."""
        _check(mask_logits, masks, boxes, clip_index, matched)
        *logits, rows, m = _prepare(mask_logits, masks, matched)
        bce, dice = MaskTerms.apply(*logits, rows, m, None, None, 1.0)
        return _average(bce, normalizer), _average(dice, normalizer)


def _prepare(
    mask_logits: Tensor | tuple[Tensor, Tensor], masks: Tensor, matched: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Logits (N, P), or coefficients (N, M) and features (M, P); each one's object (N,); masks (K, P). P = T·H·W."""
    rows = torch.arange(len(masks), device=masks.device) if matched is None else matched
    source, features = (mask_logits.flatten(1), None) if isinstance(mask_logits, Tensor) else mask_logits
    masks = masks.detach().flatten(1).to(at_least_float32(source.dtype))
    return source, None if features is None else features.flatten(1), rows, masks


def _boxes_of(masks: Tensor) -> Tensor:
    """Boxes (K, T, 4), xyxy in [0, 1], of masks (K, T, H, W)."""
    from mdqe.boxes import mask_boxes  # who has boxes needs torch alone

    height, width = masks.shape[-2:]
    boxes = mask_boxes(masks > 0.5)
    return boxes / boxes.new_tensor([width, height, width, height])


def _average(losses: Tensor, normalizer: Tensor | float | None) -> Tensor:
    return losses.sum() / (max(len(losses), 1) if normalizer is None else normalizer)


def _check(
    mask_logits: Tensor | tuple[Tensor, Tensor],
    masks: Tensor,
    boxes: Tensor | None,
    clip_index: Tensor | None,
    matched: Tensor | None,
) -> None:
    shape = _shape(mask_logits)
    if matched is not None:
        if tuple(matched.shape) != shape[:1]:
            raise ValueError(f"matched is {tuple(matched.shape)}, expected {shape[:1]}: mask_logits is {shape}")
        shape = (len(masks), *shape[1:])
    if tuple(masks.shape) != shape:
        raise ValueError(f"masks is {tuple(masks.shape)}, expected {shape}: mask_logits is {_shape(mask_logits)}")
    if boxes is not None and tuple(boxes.shape) != (*shape[:2], 4):
        raise ValueError(f"boxes is {tuple(boxes.shape)}, expected {(*shape[:2], 4)}: masks is {shape}")
    if clip_index is not None and tuple(clip_index.shape) != shape[:1]:
        raise ValueError(f"clip_index is {tuple(clip_index.shape)}, expected {shape[:1]}: masks is {shape}")


def _shape(mask_logits: Tensor | tuple[Tensor, Tensor]) -> tuple[int, ...]:
    if isinstance(mask_logits, Tensor):
        shape = tuple(mask_logits.shape)
        if len(shape) != 4 or not mask_logits.is_floating_point():
            raise ValueError(f"mask_logits is {shape} {mask_logits.dtype}, expected (K, T, H, W) floating point")
        return shape
    coefficients, features = mask_logits
    if coefficients.ndim != 2 or features.ndim != 4 or coefficients.shape[1] != len(features):
        raise ValueError(
            f"mask_logits is a pair of {tuple(coefficients.shape)} and {tuple(features.shape)}, "
            "expected (N, M) and (M, T, H, W)"
        )
    return (len(coefficients), *features.shape[1:])
