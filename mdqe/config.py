"""The model's configuration: one flat, frozen, validated dataclass, and the published presets."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from mdqe.errors import InputError

FORMAT_VERSION = 1
DECODERS = ("o2i", "i2o")
MASK_LOSSES = ("inter_instance", "plain")


@cache
def _facts() -> dict[str, Any]:
    return json.loads(files("mdqe").joinpath("presets.json").read_text())


@dataclass(frozen=True)
class MDQEConfig:
    """Everything that decides the shape of an MDQE and how it runs over a video.

    A wrong value raises a ValueError that names the field, the value and what was expected.
    The symbols in brackets are those of the paper and of the docs.
    """

    # Backbone
    backbone: str = "resnet50"
    """Name of any timm model with feature maps at strides 8, 16 and 32."""
    stride_in_1x1: bool = False
    """ResNet bottlenecks downsample in their first 1×1 convolution (as the published ResNet-101) instead of the 3×3."""
    frozen_batch_norm: bool = True
    """Batch norms of the backbone are constants (buffers), not trained."""
    drop_path: float = 0.0
    """Stochastic depth rate of the backbone in training."""
    # Transformer
    hidden_dim: int = 256
    """Channels of tokens and queries [C]; a multiple of num_heads and of 32."""
    mask_channels: int | None = None
    """Channels of the mask features [M]; None: hidden_dim / 8, as published. Small models separate more with more."""
    num_heads: int = 8
    """Attention heads [H]."""
    num_levels: int = 4
    """Feature levels [L]: strides 8, 16, 32 and, beyond three, further stride-2 convolutions."""
    num_points: int = 4
    """Sampling points per head and level [P]."""
    encoder_layers: int = 6
    """Deformable self-attention layers of the encoder."""
    decoder_layers: int = 6
    """Layers of the decoder."""
    mlp_ratio: int = 4
    """Hidden width of the transformer's MLPs, in units of hidden_dim."""
    dropout: float = 0.1
    """Dropout rate inside the transformer, in training."""
    # Queries
    grid_size: int = 14
    """A frame is cut into grid_size × grid_size cells, one query each [Q = grid_size²]."""
    embed_dim: int = 64
    """Size of the embedding that associates a query's cells between frames."""
    association_window: float = 5
    """Largest movement per frame, in cells, that the association follows in training; half of it is used at test."""
    # Variants of the ablation
    decoder: str = "o2i"
    """"o2i" (object-to-instance, the paper's) or "i2o" (the SeqFormer-like baseline: instance-to-object)."""
    query_initialization: bool = True
    """Queries start from grid peaks of the activation map; otherwise they are learned."""
    query_association: bool = True
    """Queries of one clip are associated across its frames."""
    temporal_cross_attention: bool = True
    """The clip level attends over frames by TCA; otherwise it only fuses the frame queries."""
    mask_loss: str = "inter_instance"
    """What trains the masks: "inter_instance" (the paper's loss) or "plain", in which every mask is by itself."""
    # Outputs
    num_classes: int = 25
    """Object categories [K]."""
    categories: tuple[str, ...] = ()
    """Names of the categories, empty or num_classes of them."""
    category_ids: tuple[int, ...] = ()
    """The data set's id of each category; empty means 1 … num_classes."""
    # Clips and windows
    clip_length: int = 4
    """Frames of a clip that the temporal attention was trained with [T]."""
    test_clip_length: int = 4
    """Frames of a clip at test [T′]."""
    window_length: int = 30
    """Frames that are encoded together and after which results leave the tracker [W]."""
    clip_stride: int = 1
    """Frames between the starts of two clips at test [s]."""
    score_threshold: float = 0.1
    """Queries below this score never reach the tracker [τ]."""
    iou_weight: float = 1.0
    """Weight of the masks' IoU in the tracker's scores [β1]."""
    similarity_weight: float = 1.0
    """Weight of the embeddings' similarity in the tracker's scores [β2]."""
    detections_per_image: int = 15
    """A clip passes on at most ten times as many detections; an image at most this many are kept by evaluators."""
    # Frames
    test_shorter_edge: int | None = 360
    """Frames are resized so that their shorter edge has this many pixels; None takes them as they are."""
    test_longer_edge: int = 1333
    """… unless the longer edge would pass this."""
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Mean of the RGB channels, on 0 … 255."""
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    """Standard deviation of the RGB channels."""

    def __post_init__(self) -> None:
        for name in ("categories", "category_ids", "pixel_mean", "pixel_std"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple):
                raise InputError(f"{name} is {value!r}, expected a list or tuple")
            object.__setattr__(self, name, tuple(value))
        self._check_numbers()
        for name in ("stride_in_1x1", "frozen_batch_norm", "query_initialization", "query_association",
                     "temporal_cross_attention"):  # fmt: skip
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}, expected True or False")
        if not isinstance(self.backbone, str) or not self.backbone:
            raise InputError(f"backbone is {self.backbone!r}, expected the name of a timm model")
        for name, choices in (("decoder", DECODERS), ("mask_loss", MASK_LOSSES)):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(choices)}")
        if self.hidden_dim % 32 or self.hidden_dim % self.num_heads:
            raise InputError(
                f"hidden_dim is {self.hidden_dim}, expected a multiple of 32 and of num_heads={self.num_heads}"
            )
        for name in ("categories", "category_ids"):
            count = len(getattr(self, name))
            if count not in (0, self.num_classes):
                raise InputError(f"{name} has {count} entries, expected none or num_classes={self.num_classes}")
        if len(set(self.category_ids)) != len(self.category_ids):
            raise InputError(f"category_ids is {self.category_ids}, expected ids that differ")
        if self.clip_stride > self.test_clip_length:
            raise InputError(
                f"clip_stride is {self.clip_stride}, expected at most test_clip_length={self.test_clip_length}: "
                "frames would be skipped"
            )

    def _check_numbers(self) -> None:
        positive = ("hidden_dim", "num_heads", "num_points", "encoder_layers", "decoder_layers", "mlp_ratio",
                    "grid_size", "embed_dim", "num_classes", "clip_length", "test_clip_length", "window_length",
                    "clip_stride", "detections_per_image", "test_longer_edge")  # fmt: skip
        for name in positive:
            value = getattr(self, name)
            if not _is_int(value) or value < 1:
                raise InputError(f"{name} is {value!r}, expected a positive whole number")
        if not _is_int(self.num_levels) or self.num_levels < 3:
            raise InputError(f"num_levels is {self.num_levels!r}, expected a whole number of at least 3")
        for name in ("mask_channels", "test_shorter_edge"):
            value = getattr(self, name)
            if value is not None and (not _is_int(value) or value < 1):
                raise InputError(f"{name} is {value!r}, expected a positive whole number or None")
        if not _is_number(self.association_window) or not self.association_window > 0:
            raise InputError(f"association_window is {self.association_window!r}, expected a positive number")
        weights = (self.iou_weight, self.similarity_weight)
        if not all(_is_number(weight) and 0 <= weight < float("inf") for weight in weights) or not any(weights):
            raise InputError(
                f"iou_weight and similarity_weight are {weights}, expected numbers of at least 0, not both 0"
            )
        for name in ("drop_path", "dropout", "score_threshold"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < 1:
                raise InputError(f"{name} is {value!r}, expected a number from 0 up to, not including, 1")
        for name, least in (("pixel_mean", float("-inf")), ("pixel_std", 0)):
            value = getattr(self, name)
            if len(value) != 3 or not all(_is_number(v) and v > least for v in value):
                raise InputError(f"{name} is {value!r}, expected three {'positive ' if least == 0 else ''}numbers")

    @property
    def mask_dim(self) -> int:
        """Channels of the mask features [M]."""
        return self.hidden_dim // 8 if self.mask_channels is None else self.mask_channels

    @property
    def test_association_window(self) -> float:
        """Grid cells that an object may move per frame at test: half of the training value, as in the released code."""
        return self.association_window / 2

    @property
    def num_queries(self) -> int:
        """Queries of a frame and of a clip [Q]."""
        return self.grid_size**2

    @property
    def label_ids(self) -> tuple[int, ...]:
        """The data set's category id of every label 0 … num_classes − 1."""
        return self.category_ids or tuple(range(1, self.num_classes + 1))

    @staticmethod
    def presets() -> tuple[str, ...]:
        """Names of the published presets."""
        return tuple(_facts()["presets"])

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> MDQEConfig:
        """The configuration of a published model, any field overridden.

        Raises:
            ValueError: an unknown preset, field, or a wrong value.
        """
        facts = _facts()
        if name not in facts["presets"]:
            raise InputError(f"unknown preset {name!r}, expected one of {', '.join(facts['presets'])}")
        preset = dict(facts["presets"][name])
        data_set = facts["data_sets"][preset.pop("data_set")]
        if "num_classes" in overrides:  # other categories than the data set's
            data_set = {}
        return cls.from_dict({**preset, **data_set, **overrides})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MDQEConfig:
        """The inverse of to_dict; an unknown field is an error that names it."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(f"unknown configuration fields {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def replace(self, **overrides: Any) -> MDQEConfig:
        """A copy with some fields changed. Another num_classes drops the categories' names and ids."""
        if overrides.get("num_classes", self.num_classes) != self.num_classes:
            overrides = {"categories": (), "category_ids": (), **overrides}
        return self.from_dict({**dataclasses.asdict(self), **overrides})


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
