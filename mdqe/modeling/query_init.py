"""Query initialisation: grid peaks of the activation map, associated across the frames of a clip (paper Sec. 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdqe.modeling.encoder import SpatialShapes
from mdqe.modeling.layers import MLP
from mdqe.ops.library import deform_attn
from mdqe.ops.reference import at_least_float32


class FrameQueries(NamedTuple):
    """Queries of every frame, before or after association."""

    content: Tensor
    """(B, T, Q, C)."""
    coords: Tensor
    """(B, T, Q, 2) xy in [0, 1] of the padded image."""
    embeddings: Tensor | None
    """(B, T, Q, E): what association compares; None for learned queries."""
    activation: Tensor | None
    """(B, T, K, h, w) class logits at stride 8; None for learned queries."""


class QueryInitializer(nn.Module):
    """Frame queries from the most salient point of each of G × G cells (paper Sec. 3.2, Eq. 1–2).

    Every frame is cut into a grid; each cell's peak of the class activation map becomes a query, whose content is
    sampled from the encoder's tokens there. `associate` then lines up the queries of a clip's frames, so that query k
    of every frame is the same object.

    Args:
        dim: channels of the tokens [C].
        num_classes: categories [K] of the activation map.
        grid_size: cells per side [G]; Q = G².
        embed_dim: size of the association embedding [E].

    Attributes:
        plain_operator: as that of `MultiScaleDeformableAttention`.
    """

    plain_operator = False

    def __init__(self, dim: int = 256, num_classes: int = 25, grid_size: int = 14, embed_dim: int = 64) -> None:
        super().__init__()
        self.grid_size = grid_size
        self.activation_head = MLP(dim, dim, num_classes)
        self.embedding_head = MLP(dim, dim, embed_dim)
        nn.init.constant_(self.activation_head.last.bias, -4.595)  # objects are rare: a score of 0.01

    def forward(
        self, memory: Tensor, spatial_shapes: SpatialShapes, association_window: float | None = 2.5
    ) -> FrameQueries:
        """Tokens (B, T, N, C) → queries associated across T; association_window None leaves every frame its own."""
        queries = self.select(memory, spatial_shapes)
        return queries if association_window is None else self.associate(queries, association_window)

    def select(self, memory: Tensor, spatial_shapes: SpatialShapes) -> FrameQueries:
        """Each frame's own queries, of tokens (B, T, N, C) with the stride-8 level first."""
        (h, w), clips = spatial_shapes[0], memory.shape[0]
        tokens = memory.flatten(0, 1)  # (B·T, N, C)
        activation = self.activation_head(tokens[:, : h * w]).transpose(1, 2).unflatten(-1, (h, w))  # (B·T, K, h, w)
        saliency = activation.to(at_least_float32(activation.dtype)).sigmoid().amax(1)  # (B·T, h, w)
        coords = self._peaks(saliency)
        content = _sample(tokens, spatial_shapes, coords, plain=self.plain_operator)
        queries = content, coords, self.embedding_head(content), activation
        return FrameQueries(*(q.unflatten(0, (clips, -1)) for q in queries))

    def _peaks(self, saliency: Tensor) -> Tensor:
        """Saliency (B, h, w) → each cell's highest point (B, Q, 2) xy."""
        g = self.grid_size
        cell_h, cell_w = (2 * s // g + 1 for s in saliency.shape[-2:])
        height, width = g * cell_h, g * cell_w
        fine = F.interpolate(saliency[:, None], size=(height, width), mode="bilinear", align_corners=False)[:, 0]
        cells = fine.unflatten(2, (g, cell_w)).unflatten(1, (g, cell_h)).transpose(2, 3)  # (B, G, G, cell_h, cell_w)
        peak = cells.flatten(3).argmax(-1).flatten(1)  # (B, Q)
        cell = torch.arange(g * g, device=peak.device)
        down = peak // cell_w
        row = cell // g * cell_h + down
        column = cell % g * cell_w + peak - down * cell_w
        index = row * width + column
        # y keeps the column's fraction, x / (W·H): the published weights were trained so.
        x = column.to(fine.dtype) / width
        y = index.to(fine.dtype) / (width * height)
        return torch.stack([x, y], -1)

    def associate(self, queries: FrameQueries, window: float) -> FrameQueries:
        """Replace each frame's query k by the frame's best match of the central frame's query k.

        Args:
            queries: of `select`.
            window: cells that an object may move per frame; half of the training value at test.

        Returns:
            Queries whose content and coords are the winners'; embeddings and activation are as they were.
        """
        frames = queries.content.shape[1]
        center = (frames - 1) // 2
        e = queries.embeddings
        if e is None:
            raise ValueError("queries have no embeddings to associate them by: learned queries are lined up already")
        similarity = torch.einsum("btqe,bke->btkq", e, e[:, center])  # (B, T, k, q)
        apart = (torch.arange(frames, device=e.device) - center).abs()[:, None, None]  # (T, 1, 1)
        far = grid_distance(self.grid_size, e.device) > window * apart  # (T, k, q)
        winner = similarity.masked_fill(far, float("-inf")).argmax(-1)  # (B, T, Q)

        def take(x: Tensor) -> Tensor:
            return x.gather(2, winner[..., None].expand(-1, -1, -1, x.shape[-1]))

        return queries._replace(content=take(queries.content), coords=take(queries.coords))


class LearnedQueries(nn.Module):
    """The ablation without initialisation: the same learned content and points for every frame.

    Args:
        dim: channels [C].
        num_queries: Q.
    """

    def __init__(self, dim: int = 256, num_queries: int = 196) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.randn(num_queries, dim))
        self.points = nn.Parameter(torch.randn(num_queries, 2))

    def select(self, memory: Tensor, spatial_shapes: SpatialShapes) -> FrameQueries:
        """The same queries for every frame of tokens (B, T, N, C)."""
        clips, frames = memory.shape[:2]
        content = self.content.expand(clips, frames, -1, -1)
        coords = self.points.sigmoid().expand(clips, frames, -1, -1)
        return FrameQueries(content, coords, None, None)


def grid_distance(grid_size: int, device: torch.device) -> Tensor:
    """Chebyshev distance between the cells of a G × G grid: (Q, Q), Q = G²."""
    cell = torch.arange(grid_size**2, device=device)
    row, column = cell // grid_size, cell % grid_size
    return torch.maximum((row[:, None] - row).abs(), (column[:, None] - column).abs())


def _sample(tokens: Tensor, spatial_shapes: SpatialShapes, coords: Tensor, plain: bool) -> Tensor:
    """Mean over levels of tokens (B, N, C) at coords (B, Q, 2), bilinear, clamped at the border: (B, Q, C)."""
    # One number at a time: sizes that are symbols, in an export, would be fixed inside a list.
    halves = [coords.new_full((), 0.5 / edge) for h, w in spatial_shapes for edge in (w, h)]
    half_pixel = torch.stack(halves).view(-1, 1, 2)  # (L, 1, 2)
    points = coords[:, :, None, None, None]  # (B, Q, H = 1, 1, P = 1, 2)
    points = points.clamp(min=half_pixel, max=1 - half_pixel)  # (B, Q, 1, L, 1, 2)
    weights = points.new_full(points.shape[:-1], 1 / len(spatial_shapes))  # (B, Q, 1, L, 1)
    return deform_attn(tokens[:, :, None], spatial_shapes, points, weights, plain=plain)
