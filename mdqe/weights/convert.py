"""Conversion of a checkpoint of the authors' code, or of a stopped training run, to the folder of a model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from mdqe.checkpoint.files import Checkpoint, read_checkpoint
from mdqe.checkpoint.layout import convert_official, dropped
from mdqe.checkpoint.sizes import matching_presets, official_sizes
from mdqe.config import MDQEConfig
from mdqe.errors import InputError
from mdqe.modeling.network import Network
from mdqe.weights.card import model_card, write_card
from mdqe.weights.download import sha256
from mdqe.weights.folder import SkipRandomInit, fill, write_folder

Say = Callable[[str], None]


def convert_file(
    checkpoint: Path,
    folder: Path,
    *,
    preset: str | None = None,
    clip_length: int | None = None,
    ema: bool = False,
    facts: dict[str, str] | None = None,
    license: str | None = None,
    model_id: str | None = None,
    origin: str | None = None,
    say: Say = lambda text: None,
) -> str:
    """Convert a file strictly: every tensor is used or reported, and the model gets all of its weights.

    Args:
        checkpoint: a file that `mdqe.checkpoint.read_checkpoint` reads.
        folder: of the new model.
        preset: the configuration; None: it is recognised by the shapes of the tensors.
        clip_length: frames of a clip, for a checkpoint of single frames; None: those of the preset.
        ema: take the moving average of the weights.
        facts, license: for the model card, as in `model_card`.
        model_id: the name of the model in its card; None: the folder.
        origin: where the weights come from; None: the name and the SHA-256 of the file.
        say: prints lines about what was found.

    Returns:
        The SHA-256 of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint, or the preset or its shapes do not fit.
        OSError: the folder cannot be written.
    """
    read = read_checkpoint(checkpoint, ema=ema, say=say)
    try:
        config, state = _of_run(read, preset, clip_length) if read.fields else _released(read, preset, clip_length, say)
    except InputError as error:
        raise InputError(f"{checkpoint}: {error}") from error
    with SkipRandomInit():
        model = Network(config)
    fill(model, state, checkpoint)
    digest = sha256(checkpoint)
    source = origin or f"{checkpoint.name}, sha256 {digest}"
    write_folder(model, config, folder, source)
    count = sum(parameter.numel() for parameter in model.parameters())
    card = model_card(config, model_id or str(folder), parameters=count, source=source, facts=facts, license=license)
    write_card(folder, card)
    return digest


def _released(
    read: Checkpoint, preset: str | None, clip_length: int | None, say: Say
) -> tuple[MDQEConfig, dict[str, Tensor]]:
    config = configure(read.state, preset, clip_length, say)
    state = convert_official(read.state, config)
    unused = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in dropped(read.state)})
    count = len(read.state)
    say(f"{count} tensors: {len(state)} used, {count - len(state)} recomputed, stored twice or of the losses:")
    for name in unused:
        say(f"  {name}")
    return config, state


def _of_run(read: Checkpoint, preset: str | None, clip_length: int | None) -> tuple[MDQEConfig, dict[str, Tensor]]:
    config = MDQEConfig.from_dict(read.fields or {})
    for name, value in (("preset", preset), ("clip-length", clip_length)):
        if value is not None:
            raise InputError(f"a checkpoint of mdqe train has its own configuration; omit --{name}")
    return config, read.state


def configure(official: dict[str, Tensor], preset: str | None, clip_length: int | None, say: Say) -> MDQEConfig:
    """The named or recognised preset, with the number of categories of the checkpoint and the frames per clip.

    Raises:
        ValueError: no preset or several presets fit, or the named one does not.
    """
    sizes = official_sizes(official)
    name = preset or _recognize(official, say)
    config = MDQEConfig.preset(name)
    if (config.backbone, config.hidden_dim) != (sizes.backbone, sizes.hidden_dim):
        raise InputError(
            f"preset {name} has backbone {config.backbone} and {config.hidden_dim} channels, "
            f"the checkpoint {sizes.backbone} and {sizes.hidden_dim}"
        )
    if config.num_classes != sizes.num_classes:
        say(f"{sizes.num_classes} categories instead of the {config.num_classes} of {name}; their names are unknown")
        config = config.replace(num_classes=sizes.num_classes)
    # A video checkpoint keeps its clip length. An image checkpoint takes that of the preset or of --clip-length.
    own = sizes.clip_length if sizes.clip_length > 1 else config.clip_length
    wanted = own if clip_length is None else clip_length
    if wanted == sizes.clip_length != config.clip_length:
        say(f"clips of {wanted} frames instead of the {config.clip_length} of {name}")
    config = config.replace(clip_length=wanted)
    if wanted != sizes.clip_length:
        if sizes.clip_length != 1:
            raise InputError(
                f"the checkpoint attends over {sizes.clip_length} frames, not {wanted}; only 1 can be repeated"
            )
        say(f"temporal attention of single frames, repeated for {wanted} frames")
    return config


def _recognize(official: dict[str, Tensor], say: Say) -> str:
    names = matching_presets(official)
    if not names:
        found = ", ".join(f"{key}={value}" for key, value in official_sizes(official)._asdict().items())
        raise InputError(f"no preset has {found}: name the nearest one with --preset")
    if len({MDQEConfig.preset(name).categories for name in names}) > 1:
        raise InputError(
            f"{' and '.join(names)} have the same shapes but other categories: name the right one with --preset"
        )
    others = "".join(f"; {name} has the same shapes and other test settings" for name in names[1:])
    say(f"detected preset {names[0]}{others}")
    return names[0]
