"""Frames on their way into the model: resized, normalised, padded (paper Sec. 4.1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tvf

PADDING = 32  # the coarsest backbone map's stride


def resized_size(size: tuple[int, int], shorter_edge: int | None, longer_edge: int) -> tuple[int, int]:
    """(height, width) after the shorter edge is brought to `shorter_edge`, the longer at most to `longer_edge`."""
    if shorter_edge is None:
        return size
    scale = shorter_edge / min(size)
    if max(size) * scale > longer_edge:
        scale = longer_edge / max(size)
    height, width = (int(edge * scale + 0.5) for edge in size)
    return max(height, 1), max(width, 1)


def resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames (…, 3, H, W) uint8 → (…, 3, *size), antialiased bilinear."""
    if frames.shape[-2:] == size:
        return frames
    return tvf.resize(frames, list(size), antialias=True)


def padded_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) rounded up to whole cells of the coarsest map."""
    height, width = (-(-edge // PADDING) * PADDING for edge in size)
    return height, width


def normalize(frames: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Frames (…, 3, H, W) on 0 … 255 → normalised, in the type of mean and std (3,), padded right and bottom."""
    height, width = frames.shape[-2:]
    x = (frames.to(mean.dtype) - mean[:, None, None]) / std[:, None, None]
    padded_height, padded_width = padded_size((height, width))
    return F.pad(x, (0, padded_width - width, 0, padded_height - height))


def check_frame(frame: Tensor, index: int, size: tuple[int, int] | None = None) -> None:
    """Raise a ValueError unless the frame is (H, W, 3) uint8 and, when given, of `size`."""
    if frame.dtype != torch.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
        raise ValueError(f"frame {index} is {tuple(frame.shape)} {frame.dtype}, expected (height, width, 3) uint8")
    if 0 in frame.shape:
        raise ValueError(f"frame {index} is empty: {tuple(frame.shape)}")
    if size is not None and tuple(frame.shape[:2]) != size:
        raise ValueError(f"frame {index} is {frame.shape[1]}x{frame.shape[0]}, the first one is {size[1]}x{size[0]}")
