"""`mdqe make-data`: a synthetic set as frames and YouTube-VIS annotations."""

import argparse
import re
from pathlib import Path

HELP = "draw a synthetic set: videos of shapes that cross and hide one another, with exact masks"
EXAMPLE = "mdqe make-data -o shapes --videos 40 --frames 12 --seed 1 --difficulty standard"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="a new or an empty folder")
    parser.add_argument("--videos", metavar="N", type=int, default=40, help="how many (default: %(default)s)")
    parser.add_argument("--frames", metavar="T", type=int, default=12, help="of each (default: %(default)s)")
    parser.add_argument(
        "--seed", metavar="S", type=int, default=0, help="the same gives the same set (default: %(default)s)"
    )
    parser.add_argument(
        "--size", metavar="WxH", type=_size, default=(128, 192), help="of the frames, in pixels (default: 192x128)"
    )
    parser.add_argument(
        "--difficulty",
        choices=("easy", "standard", "hard"),
        default="standard",
        help="sets the three that follow (default: %(default)s)",
    )
    parser.add_argument("--objects", metavar="MIN-MAX", type=_range, help="shapes in a video, such as 2-6")
    parser.add_argument(
        "--similarity", metavar="0..1", type=float, help="share of the videos whose shapes are all alike"
    )
    parser.add_argument(
        "--occlusion", metavar="0..1", type=float, help="share of a video's shapes that are sent to cross one another"
    )
    parser.add_argument(
        "--images", choices=("jpg", "png"), default="jpg", help="png keeps every pixel as drawn (default: %(default)s)"
    )
    parser.add_argument("--mp4", action="store_true", help="write each video as an MP4 file too")


def run(args: argparse.Namespace) -> int:
    """Write the set; its annotation file goes to stdout. Bad input raises ValueError or OSError."""
    from contextlib import closing
    from dataclasses import replace

    from mdqe.cli.progress import shown
    from mdqe.data.scene import DIFFICULTIES
    from mdqe.data.synthetic_files import ANNOTATIONS, write_set

    dial = {name: getattr(args, name) for name in ("objects", "similarity", "occlusion")}
    paths = write_set(
        args.output,
        videos=args.videos,
        frames=args.frames,
        seed=args.seed,
        size=args.size,
        difficulty=replace(
            DIFFICULTIES[args.difficulty], **{name: value for name, value in dial.items() if value is not None}
        ),
        images=args.images,
        mp4=args.mp4,
    )
    with closing(paths):  # an interruption leaves nothing behind
        for _ in shown(paths, f"drawing {args.output}", max(args.videos, 0) * max(args.frames, 0)):
            pass
    print(args.output / ANNOTATIONS)
    return 0


def _size(text: str) -> tuple[int, int]:
    """Height and width of "WxH"."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a width and a height, such as 192x128")
    return int(found[2]), int(found[1])


def _range(text: str) -> tuple[int, int]:
    """The numbers of "2-6", or "4" twice."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of whole numbers, such as 2-6")
    return int(found[1]), int(found[2] or found[1])
