"""MDQE: the whole model, from frames to instances (paper Fig. 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mdqe.backbone import Backbone
from mdqe.compiled import CompileMixin
from mdqe.config import MDQEConfig
from mdqe.decoder import Decoder, DecoderState, I2ODecoderLayer, LayerValues, O2IDecoderLayer
from mdqe.encoder import Encoder, SpatialShapes, Tokens, at_least_float32
from mdqe.frames import check_clips, normalize, padded_size
from mdqe.hub import PretrainedMixin
from mdqe.inference.image import segment_image
from mdqe.inference.result import VideoInstances
from mdqe.inference.session import VideoSession
from mdqe.inference.session_file import load_session
from mdqe.inference.stream import segment, stream
from mdqe.losses.criterion import clip_losses
from mdqe.mask_head import MaskHead
from mdqe.mlp import MLP
from mdqe.outputs import ClipOutput, ClipPrediction
from mdqe.query_init import FrameQueries, LearnedQueries, QueryInitializer
from mdqe.targets import ClipTargets
from mdqe.video.read import open_frames


class MDQE(PretrainedMixin, CompileMixin, nn.Module):
    """Video instance segmentation by mined discriminative query embeddings (CVPR 2023).

    Args:
        config: sizes and variants; `MDQEConfig.preset(name)` for the published ones.

    Weights are random; `MDQE.from_pretrained` loads trained ones.
    """

    def __init__(self, config: MDQEConfig) -> None:
        super().__init__()
        self.config = c = config
        dim = c.hidden_dim
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
        self.query_init: QueryInitializer | LearnedQueries
        if c.query_initialization:
            self.query_init = QueryInitializer(dim, c.num_classes, c.grid_size, c.embed_dim)
        else:
            self.query_init = LearnedQueries(dim, c.num_queries)
        layer = {"o2i": O2IDecoderLayer, "i2o": I2ODecoderLayer}[c.decoder]
        options: dict[str, Any] = {
            "num_heads": c.num_heads,
            "num_levels": c.num_levels,
            "num_points": c.num_points,
            "num_frames": c.clip_length,
            "mlp_ratio": c.mlp_ratio,
            "dropout": c.dropout,
            "temporal": c.temporal_cross_attention,
        }
        self.decoder = Decoder([layer(dim, **options) for _ in range(c.decoder_layers)], dim)
        self.class_head = MLP(dim, dim, c.num_classes)
        self.coefficient_head = MLP(dim, dim, c.mask_dim)
        self.mask_head = MaskHead(dim, c.mask_dim)
        nn.init.constant_(self.class_head.last.bias, -4.595)  # objects are rare: a score of 0.01

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.level_embed.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return self.encoder.level_embed.dtype

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
            frames: (B, T, 3, H, W) RGB on 0 … 255, any real type; zeros right and below where clips are smaller.
            sizes: (height, width) of each clip's frames; None: all of them fill (H, W).
            association_window: cells that an object may move per frame; None: the test window, half of the
                configured one. Training passes `config.association_window`.
            pixel_values: (B, T, 3, H, W) instead of frames: as `MDQEImageProcessor` gives them, normalised and padded.

        Raises:
            ValueError: frames or sizes of another shape, or both frames and pixel_values, or neither.
        """
        if frames is not None and pixel_values is None:
            tokens = self.encode(frames, sizes)
        elif pixel_values is not None and frames is None:
            tokens = self.encode_normalized(pixel_values, sizes)
        else:
            raise ValueError("expected frames or pixel_values, one of the two")
        window = self.config.association_window / 2 if association_window is None else association_window
        queries = self.query_init.select(tokens.memory, tokens.spatial_shapes)
        associated = self.associate(queries, window)
        values = self.decoder.project_values(tokens.memory, tokens.padding_mask)
        states = self.decoder(associated.content, associated.coords, values, tokens.spatial_shapes)
        features = self.mask_head(tokens.memory, tokens.spatial_shapes)
        return ClipOutput([self.predict(state) for state in states], features, queries)

    def decode(
        self, queries: FrameQueries, values: tuple[LayerValues, ...], spatial_shapes: SpatialShapes
    ) -> tuple[FrameQueries, ClipPrediction]:
        """Clips of frames that are encoded already: their associated queries and the last layer's prediction.

        Args:
            queries: each frame's own, of `query_init.select`.
            values: of `decoder.project_values`, of the same frames.
            spatial_shapes: (h, w) of each level.
        """
        associated = self.associate(queries, self.config.association_window / 2)
        states = self.decoder(associated.content, associated.coords, values, spatial_shapes)
        return associated, self.predict(states[-1])

    def encode(self, frames: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> Tokens:
        """Backbone and encoder: frames and sizes as in `forward` → tokens of all levels."""
        sizes = [(frames.shape[-2], frames.shape[-1])] if sizes is None else list(sizes)
        check_clips(frames, sizes)
        # In half precision the mean alone would be off by a quarter of a grey level.
        dtype = at_least_float32(self.dtype)
        mean = torch.tensor(self.config.pixel_mean, dtype=dtype, device=self.device)
        std = torch.tensor(self.config.pixel_std, dtype=dtype, device=self.device)
        x = normalize(frames, mean, std)  # (B, T, 3, H, W), padded
        for i, (height, width) in enumerate(sizes):
            if len(sizes) > 1 or (height, width) != (frames.shape[-2], frames.shape[-1]):
                rows = x[i] if len(sizes) > 1 else x
                rows[..., height:, :] = 0
                rows[..., width:] = 0
        return self.encode_normalized(x, sizes)

    def encode_normalized(self, pixel_values: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> Tokens:
        """As `encode`, of frames that are normalised and padded with zeros to whole cells of the coarsest map."""
        padded = (pixel_values.shape[-2], pixel_values.shape[-1])
        sizes = [padded] if sizes is None else list(sizes)
        check_clips(pixel_values, sizes, "pixel_values")
        if padded != padded_size(padded):
            raise ValueError(f"pixel_values is {tuple(pixel_values.shape)}, expected H and W padded to multiples of 32")
        x = pixel_values.flatten(0, 1).to(self.device, self.dtype)  # (B·T, 3, H, W)
        return self.encoder(self.backbone(x), len(pixel_values), padded, sizes)

    def associate(self, queries: FrameQueries, window: float) -> FrameQueries:
        """Line up the frame queries of clips, where the configuration asks for it."""
        if isinstance(self.query_init, LearnedQueries) or not self.config.query_association:
            return queries
        return self.query_init.associate(queries, window)

    def predict(self, state: DecoderState) -> ClipPrediction:
        """The heads on the clip queries of a decoder layer."""
        x = self.decoder.norm(state.clip_queries)
        return ClipPrediction(self.class_head(x), self.coefficient_head(x).tanh(), state.boxes, state.clip_queries)

    def loss(self, frames: Tensor, targets: Sequence[ClipTargets]) -> dict[str, Tensor]:
        """The weighted training losses of clips by name; their sum is what training minimises (paper Sec. 3.4).

        Args:
            frames: (B, T, 3, H, W) RGB on 0 … 255; zeros right and below where a clip is smaller.
            targets: of each clip; their masks have the clip's own size.

        `config.mask_loss` chooses the mask loss; `mdqe.losses.criterion.clip_losses` takes other losses and weights.
        """
        return clip_losses(self, frames, targets)

    def segment(
        self,
        video: Any,
        *,
        score_threshold: float = 0.3,
        multi_label: bool = False,
        output_size: tuple[int, int] | None = None,
        progress: bool = False,
    ) -> VideoInstances:
        """Every instance of a video: its class, its score, its mask in every frame (paper Sec. 3.5).

        Args:
            video: a path, glob, URL or camera that `mdqe.video.read.open_frames` knows; an array or tensor
                (T, H, W, 3) uint8 RGB; or any iterable of (H, W, 3) frames. Never held as a whole.
            score_threshold: least score of an instance.
            multi_label: the benchmark protocol instead: every (track, class) pair above 0.05, at least the 10 best.
            output_size: (height, width) of the masks; None: that of the frames.
            progress: show a progress bar.

        Raises:
            FileNotFoundError: no such file.
            ValueError: frames of another type, shape or of changing size; no frames; a wrong threshold.
        """
        frames = open_frames(video, ahead=self.config.window_length)
        shown = tqdm(frames, total=frames.count, unit="frame", disable=not progress)
        result = segment(self, shown, score_threshold=score_threshold, multi_label=multi_label, output_size=output_size)
        return replace(result, fps=None if frames.fps is None else float(frames.fps))

    def stream(
        self,
        frames: Any,
        *,
        score_threshold: float = 0.3,
        multi_label: bool = False,
        output_size: tuple[int, int] | None = None,
    ) -> Iterator[VideoInstances]:
        """As `segment`, window by window as they become final, in memory that does not grow with the video.

        Ids persist; a window holds the tracks seen in it whose score so far passes the threshold.
        """
        return stream(
            self,
            open_frames(frames, ahead=self.config.window_length),
            score_threshold=score_threshold,
            multi_label=multi_label,
            output_size=output_size,
        )

    def start(
        self,
        *,
        score_threshold: float = 0.3,
        multi_label: bool = False,
        output_size: tuple[int, int] | None = None,
        by_window: bool = False,
        frames_at_once: int | None = 1,
    ) -> VideoSession:
        """Begin a video whose frames come one by one: `push` them, take what is final, `flush` at the end.

        Arguments as in `segment` and `VideoSession`. Results hold the frames that became final, which a frame does
        `test_clip_length` − 1 frames after it came; with `by_window` whole windows, as `stream` has them.
        """
        return VideoSession(
            self,
            score_threshold=score_threshold,
            multi_label=multi_label,
            output_size=output_size,
            by_window=by_window,
            frames_at_once=frames_at_once,
        )

    def resume(self, path: str | Path) -> VideoSession:
        """Go on with a session that `VideoSession.save` wrote: the same results, to the bit on the same machine.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is no saved session, damaged, or of a model of another configuration, type or weights.
        """
        return load_session(self, path)

    def segment_image(self, image: Any, *, output_size: tuple[int, int] | None = None) -> VideoInstances:
        """Every instance of one image by the COCO protocol: (query, class) pairs above 0.05, best first.

        Args:
            image: (H, W, 3) uint8 RGB, an array, tensor or PIL image.
            output_size: (height, width) of the masks; None: that of the image.

        Returns:
            A result of one frame, every row with an id of its own.

        Raises:
            ValueError: an image of another type or shape.
        """
        return segment_image(self, image, output_size)
