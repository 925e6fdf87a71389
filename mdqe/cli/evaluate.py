"""`mdqe evaluate`: compare results, or the results of a model, with annotations."""

import argparse
import warnings
from pathlib import Path
from typing import Any

from mdqe.cli import say
from mdqe.cli.evaluate_thresholds import SWEEP, thresholds
from mdqe.cli.options import add_model_arguments, given_path, option, whole
from mdqe.errors import InputError

BENCHMARKS = ("ytvis", "ovis", "coco", "lvvis", "hqvis", "burst", "mots")

HELP = "compare results with annotations, or run a model over a set of videos or images and compare its results"
EXAMPLE = (
    "mdqe evaluate results.json --data shapes/annotations.json\n"
    "  mdqe evaluate --model models/r50_ovis --data shapes -o evaluation --workers 2\n"
    "  mdqe evaluate --model models/r50_coco --data instances_val2017.json@val2017 -o evaluation"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    results = (
        "results in the format of YouTube-VIS, COCO or BURST, or the folder of results of MOTS; without it, the model "
        "is run"
    )
    parser.add_argument("results", metavar="RESULTS", type=Path, nargs="?", help=results)
    data = (
        "annotations of videos (YouTube-VIS) or images (COCO), with the folder of the frames if it is not JPEGImages "
        "beside FILE, or a folder with annotations.json and JPEGImages; for BURST and MOTS, the folder of the "
        "annotations"
    )
    option(parser, "--data", "FILE[@IMAGES]|FOLDER", str, data, required=True)
    output = (
        "folder for numbers.json and per_category.csv; for videos also per_video.csv, precision_recall.csv and .svg, "
        "and report.html with the best and worst videos; with a model also results.json, and a file per video or "
        "image, from which an interrupted run continues"
    )
    option(parser, "-o --output", "DIR", given_path, output)
    names = (
        "the benchmark whose rules are used: " + ", ".join(BENCHMARKS) + "; by default, it is recognised from the data"
    )
    parser.add_argument("--benchmark", metavar="NAME", choices=BENCHMARKS, help=names)
    used = (
        "minimum score of the results in HOTA, IDF1, identity switches, the score of a video and the pictures of "
        f'report.html; with several, or "{SWEEP}" for 0.05 to 0.95, the one with the highest HOTA is suggested '
        "and used"
    )
    option(parser, "--score-threshold", f"SCORE[,…]|{SWEEP}", thresholds, used, default=0.3)
    option(parser, "--images", "DIR", Path, "the folder of the frames, as in FILE@IMAGES")
    shown = "number of the best and of the worst videos in report.html"
    option(parser, "--show-videos", "N", whole(0, 50), shown, default=3)
    group = parser.add_argument_group("running a model")
    workers = "number of processes that share the videos or images"
    option(group, "--workers", "N", whole(1), workers, default=1)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table; invalid input raises InputError or OSError."""
    from mdqe.annotations.files import find_data
    from mdqe.annotations.reader import load_annotations, read_annotations
    from mdqe.cli.evaluate_report import table, write_report, write_tables
    from mdqe.cli.evaluate_thresholds import check_thresholds, choose_threshold, sweep_table
    from mdqe.evaluation.benchmarks import FOLDERS, check_annotations, recognise, recognise_folder

    if args.results is not None and args.model is not None:
        raise InputError("give RESULTS or --model, not both")
    folder = args.benchmark or recognise_folder(args.data)
    if folder in FOLDERS:
        return _compare_folders(folder, args)
    if args.results is None and args.output is None:
        raise InputError("running a model needs -o DIR for the results")
    files = find_data(args.data)
    if args.images is not None:
        files = files._replace(images=args.images)
    loaded = load_annotations(files.annotations)
    recognised = recognise(loaded)
    benchmark = args.benchmark or recognised
    annotations = read_annotations(loaded, hidden=args.results is None, whole_areas=benchmark == "lvvis")
    results: Any = args.results
    check_thresholds(args, benchmark)
    if results is None:
        if any(annotations.objects):
            check_annotations(benchmark, loaded, annotations)
        from mdqe.cli.evaluate_model import run_model

        results = run_model(args, files, annotations)
        if results is None:  # another process reports the metrics
            return 0
        if not any(annotations.objects):
            say("the set has no annotations to compare with")
            print(args.output / "results.json")
            return 0
    sweep = choose_threshold(args, annotations, results)
    metrics = _compare(benchmark, loaded, results, args)
    if "HOTA" in metrics:
        metrics["score_threshold"] = args.score_threshold
    if sweep is not None:
        metrics["score_thresholds"] = sweep
    if args.output is not None:
        write_tables(metrics, args.output)
    print(
        table(metrics, benchmark).encode("utf-8", "replace").decode(), flush=True
    )  # JSON can contain halves of characters
    if sweep is not None:
        print(f"\n{sweep_table(sweep, args.score_threshold)}", flush=True)
    if "per_video" in metrics:
        write_report(metrics, files, annotations, results, args, benchmark)
    return 0


def _compare_folders(benchmark: str, args: argparse.Namespace) -> int:
    """Print the table of a benchmark whose annotations are a folder, and write its numbers."""
    from mdqe.cli.evaluate_report import table, write_folder_report, write_tables
    from mdqe.cli.evaluate_thresholds import check_thresholds

    check_thresholds(args, benchmark)
    if args.results is None:
        raise InputError(f"{args.data} has annotations of {benchmark}: give RESULTS; a model cannot be run on them")
    metrics = _compare(benchmark, args.data, args.results, args)
    if args.output is not None:
        write_tables(metrics, args.output)
        write_folder_report(metrics, benchmark, args.output)
    print(table(metrics, benchmark), flush=True)
    return 0


def _compare(benchmark: str, annotations: Any, results: Any, args: argparse.Namespace) -> dict[str, Any]:
    """The numbers of a benchmark; warnings are printed to stderr."""
    from mdqe.evaluation import evaluate

    if benchmark != "mots" and isinstance(results, Path) and results.is_dir():
        raise InputError(f"{results} is a folder; results of {benchmark} are a JSON file")
    options: dict[str, Any] = {}
    if benchmark not in ("coco", "burst", "mots"):
        more = args.output is not None
        options = {"score_threshold": args.score_threshold, "per_video": more, "precision_curves": more}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        metrics = evaluate(annotations, results, benchmark=benchmark, **options)
    for warning in caught:
        say(f"warning: {warning.message}")
    return metrics
