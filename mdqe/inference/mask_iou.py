"""The IoU of the masks of tracks and detections from their logits, with a compiled kernel or in plain PyTorch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mdqe.ops.kernels import has_operator

_COMPILED = has_operator("mask_iou")


def mask_iou(tracks: Tensor, detections: Tensor, places: Sequence[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """IoU of the positive pixels of tracks and detections in the same frames.

    On a CPU, the compiled kernel packs the signs of float32 logits into words and counts shared bits.

    Args:
        tracks: logits (N, F, h, w).
        detections: logits (D, T, h, w), of the same type and device.
        places: F frames of the detections, ascending: frame f of the tracks is frame places[f] of the detections.

    Returns:
        iou: (N, D); 0 where both are empty.
        checks: tensors without axes. All are finite if and only if the detections are finite in all T frames.
    """
    if _COMPILED and tracks.is_cpu and tracks.dtype == detections.dtype == torch.float32:
        iou, check = torch.ops.mdqe.mask_iou(tracks, detections, places)
        return iou, (check,)
    consecutive = len(places) and places[-1] - places[0] == len(places) - 1  # mostly: then they are not copied
    same_frames = detections[:, places[0] : places[-1] + 1] if consecutive else detections[:, places]
    known, found = (positive(x).flatten(1) for x in (tracks, same_frames))
    overlap = known @ found.T
    iou = overlap / (known.sum(dim=1)[:, None] + found.sum(dim=1) - overlap + 1e-6)
    return iou, tuple(detections.aminmax()) if detections.numel() else ()


def positive(x: Tensor) -> Tensor:
    """1 where x is positive and 0 elsewhere, in its own type and in one pass over it."""
    return torch.gt(x, 0, out=torch.empty_like(x, memory_format=torch.contiguous_format))
