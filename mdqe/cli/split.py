"""`mdqe split`: make a development split of a training set."""

import argparse

from mdqe.cli.options import add_output, option, seed

HELP = "split a training set in two, by video and with the categories in proportion"
EXAMPLE = "mdqe split ovis/annotations_train.json -o ovis/split --share 0.1 --seed 0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    source = "annotations of videos, or a folder with annotations.json"
    parser.add_argument("annotations", metavar="FILE|FOLDER", help=source)
    add_output(parser, "DIR", "folder for train.json and dev.json")
    option(parser, "--share", "0..1", float, "share of the videos in dev.json", default=0.1)
    option(parser, "--seed", "S", seed, "the same seed gives the same split", default=0)


def run(args: argparse.Namespace) -> int:
    """Write both files; their paths go to stdout."""
    import json

    from mdqe.annotations.files import find_data
    from mdqe.cli import say
    from mdqe.evaluation.split import split
    from mdqe.files import whole_file

    parts = split(find_data(args.annotations).annotations, share=args.share, seed=args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, part in zip(("train", "dev"), parts, strict=True):
        path = args.output / f"{name}.json"
        with whole_file(path) as partial:
            partial.write_text(json.dumps(part, separators=(",", ":")))
        say(f"{path}: {len(part['videos'])} videos, {len(part['annotations'])} objects")
        print(path)
    return 0
