"""Initial weights of a training: random, from ImageNet, or from another model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import timm
from huggingface_hub import constants

from mdqe.checkpoint.files import read_checkpoint
from mdqe.checkpoint.starting_points import initialize
from mdqe.config import MDQEConfig
from mdqe.errors import InputError
from mdqe.model import MDQE
from mdqe.modeling.backbone import Backbone
from mdqe.weights.download import StalledError, call_with_progress, seconds_without_progress, unfinished
from mdqe.weights.folder import CONFIG_FILE, read_config, read_weights
from mdqe.weights.source import explain_hub_error, failed_response, open_source

IMAGENET = "imagenet"


def initial_model(
    config: MDQEConfig,
    init: str | Path | None = None,
    *,
    reset_classes: bool = False,
    say: Callable[[str], None] = print,
) -> MDQE:
    """Create a model to train.

    Args:
        config: of the model.
        init: None for random weights; "imagenet" for timm's backbone weights and random others; a file with weights of
            other code, as for `mdqe.checkpoint.initialize`; or a model as in `MDQE.from_pretrained`, of the same sizes.
            The weights of single-frame clips fit any clip_length.
        reset_classes: initialise the class heads randomly, for other categories than those of the initial model.
        say: prints a line about the source of the weights.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError, OSError: the weights are not available; with the reason.
        ValueError: a model that does not fit, or one with another number of categories without `reset_classes`.
    """
    if init is None:
        say("weights: random")
        return MDQE(config)
    if str(init) == IMAGENET:
        model = MDQE(config)
        model.backbone = imagenet_backbone(config)
        say(f"weights: timm's ImageNet weights of {config.backbone}, all others random")
        return model
    if Path(init).is_file():
        return _from_file(config, Path(init), reset_classes, say)
    model = MDQE.from_pretrained(init, reset_classes=reset_classes, **config.to_dict()).train()
    inflated = config.clip_length > 1 == read_config(open_source(init)(CONFIG_FILE)).clip_length
    notes = [f"TCA repeated for {config.clip_length} frames"] * inflated + ["class heads random"] * reset_classes
    say(f"weights: {init}" + (f" ({', '.join(notes)})" if notes else ""))
    return model


def _from_file(config: MDQEConfig, path: Path, reset_classes: bool, say: Callable[[str], None]) -> MDQE:
    """A model with the weights of a file of other code, as far as they fit."""
    is_safe = path.suffix == ".safetensors"
    state = read_weights(path) if is_safe else read_checkpoint(path, say=say).state
    model = MDQE(config)
    if reset_classes:  # a state of the same code and another data set with as many categories
        state = {name: tensor for name, tensor in state.items() if not name.startswith(tuple(model.class_layers()))}
    try:
        start = initialize(model, state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    say(f"weights: {path}\n{start}")
    return model


def imagenet_backbone(config: MDQEConfig) -> Backbone:
    """Build the configured backbone with timm's ImageNet weights.

    Raises:
        ValueError: timm has no weights for the backbone.
        ConnectionError: the weights cannot be downloaded.
    """
    name = config.backbone
    known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if known is None or not known.has_weights:
        raise InputError(f"timm has no weights for backbone {name!r}; without --init its weights are random")
    build = partial(
        Backbone,
        name,
        frozen_batch_norm=config.frozen_batch_norm,
        stride_in_1x1=config.stride_in_1x1,
        drop_path=config.drop_path,
        pretrained=True,
    )
    seconds, cache = seconds_without_progress(), Path(constants.HF_HUB_CACHE)
    try:
        return call_with_progress(build, lambda: unfinished(cache), seconds)
    except Exception as error:  # from timm, the Hub's client or its HTTP library
        if response := failed_response(error):
            raise explain_hub_error(response, f"download of timm's weights for {name!r}") from error
        stalled = f"no progress for {seconds:g} s" if isinstance(error, StalledError) else str(error).strip()
        reason = (stalled or type(error).__name__).splitlines()[0]
        raise ConnectionError(
            f"timm's weights for {name!r} cannot be downloaded ({reason}); without a network they must be in its cache"
        ) from error
