"""`mdqe submit`: a results file, checked and packed for an evaluation server."""

import argparse
from pathlib import Path

from mdqe.cli import say
from mdqe.errors import InputError

HELP = "check results and pack them for the evaluation servers of YouTube-VIS and OVIS"
EXAMPLE = "mdqe submit evaluation/results.json --data ovis/annotations_valid.json -o submission.zip"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("results", metavar="RESULTS", type=Path, help="a results file in the form of YouTube-VIS")
    parser.add_argument(
        "--data",
        metavar="ANNOTATIONS",
        type=Path,
        required=True,
        help="the set's file of videos and categories; it may be without annotations",
    )
    parser.add_argument(
        "-o", "--output", metavar="ZIP", type=Path, help="the archive to write; without it the results are only checked"
    )
    parser.add_argument("--allow-missing", action="store_true", help="videos without any result are no error")


def run(args: argparse.Namespace) -> int:
    """Every error goes to stderr, a line each; the archive's path to stdout."""
    from mdqe.annotations.reading_ import read_annotations
    from mdqe.evaluation.submission import check_results, write_submission

    annotations = read_annotations(args.data, hidden=True)
    errors = check_results(args.results, annotations, allow_missing=args.allow_missing)
    for error in errors:
        say(error)
    if errors:
        raise InputError(f"{args.results} has {len(errors)} error{'s' * (len(errors) > 1)}; nothing is written")
    if args.output is None:
        say(f"{args.results}: no error")
        return 0
    write_submission(args.results, args.output)
    print(args.output)
    return 0
