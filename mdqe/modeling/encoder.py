"""Encoder: feature maps → tokens of all levels, refined by deformable self-attention (paper Sec. 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional as F

from mdqe.modeling.layers import MLP, Dropout
from mdqe.ops.attention import MultiScaleDeformableAttention
from mdqe.ops.reference import at_least_float32

SpatialShapes = tuple[tuple[int, int], ...]


class Tokens(NamedTuple):
    """Encoded frames."""

    memory: Tensor
    """(B, T, N, C): every pixel of every level."""
    spatial_shapes: SpatialShapes
    """(h, w) of each level."""
    padding_mask: Tensor | None
    """(B, N), True where padded; None without padding."""


def sine_position(padding_mask: Tensor, dim: int, dtype: torch.dtype, temperature: float = 10000.0) -> Tensor:
    """DETR's sine position encoding of the valid area: mask (B, h, w) → (B, h, w, dim), the half of y first."""
    valid = (~padding_mask).to(dtype)
    y, x = valid.cumsum(1), valid.cumsum(2)
    y = y / (y[:, -1:, :] + 1e-6) * (2 * math.pi)
    x = x / (x[:, :, -1:] + 1e-6) * (2 * math.pi)
    half = dim // 2
    step = torch.arange(half, dtype=dtype, device=padding_mask.device)
    period = temperature ** (2 * torch.div(step, 2, rounding_mode="floor") / half)

    def encode(position: Tensor) -> Tensor:
        angle = position[..., None] / period  # (B, h, w, half)
        return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(-2)  # (B, h, w, half)

    return torch.cat([encode(y), encode(x)], -1)


def pixel_centers(spatial_shapes: SpatialShapes, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The centre of every token, xy in [0, 1] of the padded image: (1, N, 2)."""
    levels = []
    for h, w in spatial_shapes:
        y = (torch.arange(h, dtype=dtype, device=device) + 0.5) / h
        x = (torch.arange(w, dtype=dtype, device=device) + 0.5) / w
        levels.append(torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1).flatten(0, 1))  # (h·w, 2)
    return torch.cat(levels)[None]


class EncoderLayer(nn.Module):
    """Deformable self-attention and an MLP, each followed by a residual and a LayerNorm."""

    def __init__(
        self, dim: int, num_heads: int, num_levels: int, num_points: int, mlp_ratio: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(dim, num_heads, num_levels, num_points)
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, dim * mlp_ratio, dim, num_layers=2, dropout=dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, position: Tensor, centers: Tensor, spatial_shapes: SpatialShapes, padding_mask: Tensor | None
    ) -> Tensor:
        """Tokens x (B, N, C), position (B or 1, N, C), centers (1, N, 2), padding_mask (B, N) → (B, N, C)."""
        value = self.self_attn.project_value(x, padding_mask)
        x = self.norm1(x + self.dropout(self.self_attn(x + position, centers, value, spatial_shapes)))
        return self.norm2(x + self.dropout(self.mlp(x)))


class Encoder(nn.Module):
    """Project the backbone's maps to `dim` channels, add levels, and let all pixels of a frame attend to each other.

    Args:
        in_channels: channels of the backbone's maps, finest first.
        dim: channels of the tokens [C]; a multiple of 32.
        num_layers, num_heads, num_points, mlp_ratio, dropout: of the transformer.
        num_levels: levels [L]. Stride-2 convolutions of the backbone's last map give the levels beyond its maps.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        dim: int = 256,
        *,
        num_layers: int = 6,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        mlp_ratio: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        groups = min(32, dim // 2)  # groups of one channel would normalise a level of one pixel to zero
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, dim, kernel_size=1), nn.GroupNorm(groups, dim)) for c in in_channels
        )
        c = in_channels[-1]
        for _ in range(num_levels - len(in_channels)):
            conv = nn.Conv2d(c, dim, kernel_size=3, stride=2, padding=1)
            self.projections.append(nn.Sequential(conv, nn.GroupNorm(groups, dim)))
            c = dim
        for projection in self.projections.modules():
            if isinstance(projection, nn.Conv2d) and projection.bias is not None:
                nn.init.xavier_uniform_(projection.weight)
                nn.init.zeros_(projection.bias)
        self.level_embed = nn.Parameter(torch.randn(num_levels, dim))
        self.layers = nn.ModuleList(
            EncoderLayer(dim, num_heads, num_levels, num_points, mlp_ratio, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, maps: Sequence[Tensor], clips: int, padded_size: tuple[int, int], sizes: Sequence[tuple[int, int]]
    ) -> Tokens:
        """Encode the frames of clips.

        Args:
            maps: the backbone's maps (B·T, C_i, h, w) at strides 8, 16, 32.
            clips: the number of clips [B].
            padded_size: (H, W) of the padded frames.
            sizes: (height, width) of each clip's frames inside the padding; B of them, or one for all.
        """
        levels = self.project(maps)  # (B·T, C, h, w) each
        shapes = tuple((m.shape[-2], m.shape[-1]) for m in levels)
        x = torch.cat([rearrange(m, "f c h w -> f (h w) c") for m in levels], 1)  # (B·T, N, C)
        masks = level_masks(padded_size, sizes, shapes, len(maps), x.device)  # (B or 1, h, w) each
        position = self.position(masks, x.dtype)  # (B or 1, N, C)
        centers = pixel_centers(shapes, at_least_float32(x.dtype), x.device)  # (1, N, 2)
        padding_mask = None
        # In an export with symbolic sizes it is unknown whether frames are padded. A mask without padding does no harm.
        if not all(statically_known_true(a == b) for size in sizes for a, b in zip(size, padded_size, strict=True)):
            padding_mask = torch.cat([m.flatten(1) for m in masks], 1)  # (B or 1, N)
        mask = padding_mask
        if len(sizes) > 1:  # one row per frame
            position = position.repeat_interleave(x.shape[0] // clips, 0)  # (B·T, N, C)
            mask = None if mask is None else mask.repeat_interleave(x.shape[0] // clips, 0)  # (B·T, N)
        for layer in self.layers:
            x = layer(x, position, centers, shapes, mask)
        return Tokens(rearrange(self.norm(x), "(b t) n c -> b t n c", b=clips), shapes, padding_mask)

    def project(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Project backbone maps (B, C_i, h, w) to the maps of all levels (B, C, h, w)."""
        levels = [projection(m) for projection, m in zip(self.projections, maps, strict=False)]
        source = maps[-1]
        for projection in self.projections[len(maps) :]:
            source = projection(source)
            levels.append(source)
        return levels

    def position(self, masks: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Padding masks (B, h, w) of the levels → the sine encoding of each plus its level embedding: (B, N, C)."""
        dim = self.level_embed.shape[1]
        parts = [
            sine_position(mask, dim, at_least_float32(dtype)).flatten(1, 2).to(dtype) + embed  # (B, h·w, C)
            for mask, embed in zip(masks, self.level_embed, strict=True)
        ]
        return torch.cat(parts, 1)


def level_masks(
    padded_size: tuple[int, int],
    sizes: Sequence[tuple[int, int]],
    shapes: SpatialShapes,
    backbone_levels: int,
    device: torch.device,
) -> list[Tensor]:
    """Padding masks (B, h, w) of all levels, True where padded: a pixel is valid if its cell starts in the frame."""
    masks = []
    for h, w in shapes[:backbone_levels]:
        y = torch.arange(h, device=device) * (padded_size[0] // h)
        x = torch.arange(w, device=device) * (padded_size[1] // w)
        valid = [(y < height)[:, None] & (x < width) for height, width in sizes]  # (h, w) each
        masks.append(~torch.stack(valid))
    for shape in shapes[backbone_levels:]:
        masks.append(F.interpolate(masks[-1][None].float(), size=shape)[0].bool())
    return masks
