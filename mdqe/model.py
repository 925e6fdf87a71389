"""MDQE: the whole model, from frames to instances (paper Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mdqe.backbone import Backbone
from mdqe.config import MDQEConfig
from mdqe.decoder import DecoderState, build_decoder
from mdqe.encoder import Encoder, Tokens
from mdqe.frames import normalize, padded_size
from mdqe.mask_head import MaskHead, mask_logits
from mdqe.mlp import MLP
from mdqe.query_init import FrameQueries, LearnedQueries, QueryInitializer


class ClipPrediction(NamedTuple):
    """What a decoder layer says of the instances of a clip."""

    class_logits: Tensor
    """(B, Q, K)."""
    mask_coefficients: Tensor
    """(B, Q, M), in [−1, 1]; times the mask features they are mask logits."""
    boxes: Tensor
    """(B, T, Q, 4), cxcywh in [0, 1] of the padded image."""
    embeddings: Tensor
    """(B, Q, C): the clip queries, which the tracker compares."""


class ClipOutput(NamedTuple):
    """Everything that `MDQE.forward` computes of a batch of clips."""

    layers: list[ClipPrediction]
    """Before the first decoder layer (the warm-up) and after each one; the last is the prediction."""
    mask_features: Tensor
    """(B, M, T, H / 4, W / 4)."""
    queries: FrameQueries
    """Each frame's queries before association."""

    @property
    def mask_logits(self) -> Tensor:
        """Masks of the prediction: (B, Q, T, H / 4, W / 4)."""
        return mask_logits(self.layers[-1].mask_coefficients, self.mask_features)


class MDQE(nn.Module):
    """Video instance segmentation by mined discriminative query embeddings (CVPR 2023).

    Args:
        config: sizes and variants; `MDQEConfig.preset(name)` for the published ones.

    Weights are random; `MDQE.from_pretrained` loads trained ones.
    """

    def __init__(self, config: MDQEConfig) -> None:
        super().__init__()
        self.config = c = config
        dim, mask_dim = c.hidden_dim, c.hidden_dim // 8
        self.backbone = Backbone(
            c.backbone,
            frozen_batch_norm=c.frozen_batch_norm,
            stride_in_1x1=c.stride_in_1x1,
            drop_path=c.drop_path,
        )
        self.encoder = Encoder(
            self.backbone.channels,
            dim,
            num_layers=c.encoder_layers,
            num_heads=c.num_heads,
            num_levels=c.num_levels,
            num_points=c.num_points,
            mlp_ratio=c.mlp_ratio,
            dropout=c.dropout,
        )
        if c.query_initialization:
            self.query_init = QueryInitializer(dim, c.num_classes, c.grid_size, c.embed_dim)
        else:
            self.query_init = LearnedQueries(dim, c.num_queries)
        self.decoder = build_decoder(
            c.decoder,
            c.decoder_layers,
            dim,
            num_heads=c.num_heads,
            num_levels=c.num_levels,
            num_points=c.num_points,
            num_frames=c.clip_length,
            mlp_ratio=c.mlp_ratio,
            dropout=c.dropout,
            temporal=c.temporal_cross_attention,
        )
        self.class_head = MLP(dim, dim, c.num_classes)
        self.coefficient_head = MLP(dim, dim, mask_dim)
        self.mask_head = MaskHead(dim, mask_dim)
        nn.init.constant_(self.class_head.layers[-1].bias, -4.595)  # objects are rare: a score of 0.01

    def forward(
        self,
        frames: Tensor,
        sizes: Sequence[tuple[int, int]] | None = None,
        association_window: float | None = None,
    ) -> ClipOutput:
        """Predict the instances of clips.

        Args:
            frames: (B, T, 3, H, W) RGB on 0 … 255, any real type; zeros right and below where clips are smaller.
            sizes: (height, width) of each clip's frames; None: all of them fill (H, W).
            association_window: cells that an object may move per frame; None: the test window, half of the
                configured one. Training passes `config.association_window`.
        """
        window = self.config.association_window / 2 if association_window is None else association_window
        tokens = self.encode(frames, sizes)
        queries = self.query_init.select(tokens.memory, tokens.spatial_shapes)
        associated = self.associate(queries, window)
        values = self.decoder.project_values(tokens.memory, tokens.padding_mask)
        states = self.decoder(associated.content, associated.coords, values, tokens.spatial_shapes)
        features = self.mask_head(tokens.memory, tokens.spatial_shapes)
        return ClipOutput([self.predict(state) for state in states], features, queries)

    def encode(self, frames: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> Tokens:
        """Backbone and encoder: frames and sizes as in `forward` → tokens of all levels."""
        clips, size = frames.shape[0], (frames.shape[-2], frames.shape[-1])
        sizes = [size] if sizes is None else list(sizes)
        mean, std = (self.encoder.level_embed.new_tensor(v) for v in (self.config.pixel_mean, self.config.pixel_std))
        x = normalize(frames.flatten(0, 1), mean, std)  # (B·T, 3, H, W)
        for i, (height, width) in enumerate(sizes):
            if len(sizes) > 1 or (height, width) != size:
                rows = x.unflatten(0, (clips, -1))[i] if len(sizes) > 1 else x
                rows[..., height:, :] = 0
                rows[..., width:] = 0
        return self.encoder(self.backbone(x), clips, padded_size(size), sizes)

    def associate(self, queries: FrameQueries, window: float) -> FrameQueries:
        """Line up the frame queries of clips, where the configuration asks for it."""
        if self.config.query_initialization and self.config.query_association:
            return self.query_init.associate(queries, window)
        return queries

    def predict(self, state: DecoderState) -> ClipPrediction:
        """The heads on the clip queries of a decoder layer."""
        x = self.decoder.norm(state.clip_queries)
        return ClipPrediction(self.class_head(x), self.coefficient_head(x).tanh(), state.boxes, state.clip_queries)
