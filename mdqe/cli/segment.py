"""`mdqe segment`: segments videos and writes masks, an overlay video and a contact sheet for each."""

import argparse
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdqe.cli import one_line, report, say
from mdqe.cli.options import (
    add_model_arguments,
    add_output,
    add_score_threshold,
    bundled_note,
    choice,
    flag,
    load_config,
    load_model,
    model_name,
    number,
    option,
    several,
    whole,
)
from mdqe.errors import InputError
from mdqe.files import check_writable, read_json
from mdqe.video import is_address

if TYPE_CHECKING:
    from mdqe.cli.segment_video import Interruption, Job, Outcome
    from mdqe.config import MDQEConfig
    from mdqe.model import MDQE
    from mdqe.video.read import Frames

    Opened = tuple[str, Path, Frames]  # the name, the folder and the frames of a video

HELP = "segment and track the objects of videos and images"
EXAMPLE = (
    "mdqe segment street.mp4 -o results --model models/r50_ovis --start 10 --end 20\n"
    "  torchrun --nproc-per-node 8 -m mdqe segment --videos-from list.txt -o results --skip-done"
)
MACHINE_SETTINGS = ("mdqe", "device")
"""Settings in instances.json that record where the results were made. `--skip-done` ignores them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    videos = "a video file, an image, a folder or a quoted glob of images, a camera number or a URL"
    parser.add_argument("videos", metavar="VIDEO", nargs="*", help=videos)
    option(parser, "--videos-from", "LIST", Path, "a text file with more videos, one on each line")
    add_output(parser, "DIR", "output folder, in which each video gets a folder with its results")
    threshold = "minimum score of an instance, 0 to 1; mdqe evaluate counts instances above 0.05"
    add_score_threshold(parser, threshold)
    group = parser.add_argument_group("many videos")
    flag(group, "--skip-done", "skip videos with complete results of the same model and settings, to continue a run")
    flag(group, "--skip-bad", "skip videos that cannot be opened; otherwise they stop the command before any work")
    add_model_arguments(parser, default=True)
    group = parser.add_argument_group("frames")
    option(group, "--every", "N", whole(1), "process every Nth frame", default=1)
    option(group, "--start", "SECONDS", number(0, 1e9), "process frames from this time on")
    option(group, "--end", "SECONDS", number(0, 1e9), "process frames before this time")
    group = parser.add_argument_group("pictures")
    flag(group, "--no-video", "write no overlay")
    flag(group, "--no-labels", "draw the instances without category, track id and score")
    show = "also draw queries (initial query positions), activation (class-activation map), or queries,activation"
    option(group, "--show", "WHAT", several(choice("queries", "activation")), show, default=())
    sheet = "indices of the frames on the contact sheet, such as 0,40,80 (default: 12 frames, evenly spaced)"
    option(group, "--sheet", "FRAMES", several(whole(0)), sheet)


def run(args: argparse.Namespace) -> int:
    """Segment all videos, divided among the processes of torchrun, and print a table."""
    from mdqe import distributed as processes
    from mdqe.cli.segment_video import Interruption

    videos = args.videos + (read_list(args.videos_from) if args.videos_from else [])
    if not videos:
        raise InputError("no videos: expected VIDEO or --videos-from LIST")
    everything = dict(zip(folders(args.output, videos), videos, strict=True))
    config = load_config(args)
    with processes.sharing():
        left = _left(args, config, everything)
        mine = {folder: left[folder] for folder in processes.share(list(left))}
        opened, outcomes = _open_all(args, mine)
        problems = [error for part in processes.gather([one.error for one in outcomes]) for error in part]
        if problems and not args.skip_bad:
            return _refuse(problems, len(left))
        check_writable(args.output)
        if left and processes.rank() == 0 and (note := bundled_note(model_name(args), config)):
            say(note)
        # Ctrl-C reaches all processes: those that segment stop, those that wait continue to wait.
        with Interruption() as interruption:
            interrupted = _segment_all(args, opened, outcomes, interruption)
            processes.wait_for_all()
        parts, interruptions = zip(*processes.gather((outcomes, interrupted)), strict=True)
        everywhere = {outcome.folder: outcome for part in parts for outcome in part}
        if processes.rank() == 0 and everywhere:
            print(summary([everywhere[folder] for folder in left if folder in everywhere]), flush=True)
        if processes.rank() == 0 and any(interruptions) and len(everywhere) < len(left):
            say(f"{len(left) - len(everywhere)} of {len(left)} videos were not started")
    if any(interruptions):
        raise KeyboardInterrupt
    return max((outcome.status for outcome in everywhere.values()), default=0)


def summary(outcomes: "list[Outcome]") -> str:
    """The table of all videos."""
    rows = [("video", "frames", "frames/s", "instances", "results")]
    for outcome in outcomes:
        speed = f"{outcome.frames / outcome.seconds:.2f}" if outcome.seconds else "-"
        count, categories = outcome.found or ("-", "")
        found = f"{count} ({categories})" if categories else str(count)
        results = [str(outcome.folder)] * bool(outcome.frames) + ["interrupted"] * outcome.interrupted
        results = ["failed"] if outcome.failed else results
        rows.append((outcome.name, str(outcome.frames), speed, found, ", ".join(results)))
    a, b, c, d, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = (f"{v:<{a}}  {w:>{b}}  {x:>{c}}  {y:<{d}}  {z}" for v, w, x, y, z in rows)
    return "\n".join(line.rstrip() for line in lines)


def read_list(path: Path) -> list[str]:
    """Read a text file that names one video on each line. Empty lines and lines that begin with # are ignored.

    Raises:
        OSError: the file cannot be read.
        InputError: the file is not a text file, or it names no videos.
    """
    data = path.read_bytes()
    if b"\0" in data:
        raise InputError(f"{path} is not a list of videos: expected text with one video on each line")
    lines = [line.strip() for line in data.removeprefix(b"\xef\xbb\xbf").splitlines()]
    videos = [os.fsdecode(line) for line in lines if line and not line.startswith(b"#")]
    if not videos:
        raise InputError(f"{path} names no videos")
    return videos


def folders(output: Path, videos: Sequence[str]) -> list[Path]:
    """A folder for each video, named after the video. Repeated names get a number."""
    found: dict[Path, None] = {}
    for video in videos:
        path = Path(video)
        name = path.name if path.is_dir() else path.stem
        if video.isdecimal() and not path.exists():
            name = f"camera{video}"
        name = re.sub(r"[^\w.-]+", "_", name).strip("._")  # empty for a glob such as *.png
        name = name or (path.resolve() if path.is_dir() else path.resolve().parent).name
        folder, number = output / name, 2
        while folder in found:
            folder, number = output / f"{name}-{number}", number + 1
        found[folder] = None
    return list(found)


def is_done(folder: Path, wanted: dict[str, Any], *, overlay: bool) -> bool:
    """Whether a folder has complete results of a video, model and settings.

    Args:
        folder: the folder of the video.
        wanted: the `notes` of the results.
        overlay: whether an overlay is needed.
    """
    results = folder / "instances.json"
    pictures: list[tuple[str, ...]] = [("overlay.mp4", "overlay.png")] * overlay
    if overlay or not is_address(wanted["source"]):  # without an overlay, a stream has no sheet
        pictures.append(("sheet.png",))
    try:
        written = results.stat().st_mtime_ns
        for names in pictures:
            found = [folder / name for name in names if (folder / name).is_file()]
            if not any(path.stat().st_mtime_ns >= written for path in found):  # the last run did not draw it
                return False
        document = read_json(results)
        return document["complete"] is True and _origin(document) == _origin(json.loads(json.dumps(wanted)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing or damaged
        return False


def _origin(document: dict[str, Any]) -> tuple[Any, ...]:
    settings = {name: value for name, value in document["settings"].items() if name not in MACHINE_SETTINGS}
    return document["source"], document["model"], settings


def _left(args: argparse.Namespace, config: "MDQEConfig", everything: dict[Path, str]) -> dict[Path, str]:
    """The videos to segment, by folder. With --skip-done, those that are done are left out."""
    from mdqe import distributed as processes

    if not args.skip_done:
        return everything
    overlay = not args.no_video
    share = processes.share(list(everything))
    mine = {folder for folder in share if is_done(folder, _notes(args, config, everything[folder]), overlay=overlay)}
    done = set().union(*processes.gather(mine))  # no process starts before all have checked
    if done and processes.rank() == 0:
        say(f"{len(done)} of {len(everything)} videos are already done")
    return {folder: video for folder, video in everything.items() if folder not in done}


def _open_all(args: argparse.Namespace, videos: dict[Path, str]) -> "tuple[list[Opened], list[Outcome]]":
    """Open all videos before any work, so that an error in the last one is reported at the start.

    Returns:
        The videos that open, and an outcome with the error for each of the others.
    """
    from mdqe.cli.segment_video import Outcome
    from mdqe.video.read import open_frames

    opened, failed = [], []
    for folder, video in videos.items():
        try:
            opened.append((video, folder, open_frames(video, every=args.every, start=args.start, end=args.end)))
        except (OSError, InputError) as error:
            failed.append(Outcome(video, folder, status=2, error=one_line(error), failed=True))
    return opened, failed


def _refuse(problems: Sequence[str], count: int) -> int:
    """Print one line on the videos that cannot be opened, and return the exit status."""
    from mdqe import distributed as processes

    more = f"{len(problems)} of {count} videos cannot be opened; --skip-bad continues without them"
    if processes.rank() == 0:
        say(f"mdqe segment: error: {problems[0]}" + (f" ({more})" if count > 1 else ""))
    return 2


def _segment_all(
    args: argparse.Namespace, opened: "list[Opened]", outcomes: "list[Outcome]", interruption: "Interruption"
) -> bool:
    """Segment the videos and append their outcomes. Returns whether Ctrl-C was pressed."""
    from mdqe import distributed as processes
    from mdqe.cli.segment_video import Job

    try:
        with interruption.suspended():
            for outcome in outcomes:
                say(f"mdqe segment: error: {outcome.error}")
            if opened:
                model = load_model(args, *processes.local())
            for video, folder, frames in opened:
                frames.ahead = model.config.window_length
                origin = _notes(args, model.config, video, str(model.device))
                drawing = {"overlay": not args.no_video, "labels": not args.no_labels, "show": args.show}
                job = Job(args.score_threshold, sheet=args.sheet, notes=origin, **drawing)
                outcomes.append(_segment_one(model, frames, folder, job, args.memory_hint))
                if outcomes[-1].interrupted:
                    return True
    except KeyboardInterrupt:
        return True
    return False


def _segment_one(model: "MDQE", frames: "Frames", folder: Path, job: "Job", memory_hint: str) -> "Outcome":
    """Segment one video. Any error, also a bug, is reported, and the other videos are segmented."""
    from mdqe.cli.segment_video import Outcome, segment_video
    from mdqe.inference.postprocess import BENCHMARK_SCORE

    try:
        outcome = segment_video(model, frames, folder, job)
    except Exception as error:
        return Outcome(frames.name, folder, status=report("segment", error, hint=memory_hint), failed=True)
    if outcome.found and outcome.found[0] == 0:
        nothing = f"no instance has a score of at least {job.score_threshold:g}; --score-threshold sets this minimum"
        outcome.remarks.append(f"{nothing}, and mdqe evaluate counts instances above {BENCHMARK_SCORE}")
    for remark in outcome.remarks:
        say(f"{frames.name}: {remark}")
    return outcome


def _notes(args: argparse.Namespace, config: "MDQEConfig", video: str, device: str = "") -> dict[str, Any]:
    from mdqe.cli.segment_video import notes

    settings = {
        name: getattr(args, name) for name in ("score_threshold", "dtype", "every", "start", "end", "show", "sheet")
    }
    settings["labels"] = not args.no_labels
    settings |= {"shorter_edge": config.test_shorter_edge, "relink": config.relink}
    return notes(video, model_name(args), device, **settings)
