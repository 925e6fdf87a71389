"""Where a model's weights start from: random numbers, ImageNet, or another model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import timm
from torch import Tensor

from mdqe.checkpoint import inflate_temporal
from mdqe.config import MDQEConfig
from mdqe.errors import InputError
from mdqe.model import MDQE
from mdqe.modeling.backbone import Backbone
from mdqe.modeling.query_init import QueryInitializer
from mdqe.weights.folder import CONFIG_FILE, WEIGHTS_FILE, fill, read_config, read_weights
from mdqe.weights.source import open_source

IMAGENET = "imagenet"


def initial_model(
    config: MDQEConfig,
    init: str | Path | None = None,
    *,
    reset_classes: bool = False,
    say: Callable[[str], None] = print,
) -> MDQE:
    """An MDQE to train.

    Args:
        config: of the model.
        init: None for random weights; "imagenet" for timm's weights of the backbone, the rest random; or a model as
            `MDQE.from_pretrained` names it, of the same sizes. One of single-frame clips takes any clip_length.
        reset_classes: start what scores the categories anew: for other categories than the model's.
        say: takes a line that says where the weights come from.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError, OSError: weights cannot be had, for the reason given.
        ValueError: a model that does not fit, or one of another number of categories without `reset_classes`.
    """
    if init is None:
        say("weights: random, none were given")
        return MDQE(config)
    if str(init) == IMAGENET:
        model = MDQE(config)
        model.backbone = imagenet_backbone(config)
        say(f"weights: {config.backbone} as trained on ImageNet, by timm; the rest random")
        return model
    fetch = open_source(init)
    saved = read_config(fetch(CONFIG_FILE))
    if saved.num_classes != config.num_classes and not reset_classes:
        raise InputError(
            f"{init} scores {saved.num_classes} categories, the model to train {config.num_classes}: start what scores "
            "them anew with --reset-classes"
        )
    weights = fetch(WEIGHTS_FILE)
    state = read_weights(weights)
    inflated = saved.clip_length == 1 and config.clip_length > 1
    if inflated:
        state = inflate_temporal(state, config)
    model = MDQE(config)
    if reset_classes:
        state.update(_class_layers(model))
    fill(model, state, weights)
    notes = [f"TCA repeated for {config.clip_length} frames"] * inflated + ["class heads new"] * reset_classes
    say(f"weights: {init}" + (f" ({', '.join(notes)})" if notes else ""))
    return model


def imagenet_backbone(config: MDQEConfig) -> Backbone:
    """The configured backbone with timm's ImageNet weights.

    Raises:
        ValueError: timm has none for it.
        ConnectionError: they cannot be fetched.
    """
    name = config.backbone
    known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if known is None or not known.has_weights:
        raise InputError(f"timm has no weights for backbone {name!r}; without --init it starts from random ones")
    try:
        return Backbone(
            name,
            frozen_batch_norm=config.frozen_batch_norm,
            stride_in_1x1=config.stride_in_1x1,
            drop_path=config.drop_path,
            pretrained=True,
        )
    except Exception as error:  # of timm, of the Hub's client or of the HTTP library below, by what went wrong
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConnectionError(
            f"timm's weights for {name!r} cannot be fetched ({reason}); without a network they must be in its cache"
        ) from error


def _class_layers(model: MDQE) -> dict[str, Tensor]:
    """The layers whose shape depends on the number of categories."""
    heads = {"class_head": model.class_head}
    if isinstance(model.query_init, QueryInitializer):
        heads["query_init.activation_head"] = model.query_init.activation_head
    return {
        f"{name}.layers.{len(head.layers) - 1}.{tensor_name}": tensor
        for name, head in heads.items()
        for tensor_name, tensor in head.last.state_dict().items()
    }
