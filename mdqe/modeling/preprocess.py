"""Frames on their way into the model: resized, normalised, padded (paper Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tvf

from mdqe.errors import InputError

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
    """Frames (…, 3, H, W) uint8 → (…, 3, height, width) of `size`, antialiased bilinear."""
    if frames.shape[-2:] == size:
        return frames
    return tvf.resize(frames, list(size), antialias=True)


def padded_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) rounded up to whole cells of the coarsest map."""
    # Not by a negative number: where sizes are symbols, in an ONNX program, its division would round towards zero.
    height, width = ((edge + PADDING - 1) // PADDING * PADDING for edge in size)
    return height, width


def normalize(frames: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Frames (…, 3, H, W) on 0 … 255 → normalised, in the type of mean and std (3,), padded right and bottom."""
    height, width = frames.shape[-2:]
    x = (frames.to(mean.dtype) - mean[:, None, None]) / std[:, None, None]
    padded_height, padded_width = padded_size((height, width))
    return F.pad(x, (0, padded_width - width, 0, padded_height - height))


def check_clips(frames: Tensor, sizes: Sequence[tuple[int, int]], name: str = "frames") -> None:
    """Clips (B, T, 3, H, W) and the (height, width) of each one's frames in them, B or one for all, fit together.

    Raises:
        ValueError: they do not; names the tensor.
    """
    if frames.ndim != 5 or frames.shape[2] != 3:
        raise ValueError(f"{name} is {tuple(frames.shape)}, expected (B, T, 3, H, W)")
    if len(sizes) not in (1, frames.shape[0]):
        raise ValueError(f"sizes has {len(sizes)} entries, expected 1 or one for each of {frames.shape[0]} clips")
    for height, width in sizes:
        if not (0 < height <= frames.shape[-2] and 0 < width <= frames.shape[-1]):
            raise ValueError(
                f"sizes has {(height, width)}, expected at most the {name}' {tuple(frames.shape[-2:])} and at least 1"
            )


def as_frame(frame: Any, index: int, size: tuple[int, int] | None = None) -> Tensor:
    """A frame, an (H, W, 3) uint8 array, tensor or image, as a tensor.

    Args:
        frame: the frame; an array may be read-only or flipped (`bgr[..., ::-1]`).
        index: its number, for the error.
        size: (height, width) that it must have; None: any.

    Raises:
        ValueError: anything else.
    """
    held = frame if isinstance(frame, Tensor) else np.asarray(frame)
    kind = str(held.dtype).removeprefix("torch.")
    if kind != "uint8" or held.ndim != 3 or held.shape[-1] != 3:
        given = f"{tuple(held.shape)} {kind}" if held.ndim else f"a {type(frame).__name__}"
        raise InputError(f"frame {index} is {given}, expected (height, width, 3) uint8")
    if 0 in held.shape:
        raise InputError(f"frame {index} is empty: {tuple(held.shape)}")
    if size is not None and tuple(held.shape[:2]) != size:
        raise InputError(f"frame {index} is {held.shape[1]}x{held.shape[0]}, the first one is {size[1]}x{size[0]}")
    # PyTorch takes no arrays with negative strides, and warns of those that it must not write to.
    return held if isinstance(held, Tensor) else torch.from_numpy(np.require(held, requirements=["C", "W"]))
