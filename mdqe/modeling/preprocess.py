"""Preprocessing of frames: resizing, normalisation and padding (paper Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tvf

from mdqe.errors import InputError

PADDING = 32  # the stride of the backbone's coarsest map


def resized_size(size: tuple[int, int], shorter_edge: int | None, longer_edge: int) -> tuple[int, int]:
    """Return (height, width) with the shorter edge scaled to `shorter_edge`, the longer to at most `longer_edge`."""
    if shorter_edge is None:
        return size
    scale = shorter_edge / min(size)
    if max(size) * scale > longer_edge:
        scale = longer_edge / max(size)
    height, width = (int(edge * scale + 0.5) for edge in size)
    return max(height, 1), max(width, 1)


def resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize frames (…, 3, H, W) uint8 to (…, 3, height, width) of `size`, bilinear with antialiasing."""
    if frames.shape[-2:] == size:
        return frames
    return tvf.resize(frames, list(size), antialias=True)


def padded_size(size: tuple[int, int]) -> tuple[int, int]:
    """Round (height, width) up to whole cells of the coarsest map."""
    # No division of a negative number: in an ONNX program with symbolic sizes it would round towards zero.
    height, width = ((edge + PADDING - 1) // PADDING * PADDING for edge in size)
    return height, width


def normalize(frames: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalise frames (…, 3, H, W) in 0 … 255 with mean and std (3,), in their type; pad the right and bottom."""
    height, width = frames.shape[-2:]
    x = (frames.to(mean.dtype) - mean[:, None, None]) / std[:, None, None]
    padded_height, padded_width = padded_size((height, width))
    return F.pad(x, (0, padded_width - width, 0, padded_height - height))


def check_clips(frames: Tensor, sizes: Sequence[tuple[int, int]], name: str = "frames") -> None:
    """Check clips (B, T, 3, H, W) and the (height, width) of their frames: B sizes, or one for all clips.

    Raises:
        ValueError: they do not fit together; the message names the tensor.
    """
    if frames.ndim != 5 or frames.shape[2] != 3:
        raise ValueError(f"{name} is {tuple(frames.shape)}, expected (B, T, 3, H, W)")
    if not (frames.shape[0] and frames.shape[1]):
        raise ValueError(f"{name} is {tuple(frames.shape)}, expected at least one clip of at least one frame")
    if len(sizes) not in (1, frames.shape[0]):
        raise ValueError(f"sizes has {len(sizes)} entries, expected 1 or one for each of {frames.shape[0]} clips")
    for height, width in sizes:
        if not (0 < height <= frames.shape[-2] and 0 < width <= frames.shape[-1]):
            raise ValueError(
                f"sizes has {(height, width)}, expected at most the {name}' {tuple(frames.shape[-2:])} and at least 1"
            )


def check_range(frames: Tensor) -> None:
    """Check that frames of floating point are in 0 … 255, with a tolerance of 1.

    Frames of other types are not checked, nor is anything in compiled code. A GPU is waited for once.

    Raises:
        ValueError: frames in 0 … 1, normalised frames, or values that are not finite.
    """
    if not frames.is_floating_point() or not frames.numel() or frames.device.type == "meta":
        return
    if torch.compiler.is_compiling():
        return
    low, high = torch.stack(frames.detach().aminmax()).tolist()
    # All values may be 0 or 1 in very dark frames, but then they are whole numbers.
    scaled = 0 < high <= 1 and bool((frames != frames.round()).any())
    if scaled or not (low >= -1 and high <= 256):  # also true for NaN
        raise ValueError(f"frames has values from {low:.4g} to {high:.4g}, expected RGB in 0 to 255")


def as_frame(frame: Any, index: int, size: tuple[int, int] | None = None) -> Tensor:
    """Convert a frame, an (H, W, 3) uint8 array, tensor or image, to a tensor.

    Args:
        frame: the frame; an array may be read-only or flipped (`bgr[..., ::-1]`).
        index: the number of the frame, for errors.
        size: the required (height, width); None: any.

    Raises:
        ValueError: anything else.
    """
    data = frame if isinstance(frame, Tensor) else np.asarray(frame)
    kind = str(data.dtype).removeprefix("torch.")
    if kind != "uint8" or data.ndim != 3 or data.shape[-1] != 3:
        given = f"{tuple(data.shape)} {kind}" if data.ndim else f"a {type(frame).__name__}"
        raise InputError(f"frame {index} is {given}, expected (height, width, 3) uint8")
    if 0 in data.shape:
        raise InputError(f"frame {index} is empty: {tuple(data.shape)}")
    if size is not None and tuple(data.shape[:2]) != size:
        raise InputError(f"frame {index} is {data.shape[1]}x{data.shape[0]}, the first one is {size[1]}x{size[0]}")
    # PyTorch accepts no arrays with negative strides, and warns about read-only ones.
    return data if isinstance(data, Tensor) else torch.from_numpy(np.require(data, requirements=["C", "W"]))
