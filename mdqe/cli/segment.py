"""`mdqe segment`: videos → masks and identities, an overlay video, a contact sheet."""

import argparse
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdqe import __version__
from mdqe.cli import one_line, say
from mdqe.cli.model_options import add_model_arguments, default_model, load_model

if TYPE_CHECKING:
    from mdqe.cli.segment_video import Job, Outcome
    from mdqe.video.read import Frames

HELP = "segment and follow the objects of videos"
EXAMPLE = "mdqe segment street.mp4 -o results --model models/r50_ovis --start 10 --end 20"
SHOWN = ("queries", "activation")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "videos",
        metavar="VIDEO",
        nargs="+",
        help="a video file, an image, a folder or quoted glob of images, a camera's number or a URL",
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
    """Segment every video; a table at the end on stdout."""
    from mdqe.cli.segment_video import Job

    sources = _open_all(args)
    _check_writable(args.output)
    model = load_model(args)
    for frames in sources:
        frames.ahead = model.config.window_length
    outcomes: list[Outcome] = []
    try:
        for video, frames, folder in zip(args.videos, sources, _folders(args.output, args.videos), strict=True):
            job = Job(args.score_threshold, args.show, not args.no_video, args.sheet, _origin(args, model, video))
            outcomes.append(_segment_one(model, frames, folder, job))
    finally:  # finished videos are told also after an interruption
        if outcomes:
            print(summary(outcomes), flush=True)
    return max(outcome.status for outcome in outcomes)


def summary(outcomes: "list[Outcome]") -> str:
    """The table of all videos."""
    rows = [("video", "frames", "frames/s", "instances", "results")]
    for outcome in outcomes:
        speed = f"{outcome.frames / outcome.seconds:.2f}" if outcome.seconds else "-"
        state = str(outcome.folder) if outcome.status < 2 else "failed"
        rows.append((outcome.name, str(outcome.frames), speed, outcome.found or "-", state))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    right = (False, True, True, False)
    lines = []
    for row in rows:
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row[:-1], widths, right, strict=True)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)


def _segment_one(model: Any, frames: "Frames", folder: Path, job: "Job") -> "Outcome":
    """One video; an error concerns it alone, the others go on."""
    from mdqe.cli.segment_video import Outcome, segment_video

    try:
        outcome = segment_video(model, frames, folder, job)
    except (OSError, ValueError) as error:
        say(f"mdqe segment: error: {one_line(error)}")
        return Outcome(frames.name, folder, status=2)
    for remark in outcome.remarks:
        say(f"{frames.name}: {remark}")
    return outcome


def _origin(args: argparse.Namespace, model: Any, video: str) -> dict[str, Any]:
    """What instances.json says about where it comes from."""
    return {
        "source": video,
        "model": str(args.model or default_model()),
        "settings": {
            "mdqe": __version__,
            "score_threshold": args.score_threshold,
            "shorter_edge": model.config.test_shorter_edge,
            "device": str(model.device),
            "dtype": args.dtype,
            "every": args.every,
            "start": args.start,
            "end": args.end,
        },
    }


def _open_all(args: argparse.Namespace) -> "list[Frames]":
    """Every source, checked before any work: an error in the last one should not show after hours."""
    from mdqe.video.read import open_frames

    selection = {"every": args.every, "start": args.start, "end": args.end}
    return [open_frames(video, **selection) for video in args.videos]


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"cannot write there ({error.strerror})", str(folder)) from error


def _folders(output: Path, videos: list[str]) -> list[Path]:
    """A folder for each video, named after it; of equal names the later ones get a number."""
    folders: list[Path] = []
    for video in videos:
        path = Path(video)
        name = path.name if path.is_dir() else path.stem
        if video.isdecimal() and not path.exists():
            name = f"camera{video}"
        name = re.sub(r"[^\w.-]+", "_", name).strip("._")  # a glob's own name may be stars alone
        name = name or (path.resolve() if path.is_dir() else path.resolve().parent).name
        folder, number = output / name, 2
        while folder in folders:
            folder, number = output / f"{name}-{number}", number + 1
        folders.append(folder)
    return folders


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
