"""Decoder: frame queries become clip queries, object to instance (paper Sec. 3.2, Fig. 2b)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdqe.boxes import refine, union
from mdqe.modeling.encoder import SpatialShapes
from mdqe.modeling.layers import MLP, Dropout
from mdqe.modeling.shapes import check_levels, check_shapes
from mdqe.ops.attention import MultiScaleDeformableAttention
from mdqe.ops.library import deform_attn_fused


class TemporalCrossAttention(MultiScaleDeformableAttention):
    """TCA: each clip query samples the T frames of a clip, at all levels, around its clip box (paper Sec. 3.2).

    The offsets and weights depend on the head, frame and point. They are the same at every level, and the results of
    the levels are averaged.

    Args:
        dim: channels of queries and tokens [C].
        num_heads: attention heads [H].
        num_frames: frames attended to [T].
        num_points: points per head, frame and level [P].
    """

    def __init__(self, dim: int = 256, num_heads: int = 8, num_frames: int = 4, num_points: int = 4) -> None:
        super().__init__(dim, num_heads, num_frames, num_points, boxes=True)

    @property
    def num_frames(self) -> int:
        """Frames attended to [T]."""
        return self.num_levels

    def frames(self, clip_length: int) -> tuple[int, ...]:
        """Return the T frames attended to in a clip of any length: centred, evenly spaced, the last one repeated."""
        first, step, last = self._progression(clip_length)
        return tuple(min(first + i * step, last) for i in range(self.num_frames))

    def frame_index(self, clip_length: int, device: torch.device) -> Tensor:
        """Return `frames` as a tensor (T,). In an exported program the clip length may be a symbol."""
        first, step, last = self._progression(clip_length)
        return (torch.arange(self.num_frames, device=device) * step + first).clamp(max=last)

    def _progression(self, clip_length: int) -> tuple[Any, Any, Any]:
        t = self.num_frames
        step = torch.sym_max(clip_length // t, 1)
        first = torch.sym_max((clip_length - 1) // 2 - (t - 1) // 2 * step, 0)
        return first, step, first + (clip_length - 1 - first) // step * step

    def reference_frames(self, clip_length: int, device: torch.device) -> Tensor:
        """Return the frames whose boxes form the clip box; an index beyond an end of the clip repeats that end."""
        before = (self.num_frames - 1) // 2
        center = (clip_length - 1) // 2
        return (torch.arange(-before, self.num_frames, device=device) + center).clamp(0, clip_length - 1)

    def forward(self, query: Tensor, reference: Tensor, value: Tensor, spatial_shapes: SpatialShapes) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            reference: clip boxes (B, Q, 4), cxcywh in [0, 1] of the padded image.
            value: (B, T′, N, H, C / H) from `project_value`; a clip of any length T′ ≥ 1.
            spatial_shapes: (h, w) of each level; their areas sum to N.

        Returns:
            (B, Q, C).

        Raises:
            TypeError: an argument is not a tensor, or spatial_shapes is one.
            ValueError: shapes that do not fit together; the message names the argument.
        """
        sizes = {"C": (dim := self.output_proj.in_features), "H": self.num_heads, "C/H": dim // self.num_heads}
        check_shapes(sizes, query=(query, "B Q C"), reference=(reference, "B Q 4"), value=(value, "B T′ N H C/H"))
        check_levels(spatial_shapes, value.shape[2], "value")
        offsets, logits = self.sampling(query, reference)
        # The operator sees T·L levels, one per frame and scale; it finds each by its first row in value. The softmax
        # over L copies of the logits divides each weight by L, which averages over the scales.
        levels, tokens = len(spatial_shapes), value.shape[2]
        offsets = offsets.repeat_interleave(levels, 3)  # (B, Q, H, T·L, P, 2)
        logits = logits.repeat_interleave(levels, 3)  # (B, Q, H, T·L, P)
        first_rows, row = [], 0
        for h, w in spatial_shapes:
            first_rows.append(row)
            row += h * w
        frames = self.frames(value.shape[1])
        starts = tuple(frame * tokens + first for frame in frames for first in first_rows)
        shapes = tuple(spatial_shapes) * len(frames)
        points = reference[..., :2], offsets, logits
        sampled = deform_attn_fused(value.flatten(1, 2), shapes, *points, starts, plain=self.plain_operator)
        return self.output_proj(sampled)


class DecoderState(NamedTuple):
    """The queries before or after a layer: `layer(*state, …)`."""

    frame_queries: Tensor
    """(B, T, Q, C); query k of every frame is the same object."""
    clip_queries: Tensor
    """(B, Q, C)."""
    boxes: Tensor
    """(B, T, Q, 4), cxcywh in [0, 1] of the padded image."""


class LayerValues(NamedTuple):
    """The attention values of one layer. They are computed once per frame, however many clips contain the frame."""

    spatial: Tensor
    """(B, T, N, H, C / H)."""
    temporal: Tensor | None
    """(B, T, N, H, C / H); None without temporal cross-attention."""


class QueryBlock(nn.Module):
    """The modules of a layer's frame level or clip level; the layer's `forward` calls them."""

    def __init__(self, cross_attn: nn.Module | None, dim: int, num_heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.cross_attn: Any = cross_attn
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attn = nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True)
        self.self_norm = nn.LayerNorm(dim)
        self.mlp = MLP(dim, dim * mlp_ratio, dim, num_layers=2, dropout=dropout)
        self.mlp_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)


class O2IDecoderLayer(nn.Module):
    """Object to instance: decode the objects of each frame, then the instances of the clip (paper Sec. 3.2, Fig. 2b).

    Args:
        dim: channels [C].
        num_heads: attention heads [H].
        num_levels: feature levels [L].
        num_points: sampling points [P].
        num_frames: frames of the temporal cross-attention [T].
        mlp_ratio: hidden width of the MLPs, in units of dim.
        dropout: dropout rate in training.
        temporal: use temporal cross-attention (TCA); without it the clip queries only add the fused frame queries.

    Example:
        Two clips of four frames with 100 queries, and tokens of two levels. `Decoder` runs several layers and refines
        the boxes between them.

        >>> import torch
        >>> from mdqe import DecoderState, O2IDecoderLayer
        >>> layer, position_proj = O2IDecoderLayer(64, num_levels=2), torch.nn.Linear(2, 64)
        >>> shapes = ((12, 20), (6, 10))
        >>> tokens = torch.randn(2, 4, 12 * 20 + 6 * 10, 64)  # (B, T, N, C)
        >>> boxes = torch.rand(2, 4, 100, 4)  # (B, T, Q, 4), cxcywh in [0, 1]
        >>> state = DecoderState(torch.randn(2, 4, 100, 64), torch.randn(2, 100, 64), boxes)
        >>> frame_queries, clip_queries = layer(*state, layer.project_values(tokens), shapes, position_proj)
        >>> frame_queries.shape, clip_queries.shape
        (torch.Size([2, 4, 100, 64]), torch.Size([2, 100, 64]))
    """

    def __init__(
        self,
        dim: int = 256,
        *,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        num_frames: int = 4,
        mlp_ratio: int = 4,
        dropout: float = 0.1,
        temporal: bool = True,
    ) -> None:
        super().__init__()
        spatial = MultiScaleDeformableAttention(dim, num_heads, num_levels, num_points, boxes=True)
        tca = TemporalCrossAttention(dim, num_heads, num_frames, num_points) if temporal else None
        self.frame = QueryBlock(spatial, dim, num_heads, mlp_ratio, dropout)
        self.clip = QueryBlock(tca, dim, num_heads, mlp_ratio, dropout)
        self.time_weights = nn.Linear(dim, 1)

    def project_values(self, memory: Tensor, padding_mask: Tensor | None = None) -> LayerValues:
        """Project tokens (B, T, N, C) to this layer's values; padding_mask (B, N) is True where padded.

        Raises:
            TypeError, ValueError: arguments of another type or shape; the message names the argument.
        """
        optional = {} if padding_mask is None else {"padding_mask": (padding_mask, "B N")}
        check_shapes({"C": self.time_weights.in_features}, memory=(memory, "B T N C"), **optional)
        mask = None if padding_mask is None else padding_mask[:, None]  # (B, 1, N)
        spatial = self.frame.cross_attn.project_value(memory, mask)
        tca = self.clip.cross_attn
        return LayerValues(spatial, None if tca is None else tca.project_value(memory, mask))

    def forward(
        self,
        frame_queries: Tensor,
        clip_queries: Tensor,
        boxes: Tensor,
        values: LayerValues,
        spatial_shapes: SpatialShapes,
        position_proj: nn.Linear,
    ) -> tuple[Tensor, Tensor]:
        """Decode one layer.

        Args:
            frame_queries: (B, T, Q, C), from the layer before; B clips of T frames.
            clip_queries: (B, Q, C), from the layer before.
            boxes: (B, T, Q, 4), cxcywh in [0, 1] of the padded image.
            values: from `project_values`, of the same frames.
            spatial_shapes: (h, w) of each of the L levels; their areas sum to N.
            position_proj: embeds box centres (…, 2) as positions (…, C); all layers share it.

        Returns:
            The new frame queries (B, T, Q, C) and clip queries (B, Q, C).

        Raises:
            TypeError: an argument is not a tensor, or spatial_shapes is one.
            ValueError: shapes that do not fit together; the message names the argument.
        """
        self._check(frame_queries, clip_queries, boxes, values, spatial_shapes)
        frame, clip, tca, clips = self.frame, self.clip, self.clip.cross_attn, boxes.shape[:2]  # clips = (B, T)
        position = embed_centers(position_proj, boxes).flatten(0, 1)  # (B·T, Q, C)
        boxes = boxes.detach()  # a gradient reaches the boxes through their position embedding alone

        # Frame cross-attention: each frame query samples the tokens of its frame around its box. (B·T, Q, C)
        x = frame_queries.flatten(0, 1)
        attended = frame.cross_attn(x + position, boxes.flatten(0, 1), values.spatial, spatial_shapes)
        sampled = frame.cross_norm(x + frame.dropout(attended))

        # Frame self-attention: the queries of a frame attend to each other. (B·T, Q, C)
        query = sampled + position
        attended = frame.self_attn(query, query, sampled, need_weights=False)[0]
        x = frame.self_norm(sampled + frame.dropout(attended))

        # Frame MLP. (B·T, Q, C) → (B, T, Q, C)
        frame_queries = frame.mlp_norm(x + frame.dropout(frame.mlp(x))).unflatten(0, clips)

        # Fusion over time: as in the released code, the new queries weigh those after the cross-attention. (B, Q, C)
        fused = (self.time_weights(frame_queries).softmax(1) * sampled.unflatten(0, clips)).sum(1)

        # Clip cross-attention (TCA): each fused query samples the clip around the union of its boxes. (B, Q, C)
        box = self.clip_box(boxes)  # (B, Q, 4)
        position = embed_centers(position_proj, box)  # (B, Q, C)
        attended = fused if tca is None else tca(fused + position, box, values.temporal, spatial_shapes)
        x = clip.cross_norm(clip_queries + clip.dropout(attended))

        # Clip self-attention: the queries of a clip attend to each other. (B, Q, C)
        query = x + position
        x = clip.self_norm(x + clip.dropout(clip.self_attn(query, query, x, need_weights=False)[0]))

        # Clip MLP. (B, Q, C)
        return frame_queries, clip.mlp_norm(x + clip.dropout(clip.mlp(x)))

    def _check(
        self, frame_queries: Tensor, clip_queries: Tensor, boxes: Tensor, values: LayerValues, shapes: SpatialShapes
    ) -> None:
        """Check the shapes of the arguments of `forward`."""
        dim, heads = self.time_weights.in_features, self.frame.cross_attn.num_heads
        sizes = {"C": dim, "H": heads, "C/H": dim // heads}
        queries = {"frame_queries": (frame_queries, "B T Q C"), "clip_queries": (clip_queries, "B Q C")}
        axes = {"spatial": "B T N H C/H", "temporal": "B T′ N H C/H"}  # exports select the frames of TCA beforehand
        named = {f"values.{name}": (x, axes[name]) for name, x in values._asdict().items() if x is not None}
        check_shapes(sizes, **queries, boxes=(boxes, "B T Q 4"), **named)
        check_levels(shapes, values.spatial.shape[2], "values.spatial", self.frame.cross_attn.num_levels)

    def clip_box(self, boxes: Tensor) -> Tensor:
        """Return the union (B, Q, 4) of boxes (B, T, Q, 4) over the reference frames of TCA, or over all frames."""
        tca = self.clip.cross_attn
        if tca is not None:
            boxes = boxes[:, tca.reference_frames(boxes.shape[1], boxes.device)]
        return union(boxes, 1)


class Decoder(nn.Module):
    """Layers of one kind; the boxes are refined before the first layer and after each one.

    The refinement before the first layer, the warm-up, is part of the released code; the paper does not describe it.

    Args:
        layers: each an `O2IDecoderLayer`, or each an `I2ODecoderLayer`.
        dim: channels [C].

    Example:
        Queries of two clips of four frames, from one level of tokens; `states[-1].boxes` are the boxes of the objects:

        >>> import torch
        >>> from mdqe import Decoder, O2IDecoderLayer, QueryInitializer
        >>> query_init = QueryInitializer(64, num_classes=3, grid_size=5)
        >>> decoder = Decoder([O2IDecoderLayer(64, num_levels=1) for _ in range(2)], 64)
        >>> tokens, shapes = torch.randn(2, 4, 12 * 20, 64), ((12, 20),)
        >>> queries = query_init(tokens, shapes)
        >>> states = decoder(queries.content, queries.coords, decoder.project_values(tokens), shapes)
        >>> len(states), states[-1].boxes.shape
        (3, torch.Size([2, 4, 25, 4]))
    """

    def __init__(self, layers: list[O2IDecoderLayer], dim: int = 256) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim)
        self.box_head = MLP(dim, dim, 4)
        self.position_proj = nn.Linear(2, dim)
        nn.init.zeros_(self.box_head.last.weight)
        nn.init.zeros_(self.box_head.last.bias)

    def project_values(self, memory: Tensor, padding_mask: Tensor | None = None) -> tuple[LayerValues, ...]:
        """Project tokens (B, T, N, C) to the values of every layer; padding_mask (B, N) is True where padded."""
        layers: Iterable[Any] = self.layers
        return tuple(layer.project_values(memory, padding_mask) for layer in layers)

    def forward(
        self, content: Tensor, coords: Tensor, values: tuple[LayerValues, ...], spatial_shapes: SpatialShapes
    ) -> list[DecoderState]:
        """Decode clips.

        Args:
            content: initial frame queries (B, T, Q, C), associated across the frames.
            coords: their points (B, T, Q, 2) xy.
            values: from `project_values`, of the same frames.
            spatial_shapes: (h, w) of each level.

        Returns:
            The state after the warm-up and after each layer.

        Raises:
            TypeError: an argument is not a tensor.
            ValueError: shapes that do not fit together, or not one entry of `values` per layer.
        """
        check_shapes({"C": self.position_proj.out_features}, content=(content, "B T Q C"), coords=(coords, "B T Q 2"))
        if len(values) != len(self.layers):
            raise ValueError(f"values has {len(values)} entries, expected one for each of {len(self.layers)} layers")
        boxes = F.pad(coords, (0, 2), value=0.1)  # (B, T, Q, 4): a tenth of the image, around the point
        center = (content.shape[1] - 1) // 2
        states = [DecoderState(content, content[:, center], self._refine(boxes, content))]
        for layer, layer_values in zip(self.layers, values, strict=True):
            frame_queries, clip_queries = layer(*states[-1], layer_values, spatial_shapes, self.position_proj)
            boxes = self._refine(states[-1].boxes.detach(), frame_queries)
            states.append(DecoderState(frame_queries, clip_queries, boxes))
        return states

    def _refine(self, boxes: Tensor, frame_queries: Tensor) -> Tensor:
        return refine(boxes, self.box_head(self.norm(frame_queries)).to(boxes.dtype))


def embed_centers(position_proj: nn.Linear, boxes: Tensor) -> Tensor:
    """Embed the centres of boxes (…, 4) as positions (…, C). Boxes are float32 beside activations of any type."""
    return position_proj(boxes[..., :2].to(position_proj.weight.dtype))
