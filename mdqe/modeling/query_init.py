"""Query initialisation: peaks of the activation map, associated across frames (paper Sec. 3.2, Fig. 1b)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mdqe.modeling.encoder import SpatialShapes
from mdqe.modeling.layers import MLP
from mdqe.modeling.shapes import check_levels, check_shapes
from mdqe.ops.library import deform_attn
from mdqe.ops.reference import widen


class FrameQueries(NamedTuple):
    """The queries of every frame, before or after association."""

    content: Tensor
    """(B, T, Q, C)."""
    coords: Tensor
    """(B, T, Q, 2), xy in [0, 1] of the padded image."""
    embeddings: Tensor | None
    """(B, T, Q, E), which association compares; None for learned queries. `init_reid`, `init_reid_aux` train them."""
    activation: Tensor | None
    """(B, T, K, h, w) class logits of the first level; None for learned queries. `init_sem` trains them."""


class QueryInitializer(nn.Module):
    """Frame queries from the most salient point of each of G × G cells (paper Sec. 3.2, Fig. 1b).

    A grid divides every frame into cells. The peak of the class activation map in a cell becomes a query; its content
    is sampled there from the encoder's tokens. `associate` then aligns the queries of a clip's frames, so that query k
    of every frame is the same object.

    Both outputs that choose queries need losses of their own, because no gradient passes through the choice: `init_sem`
    trains `activation`, and `init_reid` and `init_reid_aux` train `embeddings`.
    `mdqe.losses.Criterion.query_init_losses` computes all three.

    Args:
        dim: channels of the tokens [C].
        num_classes: categories of the activation map [K].
        grid_size: cells per side [G]; Q = G².
        embed_dim: size of the association embedding [E].

    Attributes:
        plain_operator: sample with standard operators, as in `MultiScaleDeformableAttention`.

    Example:
        Two clips of four frames, with tokens of two levels:

        >>> import torch
        >>> from mdqe import QueryInitializer
        >>> query_init = QueryInitializer(64, num_classes=3, grid_size=5, embed_dim=16)
        >>> queries = query_init(torch.randn(2, 4, 12 * 20 + 6 * 10, 64), ((12, 20), (6, 10)))
        >>> queries.content.shape, queries.coords.shape
        (torch.Size([2, 4, 25, 64]), torch.Size([2, 4, 25, 2]))
        >>> queries.embeddings.shape, queries.activation.shape
        (torch.Size([2, 4, 25, 16]), torch.Size([2, 4, 3, 12, 20]))
    """

    plain_operator = False

    def __init__(self, dim: int = 256, num_classes: int = 25, grid_size: int = 14, embed_dim: int = 64) -> None:
        super().__init__()
        sizes = {"dim": dim, "num_classes": num_classes, "grid_size": grid_size, "embed_dim": embed_dim}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        self.grid_size = grid_size
        self.activation_head = MLP(dim, dim, num_classes)
        self.embedding_head = MLP(dim, dim, embed_dim)
        nn.init.constant_(self.activation_head.last.bias, -4.595)  # objects are rare: an initial score of 0.01

    def forward(
        self, memory: Tensor, spatial_shapes: SpatialShapes, association_window: float | None = 2.5
    ) -> FrameQueries:
        """Select queries, and associate them across the T frames unless the window is None.

        Args:
            memory: tokens (B, T, N, C) of all levels.
            spatial_shapes: (h, w) of each level, the finest first; their areas sum to N.
            association_window: cells that an object may move per frame.

        Returns:
            The queries; embeddings and activation are those before the association.

        Raises:
            TypeError, ValueError: as in `select`.
        """
        queries = self.select(memory, spatial_shapes)
        return queries if association_window is None else self.associate(queries, association_window)

    def select(self, memory: Tensor, spatial_shapes: SpatialShapes) -> FrameQueries:
        """Select the queries of each frame from tokens (B, T, N, C), the finest level first (in MDQE, stride 8).

        Raises:
            TypeError: memory is not a tensor, or spatial_shapes is one.
            ValueError: shapes that do not fit together; the message names the argument.
        """
        check_shapes({"C": self.embedding_head.last.in_features}, memory=(memory, "B T N C"))
        check_levels(spatial_shapes, memory.shape[2], "memory")
        if not (memory.shape[0] and memory.shape[1]):
            raise ValueError(f"memory is {tuple(memory.shape)}, expected at least one clip of at least one frame")
        h, w = spatial_shapes[0]
        tokens = rearrange(memory, "b t n c -> (b t) n c")
        logits = self.activation_head(tokens[:, : h * w])  # (B·T, h·w, K)
        activation = rearrange(logits, "f (h w) k -> f k h w", h=h, w=w)
        saliency = widen(activation).sigmoid().amax(1)  # (B·T, h, w)
        coords = self._peaks(saliency)  # (B·T, Q, 2)
        content = _sample(tokens, spatial_shapes, coords, plain=self.plain_operator)  # (B·T, Q, C)
        queries = content, coords, self.embedding_head(content), activation
        return FrameQueries(*(rearrange(x, "(b t) ... -> b t ...", b=memory.shape[0]) for x in queries))

    def _peaks(self, saliency: Tensor) -> Tensor:
        """Saliency (B, h, w) → the highest point of each cell (B, Q, 2), xy in [0, 1]."""
        g = self.grid_size
        cell_h, cell_w = (2 * edge // g + 1 for edge in saliency.shape[-2:])
        size = height, width = g * cell_h, g * cell_w
        fine = F.interpolate(saliency[:, None], size=size, mode="bilinear", align_corners=False)
        cells = rearrange(fine, "b 1 (gy y) (gx x) -> b (gy gx) (y x)", gy=g, gx=g, y=cell_h, x=cell_w)
        peak = cells.argmax(-1)  # (B, Q), counted within the cell
        cell = torch.arange(g * g, device=peak.device)
        down = peak // cell_w
        row = cell // g * cell_h + down  # (B, Q)
        column = cell % g * cell_w + peak - down * cell_w  # (B, Q); ONNX export fails for peak % cell_w
        # As in the released code, y is the flat index over the area and so contains a fraction of x.
        x = column.to(fine.dtype) / width
        y = (row * width + column).to(fine.dtype) / (width * height)
        return torch.stack([x, y], -1)

    def associate(self, queries: FrameQueries, window: float) -> FrameQueries:
        """Replace query k of each frame by the frame's query that best matches query k of the central frame.

        Args:
            queries: from `select`.
            window: cells that an object may move per frame.

        Returns:
            Queries with the content and coords of the matches; embeddings and activation are those of `queries`.

        Raises:
            ValueError: the queries have no embeddings, or another shape than those of `select`.
        """
        embeddings = queries.embeddings
        if embeddings is None:
            raise ValueError("queries have no embeddings, expected those of QueryInitializer.select")
        parts = {"content": "B T Q C", "coords": "B T Q 2", "embeddings": "B T Q E"}
        check_shapes(
            {"Q": self.grid_size**2},
            **{f"queries.{name}": (getattr(queries, name), axes) for name, axes in parts.items()},
        )
        frames = embeddings.shape[1]
        center = (frames - 1) // 2
        similarity = torch.einsum("btqe,bke->btkq", embeddings, embeddings[:, center])  # (B, T, k, q)
        offset = (torch.arange(frames, device=similarity.device) - center).abs()[:, None, None]  # (T, 1, 1)
        far = grid_distance(self.grid_size, similarity.device) > window * offset  # (T, k, q)
        match = similarity.masked_fill(far, float("-inf")).argmax(-1)  # (B, T, Q)

        def take(x: Tensor) -> Tensor:
            return x.gather(2, match[..., None].expand(-1, -1, -1, x.shape[-1]))

        return queries._replace(content=take(queries.content), coords=take(queries.coords))


class LearnedQueries(nn.Module):
    """The baseline of the ablation: the same learned content and points for every frame (paper Table 1a).

    Args:
        dim: channels [C].
        num_queries: Q.
    """

    def __init__(self, dim: int = 256, num_queries: int = 196) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.randn(num_queries, dim))
        self.points = nn.Parameter(torch.randn(num_queries, 2))

    def select(self, memory: Tensor, spatial_shapes: SpatialShapes) -> FrameQueries:
        """Return the same queries for every frame of tokens (B, T, N, C)."""
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
    """Mean over the levels of tokens (B, N, C) at coords (B, Q, 2), bilinear, clamped at the border: (B, Q, C)."""
    # One tensor per number: a list of numbers would turn the symbolic sizes of an export into constants.
    halves = [coords.new_full((), 0.5 / edge) for h, w in spatial_shapes for edge in (w, h)]
    half_pixel = rearrange(torch.stack(halves), "(l p xy) -> l p xy", p=1, xy=2)  # (L, 1, 2)
    points = rearrange(coords, "b q xy -> b q 1 1 1 xy")
    points = points.clamp(min=half_pixel, max=1 - half_pixel)  # (B, Q, H = 1, L, P = 1, 2)
    weights = points.new_full(points.shape[:-1], 1 / len(spatial_shapes))  # (B, Q, 1, L, 1)
    return deform_attn(tokens[:, :, None], spatial_shapes, points, weights, plain=plain)
