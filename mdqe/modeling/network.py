"""The network: frames of clips → predictions (paper Fig. 1). Read from top to bottom, it is the figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mdqe.config import MDQEConfig
from mdqe.modeling.backbone import Backbone
from mdqe.modeling.decoder import Decoder, DecoderState, LayerValues, O2IDecoderLayer
from mdqe.modeling.decoder_i2o import I2ODecoderLayer
from mdqe.modeling.encoder import Encoder, SpatialShapes, Tokens
from mdqe.modeling.layers import MLP
from mdqe.modeling.mask_head import MaskHead, mask_logits
from mdqe.modeling.preprocess import check_clips, check_range, normalize, padded_size
from mdqe.modeling.query_init import FrameQueries, LearnedQueries, QueryInitializer
from mdqe.ops.reference import at_least_float32

COMPILED_PARTS = ("backbone", "encoder", "decoder", "mask_head")
"""Attributes that `Network.compile` compiles; docs/export.md has the gain of each."""


class ClipPrediction(NamedTuple):
    """The predictions of one decoder layer for the Q instances of each clip."""

    class_logits: Tensor
    """(B, Q, K)."""
    mask_coefficients: Tensor
    """(B, Q, M), in [−1, 1]; multiplied with the mask features they give mask logits."""
    boxes: Tensor
    """(B, T, Q, 4), cxcywh in [0, 1] of the padded image."""
    embeddings: Tensor
    """(B, Q, C): the clip queries, which the tracker compares."""


class ClipOutput(NamedTuple):
    """The output of `Network.forward` for a batch of clips."""

    layers: list[ClipPrediction]
    """Before the first decoder layer (the warm-up) and after each layer; the last entry is the prediction."""
    mask_features: Tensor
    """(B, M, T, H / 4, W / 4)."""
    queries: FrameQueries
    """The queries of each frame before association."""

    @property
    def mask_logits(self) -> Tensor:
        """Mask logits of the prediction: (B, Q, T, H / 4, W / 4)."""
        return mask_logits(self.layers[-1].mask_coefficients, self.mask_features)


class Network(nn.Module):
    """Backbone, encoder, query initialisation, decoder and heads, assembled from a configuration (paper Sec. 3.1).

    Args:
        config: sizes and variants. The parts have plain arguments and do not depend on the configuration.
    """

    def __init__(self, config: MDQEConfig) -> None:
        super().__init__()
        if not isinstance(config, MDQEConfig):
            raise TypeError(
                f"config is a {type(config).__name__}, expected an MDQEConfig; from_pretrained loads a model"
            )
        self.config = c = config
        dim = c.hidden_dim
        self.backbone = Backbone(
            c.backbone, frozen_batch_norm=c.frozen_batch_norm, stride_in_1x1=c.stride_in_1x1, drop_path=c.drop_path
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
        self.query_init: QueryInitializer | LearnedQueries
        if c.query_initialization:
            self.query_init = QueryInitializer(dim, c.num_classes, c.grid_size, c.embed_dim)
        else:
            self.query_init = LearnedQueries(dim, c.num_queries)
        layer = {"o2i": O2IDecoderLayer, "i2o": I2ODecoderLayer}[c.decoder]
        layers = [
            layer(
                dim,
                num_heads=c.num_heads,
                num_levels=c.num_levels,
                num_points=c.num_points,
                num_frames=c.clip_length,
                mlp_ratio=c.mlp_ratio,
                dropout=c.dropout,
                temporal=c.temporal_cross_attention,
            )
            for _ in range(c.decoder_layers)
        ]
        self.decoder = Decoder(layers, dim)
        self.class_head = MLP(dim, dim, c.num_classes)
        self.coefficient_head = MLP(dim, dim, c.mask_dim)
        self.mask_head = MaskHead(dim, c.mask_dim)
        nn.init.constant_(self.class_head.last.bias, -4.595)  # objects are rare: an initial score of 0.01

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.encoder.level_embed.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights."""
        return self.encoder.level_embed.dtype

    def class_layers(self) -> dict[str, nn.Linear]:
        """The layers whose shape depends on the number of categories, by their names in the state."""
        heads = {"class_head": self.class_head}
        if isinstance(self.query_init, QueryInitializer):
            heads["query_init.activation_head"] = self.query_init.activation_head
        return {f"{name}.layers.{len(head.layers) - 1}": head.last for name, head in heads.items()}

    def forward(
        self,
        frames: Tensor | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
        association_window: float | None = None,
        *,
        pixel_values: Tensor | None = None,
    ) -> ClipOutput:
        """Predict the instances of clips.

        Args:
            frames: (B, T, 3, H, W) RGB in 0 … 255, any real type; smaller clips are padded with zeros on the right and
                at the bottom.
            sizes: (height, width) of each clip's frames; None: all of them fill (H, W).
            association_window: grid cells that an object may move per frame; None: `config.test_association_window`.
                Training passes `config.association_window`.
            pixel_values: (B, T, 3, H, W), normalised and padded as `MDQEImageProcessor` returns them; replaces frames.

        Raises:
            ValueError: frames or sizes of another shape, or both frames and pixel_values, or neither. Also frames of
                floating point with values outside 0 … 255, or all in 0 … 1.
        """
        if frames is not None and pixel_values is None:
            memory, shapes, padding_mask = self.encode(frames, sizes)
        elif pixel_values is not None and frames is None:
            memory, shapes, padding_mask = self.encode_normalized(pixel_values, sizes)
        else:
            raise ValueError("expected either frames or pixel_values")
        queries = self.query_init.select(memory, shapes)
        values = self.decoder.project_values(memory, padding_mask)
        _, states = self._decode(queries, values, shapes, association_window)
        features = self.mask_head(memory, shapes)
        return ClipOutput([self.predict(state) for state in states], features, queries)

    def encode(self, frames: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> Tokens:
        """Normalise frames and compute their tokens of all levels: frames and sizes as in `forward`."""
        sizes = [(frames.shape[-2], frames.shape[-1])] if sizes is None else list(sizes)
        return self.encode_normalized(self.normalize(frames, sizes), sizes)

    def normalize(self, frames: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Normalise and pad frames, as `encode_normalized` takes them: frames and sizes as in `forward`."""
        check_clips(frames, sizes)
        check_range(frames)
        dtype = at_least_float32(self.dtype)  # in half precision the mean alone is off by a quarter of a grey level
        mean = torch.tensor(self.config.pixel_mean, dtype=dtype, device=self.device)
        std = torch.tensor(self.config.pixel_std, dtype=dtype, device=self.device)
        x = normalize(frames, mean, std)  # (B, T, 3, H, W), padded
        for i, (height, width) in enumerate(sizes):
            if len(sizes) > 1 or (height, width) != (frames.shape[-2], frames.shape[-1]):
                clip = x[i] if len(sizes) > 1 else x
                clip[..., height:, :] = 0
                clip[..., width:] = 0
        return x

    def encode_normalized(self, pixel_values: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> Tokens:
        """Compute the tokens of normalised frames, zero-padded to whole cells of the coarsest map, as `encode` does."""
        padded = (pixel_values.shape[-2], pixel_values.shape[-1])
        sizes = [padded] if sizes is None else list(sizes)
        check_clips(pixel_values, sizes, "pixel_values")
        if padded != padded_size(padded):
            raise ValueError(f"pixel_values is {tuple(pixel_values.shape)}, expected H and W padded to multiples of 32")
        if not pixel_values.is_floating_point():
            raise ValueError(
                f"pixel_values is {pixel_values.dtype}, expected normalised floating point; or pass frames"
            )
        x = pixel_values.flatten(0, 1).to(self.device, self.dtype)  # (B·T, 3, H, W)
        return self.encoder(self.backbone(x), pixel_values.shape[0], padded, sizes)

    def decode(
        self, queries: FrameQueries, values: tuple[LayerValues, ...], spatial_shapes: SpatialShapes
    ) -> tuple[FrameQueries, ClipPrediction]:
        """Decode clips of frames that are already encoded.

        Args:
            queries: the queries of each frame, from `query_init.select`.
            values: of the same frames, from `decoder.project_values`.
            spatial_shapes: (h, w) of each level.

        Returns:
            The associated queries and the prediction of the last layer.
        """
        associated, states = self._decode(queries, values, spatial_shapes)
        return associated, self.predict(states[-1])

    def associate(self, queries: FrameQueries, window: float | None = None) -> FrameQueries:
        """Associate the frame queries of clips across their frames, unless the configuration switches it off.

        Args:
            queries: from `query_init.select`.
            window: as `association_window` in `forward`.
        """
        if isinstance(self.query_init, LearnedQueries) or not self.config.query_association:
            return queries
        return self.query_init.associate(queries, self.config.test_association_window if window is None else window)

    def predict(self, state: DecoderState) -> ClipPrediction:
        """Apply the heads to the clip queries after a decoder layer."""
        x = self.decoder.norm(state.clip_queries)
        return ClipPrediction(self.class_head(x), self.coefficient_head(x).tanh(), state.boxes, state.clip_queries)

    def _decode(
        self,
        queries: FrameQueries,
        values: tuple[LayerValues, ...],
        spatial_shapes: SpatialShapes,
        window: float | None = None,
    ) -> tuple[FrameQueries, list[DecoderState]]:
        """Associate queries and run the decoder."""
        associated = self.associate(queries, window)
        return associated, self.decoder(associated.content, associated.coords, values, spatial_shapes)

    def compile(self, *, dynamic: bool | None = None, **options: Any) -> None:
        """Compile, in place, the parts that gain from it (`COMPILED_PARTS`), each on its first call.

        Results are equal except for rounding. The names of the weights, saving and loading do not change. Compilation
        takes minutes on the first frames and may take as long on the first frames of another size or number.

        Args:
            dynamic: True: one program for all sizes and lengths; None: one program for the first size, and a dynamic
                one when another size follows.
            **options: further arguments of `torch.compile`, such as `mode` or `backend`.
        """
        for name in COMPILED_PARTS:
            getattr(self, name).compile(dynamic=dynamic, fullgraph=True, **options)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode and restore the mode of each module afterwards."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
