"""`mdqe convert`: converts a checkpoint of the authors' code or of a stopped training to a model folder."""

import argparse
from pathlib import Path

from mdqe.cli import say
from mdqe.cli.options import add_output, flag, option, whole
from mdqe.config import MDQEConfig

HELP = "convert a checkpoint of the authors' code, or of a stopped training, to a model folder"
EXAMPLE = "mdqe convert MDQE_R50_OVIS.pth -o models/r50_ovis --preset r50_ovis_360"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    checkpoint = "checkpoint of the authors' code, or the checkpoint.pt of a run of mdqe train"
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help=checkpoint)
    add_output(parser, "FOLDER", "folder of the new model")
    flag(parser, "--force", "write into an existing folder, and replace the model in it")
    names = MDQEConfig.presets()
    preset = "configuration of the model; by default it is detected from the shapes of the tensors if they are unique: "
    parser.add_argument("--preset", metavar="NAME", choices=names, help=preset + ", ".join(names))
    clip_length = "frames of a clip; in an image (COCO) checkpoint, the temporal attention is repeated for each frame"
    option(parser, "--clip-length", "T", whole(1), clip_length)
    flag(parser, "--ema", "take the moving average of the weights instead of the weights")


def run(args: argparse.Namespace) -> int:
    """Convert, and print the folder."""
    from mdqe.weights.card import CARD_FILE
    from mdqe.weights.convert import convert_file

    if args.output.is_dir() and any(args.output.iterdir()) and not args.force:
        raise FileExistsError(f"{args.output} already exists; choose a new folder, or replace the model in it: --force")
    has_card = (args.output / CARD_FILE).exists()
    options = {"preset": args.preset, "clip_length": args.clip_length, "ema": args.ema}
    convert_file(args.checkpoint, args.output, **options, say=say)
    if has_card:
        say(f"{args.output / CARD_FILE} is kept as it was")
    print(args.output)
    return 0
