"""`mdqe segment`: videos → masks and identities, an overlay video, a contact sheet."""

import argparse
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mdqe.atomic import check_writable
from mdqe.cli import REPORTED_ERRORS, one_line, say
from mdqe.cli.model_options import add_model_arguments, load_config, load_model, model_name
from mdqe.cli.segment_list import folders, is_done, notes, read_list
from mdqe.errors import InputError, is_out_of_memory

if TYPE_CHECKING:
    from mdqe.cli.segment_video import Interruption, Job, Outcome
    from mdqe.config import MDQEConfig
    from mdqe.video.read import Frames

HELP = "segment and follow the objects of videos"
EXAMPLE = (
    "mdqe segment street.mp4 -o results --model models/r50_ovis --start 10 --end 20\n"
    "  torchrun --nproc-per-node 8 -m mdqe segment --videos-from list.txt -o results --skip-done"
)
SHOWN = ("queries", "activation")


class Opened(NamedTuple):
    """A source that is ready to be segmented."""

    video: str
    folder: Path
    frames: "Frames"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "videos",
        metavar="VIDEO",
        nargs="*",
        help="a video file, an image, a folder or quoted glob of images, a camera's number or a URL",
    )
    parser.add_argument(
        "--videos-from", metavar="LIST", type=Path, help="more videos, from a text file that names one on each line"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        required=True,
        help="a folder per video is made in it, with instances.json, overlay.mp4 and sheet.png",
    )
    parser.add_argument(
        "--score-threshold",
        metavar="SCORE",
        type=_score,
        default=0.3,
        help="least score of an instance, 0 to 1 (default: %(default)s)",
    )
    group = parser.add_argument_group("many videos")
    group.add_argument(
        "--skip-done",
        action="store_true",
        help="pass over videos whose results lie there whole, of the same model and settings, to go on with a run",
    )
    group.add_argument(
        "--skip-bad",
        action="store_true",
        help="go on without the videos that cannot be opened; else nothing is done if there are any",
    )
    add_model_arguments(parser)
    group = parser.add_argument_group("frames")
    group.add_argument("--every", metavar="N", type=_positive, default=1, help="take every Nth frame")
    group.add_argument("--start", metavar="SECONDS", type=_seconds, help="begin there")
    group.add_argument("--end", metavar="SECONDS", type=_seconds, help="end there")
    group = parser.add_argument_group("pictures")
    group.add_argument("--no-video", action="store_true", help="no overlay video, only results and contact sheet")
    group.add_argument(
        "--show",
        metavar="WHAT",
        type=_shown,
        default=(),
        help="draw besides the instances: queries (where they start, in the colour of the object they lead to), "
        "activation (the class-activation map), or both: queries,activation",
    )
    group.add_argument(
        "--sheet",
        metavar="FRAMES",
        type=_frames,
        help="frames of the contact sheet, such as 0,40,80 (default: 12, evenly spread)",
    )


def run(args: argparse.Namespace) -> int:
    """Segment every video, in the processes of torchrun each its share; a table at the end on stdout."""
    from mdqe import distributed as processes
    from mdqe.cli.segment_video import first_interrupt_asks

    videos = args.videos + (read_list(args.videos_from) if args.videos_from else [])
    if not videos:
        raise InputError("no videos: name some, or a list of them with --videos-from")
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
        # All have heard a Ctrl-C: those that work stop, those that wait go on waiting.
        with first_interrupt_asks() as interruption:
            interrupted = _segment_all(args, opened, outcomes, interruption)
            processes.wait_for_all()
        parts, interruptions = zip(*processes.gather((outcomes, interrupted)), strict=True)
        everywhere = {outcome.folder: outcome for part in parts for outcome in part}
        if processes.rank() == 0 and everywhere:
            print(summary([everywhere[folder] for folder in left if folder in everywhere]), flush=True)
        if processes.rank() == 0 and any(interruptions) and len(everywhere) < len(left):
            say(f"{len(left) - len(everywhere)} of {len(left)} videos were not begun")
    if any(interruptions):
        raise KeyboardInterrupt
    return max((outcome.status for outcome in everywhere.values()), default=0)


def summary(outcomes: "list[Outcome]") -> str:
    """The table of all videos."""
    rows = [("video", "frames", "frames/s", "instances", "results")]
    for outcome in outcomes:
        speed = f"{outcome.frames / outcome.seconds:.2f}" if outcome.seconds else "-"
        rows.append((outcome.name, str(outcome.frames), speed, outcome.found or "-", outcome.results))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    right = (False, True, True, False)
    lines = []
    for row in rows:
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row[:-1], widths, right, strict=True)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)


def _left(args: argparse.Namespace, config: "MDQEConfig", everything: dict[Path, str]) -> dict[Path, str]:
    """The videos to do, by folder: with --skip-done without those that are done."""
    from mdqe import distributed as processes

    if not args.skip_done:
        return everything
    overlay = not args.no_video
    share = processes.share(list(everything))
    mine = {folder for folder in share if is_done(folder, _notes(args, config, everything[folder]), overlay=overlay)}
    done = set().union(*processes.gather(mine))  # and nobody begins before all have looked
    if done and processes.rank() == 0:
        say(f"{len(done)} of {len(everything)} videos are done already")
    return {folder: video for folder, video in everything.items() if folder not in done}


def _open_all(args: argparse.Namespace, videos: dict[Path, str]) -> "tuple[list[Opened], list[Outcome]]":
    """Every source, checked before any work: an error in the last one should not show after hours.

    Returns:
        Those that open, and an outcome with the error for each of the others.
    """
    from mdqe.cli.segment_video import Outcome
    from mdqe.video.read import open_frames

    opened, failed = [], []
    for folder, video in videos.items():
        try:
            frames = open_frames(video, every=args.every, start=args.start, end=args.end)
            opened.append(Opened(video, folder, frames))
        except (OSError, ValueError) as error:
            failed.append(Outcome(video, folder, status=2, error=one_line(error)))
    return opened, failed


def _refuse(problems: Sequence[str], number: int) -> int:
    """Say in one line what cannot be opened."""
    from mdqe import distributed as processes

    more = f", nor {len(problems) - 1} more" if len(problems) > 1 else ""
    hint = f" (of {number} videos{more}; --skip-bad goes on without)" if number > 1 else ""
    if processes.rank() == 0:
        say(f"mdqe segment: error: {problems[0]}{hint}")
    return 2


def _segment_all(
    args: argparse.Namespace, opened: "list[Opened]", outcomes: "list[Outcome]", interruption: "Interruption"
) -> bool:
    """Segment the videos one after the other and add what became of each; True where Ctrl-C came between."""
    from mdqe import distributed as processes
    from mdqe.cli.segment_video import Interrupted, Job

    try:
        with interruption.set_aside():
            for outcome in outcomes:
                say(f"mdqe segment: error: {outcome.error}")
            if opened:
                model = load_model(args, *processes.local())
            for video, folder, frames in opened:
                frames.ahead = model.config.window_length
                origin = _notes(args, model.config, video, str(model.device))
                job = Job(args.score_threshold, args.show, not args.no_video, args.sheet, origin)
                outcomes.append(_segment_one(model, frames, folder, job))
    except Interrupted as interrupted:
        outcomes.append(interrupted.outcome)
        return True
    except KeyboardInterrupt:
        return True
    return False


def _segment_one(model: Any, frames: "Frames", folder: Path, job: "Job") -> "Outcome":
    """One video; an error concerns it alone, the others go on."""
    from mdqe.cli.segment_video import Outcome, segment_video

    try:
        outcome = segment_video(model, frames, folder, job)
    except Exception as error:
        if not isinstance(error, REPORTED_ERRORS) and not is_out_of_memory(error):
            traceback.print_exc()
        say(f"mdqe segment: error: {one_line(error)}")
        return Outcome(frames.name, folder, status=2)
    for remark in outcome.remarks:
        say(f"{frames.name}: {remark}")
    return outcome


def _notes(args: argparse.Namespace, config: "MDQEConfig", video: str, device: str = "") -> dict[str, Any]:
    settings = {
        "score_threshold": args.score_threshold,
        "shorter_edge": config.test_shorter_edge,
        "dtype": args.dtype,
        "every": args.every,
        "start": args.start,
        "end": args.end,
        "show": args.show,
        "sheet": args.sheet,
    }
    return notes(video, model_name(args), device, **settings)


def _score(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not within 0 to 1")
    return value


def _seconds(text: str) -> float:
    value = _number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds")
    return value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _shown(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in SHOWN]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not among {', '.join(SHOWN)}")
    return names


def _frames(text: str) -> list[int]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of frame numbers such as 0,40,80")
    return sorted({int(number) for number in text.split(",")})
