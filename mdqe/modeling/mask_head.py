"""Mask head, the paper's Mask Net: tokens → mask features at stride 4 (paper Sec. 3.1, Fig. 1a).

The products of mask features and a query's coefficients are the mask logits of the query. The paper does not describe
the layers of the mask head; they are those of the released code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mdqe.modeling.encoder import SpatialShapes
from mdqe.modeling.layers import Conv2d
from mdqe.ops.reference import widen

MASK_STRIDE = 4
"""Pixels of the padded frame per mask logit and axis."""


def first_sample(alignment: str, stride: int = MASK_STRIDE) -> float:
    """The pixel of the first sample of a map: sample i lies at pixel `first_sample + stride · i`, on both axes.

    Args:
        alignment: "centered": in the middle of stride × stride pixels, as training targets are sampled; "released":
            half a pixel further, where the released code places mask logits at test.
        stride: pixels per sample.
    """
    return {"centered": (stride - 1) / 2, "released": stride / 2}[alignment]


def _groups(channels: int) -> int:
    # The published models have 32 or 24 groups. Small models have the most groups that divide their channels.
    return next((groups for groups in (32, 24) if channels % groups == 0), math.gcd(channels, 32))


class _Separable(nn.Sequential):
    """Depthwise 5×5 and 1×1 convolutions, GroupNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, in_channels, kernel_size=5, padding=2, groups=in_channels),
            nn.Conv2d(in_channels, out_channels, kernel_size=1),
            nn.GroupNorm(_groups(out_channels), out_channels),
            nn.ReLU(),
        )

    @property
    def depthwise(self) -> nn.Conv2d:
        """The depthwise convolution."""
        return cast(nn.Conv2d, self[0])


class MaskHead(nn.Module):
    """Fuse the three finest levels from coarse to fine, then refine them at strides 8 and 4.

    Args:
        dim: channels of the tokens [C].
        mask_dim: channels of the mask features [M].
    """

    def __init__(self, dim: int = 256, mask_dim: int = 32) -> None:
        super().__init__()
        self.fuse = nn.ModuleList(
            nn.Sequential(Conv2d(dim, dim, kernel_size=3, padding=1), nn.GroupNorm(8, dim), nn.GELU()) for _ in range(3)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(dim, dim, kernel_size=1) for _ in range(2))
        self.refine = _Separable(dim, dim)
        # Stride 2 with kernel 1 writes each pixel to one of four places. The 5×5 convolution after it fills the others.
        self.upsample = nn.ConvTranspose2d(dim, dim, kernel_size=1, stride=2, output_padding=1, groups=dim)
        self.project = _Separable(dim, mask_dim)
        self._initialize_bilinear()

    def forward(self, memory: Tensor, spatial_shapes: SpatialShapes) -> Tensor:
        """Tokens (B, T, N, C) → mask features (B, M, T, H / 4, W / 4)."""
        tokens = rearrange(memory, "b t n c -> (b t) n c")
        levels = tokens.split([h * w for h, w in spatial_shapes], 1)[:3]  # (B·T, h·w, C) each
        fine, mid, coarse = (
            rearrange(x, "f (h w) c -> f c h w", h=h, w=w) for x, (h, w) in zip(levels, spatial_shapes[:3], strict=True)
        )
        x = self.fuse[0](coarse)  # (B·T, C, h, w) at stride 32
        x = self.fuse[1](self.lateral[0](mid) + F.interpolate(x, size=mid.shape[-2:]))  # stride 16
        x = self.fuse[2](self.lateral[1](fine) + F.interpolate(x, size=fine.shape[-2:]))  # stride 8
        x = self._project_upsampled(self.refine(x))  # (B·T, M, h, w) at stride 4
        return rearrange(x, "(b t) m h w -> b m t h w", b=memory.shape[0])

    def _project_upsampled(self, x: Tensor) -> Tensor:
        """Compute `project(upsample(x))`, (B·T, C, h, w) → (B·T, M, 2h, 2w), without the large map in between.

        Three quarters of the pixels of the upsampled map are equal to the bias. The 5×5 convolution of that map is
        therefore four convolutions of x, one per parity of row and column. Each uses the weights that meet x there:
        every second row and column of the kernel, padded to 3×3.
        """
        depthwise, pointwise, norm, activation = cast(Any, self.project)
        upsample: Any = self.upsample
        kernel = depthwise.weight * upsample.weight  # (C, 1, 5, 5)
        kernel = F.pad(kernel, (1, 0, 1, 0))  # (C, 1, 6, 6)
        parts = []
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            part = F.conv2d(x, kernel[..., 1 - row :: 2, 1 - column :: 2], padding=1, groups=x.shape[1])
            parts.append(F.conv2d(part, pointwise.weight))  # (B·T, M, h, w)
        y = F.pixel_shuffle(torch.stack(parts, 2).flatten(1, 2), 2)  # (B·T, M, 4, h, w) → (B·T, M, 2h, 2w)
        # Add the biases. The bias of upsample is multiplied by the sum of the kernel's weights inside the map.
        sums, rows, columns = _sums_inside(depthwise.weight[:, 0], y.shape[-2:])  # (C, S, S), (2h,), (2w,)
        constant = pointwise((sums * upsample.bias[:, None, None] + depthwise.bias[:, None, None])[None])
        constant = widen(constant)  # its gradient is a sum over all pixels, for which half precision is too coarse
        constant = constant.index_select(2, rows).index_select(3, columns)  # (1, M, S, S) → (1, M, 2h, 2w)
        return activation(norm(y + constant.to(y.dtype)))

    @torch.no_grad()
    def _initialize_bilinear(self) -> None:
        """Initialise the depthwise convolutions as a bilinear upsampling.

        With random kernels, the value of a pixel mostly depends on the parity of its row and column. This pattern is
        most of the variance that the last GroupNorm sees, for hundreds of steps of a training from scratch.
        """
        tent = torch.tensor([0.0, 0.5, 1.0, 0.5, 0.0])
        nn.init.dirac_(self.refine.depthwise.weight, groups=self.refine.depthwise.groups)
        nn.init.ones_(self.upsample.weight)
        self.project.depthwise.weight.copy_(tent.outer(tent))  # (5, 5) → (C, 1, 5, 5)
        for bias in (self.refine.depthwise.bias, self.upsample.bias, self.project.depthwise.bias):
            assert bias is not None
            nn.init.zeros_(bias)


def _sums_inside(kernels: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the weights of kernels (C, k, k) that lie inside a map (h, w), for every position of the kernel.

    Returns:
        sums: (C, S, S), over each part of a kernel that can lie inside the map; an axis has S such parts.
        rows: (h,), the part at each row.
        columns: (w,), the part at each column.
    """
    k = kernels.shape[-1]
    half, device = k // 2, kernels.device
    sums = F.pad(kernels.cumsum(1).cumsum(2), (1, 0, 1, 0))  # (C, k + 1, k + 1), of the weights above and left
    first, end = torch.arange(half + 1, device=device), torch.arange(half + 1, k + 1, device=device)
    for axis in (1, 2):
        ends, firsts = sums.index_select(axis, end).unsqueeze(axis), sums.index_select(axis, first).unsqueeze(axis + 1)
        sums = (ends - firsts).flatten(axis, axis + 1)  # by first, then by end
    parts = []
    for length in size:
        place = torch.arange(length, device=device)
        before, after = (half - place).clamp(min=0), (length + half - place).clamp(max=k)
        parts.append(before * len(end) + after - (half + 1))
    return sums, parts[0], parts[1]


def mask_logits(coefficients: Tensor, features: Tensor) -> Tensor:
    """Mask logits of queries: coefficients (…, Q, M) · features (…, M, T, h, w) → (…, Q, T, h, w)."""
    t, h, w = features.shape[-3:]
    return (coefficients @ features.flatten(-3)).unflatten(-1, (t, h, w))
