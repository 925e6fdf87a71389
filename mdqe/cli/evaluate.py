"""`mdqe evaluate`: results, or a model, against annotations."""

import argparse
import warnings
from pathlib import Path
from typing import Any

from mdqe.cli import say
from mdqe.cli.model_options import add_model_arguments
from mdqe.errors import InputError

HELP = "compare results with annotations, or run a model over a set of videos or images and compare what it finds"
EXAMPLE = (
    "mdqe evaluate results.json --data shapes/annotations.json\n"
    "  mdqe evaluate --model models/r50_ovis --data shapes -o evaluation --workers 2\n"
    "  mdqe evaluate --model models/r50_coco --data instances_val2017.json --images val2017 -o evaluation"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "results",
        metavar="RESULTS",
        type=Path,
        nargs="?",
        help="a results file in the form of YouTube-VIS, or of COCO; without it, the model is run",
    )
    parser.add_argument(
        "--data",
        metavar="FOLDER|ANNOTATIONS",
        type=Path,
        required=True,
        help="annotations in the form of YouTube-VIS, or of COCO's instances (a file of images), or a folder with "
        "annotations.json and JPEGImages, as of mdqe make-data",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        help="write numbers.json and per_category.csv there, of videos also per_video.csv, precision_recall.csv and "
        ".svg, and report.html with the best and worst videos; with a model also results.json, and a file per video or "
        "image from which an interrupted run goes on",
    )
    parser.add_argument(
        "--score-threshold",
        metavar="SCORE",
        type=float,
        default=0.3,
        help="least score of a result that counts in HOTA, IDF1, identity switches and the score of a video, and that "
        "is shown in report.html (default: %(default)s)",
    )
    parser.add_argument(
        "--images",
        metavar="DIR",
        type=Path,
        help="the folder of the frames (default: JPEGImages beside the annotations)",
    )
    parser.add_argument(
        "--show-videos",
        metavar="N",
        type=int,
        choices=range(51),
        default=3,
        help="how many of the best and of the worst videos report.html shows, up to 50 (default: %(default)s)",
    )
    group = parser.add_argument_group("running a model")
    group.add_argument(
        "--workers",
        metavar="N",
        type=_positive,
        default=1,
        help="processes that share the videos or images (default: %(default)s)",
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table; bad input raises ValueError or OSError."""
    if args.results is not None:
        if args.model is not None:
            raise InputError("give RESULTS or --model, not both")
        annotations: Path | None = args.data / "annotations.json" if args.data.is_dir() else args.data
        results: Any = args.results
    else:
        from mdqe.cli.evaluate_model import run_model

        if args.output is None:
            raise InputError("running a model needs -o DIR, where results are kept as they are found")
        found = run_model(args)
        if found is None:  # another process tells the numbers
            return 0
        annotations, results = found
        if annotations is None:
            say("the set has no annotations to compare with")
            print(args.output / "results.json")
            return 0
    assert annotations is not None
    numbers = _compare(annotations, results, args)
    from mdqe.cli.evaluate_tables import table, write_tables

    if args.output is not None:
        write_tables(numbers, args.output)
    print(table(numbers).encode("utf-8", "replace").decode(), flush=True)  # JSON can hold halves of characters
    if "per_video" in numbers:
        from mdqe.cli.evaluate_report import write_report

        write_report(numbers, annotations, results, args)
    return 0


def _compare(annotations: Path, results: Any, args: argparse.Namespace) -> dict[str, Any]:
    """`evaluate`, or `evaluate_coco` where the annotations are of images; warnings become lines of talk."""
    from mdqe.annotations.training_ import holds_images
    from mdqe.evaluation import evaluate, evaluate_coco

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        if holds_images(annotations):
            numbers = evaluate_coco(annotations, results)
        else:
            more = args.output is not None
            numbers = evaluate(
                annotations, results, score_threshold=args.score_threshold, per_video=more, precision_curves=more
            )
    for warning in caught:
        say(f"warning: {warning.message}")
    return numbers


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)
