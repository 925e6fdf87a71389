"""`mdqe split`: a development split of a training set."""

import argparse
from pathlib import Path

from mdqe.errors import InputError

HELP = "split a training set in two, by video and with the categories in proportion"
EXAMPLE = "mdqe split ovis/annotations_train.json -o ovis/split --share 0.1 --seed 0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("annotations", metavar="ANNOTATIONS", type=Path, help="a file in the form of YouTube-VIS")
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, required=True, help="train.json and dev.json are written there"
    )
    parser.add_argument(
        "--share", metavar="0..1", type=float, default=0.1, help="of the videos that go to dev.json (default: 0.1)"
    )
    parser.add_argument(
        "--seed", metavar="S", type=int, default=0, help="the same gives the same split (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Write both files; their paths go to stdout."""
    import json

    from mdqe.atomic import whole_file
    from mdqe.cli import say
    from mdqe.evaluation.split import split

    if args.seed < 0:
        raise InputError(f"seed is {args.seed}; expected 0 or more")
    parts = split(args.annotations, share=args.share, seed=args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, part in zip(("train", "dev"), parts, strict=True):
        path = args.output / f"{name}.json"
        with whole_file(path) as partial:
            partial.write_text(json.dumps(part, separators=(",", ":")))
        say(f"{path}: {len(part['videos'])} videos, {len(part['annotations'])} objects")
        print(path)
    return 0
