"""`mdqe convert`: converts a checkpoint of the authors' code to a model folder."""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mdqe.cli import say
from mdqe.cli.options import add_output, option, whole
from mdqe.config import MDQEConfig
from mdqe.errors import InputError

if TYPE_CHECKING:  # torch takes seconds to import
    from torch import Tensor

HELP = "convert a checkpoint of the authors' code (.pth) to a model folder"
EXAMPLE = "mdqe convert MDQE_R50_OVIS.pth -o models/r50_ovis --preset r50_ovis_360"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("checkpoint", metavar="OFFICIAL.pth", type=Path, help="checkpoint of the released code")
    add_output(parser, "FOLDER", "folder of the new model")
    names = MDQEConfig.presets()
    preset = "configuration of the model; by default it is detected from the shapes of the tensors if they are unique: "
    parser.add_argument("--preset", metavar="NAME", choices=names, help=preset + ", ".join(names))
    clip_length = "frames of a clip; in an image (COCO) checkpoint, the temporal attention is repeated for each frame"
    option(parser, "--clip-length", "T", whole(1), clip_length)


def run(args: argparse.Namespace) -> int:
    """Convert, and print the folder."""
    from mdqe.checkpoint import convert_official, dropped, read_official
    from mdqe.model import MDQE
    from mdqe.weights.folder import CONFIG_FILE, WEIGHTS_FILE, SkipRandomInit, fill

    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if (args.output / name).exists():
            raise FileExistsError(f"{args.output} already contains a model; choose a new folder")
    official = read_official(args.checkpoint)
    try:
        config = _configure(official, args.preset, args.clip_length)
        state = convert_official(official, config)
    except InputError as error:
        raise InputError(f"{args.checkpoint}: {error}") from error
    unused = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in dropped(official)})
    say(f"{len(official)} tensors: {len(state)} used, {len(official) - len(state)} recomputed or stored twice:")
    for name in unused:
        say(f"  {name}")
    with SkipRandomInit():
        model = MDQE(config)
    fill(model, state, args.checkpoint)
    model.save_pretrained(args.output, source=f"{args.checkpoint.name}, sha256 {_sha256(args.checkpoint)}")
    print(args.output)
    return 0


def _configure(official: dict[str, Tensor], preset: str | None, clip_length: int | None) -> MDQEConfig:
    """The named or detected preset, with the number of categories of the checkpoint and the frames per clip."""
    from mdqe.checkpoint import official_sizes

    sizes = official_sizes(official)
    name = preset or _recognize(official)
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
    config = config.replace(clip_length=wanted)
    if wanted != sizes.clip_length:
        if sizes.clip_length != 1:
            raise InputError(
                f"the checkpoint attends over {sizes.clip_length} frames, not {wanted}; only 1 can be repeated"
            )
        say(f"temporal attention of single frames, repeated for {wanted} frames")
    return config


def _recognize(official: dict[str, Tensor]) -> str:
    from mdqe.checkpoint import matching_presets, official_sizes

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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
