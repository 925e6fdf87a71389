"""Checks of the arguments of the mask losses. Torch alone."""

from __future__ import annotations

import torch
from torch import Tensor

MaskLogits = Tensor | tuple[Tensor, Tensor]
"""Mask logits, or the pair of coefficients and mask features that they are products of."""

TOLERANCE = 0.01
"""Masks and boxes may exceed [0, 1] by this, the rounding of half precision."""


def check_inputs(
    mask_logits: MaskLogits, masks: Tensor, boxes: Tensor | None, clip_index: Tensor | None, matched: Tensor | None
) -> None:
    """Check types, shapes and devices of the arguments of the mask losses."""
    shape = _shape(mask_logits)
    device = (mask_logits if isinstance(mask_logits, Tensor) else mask_logits[0]).device
    named = {"masks": masks, "boxes": boxes, "clip_index": clip_index, "matched": matched}
    for name, x in named.items():
        if x is not None and not isinstance(x, Tensor):
            raise TypeError(f"{name} is a {type(x).__name__}, expected a tensor")
        if name in ("masks", "boxes") and x is not None and x.device != device:
            raise ValueError(f"{name} is on {x.device}, expected {device}, the device of mask_logits")
    if matched is not None:
        if tuple(matched.shape) != shape[:1]:
            raise ValueError(f"matched is {tuple(matched.shape)}, expected {shape[:1]}: mask_logits is {shape}")
        if matched.is_floating_point() or matched.dtype == torch.bool:
            raise ValueError(f"matched is {matched.dtype}, expected int64 indices of objects")
        shape = (len(masks), *shape[1:])
    if tuple(masks.shape) != shape:
        raise ValueError(f"masks is {tuple(masks.shape)}, expected {shape}: mask_logits is {_shape(mask_logits)}")
    if boxes is not None and tuple(boxes.shape) != (*shape[:2], 4):
        raise ValueError(f"boxes is {tuple(boxes.shape)}, expected {(*shape[:2], 4)}: masks is {shape}")
    if clip_index is not None and tuple(clip_index.shape) != shape[:1]:
        raise ValueError(f"clip_index is {tuple(clip_index.shape)}, expected {shape[:1]}: masks is {shape}")


@torch.no_grad()
def check_ranges(masks: Tensor, boxes: Tensor | None, matched: Tensor | None) -> None:
    """Check the ranges of the values. They are read from the device together."""
    ranges = {}
    if masks.numel() and masks.dtype != torch.bool:
        ranges["masks"] = masks.aminmax()
    if boxes is not None and boxes.numel():
        ranges["boxes"] = boxes.aminmax()
        ranges["sides"] = (boxes[..., 2:] - boxes[..., :2]).aminmax()
    if matched is not None and matched.numel():
        ranges["matched"] = matched.aminmax()
    if not ranges:
        return
    numbers = torch.stack([x.to(masks.device, torch.float32) for pair in ranges.values() for x in pair]).tolist()
    found = dict(zip(ranges, zip(numbers[::2], numbers[1::2], strict=True), strict=True))
    for name, expected in (("masks", "bool, or [0, 1]"), ("boxes", "xyxy in [0, 1] of the frame")):
        low, high = found.get(name, (0, 1))
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # also true for NaN
            raise ValueError(f"{name} has values from {low:.4g} to {high:.4g}, expected {expected}")
    if found.get("sides", (0, 0))[0] < -TOLERANCE:
        raise ValueError("boxes has x2 < x1 or y2 < y1, expected xyxy in [0, 1], not cxcywh")
    low, high = found.get("matched", (0, -1))
    if low < 0 or high >= len(masks):
        raise ValueError(f"matched has values from {low:.0f} to {high:.0f}, expected 0 to {len(masks) - 1}")


def _shape(mask_logits: MaskLogits) -> tuple[int, ...]:
    if isinstance(mask_logits, Tensor):
        shape = tuple(mask_logits.shape)
        if len(shape) != 4 or not mask_logits.is_floating_point():
            raise ValueError(f"mask_logits is {shape} {mask_logits.dtype}, expected (K, T, H, W) floating point")
        return shape
    if not isinstance(mask_logits, tuple | list) or len(mask_logits) != 2:
        kind = type(mask_logits).__name__
        raise TypeError(f"mask_logits is a {kind}, expected a tensor, or a pair of coefficients and features")
    coefficients, features = mask_logits
    if coefficients.ndim != 2 or features.ndim != 4 or coefficients.shape[1] != len(features):
        raise ValueError(
            f"mask_logits is a pair of {tuple(coefficients.shape)} and {tuple(features.shape)}, "
            "expected (N, M) and (M, T, H, W)"
        )
    return (len(coefficients), *features.shape[1:])
