"""`mdqe convert`: a checkpoint of the authors' code → a model's folder."""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mdqe.cli import say
from mdqe.config import MDQEConfig
from mdqe.errors import InputError

if TYPE_CHECKING:  # torch takes seconds to import: `mdqe --help` does without
    from torch import Tensor

HELP = "convert a checkpoint of the authors' code (.pth) to a model's folder"
EXAMPLE = "mdqe convert MDQE_R50_OVIS.pth -o models/r50_ovis --preset r50_ovis_360"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("checkpoint", metavar="OFFICIAL.pth", type=Path, help="file of the released code")
    parser.add_argument("-o", "--output", metavar="FOLDER", type=Path, required=True, help="folder of the new model")
    parser.add_argument(
        "--preset",
        choices=MDQEConfig.presets(),
        metavar="NAME",
        help=f"its configuration, recognised from shapes where they tell: {', '.join(MDQEConfig.presets())}",
    )
    parser.add_argument(
        "--clip-length",
        metavar="T",
        type=int,
        help="frames of a clip; more than one repeats the temporal attention of an image (COCO) checkpoint for each",
    )


def run(args: argparse.Namespace) -> int:
    """Convert; the folder goes to stdout, what was decided to stderr. Bad input raises ValueError or OSError."""
    from mdqe.checkpoint import convert_official, dropped, read_official
    from mdqe.model import MDQE
    from mdqe.weights.folder import SkipRandomInit, fill

    official = read_official(args.checkpoint)
    config = _configure(official, args.preset, args.clip_length)
    state = convert_official(official, config)
    left = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in dropped(official)})
    say(f"{len(official)} tensors: {len(state)} used, {len(official) - len(state)} computed anew or stored twice:")
    for name in left:
        say(f"  {name}")
    with SkipRandomInit():
        model = MDQE(config)
    fill(model, state, args.checkpoint)
    model.save_pretrained(args.output, source=f"{args.checkpoint.name}, sha256 {_sha256(args.checkpoint)}")
    print(args.output)
    return 0


def _configure(official: dict[str, Tensor], preset: str | None, clip_length: int | None) -> MDQEConfig:
    """The named or recognised preset, with the file's own number of classes and the wanted frames per clip."""
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
        say(f"{sizes.num_classes} categories instead of the {config.num_classes} of {name}: their names are unknown")
        config = config.replace(num_classes=sizes.num_classes)
    # Clips keep the length they were trained with; single frames are for what the preset or the user says.
    own = sizes.clip_length if sizes.clip_length > 1 else config.clip_length
    wanted = own if clip_length is None else clip_length
    config = config.replace(clip_length=wanted)
    if wanted != sizes.clip_length:
        if sizes.clip_length != 1:
            raise InputError(
                f"the checkpoint attends over {sizes.clip_length} frames, not {wanted}; only 1 can be repeated"
            )
        say(f"temporal attention of single frames, repeated for {wanted}")
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
    others = "".join(f"; {name}, of the same shapes, has other test settings" for name in names[1:])
    say(f"recognised as {names[0]}{others}")
    return names[0]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
