"""The configuration of a model: one flat, frozen and validated dataclass, and the published presets."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from mdqe.errors import InputError, printable

FORMAT_VERSION = 1
DECODERS = ("o2i", "i2o")
MOST_WEIGHTS = 2**32  # roughly, of the transformer; the published models have fewer than 2^25
MASK_LOSSES = ("inter_instance", "inter_instance_bce", "plain")
MASK_ALIGNMENTS = ("released", "centered")


@cache
def _facts() -> dict[str, Any]:
    return json.loads(files("mdqe").joinpath("presets.json").read_text())


@cache
def zoo_facts() -> dict[str, Any]:
    """The facts about the models that the authors published, in zoo.json."""
    return json.loads(files("mdqe").joinpath("zoo.json").read_text())


@dataclass(frozen=True)
class MDQEConfig:
    """The sizes and variants of an MDQE, and how it runs over a video.

    Symbols in brackets are those of the paper and of the documentation.

    Raises:
        ValueError: an invalid value. The message has the field, the value and what was expected.
    """

    # Backbone
    backbone: str = "resnet50"
    """Name of a timm model with feature maps at strides 8, 16 and 32."""
    stride_in_1x1: bool = False
    """ResNet bottlenecks downsample in their first 1×1 convolution (as the published ResNet-101) instead of the 3×3."""
    frozen_batch_norm: bool = True
    """The batch norms of the backbone are constant buffers and are not trained."""
    drop_path: float = 0.0
    """Stochastic depth rate of the backbone in training."""
    # Transformer
    hidden_dim: int = 256
    """Channels of tokens and queries [C]; a multiple of num_heads and of 32."""
    mask_channels: int | None = None
    """Channels of the mask features [M]. None: hidden_dim / 8, as published. More channels help small models."""
    num_heads: int = 8
    """Attention heads [H]."""
    num_levels: int = 4
    """Feature levels [L]: strides 8, 16 and 32, and stride-2 convolutions for further levels."""
    num_points: int = 4
    """Sampling points for each head and level [P]."""
    encoder_layers: int = 6
    """Deformable self-attention layers of the encoder."""
    decoder_layers: int = 6
    """Layers of the decoder."""
    mlp_ratio: int = 4
    """Hidden width of the transformer's MLPs, as a multiple of hidden_dim."""
    dropout: float = 0.1
    """Dropout rate of the transformer in training."""
    # Queries
    grid_size: int = 14
    """A frame is divided into grid_size × grid_size cells with one query each [Q = grid_size²]."""
    embed_dim: int = 64
    """Size of the embeddings that associate queries between frames."""
    association_window: float = 5
    """Largest movement per frame, in cells, that the query association follows in training; half of it at test."""
    # Variants of the ablation
    decoder: str = "o2i"
    """"o2i" (object to instance, as in the paper) or "i2o" (instance to object, a baseline as in SeqFormer)."""
    query_initialization: bool = True
    """Queries start from the peaks of the activation map in each grid cell; otherwise they are learned."""
    query_association: bool = True
    """The queries of a clip are associated between frames."""
    temporal_cross_attention: bool = True
    """Clip queries attend to all frames by temporal cross-attention; otherwise they only fuse the frame queries."""
    mask_loss: str = "inter_instance"
    """"inter_instance" (the paper's mask loss), "inter_instance_bce" (the same, but with the ordinary Dice loss) or
    "plain" (each mask on its own)."""
    mask_loss_iou_threshold: float = 0.1
    """Objects whose boxes have a larger IoU than this in some frame are neighbours in the mask loss [ε]."""
    # Outputs
    num_classes: int = 25
    """Object categories [K]."""
    categories: tuple[str, ...] = ()
    """Names of the categories: none, or num_classes of them."""
    category_ids: tuple[int, ...] = ()
    """The data set's id of each category; empty: 1 … num_classes."""
    # Clips and windows
    clip_length: int = 4
    """Frames of a clip in training, and of the temporal cross-attention [T]."""
    test_clip_length: int = 4
    """Frames of a clip at test [T′]."""
    window_length: int = 30
    """Frames of a window, which are encoded together and after which the tracker returns results [W]."""
    clip_stride: int = 1
    """Frames between the starts of two successive clips at test [s]."""
    score_threshold: float = 0.1
    """Minimum score of the queries that the tracker receives [τ]."""
    iou_weight: float = 1.0
    """Weight of the mask IoU in the tracker's matching scores [β1]."""
    similarity_weight: float = 1.0
    """Weight of the embedding similarity in the tracker's matching scores [β2]."""
    memory_frames: int = 15
    """Frames for which the tracker compares the embedding of a track that it does not observe [T_mem]."""
    short_memory_frames: int = 5
    """Frames of the tracker's second, shorter memory, at least test_clip_length."""
    relink: bool = False
    """The masks of the tracker get new ids, frame by frame, by how objects move; see `mdqe.inference.relink`. This is
    not part of the paper."""
    detections_per_image: int = 15
    """Maximum number of detections of an image in evaluation. A clip passes on at most ten times as many."""
    mask_alignment: str = "released"
    """Where a mask logit lies at test: "centered", in its 4×4 pixels as in the training targets; or "released", half a
    pixel to the right and below, as in the released code. `mdqe train` sets "centered"."""
    # Frames
    test_shorter_edge: int | None = 360
    """Frames are resized to this shorter edge, in pixels; None: they are not resized."""
    test_longer_edge: int = 1333
    """Maximum longer edge of a resized frame, in pixels; it limits test_shorter_edge."""
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
        for names, is_valid, expected in _FIELD_RULES:
            for name in names.split():
                if not is_valid(getattr(self, name)):
                    raise InputError(f"{name} is {repr(getattr(self, name))[:60]}, expected {expected}")
        weights = (self.iou_weight, self.similarity_weight)
        if not all(_is_number(weight) and 0 <= weight < float("inf") for weight in weights) or not any(weights):
            raise InputError(
                f"iou_weight and similarity_weight are {weights}, expected numbers of at least 0, not both 0"
            )
        if self.hidden_dim % 32 or self.hidden_dim % self.num_heads:
            raise InputError(
                f"hidden_dim is {self.hidden_dim}, expected a multiple of 32 and of num_heads={self.num_heads}"
            )
        points = self.num_heads * self.num_points * (self.num_levels + self.clip_length)
        weights_per_channel = (self.encoder_layers + self.decoder_layers) * (self.mlp_ratio * self.hidden_dim + points)
        if self.hidden_dim * weights_per_channel > MOST_WEIGHTS:
            raise InputError(
                f"hidden_dim={self.hidden_dim} is too large together with encoder_layers={self.encoder_layers}, "
                f"decoder_layers={self.decoder_layers}, mlp_ratio={self.mlp_ratio}, num_heads={self.num_heads}, "
                f"num_points={self.num_points} and clip_length={self.clip_length}: expected fewer than 2^32 weights"
            )
        for name in self.categories:
            if not isinstance(name, str) or not name.isprintable():
                raise InputError(f"categories contains {str(name)[:40]!r}, expected names of printable characters")
        for number in self.category_ids:
            if not _is_int(number) or not -(2**63) <= number < 2**63:
                raise InputError(f"category_ids contains {str(number)[:40]!r}, expected whole numbers of 64 bits")
        for name in ("categories", "category_ids"):
            count = len(getattr(self, name))
            if count not in (0, self.num_classes):
                raise InputError(f"{name} has {count} entries, expected none or num_classes={self.num_classes}")
        if len(set(self.category_ids)) != len(self.category_ids):
            raise InputError(f"category_ids is {self.category_ids}, expected distinct ids")
        if self.clip_stride > self.test_clip_length:
            raise InputError(
                f"clip_stride is {self.clip_stride}, expected at most test_clip_length={self.test_clip_length}: "
                "frames would be skipped"
            )

    @property
    def mask_dim(self) -> int:
        """Channels of the mask features [M]."""
        return self.hidden_dim // 8 if self.mask_channels is None else self.mask_channels

    @property
    def test_association_window(self) -> float:
        """Largest movement per frame, in cells, at test: half of the training value, as in the released code."""
        return self.association_window / 2

    @property
    def num_queries(self) -> int:
        """Queries of a frame and of a clip [Q]."""
        return self.grid_size**2

    @property
    def label_ids(self) -> tuple[int, ...]:
        """The data set's category id of each label 0 … num_classes − 1."""
        return self.category_ids or tuple(range(1, self.num_classes + 1))

    @staticmethod
    def presets() -> tuple[str, ...]:
        """Names of the published presets."""
        return tuple(_facts()["presets"])

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> MDQEConfig:
        """The configuration of a published model. Any field can be overridden.

        Raises:
            ValueError: an unknown preset or field, or an invalid value.
        """
        facts = _facts()
        if name not in facts["presets"]:
            raise InputError(f"unknown preset {name!r}, expected one of {', '.join(facts['presets'])}")
        preset = dict(facts["presets"][name])
        data_set = facts["data_sets"][preset.pop("data_set")]
        if "num_classes" in overrides:  # not the data set's categories
            data_set = {}
        return cls.from_dict({**preset, **data_set, **overrides})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MDQEConfig:
        """The inverse of `to_dict`.

        Raises:
            ValueError: an unknown field or an invalid value.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            near = get_close_matches(str(unknown[0]), known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"unknown configuration fields {', '.join(map(printable, unknown[:10]))}{hint}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def replace(self, **overrides: Any) -> MDQEConfig:
        """A copy with some fields changed. A different num_classes clears the names and ids of the categories."""
        if overrides.get("num_classes", self.num_classes) != self.num_classes:
            overrides = {"categories": (), "category_ids": (), **overrides}
        return self.from_dict({**dataclasses.asdict(self), **overrides})


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _are_three(value: tuple[Any, ...], above: float) -> bool:
    return len(value) == 3 and all(_is_number(v) and v > above for v in value)


_FIELD_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (  # fields, check of a value, what is expected
    # The limits are far above what a machine can run. They turn a mistyped number into a message.
    ("num_points encoder_layers decoder_layers mlp_ratio grid_size",
     lambda v: _is_int(v) and 1 <= v <= 256, "a whole number from 1 to 256"),
    ("hidden_dim num_heads embed_dim num_classes clip_length test_clip_length window_length clip_stride "
     "memory_frames short_memory_frames detections_per_image test_longer_edge",
     lambda v: _is_int(v) and 1 <= v <= 65536, "a whole number from 1 to 65536"),
    ("num_levels", lambda v: _is_int(v) and 3 <= v <= 16, "a whole number from 3 to 16"),
    ("mask_channels test_shorter_edge", lambda v: v is None or (_is_int(v) and 1 <= v <= 65536),
     "a whole number from 1 to 65536 or None"),
    ("association_window", lambda v: _is_number(v) and 0 < v <= 65536, "a number above 0, at most 65536"),
    ("drop_path dropout score_threshold mask_loss_iou_threshold", lambda v: _is_number(v) and 0 <= v < 1,
     "a number of at least 0 and less than 1"),
    ("pixel_mean", lambda v: _are_three(v, float("-inf")), "three numbers"),
    ("pixel_std", lambda v: _are_three(v, 0), "three positive numbers"),
    ("relink stride_in_1x1 frozen_batch_norm query_initialization query_association temporal_cross_attention",
     lambda v: isinstance(v, bool), "True or False"),
    ("backbone", lambda v: isinstance(v, str) and v != "", "the name of a timm model"),
    ("decoder", lambda v: v in DECODERS, f"one of {', '.join(DECODERS)}"),
    ("mask_loss", lambda v: v in MASK_LOSSES, f"one of {', '.join(MASK_LOSSES)}"),
    ("mask_alignment", lambda v: v in MASK_ALIGNMENTS, f"one of {', '.join(MASK_ALIGNMENTS)}"),
)  # fmt: skip
