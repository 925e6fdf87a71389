"""The baseline decoder layer of the ablation: instance to object (paper Fig. 2a, Table 1a)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mdqe.modeling.decoder import LayerValues, O2IDecoderLayer, embed_centers
from mdqe.modeling.encoder import SpatialShapes


class I2ODecoderLayer(O2IDecoderLayer):
    """Instance to object, the baseline of the ablation: clip queries first, then the frames (paper Fig. 2a, Table 1a).

    The parts are those of `O2IDecoderLayer` in another order. The frame level has no self-attention, and its queries
    are copies of the clip queries: no frame query enters a layer. Arguments and call as in `O2IDecoderLayer`.
    """

    def __init__(self, dim: int = 256, **options: Any) -> None:
        super().__init__(dim, **options)
        del self.frame.self_attn, self.frame.self_norm

    def forward(
        self,
        frame_queries: Tensor,
        clip_queries: Tensor,
        boxes: Tensor,
        values: LayerValues,
        spatial_shapes: SpatialShapes,
        position_proj: nn.Linear,
    ) -> tuple[Tensor, Tensor]:
        """As `O2IDecoderLayer.forward`."""
        self._check(frame_queries, clip_queries, boxes, values, spatial_shapes)
        frame, clip, tca, clips = self.frame, self.clip, self.clip.cross_attn, boxes.shape[:2]  # clips = (B, T)
        frame_position = embed_centers(position_proj, boxes)  # (B, T, Q, C)
        boxes = boxes.detach()  # a gradient reaches the boxes through their position embedding alone
        box = self.clip_box(boxes)  # (B, Q, 4)
        position = embed_centers(position_proj, box)  # (B, Q, C)

        # Clip self-attention: the queries of a clip attend to each other. (B, Q, C)
        query = clip_queries + position
        attended = clip.self_attn(query, query, clip_queries, need_weights=False)[0]
        clip_queries = clip.self_norm(clip_queries + clip.dropout(attended))

        # Frame cross-attention: a copy of each clip query samples the tokens of every frame. (B·T, Q, C)
        x = clip_queries[:, None].expand_as(frame_position).flatten(0, 1)
        query = x + frame_position.flatten(0, 1)
        attended = frame.cross_attn(query, boxes.flatten(0, 1), values.spatial, spatial_shapes)
        sampled = frame.cross_norm(x + frame.dropout(attended)).unflatten(0, clips)  # (B, T, Q, C)

        # Frame MLP. (B, T, Q, C)
        frame_queries = frame.mlp_norm(sampled + frame.dropout(frame.mlp(sampled)))

        # Fusion over time: as in the released code, the new queries weigh those after the cross-attention. (B, Q, C)
        fused = (self.time_weights(frame_queries).softmax(1) * sampled).sum(1)

        # Clip cross-attention (TCA): each fused query samples the clip around the union of its boxes. (B, Q, C)
        attended = fused if tca is None else tca(fused + position, box, values.temporal, spatial_shapes)
        x = clip.cross_norm(clip_queries + clip.dropout(attended))

        # Clip MLP. (B, Q, C)
        return frame_queries, clip.mlp_norm(x + clip.dropout(clip.mlp(x)))
