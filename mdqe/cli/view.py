"""`mdqe view`: results and ground truth of a video as one HTML page to step through."""

import argparse
import warnings
from pathlib import Path

from mdqe.cli import say
from mdqe.errors import InputError

HELP = "make a page to step through a video's masks, beside the ground truth where it is given"
EXAMPLE = (
    "mdqe view results/clip/instances.json --frames clip.mp4 -o clip.html\n"
    "  mdqe view evaluation/results.json --annotations shapes/annotations.json --frames shapes/JPEGImages --video 3 "
    "-o 3.html"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "source",
        metavar="RESULTS|ANNOTATIONS",
        type=Path,
        help="instances.json of mdqe segment, results in the form of YouTube-VIS, or annotations alone",
    )
    parser.add_argument(
        "--annotations", metavar="FILE", type=Path, help="the ground truth, in the form of YouTube-VIS or OVIS"
    )
    parser.add_argument(
        "--frames",
        metavar="DIR|VIDEO",
        help="the frames to show under the masks: the set's folder of images (JPEGImages), a folder with those of this "
        "video, or a video file; without it, masks stand on plain ground",
    )
    parser.add_argument(
        "--video", metavar="NAME|ID", help="which one, where the file holds several: the folder of its frames or its id"
    )
    parser.add_argument(
        "-o", "--output", metavar="HTML", type=Path, required=True, help="the page; it needs no server and no network"
    )
    parser.add_argument(
        "--width",
        metavar="PIXELS",
        type=_pixels,
        default=640,
        help="frames are scaled down to it, masks keep their size (default: %(default)s)",
    )
    parser.add_argument(
        "--score-threshold",
        metavar="SCORE",
        type=float,
        default=0.3,
        help="least score shown at first; the page has a slider (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the page; its path goes to stdout."""
    from mdqe.atomic import whole_file
    from mdqe.cli.progress import shown as progress
    from mdqe.pages.pictures import jpeg, read_frames
    from mdqe.pages.shown import read_shown
    from mdqe.pages.viewer import viewer

    if not 0 <= args.score_threshold <= 1:
        raise InputError(f"--score-threshold is {args.score_threshold}; expected 0 to 1")
    if args.output.is_dir() or not args.output.parent.is_dir():  # told before any work
        raise FileNotFoundError(f"{args.output} cannot be written: expected a new file's name in a folder that exists")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        shown = read_shown(args.source, args.annotations, args.video)
    for warning in caught:
        say(f"warning: {warning.message}")
    pictures = []
    if args.frames is None:
        say("no --frames: the masks stand on plain ground")
    else:
        frames = progress(read_frames(shown, args.frames), f"reading {args.frames}", shown.length)
        pictures = [jpeg(image, args.width) for image in frames]
    page = viewer(shown, pictures, score_threshold=args.score_threshold)
    with whole_file(args.output) as partial:
        partial.write_bytes(page)
    say(f"{args.output}: {shown.length} frames, {len(page) / 2**20:.1f} MiB")
    print(args.output)
    return 0


def _pixels(text: str) -> int:
    if not text.isdecimal() or int(text) < 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 16")
    return int(text)
