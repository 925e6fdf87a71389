"""ClipTargets: the ground truth of one clip, for training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdqe.boxes import mask_boxes


@dataclass(frozen=True, eq=False)
class ClipTargets:
    """The objects of one clip of T frames.

    Raises:
        ValueError: shapes or types that do not fit together; on the CPU also repeated ids, negative labels, and boxes
            that are not finite, have a negative width or height, lie outside the frames, or are all in [0, 1].
        TypeError: no tensors.
    """

    labels: Tensor
    """(K,) int64, 0 … number of categories − 1. Other types of whole numbers are converted, also of ids."""
    ids: Tensor
    """(K, T) int64: the id of an object in frames where it is present, −1 elsewhere. Absent objects count as empty."""
    masks: Tensor
    """(K, T, H, W) bool, of the unpadded size of the frames; K may be 0."""
    boxes: Tensor
    """(K, T, 4) xyxy in pixels; any value where absent."""

    @classmethod
    def from_masks(cls, labels: Tensor, masks: Tensor) -> ClipTargets:
        """Create targets from N masks. Objects are absent where their masks are empty.

        The id of an object is its index. Objects that are absent from all frames are omitted. Boxes enclose the masks,
        with exclusive right and bottom edges; they are zero where absent.

        Args:
            labels: (N,) int64.
            masks: (N, T, H, W) bool.

        Raises:
            TypeError, ValueError: no tensors of these shapes and types.
        """
        _check_masks(masks)
        if not isinstance(labels, Tensor) or labels.shape != masks.shape[:1]:
            raise ValueError(
                f"labels is {_describe(labels)}, expected ({len(masks)},) int64: masks has N = {len(masks)}"
            )
        boxes = mask_boxes(masks)  # (N, T, 4)
        present = boxes[..., 2] > 0  # (N, T)
        kept = present.any(1)
        return cls(labels[kept], torch.where(present[kept], kept.nonzero(), -1), masks[kept], boxes[kept])

    def __post_init__(self) -> None:
        _check_masks(self.masks)
        count, frames = self.masks.shape[:2]
        for name, shape in (("labels", (count,)), ("ids", (count, frames)), ("boxes", (count, frames, 4))):
            value = getattr(self, name)
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} is {_describe(value)}, expected a tensor {shape}")
            integral = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
            if tuple(value.shape) != shape or integral != (name != "boxes"):
                kind = "floating point" if name == "boxes" else "whole numbers"
                raise ValueError(f"{name} is {_describe(value)}, expected {shape} {kind}: masks has K, T = {shape[:2]}")
        for name in ("labels", "ids"):
            object.__setattr__(self, name, getattr(self, name).to(torch.int64))
        if self.labels.device.type == "cpu":  # on other devices it would wait for the device
            self._check_values()

    def _check_values(self) -> None:
        if (self.labels < 0).any():
            raise ValueError(f"labels is {self.labels.tolist()}, expected 0 or more")
        present = self.ids >= 0
        object_ids = self.object_ids
        if (present & (self.ids != object_ids[:, None])).any():
            raise ValueError(f"ids is {self.ids.tolist()}, expected one id per object, −1 where it is absent")
        known = object_ids[object_ids >= 0]
        if known.unique().numel() < known.numel():
            raise ValueError(f"ids is {self.ids.tolist()}, expected a different id for each object")
        boxes = self.boxes[present]  # (N, 4)
        wrong = ~(boxes.isfinite().all(-1) & (boxes[:, 2:] >= boxes[:, :2]).all(-1))
        if wrong.any():
            box = boxes[wrong][0].tolist()
            raise ValueError(f"boxes has {box}, expected finite xyxy in pixels with x2 >= x1 and y2 >= y1, not cxcywh")
        if len(boxes) and boxes.max() <= 1 and (boxes != boxes.round()).any():
            raise ValueError(f"boxes has {boxes[0].tolist()} and no larger one, expected xyxy in pixels, not in [0, 1]")
        height, width = self.masks.shape[-2:]
        size = boxes.new_tensor([width, height])
        far = ((boxes[:, :2] > size) | (boxes[:, 2:] < 0) | (boxes[:, :2] < -size) | (boxes[:, 2:] > 2 * size)).any(-1)
        if far.any():
            raise ValueError(
                f"boxes has {boxes[far][0].tolist()}, expected xyxy in pixels of the masks, which are {width}×{height}"
            )

    @property
    def object_ids(self) -> Tensor:
        """(K,): the id of each object, −1 if it is absent from all frames."""
        return self.ids.amax(1) if self.ids.shape[1] else self.labels.new_full(self.labels.shape, -1)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipTargets:
        """Return the targets on another device."""
        return ClipTargets(*(x.to(device, non_blocking=non_blocking) for x in self._tensors()))

    def pin_memory(self) -> ClipTargets:
        """Return the targets in page-locked memory; a DataLoader with pin_memory=True calls this."""
        return ClipTargets(*(x.pin_memory() for x in self._tensors()))

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.labels, self.ids, self.masks, self.boxes


def _check_masks(masks: Tensor) -> None:
    if not isinstance(masks, Tensor):
        raise TypeError(f"masks is {_describe(masks)}, expected a tensor (K, T, H, W) bool")
    if masks.ndim != 4 or masks.dtype != torch.bool:
        raise ValueError(f"masks is {_describe(masks)}, expected (K, T, H, W) bool")


def _describe(x: Any) -> str:
    if not isinstance(x, Tensor):
        return f"a {type(x).__name__}"
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"
