"""Decoder: frame queries look at their frame, clip queries at the clip, object to instance (paper Sec. 3.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdqe.boxes import refine, union
from mdqe.modeling.encoder import SpatialShapes
from mdqe.modeling.layers import MLP, Dropout
from mdqe.ops.attention import MultiScaleDeformableAttention
from mdqe.ops.library import deform_attn_fused


class TemporalCrossAttention(MultiScaleDeformableAttention):
    """TCA: every clip query samples the T frames of the clip, at all levels, around its clip box (paper Sec. 3.3).

    Offsets and weights depend on head, frame and point and are the same at every level; the levels are averaged.

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
        """The T frames attended to of a clip of any length: centred, evenly spaced, the last one repeated."""
        first, step, last = self._progression(clip_length)
        return tuple(min(first + i * step, last) for i in range(self.num_frames))

    def frame_index(self, clip_length: int, device: torch.device) -> Tensor:
        """`frames` as a tensor (T,); the clip's length may be a symbol, in a program for clips of any length."""
        first, step, last = self._progression(clip_length)
        return (torch.arange(self.num_frames, device=device) * step + first).clamp(max=last)

    def _progression(self, clip_length: int) -> tuple[Any, Any, Any]:
        t = self.num_frames
        step = torch.sym_max(clip_length // t, 1)
        first = torch.sym_max((clip_length - 1) // 2 - (t - 1) // 2 * step, 0)
        return first, step, first + (clip_length - 1 - first) // step * step

    def reference_frames(self, clip_length: int, device: torch.device) -> Tensor:
        """Indices of the frames whose boxes' union is the clip box; past an end of the clip it is that end again."""
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
        """
        offsets, logits = self.sampling(query, reference)
        levels, tokens = len(spatial_shapes), value.shape[2]
        # One level per (frame, scale), found in place by its first row. The softmax over repeated logits divides each
        # weight by the number of scales: that is their average.
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


Attention = TypeVar("Attention", bound=MultiScaleDeformableAttention | None)


class QueryBlock(nn.Module, Generic[Attention]):
    """The three steps that queries take at either level, each with a residual and a LayerNorm after it."""

    def __init__(self, cross_attn: Attention, dim: int, num_heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.cross_attn = cross_attn
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attn = nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True)
        self.self_norm = nn.LayerNorm(dim)
        self.mlp = MLP(dim, dim * mlp_ratio, dim, num_layers=2, dropout=dropout)
        self.mlp_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def look(self, x: Tensor, seen: Tensor) -> Tensor:
        """Take in what the cross-attention saw: (B, Q, C)."""
        return self.cross_norm(x + self.dropout(seen))

    def talk(self, x: Tensor, position: Tensor) -> Tensor:
        """Self-attention among the queries: (B, Q, C)."""
        q = x + position
        return self.self_norm(x + self.dropout(self.self_attn(q, q, x, need_weights=False)[0]))

    def think(self, x: Tensor) -> Tensor:
        """The MLP: (B, Q, C)."""
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class DecoderState(NamedTuple):
    """Queries between two layers."""

    frame_queries: Tensor
    """(B, T, Q, C)."""
    clip_queries: Tensor
    """(B, Q, C)."""
    boxes: Tensor
    """(B, T, Q, 4), cxcywh in [0, 1] of the padded image."""


class LayerValues(NamedTuple):
    """What one layer reads of every frame; computed once per frame, whatever the number of clips that see it."""

    spatial: Tensor
    """(B, T, N, H, C / H)."""
    temporal: Tensor | None
    """(B, T, N, H, C / H); None without temporal cross-attention."""


class O2IDecoderLayer(nn.Module):
    """Object to instance: objects of single frames first, then instances of the clip (paper Sec. 3.3, Fig. 3).

    Args:
        dim: channels [C].
        num_heads: attention heads [H].
        num_levels: feature levels [L].
        num_points: sampling points [P].
        num_frames: frames of the temporal cross-attention [T].
        mlp_ratio: hidden width of the MLPs in units of dim.
        dropout: rate in training.
        temporal: attend over frames by TCA; otherwise the clip level takes in the fused frame queries only.
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
        """What this layer reads of tokens (B, T, N, C); padding_mask (B, N) is True where padded."""
        mask = None if padding_mask is None else padding_mask[:, None]  # (B, 1, N)
        spatial = self.frame.cross_attn.project_value(memory, mask)
        tca = self.clip.cross_attn
        return LayerValues(spatial, None if tca is None else tca.project_value(memory, mask))

    def forward(
        self, state: DecoderState, values: LayerValues, spatial_shapes: SpatialShapes, position_proj: nn.Linear
    ) -> tuple[Tensor, Tensor]:
        """One layer.

        Args:
            state: queries and boxes entering the layer, B clips of T′ frames.
            values: from `project_values`, of the same frames.
            spatial_shapes: (h, w) of each level.
            position_proj: box centre (…, 2) → position embedding (…, C), shared by all layers.

        Returns:
            Frame queries (B, T′, Q, C) and clip queries (B, Q, C).
        """
        position = _position(position_proj, state.boxes)  # (B, T, Q, C)
        state = state._replace(boxes=state.boxes.detach())  # references carry no gradient, their embedding does
        seen = self._look_at_frames(state.frame_queries, position, state.boxes, values, spatial_shapes)
        frame_queries = self.frame.talk(seen.flatten(0, 1), position.flatten(0, 1))
        frame_queries = self.frame.think(frame_queries).unflatten(0, seen.shape[:2])  # (B, T, Q, C)
        fused = (self.time_weights(frame_queries).softmax(1) * seen).sum(1)  # (B, Q, C)
        box, box_position = self._clip_box(state.boxes, position_proj)
        clip_queries = self._look_at_clip(state.clip_queries, fused, box, box_position, values, spatial_shapes)
        return frame_queries, self.clip.think(self.clip.talk(clip_queries, box_position))

    def _look_at_frames(
        self, queries: Tensor, position: Tensor, boxes: Tensor, values: LayerValues, spatial_shapes: SpatialShapes
    ) -> Tensor:
        x, pos, reference, value = (t.flatten(0, 1) for t in (queries, position, boxes, values.spatial))  # (B·T, …)
        seen = self.frame.cross_attn(x + pos, reference, value, spatial_shapes)
        return self.frame.look(x, seen).unflatten(0, queries.shape[:2])  # (B, T, Q, C)

    def _clip_box(self, boxes: Tensor, position_proj: nn.Linear) -> tuple[Tensor, Tensor]:
        tca = self.clip.cross_attn
        if tca is not None:
            boxes = boxes[:, tca.reference_frames(boxes.shape[1], boxes.device)]
        box = union(boxes, 1)  # (B, Q, 4)
        return box, _position(position_proj, box)

    def _look_at_clip(
        self,
        queries: Tensor,
        fused: Tensor,
        box: Tensor,
        position: Tensor,
        values: LayerValues,
        spatial_shapes: SpatialShapes,
    ) -> Tensor:
        tca = self.clip.cross_attn
        seen = fused if tca is None else tca(fused + position, box, values.temporal, spatial_shapes)
        return self.clip.look(queries, seen)


def _position(position_proj: nn.Linear, boxes: Tensor) -> Tensor:
    """Position embedding (…, C) of boxes' centres; boxes (…, 4) keep float32 beside activations of any type."""
    return position_proj(boxes[..., :2].to(position_proj.weight.dtype))


class I2ODecoderLayer(O2IDecoderLayer):
    """Instance to object, the baseline of the paper's ablation: instances talk first and are spread to the frames.

    The same parts in another order; the frame level has no self-attention of its own and carries no queries over.
    Arguments and call as `O2IDecoderLayer`.
    """

    def __init__(self, dim: int = 256, **options: Any) -> None:
        super().__init__(dim, **options)
        del self.frame.self_attn, self.frame.self_norm

    def forward(
        self, state: DecoderState, values: LayerValues, spatial_shapes: SpatialShapes, position_proj: nn.Linear
    ) -> tuple[Tensor, Tensor]:
        """As `O2IDecoderLayer.forward`."""
        position = _position(position_proj, state.boxes)  # (B, T, Q, C)
        state = state._replace(boxes=state.boxes.detach())  # references carry no gradient, their embedding does
        box, box_position = self._clip_box(state.boxes, position_proj)
        clip_queries = self.clip.talk(state.clip_queries, box_position)
        spread = clip_queries[:, None].expand_as(position)  # (B, T, Q, C)
        seen = self._look_at_frames(spread, position, state.boxes, values, spatial_shapes)
        frame_queries = self.frame.think(seen)
        fused = (self.time_weights(frame_queries).softmax(1) * seen).sum(1)  # (B, Q, C)
        clip_queries = self._look_at_clip(clip_queries, fused, box, box_position, values, spatial_shapes)
        return frame_queries, self.clip.think(clip_queries)


class Decoder(nn.Module):
    """Layers of one kind, the boxes refined after each.

    Args:
        layers: each an `O2IDecoderLayer`, or each an `I2ODecoderLayer`.
        dim: channels [C].
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
        """What every layer reads of tokens (B, T, N, C); padding_mask (B, N)."""
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
            The state before the first layer (the warm-up, its boxes refined once) and after each one.
        """
        boxes = F.pad(coords, (0, 2), value=0.1)  # (B, T, Q, 4): around the point, a tenth of the image
        center = (content.shape[1] - 1) // 2
        state = DecoderState(content, content[:, center], self._refine(boxes, content))
        states = [state]
        for layer, layer_values in zip(self.layers, values, strict=True):
            frame_queries, clip_queries = layer(state, layer_values, spatial_shapes, self.position_proj)
            state = DecoderState(frame_queries, clip_queries, self._refine(state.boxes.detach(), frame_queries))
            states.append(state)
        return states

    def _refine(self, boxes: Tensor, frame_queries: Tensor) -> Tensor:
        return refine(boxes, self.box_head(self.norm(frame_queries)).to(boxes.dtype))
