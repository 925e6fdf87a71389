"""Training targets at the scales of the model's outputs: boxes in [0, 1], masks at strides 4 and 8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from mdqe.modeling.mask_head import first_sample
from mdqe.targets import ClipTargets


class ScaledTargets(NamedTuple):
    """The objects of one clip that are present in some frame, relative to the padded frame (H, W)."""

    labels: Tensor
    """(K,)."""
    ids: Tensor
    """(K, T), −1 where absent."""
    boxes: Tensor
    """(K, T, 4) xyxy in [0, 1]; zeros where absent."""
    masks: Tensor
    """(K, T, H / 4, W / 4) in [0, 1]."""
    inner: Tensor
    """(K, T, H / 8, W / 8) bool, True where the mask is above ½."""


class StackedTargets(NamedTuple):
    """The objects of B clips, padded to the K objects of the clip that has the most."""

    labels: Tensor
    """(B, K); 0 where padded."""
    ids: Tensor
    """(B, K, T), −1 where absent and −2 where padded."""
    boxes: Tensor
    """(B, K, T, 4) xyxy in [0, 1]; zeros where absent or padded."""
    inner: Tensor
    """(B, K, T, H / 8, W / 8) bool; False where padded."""
    valid: Tensor
    """(B, K) bool, False where padded."""


def check_types(targets: Sequence[ClipTargets], clips: int) -> None:
    """Check that the targets are `ClipTargets`, one per clip.

    Raises:
        TypeError: they are of another type.
        ValueError: another number of targets than clips.
    """
    if not isinstance(targets, Sequence) or isinstance(targets, str):
        raise TypeError(f"targets is a {type(targets).__name__}, expected a list of one ClipTargets per clip")
    for i, target in enumerate(targets):
        if not isinstance(target, ClipTargets):
            kind = type(target).__name__
            raise TypeError(f"targets[{i}] is a {kind}, expected mdqe.ClipTargets(labels, ids, masks, boxes)")
    if len(targets) != clips:
        raise ValueError(f"targets has {len(targets)} entries, expected one for each of {clips} clips")


def check_targets(frames: Tensor, targets: Sequence[ClipTargets]) -> None:
    """Check frames (B, T, 3, H, W) and the targets of the B clips.

    Raises:
        TypeError: frames is not a tensor, or targets are not `ClipTargets`.
        ValueError: they do not fit together; the message names the shapes.
    """
    if not isinstance(frames, Tensor):
        raise TypeError(f"frames is a {type(frames).__name__}, expected a tensor (B, T, 3, H, W)")
    if frames.ndim != 5 or frames.shape[2] != 3:
        raise ValueError(f"frames is {tuple(frames.shape)}, expected (B, T, 3, H, W)")
    check_types(targets, clips=len(frames))
    for i, target in enumerate(targets):
        count, height, width = target.masks.shape[1:]
        if count != frames.shape[1] or height > frames.shape[3] or width > frames.shape[4]:
            raise ValueError(
                f"masks of targets[{i}] is {tuple(target.masks.shape)}, expected (K, T, H, W) "
                f"within the frames, {tuple(frames.shape)}"
            )


def scale_targets(
    targets: ClipTargets, padded_size: tuple[int, int], num_classes: int, dtype: torch.dtype
) -> ScaledTargets:
    """Drop objects that are never present and resize the masks of the others bilinearly.

    Args:
        targets: of one clip.
        padded_size: (H, W) of the padded frames, multiples of 8.
        num_classes: number of categories of the model.
        dtype: type of the scaled boxes and masks.

    Raises:
        ValueError: a label that the model does not have, or masks larger than the padded frames.
    """
    return scale_clips([targets], padded_size, num_classes, dtype)[0]


def scale_clips(
    clips: Sequence[ClipTargets], padded_size: tuple[int, int], num_classes: int, dtype: torch.dtype
) -> list[ScaledTargets]:
    """Scale the targets of several clips, as `scale_targets` does, with a single transfer from their device."""
    for targets in clips:
        height, width = targets.masks.shape[-2:]
        if height > padded_size[0] or width > padded_size[1]:
            raise ValueError(f"masks is {height}x{width}, expected at most the padded frames' {padded_size}")
    # One transfer: the labels, and whether an object is present in some frame.
    known = torch.cat([torch.stack([t.labels, (t.ids >= 0).any(1).to(t.labels.dtype)]) for t in clips], 1).cpu().numpy()
    scaled, first = [], 0
    for targets in clips:
        labels, kept = known[:, first : first + len(targets.labels)]
        first += len(labels)
        if len(labels) and labels.max() >= num_classes:
            raise ValueError(f"labels is {labels.tolist()}, expected less than num_classes={num_classes}")
        if not kept.all():
            rows = torch.from_numpy(kept.nonzero()[0]).to(targets.labels.device)
            parts = (targets.labels, targets.ids, targets.masks, targets.boxes)
            targets = ClipTargets(*(x.index_select(0, rows) for x in parts))
        scaled.append(_scale(targets, padded_size, dtype))
    return scaled


def _scale(targets: ClipTargets, padded_size: tuple[int, int], dtype: torch.dtype) -> ScaledTargets:
    """Scale objects that are all present in some frame."""
    height, width = targets.masks.shape[-2:]
    present = targets.ids >= 0  # (K, T)
    scale = targets.boxes.new_tensor([padded_size[1], padded_size[0]] * 2)
    boxes = torch.where(present[..., None], (targets.boxes / scale).clamp(0, 1), 0).to(dtype)
    masks = F.pad(targets.masks, (0, padded_size[1] - width, 0, padded_size[0] - height))
    visible = present[..., None, None]
    fine, coarse = _quarters(masks, 4) * visible, _quarters(masks, 8) * visible
    return ScaledTargets(targets.labels, targets.ids, boxes, fine.to(dtype) / 4, coarse > 2)


def stack_targets(targets: Sequence[ScaledTargets]) -> StackedTargets:
    """Stack the labels, ids, boxes and masks at stride 8 of all clips."""
    columns = zip(*((t.labels, t.boxes, t.inner) for t in targets), strict=True)
    labels, boxes, inner = (pad_sequence(list(column), batch_first=True) for column in columns)
    ids = pad_sequence([t.ids for t in targets], batch_first=True, padding_value=-2)
    return StackedTargets(labels, ids, boxes, inner, ids.amax(-1) >= 0)


def _quarters(masks: Tensor, stride: int) -> Tensor:
    """Count the True pixels among the four around the centre of each stride × stride cell: (…, H / s, W / s) uint8.

    A quarter of the count is the result of bilinear interpolation by an even factor.
    """
    low = int(first_sample("centered", stride))
    high = low + 1
    bits = masks.view(torch.uint8)
    rows = bits[..., low::stride, :] + bits[..., high::stride, :]  # (…, H / s, W)
    return rows[..., low::stride] + rows[..., high::stride]
