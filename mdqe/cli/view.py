"""`mdqe view`: make an HTML page for stepping through the results and the ground truth of a video."""

import argparse
import warnings
from pathlib import Path

from mdqe.cli import progress, say
from mdqe.cli.options import add_output, add_score_threshold, option, whole

HELP = "make an HTML page for stepping through the masks of a video, next to its ground truth"
EXAMPLE = (
    "mdqe view results/clip/instances.json --frames clip.mp4 -o clip.html\n"
    "  mdqe view evaluation/results.json --annotations shapes --video 3 -o 3.html"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    source = "instances.json of mdqe segment, results in the format of YouTube-VIS, or annotations"
    parser.add_argument("source", metavar="RESULTS|FILE[@IMAGES]|FOLDER", help=source)
    truth = "the ground truth, in the format of YouTube-VIS or OVIS, or a folder with annotations.json and JPEGImages"
    option(parser, "--annotations", "FILE[@IMAGES]|FOLDER", str, truth)
    frames = (
        "the frames under the masks: the folder of the set's images, a folder with the frames of this video, or a "
        "video file (default: the images of FILE@IMAGES or FOLDER, otherwise a plain background)"
    )
    option(parser, "--frames", "DIR|VIDEO", str, frames)
    option(parser, "--video", "NAME|ID", str, "the folder of the frames or the id of the video, if there are several")
    add_output(parser, "HTML", "the page to write; it needs no server and no network")
    option(parser, "--width", "PIXELS", whole(16), "maximum width of the frames; masks keep their size", default=640)
    add_score_threshold(parser, "initial minimum score of the page's slider")


def run(args: argparse.Namespace) -> int:
    """Write the page; its path goes to stdout."""
    from mdqe.files import whole_file
    from mdqe.pages.pictures import jpeg, read_frames
    from mdqe.pages.shown import read_shown
    from mdqe.pages.viewer import viewer

    if args.output.is_dir() or not args.output.parent.is_dir():  # reported before any work
        raise FileNotFoundError(f"{args.output} cannot be written: expected a new file's name in a folder that exists")
    source, images = _locate(args.source)
    truth, truth_images = (None, None) if args.annotations is None else _locate(args.annotations)
    source_of_frames = args.frames or truth_images or images
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        shown = read_shown(source, truth, args.video)
    for warning in caught:
        say(f"warning: {warning.message}")
    pictures = []
    if source_of_frames is None:
        say("no --frames: the masks are drawn on a plain background")
    else:
        frames = progress(read_frames(shown, source_of_frames), f"reading {source_of_frames}", shown.length)
        pictures = [jpeg(image, args.width) for image in frames]
    page = viewer(shown, pictures, score_threshold=args.score_threshold)
    with whole_file(args.output) as partial:
        partial.write_bytes(page)
    say(f"{args.output}: {shown.length} frames, {len(page) / 2**20:.1f} MiB")
    print(args.output)
    return 0


def _locate(name: str) -> tuple[Path, str | None]:
    """A file of results or annotations, and the folder of its images if the name includes that."""
    from mdqe.annotations.files import find_data

    files = find_data(name)
    return files.annotations, str(files.images) if files.names_images else None
