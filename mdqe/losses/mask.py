"""Mask losses: the inter-instance mask repulsion loss (paper Sec. 3.3, Eq. 3–6) and the plain one. Torch alone."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mdqe.boxes import box_iou, mask_boxes
from mdqe.losses.mask_inputs import MaskLogits, check_inputs, check_ranges
from mdqe.ops.reference import at_least_float32, widen

MIN_SIDE = 0.05
"""Boxes are enlarged to at least this width and height before neighbours are searched."""
_GROUP = 64  # factors of at least ½ per logarithm: 2⁻⁶⁴ is far from underflow


class PlainMaskLoss(nn.Module):
    """BCE and Dice losses of each mask, without neighbours (paper Eq. 1–2).

    The losses have no weights. The published models were trained with the sum 4 · BCE + 4 · Dice.

    Args:
        check_values: check the ranges of masks, boxes and matched. On a GPU, the check waits once per call until the
            GPU has the values. Compiled code does not check them.
    """

    alpha = 1.0

    def __init__(self, *, check_values: bool = True) -> None:
        super().__init__()
        self.check_values = check_values

    def forward(
        self,
        mask_logits: MaskLogits,
        masks: Tensor,
        boxes: Tensor | None = None,
        clip_index: Tensor | None = None,
        *,
        matched: Tensor | None = None,
        normalizer: Tensor | float | None = None,
        reduction: Literal["mean", "none"] = "mean",
    ) -> tuple[Tensor, Tensor]:
        """Compute the losses of predicted masks and their objects.

        Args:
            mask_logits: (K, T, H, W), T = 1 for images; or (N, T, H, W) with `matched`. If the logits are products of
                coefficients (N, M) and mask features (M, T, H, W), passing the pair saves the memory of N masks.
            masks: (K, T, H, W) of the objects, in [0, 1]; a pixel above ½ belongs to the object.
            boxes: (K, T, 4) of the objects, xyxy in [0, 1] of the frame, not cxcywh; zeros where absent. None: computed
                from masks. `PlainMaskLoss` does not use boxes and clip_index.
            clip_index: (K,) the clip of each object, if several clips are stacked; on any device.
            matched: (N,) the object of each predicted mask, if objects have several masks or none; on any device.
                Objects without a predicted mask are not neighbours.
            normalizer: divisor of the sums over predicted masks; None: the number of masks, at least 1.
            reduction: "none": return the losses of every predicted mask, (N,) each.

        Returns:
            BCE and Dice, two scalars in float32 or wider, without weights.

        Raises:
            TypeError: an argument is not a tensor.
            ValueError: shapes, types or devices do not fit together, or another reduction. With `check_values` also:
                masks or boxes are outside [0, 1] or NaN, boxes have a negative width or height, as cxcywh boxes often
                have, or matched is not the index of an object.
        """
        check_inputs(mask_logits, masks, boxes, clip_index, matched)
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction is {reduction!r}, expected 'mean' or 'none'")
        if self.check_values and masks.device.type != "meta" and not torch.compiler.is_compiling():
            check_ranges(masks, boxes, matched)
        matched = None if matched is None else matched.to(masks.device, torch.int64)
        regions = self.regions(masks, boxes, clip_index, matched)
        source, features = (mask_logits, None) if isinstance(mask_logits, Tensor) else mask_logits
        features = None if features is None else features.flatten(1)  # (M, P), with the P = T·H·W pixels
        rows = torch.arange(len(masks), device=masks.device) if matched is None else matched  # (N,)
        masks = masks.detach().flatten(1).to(at_least_float32(source.dtype))  # (K, P)
        emphasis, empty = (None if r is None else r.flatten(1).to(masks.dtype) for r in regions)  # (K, P)
        losses = MaskTerms.apply(source.flatten(1), features, rows, masks, emphasis, empty, self.alpha)  # (N,) twice
        if reduction == "none":
            return losses
        bce, dice = (x.sum() / (max(len(x), 1) if normalizer is None else normalizer) for x in losses)
        return bce, dice

    def regions(
        self, masks: Tensor, boxes: Tensor | None, clip_index: Tensor | None = None, matched: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the pixels with weight alpha in the BCE, and those that must stay empty; None for none."""
        return None, None


class InterInstanceMaskLoss(PlainMaskLoss):
    """BCE and Dice losses that also suppress a mask on the neighbours of its object (paper Sec. 3.3, Eq. 3–6).

    The neighbours of an object are the other objects of its clip whose boxes overlap with its box in some frame
    (Eq. 3). Let M be the mask of an object and M_o the union of its neighbours' masks. The BCE gives the pixels of M
    and M_o the weight `alpha` (Eq. 4). The Dice loss treats the pixels of M_o outside M as a region that must stay
    empty (Eq. 5). Without neighbours the Dice loss is the ordinary one; so is the BCE with alpha = 1.

    Both losses have no weights. The published models were trained with the sum 4 · BCE + 4 · Dice.

    Args:
        alpha: weight of the pixels of M and M_o; the others have weight 1 [α].
        iou_threshold: boxes of neighbours have a larger IoU than this in some frame [ε].
        dice: whether M_o must stay empty in the Dice loss (Eq. 5); otherwise it is the ordinary one, as in the second
            row of Table 1c.
        check_values: as in `PlainMaskLoss`.

    Raises:
        ValueError: alpha not positive, or iou_threshold outside [0, 1).
    """

    def __init__(
        self, alpha: float = 2.0, iou_threshold: float = 0.1, *, dice: bool = True, check_values: bool = True
    ) -> None:
        super().__init__(check_values=check_values)
        if not alpha > 0:
            raise ValueError(f"alpha is {alpha!r}, expected a positive number")
        if not 0 <= iou_threshold < 1:
            raise ValueError(f"iou_threshold is {iou_threshold!r}, expected a number from 0 up to, not including, 1")
        self.alpha = alpha
        self.iou_threshold = iou_threshold
        self.dice = dice

    @torch.no_grad()
    def regions(
        self, masks: Tensor, boxes: Tensor | None, clip_index: Tensor | None = None, matched: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the pixels with weight alpha in the BCE (M or M_o), and those that must stay empty (M_o without M).

        Arguments as in `forward`; both results are (K, T, H, W) bool. The second one is None without `dice`.
        """
        if boxes is None:
            height, width = masks.shape[-2:]
            boxes = mask_boxes(masks > 0.5)  # (K, T, 4) in pixels
            boxes = boxes / boxes.new_tensor([width, height, width, height])
        near = self.neighbors(boxes, clip_index)
        if matched is not None:
            near = near & near.new_zeros(len(near)).index_fill(0, matched.to(near.device), True)
        with torch.autocast(masks.device.type, enabled=False):
            union = near.float() @ (masks > 0.5).flatten(1).float() > 0  # (K, T·H·W)
        union = union.view(masks.shape)
        return union, union & (masks < 0.5) if self.dice else None  # a pixel of exactly ½ is in neither

    def neighbors(self, boxes: Tensor, clip_index: Tensor | None = None) -> Tensor:
        """Return which objects are neighbours, or the same object, as (K, K) bool.

        Args:
            boxes: (K, T, 4) xyxy in [0, 1], not cxcywh.
            clip_index: (K,), as in `forward`.
        """
        boxes = widen(boxes)
        center = (boxes[..., :2] + boxes[..., 2:]) / 2
        half = (boxes[..., 2:] - boxes[..., :2]).clamp(min=MIN_SIDE) / 2
        boxes = torch.cat([center - half, center + half], -1)
        near = (box_iou(boxes[:, None], boxes) > self.iou_threshold).any(-1)  # (K, K, T) → (K, K)
        if clip_index is not None:
            clip_index = clip_index.to(boxes.device)
            near = near & (clip_index[:, None] == clip_index)
        return near | torch.eye(len(boxes), dtype=torch.bool, device=boxes.device)

    def extra_repr(self) -> str:
        """Show the arguments in `repr`."""
        return f"alpha={self.alpha}, iou_threshold={self.iou_threshold}, dice={self.dice}"


def pixel_blocks(rows: int, pixels: int, device: torch.device) -> list[slice]:
    """Split pixels into blocks that stay in the cache of a core, or that are enough to keep an accelerator busy.

    Under a compiler, which fuses the arithmetic itself, there is one block.
    """
    if torch.compiler.is_compiling():
        return [slice(None)]
    width = max(block_elements(device) // max(rows, 1) // _GROUP, 1) * _GROUP
    return [slice(start, start + width) for start in range(0, pixels, width)]


def block_elements(device: torch.device) -> int:
    """Return the number of elements of a block."""
    return 1 << (18 if device.type == "cpu" else 25)


def counts_logarithms(device: torch.device) -> bool:
    """Whether one logarithm per pixel costs more than the rest of the losses. On accelerators, passes count instead."""
    return device.type == "cpu"


def sum_softplus(x: Tensor, p: Tensor) -> Tensor:
    """Σ softplus(x) over the pixels: (N, P) → (N,). Overwrites x, whose sigmoid is p."""
    if counts_logarithms(x.device):
        return x.clamp_(min=0).sum(1) - sum_log(certainty(p))
    return softplus(x).sum(1)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp x) in a single pass, also where `torch.nn.functional.softplus` returns x."""
    return torch.logaddexp(x, x.new_zeros(()))


def certainty(p: Tensor) -> Tensor:
    """Return max(p, 1 − p) of probabilities."""
    return (p - 0.5).abs_().add_(0.5)


def sum_log(q: Tensor) -> Tensor:
    """Σ log q over the pixels of q (N, P) in [½, 1]: (N,). It takes logarithms of products."""
    whole = q.shape[1] // _GROUP * _GROUP
    logs = q[:, :whole].unflatten(1, (_GROUP, whole // _GROUP)).prod(1).log().sum(1)
    return logs if whole == q.shape[1] else logs + q[:, whole:].log().sum(1)


class MaskTerms(torch.autograd.Function):
    """BCE and Dice of every row of logits and its object, without further tensors of rows × pixels.

    With p = sigmoid(x), m = masks, o = others, w = 1 + (alpha − 1) · emphasis of the row's object:
    BCE = Σ w (softplus(x) − x m) / Σ w, Dice = 1 − (Σ p (2m − o) + Σ o + 1) / (Σ p + Σ m + Σ o + 1).
    """

    @staticmethod
    def forward(
        ctx: Any,
        source: Tensor,
        features: Tensor | None,
        rows: Tensor,
        masks: Tensor,
        emphasis: Tensor | None,
        others: Tensor | None,
        alpha: float,
    ) -> tuple[Tensor, Tensor]:
        """Compute BCE (N,) and Dice (N,).

        Args:
            source: logits x (N, P), or coefficients (N, M).
            features: (M, P), with which the coefficients are multiplied; None if source has logits.
            rows: (N,) the object of each row.
            masks: (K, P) in [0, 1] of the objects, in the type of the sums.
            emphasis: (K, P) of zeros and ones, where pixels have the weight alpha; None: nowhere.
            others: (K, P) of zeros and ones, which pixels must stay empty; None: none.
            alpha: a positive number.
        """
        reward = 2 * masks if others is None else 2 * masks - others
        bce, shown, overlap = masks.new_zeros(3, len(source)).unbind()
        for part in pixel_blocks(len(source), masks.shape[1], masks.device):
            x = _logits(source, features, part, masks.dtype)
            p = x.sigmoid()
            shown += p.sum(1)
            overlap += reward[:, part].index_select(0, rows).mul_(p).sum(1)
            inner = masks[:, part].index_select(0, rows).mul_(x)
            e = None if emphasis is None else emphasis[:, part].index_select(0, rows)
            if counts_logarithms(masks.device):  # softplus(x) − x m = hinge − log q
                hinge, q = x.clamp_(min=0).sub_(inner), certainty(p)
                bce += hinge.sum(1) - sum_log(q)
                if e is not None:
                    bce += (alpha - 1) * (hinge.mul_(e).sum(1) - sum_log(q.sub_(1).mul_(e).add_(1)))
            else:
                terms = softplus(x).sub_(inner)
                bce += terms.sum(1)
                if e is not None:
                    bce += (alpha - 1) * terms.mul_(e).sum(1)
        nothing = masks.new_zeros(len(masks))
        weight = masks.shape[1] + (nothing if emphasis is None else (alpha - 1) * emphasis.sum(1))[rows]
        empty = (nothing if others is None else others.sum(1))[rows]
        numerator = overlap + empty + 1
        denominator = shown + masks.sum(1)[rows] + empty + 1
        ctx.save_for_backward(source, features, rows, masks, emphasis, reward, weight, numerator, denominator)
        ctx.alpha = alpha
        return bce / weight, 1 - numerator / denominator

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_bce: Tensor, grad_dice: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of source and features."""
        source, features, rows, masks, emphasis, reward, weight, numerator, denominator = ctx.saved_tensors
        for_bce = (grad_bce / weight)[:, None]
        for_reward = (grad_dice / denominator)[:, None]
        for_area = for_reward * (numerator / denominator)[:, None]
        weights = None if emphasis is None else 1 + (ctx.alpha - 1) * emphasis  # (K, P)
        grad = torch.empty_like(source) if features is None else torch.zeros_like(source, dtype=masks.dtype)
        grad_features = None if features is None else torch.empty_like(features)
        for part in pixel_blocks(len(source), masks.shape[1], masks.device):
            p = _logits(source, features, part, masks.dtype).sigmoid_()
            dice = reward[:, part].index_select(0, rows).mul_(-for_reward).add_(for_area)
            dice.mul_(p - p * p)  # the sigmoid's slope
            slope = p.sub_(masks[:, part].index_select(0, rows)).mul_(for_bce)
            if weights is not None:
                slope.mul_(weights[:, part].index_select(0, rows))
            slope.add_(dice)
            if features is None or grad_features is None:
                grad[:, part] = slope
            else:
                with torch.autocast(source.device.type, enabled=False):
                    grad += slope @ features[:, part].to(slope.dtype).T
                    grad_features[:, part] = source.to(slope.dtype).T @ slope
        return grad.to(source.dtype), grad_features, None, None, None, None, None


def _logits(source: Tensor, features: Tensor | None, part: slice, dtype: torch.dtype) -> Tensor:
    """A copy of the logits (N, p) of a block of pixels, in `dtype`."""
    if features is None:
        return source[:, part].to(dtype, copy=True)
    with torch.autocast(source.device.type, enabled=False):
        return source.to(dtype) @ features[:, part].to(dtype)
