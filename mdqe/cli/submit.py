"""`mdqe submit`: check a results file and pack it in the official form."""

import argparse
from pathlib import Path

from mdqe.cli import say
from mdqe.cli.options import flag, given_path, option
from mdqe.errors import InputError

HELP = "check results and pack them in the official form of YouTube-VIS and OVIS"
EXAMPLE = "mdqe submit evaluation/results.json --data ovis/annotations_valid.json -o submission.zip"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("results", metavar="RESULTS", type=Path, help="results in the format of YouTube-VIS")
    data = "the videos and categories of the set, with or without annotations"
    option(parser, "--data", "FILE|FOLDER", str, data, required=True)
    option(parser, "-o --output", "ZIP", given_path, "the archive to write; without it, the results are only checked")
    flag(parser, "--allow-missing", "accept videos without any result")


def run(args: argparse.Namespace) -> int:
    """Print the errors to stderr, a line each, and the path of the archive to stdout."""
    from mdqe.annotations.files import find_data
    from mdqe.annotations.reader import VIDEOS, read_annotations
    from mdqe.evaluation.submission import check_results, write_submission

    annotations = read_annotations(find_data(args.data).annotations, hidden=True)
    annotations.expect(VIDEOS)
    errors = check_results(args.results, annotations, allow_missing=args.allow_missing)
    for error in errors:
        say(error)
    if errors:
        raise InputError(f"{args.results} has {len(errors)} error{'s' * (len(errors) > 1)}; no archive is written")
    if args.output is None:
        say(f"{args.results}: no error")
        return 0
    write_submission(args.results, annotations, args.output)
    print(args.output)
    return 0
