"""`mdqe publish`: uploads a model to a repository of one's own on the Hugging Face Hub."""

import argparse
import re

from mdqe.cli.options import flag, option

HELP = "upload a model to your own repository on the Hugging Face Hub, with a model card"
EXAMPLE = "mdqe publish models/r50_ovis me/mdqe-r50-ovis"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("model", metavar="FOLDER", help="folder of the model, or a name such as mdqe:r50_ovis_360")
    parser.add_argument("repository", metavar="USER/NAME", type=_repository, help="repository; created if it is new")
    license = "licence of the weights for the card, such as apache-2.0 (default: that of the authors' models, or none)"
    option(parser, "--license", "ID", str, license)
    flag(parser, "--private", "create a private repository")


def run(args: argparse.Namespace) -> int:
    """Upload, and print the URL of the commit."""
    from mdqe.weights.publish import publish

    print(publish(args.model, args.repository, license=args.license, private=args.private or None))
    return 0


def _repository(text: str) -> str:
    if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not USER/NAME")
    return text
