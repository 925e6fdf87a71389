"""Mask head: tokens → mask features at stride 4; times a query's coefficients they are its mask (paper Sec. 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdqe.modeling.encoder import SpatialShapes
from mdqe.ops.reference import at_least_float32


def _groups(channels: int) -> int:
    # 32 and 24 are the published models'; small models take the most that divides their channels.
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
        """The first of them."""
        return cast(nn.Conv2d, self[0])


class MaskHead(nn.Module):
    """Fuses the three finest levels top-down, then refines at stride 8 and 4.

    Args:
        dim: channels of the tokens [C].
        mask_dim: channels of the mask features [M].
    """

    def __init__(self, dim: int = 256, mask_dim: int = 32) -> None:
        super().__init__()
        self.fuse = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, dim, kernel_size=3, padding=1), nn.GroupNorm(8, dim), nn.GELU())
            for _ in range(3)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(dim, dim, kernel_size=1) for _ in range(2))
        self.refine = _Separable(dim, dim)
        # Kernel 1 with stride 2 spreads the pixels apart; the 5×5 after it fills the gaps.
        self.upsample = nn.ConvTranspose2d(dim, dim, kernel_size=1, stride=2, output_padding=1, groups=dim)
        self.project = _Separable(dim, mask_dim)
        self._start_bilinear()

    def forward(self, memory: Tensor, spatial_shapes: SpatialShapes) -> Tensor:
        """Tokens (B, T, N, C) → mask features (B, M, T, H / 4, W / 4)."""
        clips, frames = memory.shape[:2]
        areas = [h * w for h, w in spatial_shapes]
        fine, mid, coarse = (
            tokens.transpose(1, 2).unflatten(-1, shape)  # (B·T, C, h, w)
            for tokens, shape in zip(memory.flatten(0, 1).split(areas, 1)[:3], spatial_shapes[:3], strict=True)
        )
        x = self.fuse[0](coarse)
        x = self.fuse[1](self.lateral[0](mid) + F.interpolate(x, size=mid.shape[-2:]))
        x = self.fuse[2](self.lateral[1](fine) + F.interpolate(x, size=fine.shape[-2:]))
        x = self._project_upsampled(self.refine(x))
        return x.unflatten(0, (clips, frames)).transpose(1, 2)  # (B, M, T, h, w)

    def _project_upsampled(self, x: Tensor) -> Tensor:
        """`project(upsample(x))`: (B·T, C, h, w) → (B·T, M, 2h, 2w), without the large map between the two.

        Three in four of its pixels are the bias alone. So the 5×5 over it is four convolutions of x, one for each
        parity of row and column, by the weights that meet x there: every second row and column, padded to 3×3.
        """
        depthwise, pointwise, norm, activation = cast(Any, self.project)  # a Sequential does not tell their types
        upsample: Any = self.upsample  # nor this one that it has a bias
        kernel = depthwise.weight * upsample.weight  # (C, 1, 5, 5)
        sixes = F.pad(kernel, (1, 0, 1, 0))  # (C, 1, 6, 6)
        parts = []
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            part = F.conv2d(x, sixes[..., 1 - row :: 2, 1 - column :: 2], padding=1, groups=x.shape[1])
            parts.append(F.conv2d(part, pointwise.weight))  # (B·T, M, h, w)
        y = F.pixel_shuffle(torch.stack(parts, 2).flatten(1, 2), 2)  # (B·T, M, 4, h, w) → (B·T, M, 2h, 2w)
        # The biases, of which the first one is summed over what the kernel sees of the map: less at its border.
        seen, rows, columns = _sums_inside(depthwise.weight[:, 0], y.shape[-2:])  # (C, S, S), (2h,), (2w,)
        constant = pointwise((seen * upsample.bias[:, None, None] + depthwise.bias[:, None, None])[None])
        # Half precision is too coarse for the gradient, a sum over all places.
        constant = constant.to(at_least_float32(constant.dtype))
        constant = constant.index_select(2, rows).index_select(3, columns)  # (1, M, S, S) → (1, M, 2h, 2w)
        return activation(norm(y + constant.to(y.dtype)))

    @torch.no_grad()
    def _start_bilinear(self) -> None:
        """Start the depthwise part as a bilinear upsampling.

        With random kernels a pixel's value tells mostly whether its row and column are even. That pattern is most of
        the variance that the last GroupNorm sees, for hundreds of steps of a training from scratch.
        """
        tent = torch.tensor([0.0, 0.5, 1.0, 0.5, 0.0])
        nn.init.dirac_(self.refine.depthwise.weight, groups=self.refine.depthwise.groups)
        nn.init.ones_(self.upsample.weight)
        self.project.depthwise.weight.copy_(tent.outer(tent))  # (5, 5) → (C, 1, 5, 5)
        for bias in (self.refine.depthwise.bias, self.upsample.bias, self.project.depthwise.bias):
            assert bias is not None
            nn.init.zeros_(bias)


def _sums_inside(kernels: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The sums of a centred kernel's weights inside a map of (h, w), wherever the kernel stands: kernels (C, k, k).

    Returns:
        sums: (C, S, S), of all the parts of a kernel that can be inside: S of them along an axis.
        rows: (h,), which part it is in each row.
        columns: (w,), in each column.
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
    """Masks of queries: coefficients (…, Q, M) · features (…, M, T, h, w) → (…, Q, T, h, w)."""
    t, h, w = features.shape[-3:]
    return (coefficients @ features.flatten(-3)).unflatten(-1, (t, h, w))
