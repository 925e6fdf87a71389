"""What `mdqe evaluate` writes for people besides the tables: the curves, and the page of the best and worst videos."""

import argparse
import csv
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mdqe.annotations.reading_ import Annotations, Video, read_annotations, read_results
from mdqe.atomic import whole_file
from mdqe.cli import one_line, say
from mdqe.evaluation.average_precision import IOU_THRESHOLDS, RECALLS
from mdqe.evaluation.segment_set import find_set
from mdqe.evaluation.video_score import best_of_tracks
from mdqe.pages.contact import Pair, compare_frames
from mdqe.pages.curves import draw_curves
from mdqe.pages.pictures import named_frames
from mdqe.pages.report import COLUMNS, Example, rank_videos, report
from mdqe.pages.shown import TRUTH, Side, sides_of, video_name


def write_report(numbers: Mapping[str, Any], annotations: Path, results: Any, args: argparse.Namespace) -> None:
    """precision_recall.csv and .svg, and report.html; what cannot be made is left out, with a line that says so.

    Args:
        numbers: of `evaluate`, with `per_video` and `precision_curves`.
        annotations: the file.
        results: a path or the loaded JSON.
        args: of the command: `output`, `data`, `images`, `show_videos` and `score_threshold`.

    Raises:
        OSError: a file cannot be written.
    """
    left_out: list[str] = []
    curves = _write_curves(numbers, args.output, left_out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # told when they were compared
        truth = read_annotations(annotations)
        found = read_results(results, truth)
    ranked = rank_videos(numbers["per_video"])
    worst = ranked[: args.show_videos]
    best = [one for one in reversed(ranked) if one not in worst][: args.show_videos]
    images: Path | None = find_set(args.data, args.images)[1]
    if not any(named_first(truth.videos[one], images) for one in (*worst, *best)):
        left_out.append(f"the frames, which are not in {images}; masks stand on plain ground")
        images = None
    where = results if isinstance(results, Path) else args.output / "results.json"
    examples = {}
    for number in (*worst, *best):
        video = truth.videos[number]
        pairs = _pairs(video, truth, (found.name, found.tracks[number]), images, args.score_threshold, left_out)
        command = ["mdqe", "view", str(where), "--annotations", str(annotations), "--video", str(number)]
        command += ["--frames", str(images)] if images is not None else []
        examples[number] = Example(number, video_name(video), pairs, shlex.join([*command, "-o", f"{number}.html"]))
    page = report(
        numbers,
        {one.id: video_name(one) for one in truth.videos.values()},
        [examples[number] for number in worst],
        [examples[number] for number in best],
        score_threshold=args.score_threshold,
        curves=curves,
        left_out=left_out,
    )
    with whole_file(args.output / "report.html") as partial:
        partial.write_bytes(page)
    for line in left_out:
        say(f"left out: {line}")


def named_first(video: Video, images: Path | None) -> bool:
    """Whether the first frame of a video is there."""
    return bool(images and video.file_names and (images / video.file_names[0]).is_file())


def _pairs(
    video: Video,
    truth: Annotations,
    results: tuple[str, Sequence[Any]],
    images: Path | None,
    score_threshold: float,
    left_out: list[str],
) -> list[Pair]:
    """The pictures of a video, on plain ground where a frame is damaged; none without pillow."""
    from mdqe.video.images import load_image
    from mdqe.video.sheet import choose_frames

    prediction, *rest = sides_of(video, truth, (results[0], list(results[1])))
    annotated = rest[0] if rest else Side(TRUTH, [], {})  # a set without any object
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
    """A row of precisions at 101 recalls for all categories and each, by IoU threshold; and their picture."""
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
    try:
        picture = draw_curves(numbers)
    except ImportError as error:
        left_out.append(f"the picture of the curves: {error}")
        return None
    with whole_file(folder / "precision_recall.svg") as partial:
        partial.write_bytes(picture)
    return picture
