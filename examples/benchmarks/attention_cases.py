"""Inputs for timing deformable attention, and their cost: one frame of 384 x 640, or a batch of frames.

"rays" are sampling locations as the encoder has them when training starts, with noise. "uniform" locations are spread
over the whole image.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mdqe.ops import deform_attn, deform_attn_fused
from mdqe.ops.reference import at_least_float32, deform_attn_fused_reference, deform_attn_reference

SHAPES = ((48, 80), (24, 40), (12, 20), (6, 10))  # a frame of 384 x 640 at strides 8 to 64
STARTS = (0, 3840, 4800, 5040)
TOKENS, HEADS, POINTS = 5100, 8, 4
PASSES = {"forward": 1, "forward + backward": 3}  # backward is two: products with value, and its gradient


@dataclass
class Case:
    """Tensors of one input, for both forms of the operator."""

    value: Tensor
    centers: Tensor
    offsets: Tensor
    logits: Tensor
    locations: Tensor
    weights: Tensor

    def kernel(self) -> Tensor:
        return deform_attn(self.value, SHAPES, self.locations, self.weights)

    def reference(self) -> Tensor:
        return deform_attn_reference(self.value, SHAPES, STARTS, self.locations, self.weights)

    def fused_kernel(self) -> Tensor:
        return deform_attn_fused(self.value, SHAPES, self.centers, self.offsets, self.logits)

    def fused_reference(self) -> Tensor:
        return deform_attn_fused_reference(self.value, SHAPES, STARTS, self.centers, self.offsets, self.logits)

    def flops(self, passes: int = 1) -> float:
        """One multiplication and one addition per corner and channel, and about 25 for the coordinates of a point."""
        return passes * self.weights.numel() * (8.0 * self.value.shape[3] + 25)

    def bytes(self, passes: int = 1) -> float:
        """Every tensor once in each pass."""
        output = self.weights.shape[0] * self.weights.shape[1] * self.value.shape[2] * self.value.shape[3]
        moved = sum(x.numel() * x.element_size() for x in (self.value, self.locations, self.weights))
        return passes * (moved + output * self.value.element_size())


def grid_centers() -> Tensor:
    """The centre of every token, (1, N, 2)."""
    grids = [torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij") for h, w in SHAPES]
    return torch.cat([torch.stack((x, y), -1).flatten(0, 1) for y, x in grids])[None]


def make_case(kind: str, batch: int, queries: int, channels: int, device: str, dtype: torch.dtype) -> Case:
    """Queries are the tokens, or an evenly spaced part of them. Up to 196 queries, as in a decoder, are random."""
    torch.manual_seed(0)
    size = (batch, queries, HEADS, len(SHAPES), POINTS)
    spread = torch.arange(queries) * TOKENS // queries
    centers = grid_centers()[:, spread] if queries > 196 else torch.rand(1, queries, 2)
    angle = torch.arange(HEADS) * (2 * math.pi / HEADS)
    ray = torch.stack((angle.cos(), angle.sin()), -1)
    ray = (ray / ray.abs().amax(-1, keepdim=True))[:, None, None]  # (H, 1, 1, 2)
    reach = 0.05 * torch.arange(1, 5)[:, None] * torch.arange(1, POINTS + 1) / POINTS  # (L, P)
    offsets = 8 * ray * reach[..., None] + 0.05 * torch.randn(*size, 2)
    if kind == "uniform":
        offsets = 8 * (torch.rand(*size, 2) - centers[:, :, None, None, None])
    logits = torch.randn(size)
    wide = at_least_float32(dtype)
    tensors = [
        torch.randn(batch, TOKENS, HEADS, channels).to(dtype),
        centers.to(wide),
        offsets.to(dtype),
        logits.to(dtype),
        (centers[:, :, None, None, None] + offsets / 8).to(wide),
        logits.flatten(-2).softmax(-1).view_as(logits).to(wide),
    ]
    return Case(*(tensor.to(device) for tensor in tensors))
