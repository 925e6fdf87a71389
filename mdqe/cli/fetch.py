"""`mdqe fetch`: downloads and converts published models ahead of time."""

import argparse

from mdqe.cli import say
from mdqe.cli.options import flag, given_path, option

HELP = "download published models of the authors and convert them, so that they load offline"
EXAMPLE = "mdqe fetch r50_ovis_360 r50_ytvis21 -o models"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    names = "published models such as r50_ovis_360; for the list: mdqe info --models"
    parser.add_argument("names", metavar="NAME", nargs="+", type=_name, help=names)
    output = "folder in which each model gets a folder (default: the cache, where mdqe:NAME finds it)"
    option(parser, "-o --output", "FOLDER", given_path, output)
    flag(parser, "--force-download", "download the models even if they are in the cache, and accept files that changed")


def run(args: argparse.Namespace) -> int:
    """Fetch, and print the folder of each model."""
    from mdqe.weights.zoo import fetch_zoo

    for name in args.names:
        print(fetch_zoo(name, cache_dir=args.output, force_download=args.force_download, say=say), flush=True)
    return 0


def _name(text: str) -> str:
    from mdqe.config import zoo_facts

    known = zoo_facts()["models"]
    name = text.removeprefix("mdqe:")
    if name not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(known)}")
    return name
