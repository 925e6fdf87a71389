"""What `mdqe evaluate` prints and writes: tables, curves, and the page of the best and worst videos."""

import argparse
import csv
import json
import math
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mdqe.annotations.files import DataFiles
from mdqe.annotations.mots import CATEGORIES
from mdqe.annotations.reader import Annotations, Video
from mdqe.annotations.results import read_results
from mdqe.cli import one_line, say
from mdqe.cli.evaluate_table import GROUPS, aligned, burst_table, group_table, mots_table, percent
from mdqe.cli.evaluate_thresholds import suggestion
from mdqe.evaluation.average_precision import IOU_THRESHOLDS, RECALLS
from mdqe.evaluation.video_score import best_of_tracks
from mdqe.files import whole_file
from mdqe.pages.curves import draw_curves, draw_thresholds
from mdqe.pages.pictures import Pair, compare_frames, named_frames
from mdqe.pages.report import COLUMNS, Example, plain_report, rank_videos, report
from mdqe.pages.shown import TRUTH, Side, sides_of, video_name

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
DEGREES = {"slightly": "so", "moderately": "mo", "heavily": "ho"}


def table(numbers: Mapping[str, Any], benchmark: str = "ytvis") -> str:
    """The metrics in percent, over all categories and for each; "-" where there is nothing to count.

    For images, a table of masks and one of boxes; for videos, also the metrics by occlusion and of identities. For
    LV-VIS and HQ-YTVIS, a line for each group of official numbers.
    """
    if benchmark in GROUPS:
        return group_table(benchmark, numbers["official"])
    if benchmark == "burst":
        return burst_table(numbers)
    if benchmark == "mots":
        return mots_table(numbers["official"])
    if "box_AP" in numbers:
        return "\n".join([*_categories(numbers, "masks"), "", *_categories(numbers, "boxes", "box_")])
    lines = _categories(numbers)
    if "AP_so" in numbers:
        lines.append("")
        for degree, key in DEGREES.items():
            precision, recall = percent(numbers[f"AP_{key}"]), percent(numbers[f"AR_{key}"])
            lines.append(f"{degree} occluded".ljust(20) + f"AP {precision:>5}  AR {recall:>5}")
    if "HOTA" in numbers:
        names = ("HOTA", "DetA", "AssA", "IDF1", "IDP", "IDR")
        values = "  ".join(f"{name} {percent(numbers[name])}" for name in names)
        least = f"  (score ≥ {numbers['score_threshold']:g})" if "score_threshold" in numbers else ""
        lines += ["", f"{values}  identity switches {numbers['IDSW']}{least}"]
    return "\n".join(lines)


def _categories(numbers: Mapping[str, Any], title: str = "", prefix: str = "") -> list[str]:
    """A line for all categories, then one for each category that has objects or results."""
    rows: list[Sequence[str]] = [(title, "objects", *METRICS)]
    categories = [one for one in numbers["per_category"].values() if one["objects"] or one["results"]]
    total = sum(one["objects"] for one in categories)
    for name, count, one in (("all", total, numbers), *((one["name"], one["objects"], one) for one in categories)):
        rows.append((name, str(count), *(percent(one[prefix + key]) for key in METRICS)))
    return aligned(rows).splitlines()


def write_tables(numbers: Mapping[str, Any], folder: Path) -> None:
    """Write numbers.json and per_category.csv; per_video.csv and score_thresholds.csv if there are such metrics."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "numbers.json") as partial:
        kept = {key: value for key, value in numbers.items() if key != "precision_curves"}
        partial.write_text(json.dumps(_finite(kept), indent=1, allow_nan=False) + "\n")
    for name in [one for one in ("per_category", "per_video", "score_thresholds") if one in numbers]:
        columns = list(next(iter(numbers[name].values()), {}))
        with whole_file(folder / f"{name}.csv") as partial, partial.open("w", newline="", errors="replace") as file:
            writer = csv.writer(file)
            writer.writerow(["score" if name == "score_thresholds" else "id", *columns])
            for number, one in numbers[name].items():
                writer.writerow([number, *("" if one[key] == -1 else one[key] for key in columns)])


def write_folder_report(numbers: Mapping[str, Any], benchmark: str, folder: Path) -> None:
    """Write report.html with the tables of a benchmark of folders; and for MOTS per_video.csv, a line for each class
    and sequence."""
    if benchmark == "mots":
        parts = [(kind, name, one) for kind in CATEGORIES.values() for name, one in numbers["official"][kind].items()]
        with whole_file(folder / "per_video.csv") as partial, partial.open("w", newline="", errors="replace") as file:
            writer = csv.writer(file)
            writer.writerow(["class", "sequence", *parts[0][2]])
            for kind, name, one in parts:
                writer.writerow([kind, name, *(value if math.isfinite(value) else "" for value in one.values())])
    text = table(numbers, benchmark).encode("utf-8", "replace").decode()
    with whole_file(folder / "report.html") as partial:
        partial.write_bytes(plain_report(benchmark, text))


def _finite(value: Any) -> Any:
    """A value for JSON, which has only finite numbers: others become "inf", "-inf" and "nan"."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_report(
    numbers: Mapping[str, Any],
    files: DataFiles,
    truth: Annotations,
    results: Any,
    args: argparse.Namespace,
    benchmark: str = "ytvis",
) -> None:
    """Write precision_recall.csv and .svg, and report.html. Messages name the parts that cannot be made.

    Args:
        numbers: of `evaluate`, with `per_video` and `precision_curves`.
        files, truth: the data set.
        results: a path or the loaded JSON.
        args: of the command: `output`, `show_videos` and `score_threshold`.
        benchmark: its name; the page has the groups of LV-VIS and HQ-YTVIS.

    Raises:
        OSError: a file cannot be written.
    """
    left_out: list[str] = []
    swept = "score_thresholds" in numbers
    curves = _write_curves(numbers, args.output, left_out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # printed when the results were compared
        found = read_results(results, truth)
    ranked = rank_videos(numbers["per_video"])
    worst = ranked[: args.show_videos]
    best = [one for one in reversed(ranked) if one not in worst][: args.show_videos]
    images: Path | None = files.images
    if not any(named_first(truth.videos[one], images) for one in (*worst, *best)):
        left_out.append(f"the frames, which are not in {images}; masks are drawn on a plain background")
        images = None
    where = results if isinstance(results, Path) else args.output / "results.json"
    examples = {}
    for number in (*worst, *best):
        video = truth.videos[number]
        pairs = _pairs(video, truth, (found.name, found.tracks[number]), images, args.score_threshold, left_out)
        command = ["mdqe", "view", str(where), "--annotations", str(files.annotations), "--video", str(number)]
        command += ["--frames", str(images)] if images is not None else []
        command += ["--score-threshold", f"{args.score_threshold:g}"]
        examples[number] = Example(number, video_name(video), pairs, shlex.join([*command, "-o", f"{number}.html"]))
    page = report(
        numbers,
        {one.id: video_name(one) for one in truth.videos.values()},
        [examples[number] for number in worst],
        [examples[number] for number in best],
        score_threshold=args.score_threshold,
        curves=curves,
        thresholds=_draw_thresholds(numbers, args.output, left_out),
        suggestion=suggestion(numbers["score_thresholds"], args.score_threshold) if swept else "",
        groups=group_table(benchmark, numbers["official"]) if benchmark in GROUPS else "",
        left_out=left_out,
    )
    with whole_file(args.output / "report.html") as partial:
        partial.write_bytes(page)
    for line in left_out:
        say(f"left out: {line}")


def named_first(video: Video, images: Path | None) -> bool:
    """Whether the first frame of a video exists."""
    return bool(images and video.file_names and (images / video.file_names[0]).is_file())


def _pairs(
    video: Video,
    truth: Annotations,
    results: tuple[str, Sequence[Any]],
    images: Path | None,
    score_threshold: float,
    left_out: list[str],
) -> list[Pair]:
    """The pictures of a video, on a plain background if a frame is damaged; none without Pillow."""
    from mdqe.video.images import load_image
    from mdqe.video.overlay import choose_frames

    prediction, *rest = sides_of(video, truth, (results[0], list(results[1])))
    annotated = rest[0] if rest else Side(TRUTH, [], {})  # the set has no objects
    best = best_of_tracks(results[1], score_threshold)
    prediction = replace(prediction, tracks=[one for one, kept in zip(prediction.tracks, best, strict=True) if kept])
    frames = choose_frames(video.length, COLUMNS)
    try:
        paths = named_frames(video.file_names, images) if images is not None else []
        load = (lambda t: load_image(paths[t])) if paths else None
        return compare_frames([prediction, annotated], video.size, frames, load)
    except ImportError as error:
        if (line := f"the pictures: {error}") not in left_out:
            left_out.append(line)
        return []
    except (OSError, ValueError) as error:
        left_out.append(f"the frames of video {video.id}: {one_line(error)}")
        return compare_frames([prediction, annotated], video.size, frames, None)


def _write_curves(numbers: Mapping[str, Any], folder: Path, left_out: list[str]) -> bytes | None:
    """Write the precision at 101 recalls, for all categories and for each, by IoU threshold; returns the picture."""
    curves: dict[int, np.ndarray] = numbers["precision_curves"]
    if not curves:
        left_out.append("curves of precision and recall: there is no object to find")
        return None
    names = {category: one["name"] for category, one in numbers["per_category"].items()}
    with (
        whole_file(folder / "precision_recall.csv") as partial,
        partial.open("w", newline="", errors="replace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["id", "name", "iou", *(f"{recall:.2f}" for recall in RECALLS)])
        every = [("", "all", np.mean(list(curves.values()), axis=0))]
        for category, name, lines in [*every, *((one, names[one], lines) for one, lines in curves.items())]:
            for iou, line in zip(IOU_THRESHOLDS, lines, strict=True):
                writer.writerow([category, name, f"{iou:.2f}", *(f"{value:.6g}" for value in line)])
    return _write_picture(draw_curves, numbers, folder / "precision_recall.svg", left_out)


def _draw_thresholds(numbers: Mapping[str, Any], folder: Path, left_out: list[str]) -> bytes | None:
    """Write score_thresholds.svg, if several minimum scores were compared; returns the picture."""
    if "score_thresholds" not in numbers or numbers["HOTA"] < 0:
        return None
    return _write_picture(draw_thresholds, numbers, folder / "score_thresholds.svg", left_out)


def _write_picture(
    draw: Callable[[Mapping[str, Any]], bytes], numbers: Mapping[str, Any], path: Path, left_out: list[str]
) -> bytes | None:
    try:
        picture = draw(numbers)
    except ImportError as error:
        if (line := f"the picture of the curves: {error}") not in left_out:
            left_out.append(line)
        return None
    with whole_file(path) as partial:
        partial.write_bytes(picture)
    return picture
