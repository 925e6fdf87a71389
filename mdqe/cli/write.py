"""`mdqe write`: write results in other formats."""

import argparse
from pathlib import Path

from mdqe.cli import progress, say
from mdqe.cli.options import add_output, add_score_threshold, flag, number, option

HELP = "write results in other formats: PNG masks, DAVIS, COCO, BURST, MOTS, LabelMe, CVAT, YouTube-VIS"
EXAMPLE = (
    "mdqe write results/clip/instances.json -o masks --format davis\n"
    "  mdqe write results -o labelled --format labelme --polygons 1\n"
    "  mdqe write evaluation/results.json --data shapes -o frames.json --format coco"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    from mdqe.writing import FORMATS

    source = "instances.json of mdqe segment, its output folder, or results or annotations in the format of YouTube-VIS"
    parser.add_argument("results", metavar="RESULTS", type=Path, help=source)
    add_output(parser, "DIR|JSON", "the folder to write to; for coco, burst and ytvis, the file to write")
    formats = "; ".join(f"{name} ({meaning})" for name, meaning in FORMATS.items())
    parser.add_argument("--format", metavar="NAME", choices=FORMATS, required=True, help=formats)
    data = "annotations with the names, frames and categories of results in the format of YouTube-VIS"
    option(parser, "--data", "FILE|FOLDER", str, data)
    images = (
        "the folder of the frames, which contains a folder per video; files get the names of the frames (default: the "
        "names in the annotations, or 00000, 00001, …)"
    )
    option(parser, "--images", "DIR", Path, images)
    add_score_threshold(parser, "minimum score of a track")
    polygons = (
        "for cvat and labelme: write polygons instead of masks; their outline is at most this far from that of the mask"
    )
    option(parser, "--polygons", "PIXELS", number(0, 1000), polygons)
    flag(parser, "--overwrite", "replace files that exist in DIR")


def run(args: argparse.Namespace) -> int:
    """Write the files. The path of the folder or file goes to stdout; a list of what was left out goes to stderr."""
    from mdqe.annotations.files import find_data
    from mdqe.annotations.problems import Problems
    from mdqe.writing.clips import open_clips
    from mdqe.writing.formats import write_clips

    notes = Problems()
    data = None if args.data is None else find_data(args.data).annotations
    clips = open_clips(args.results, notes, data=data, images=args.images, threshold=args.score_threshold)
    options = {"polygons": args.polygons, "overwrite": args.overwrite}
    written = write_clips(clips.items, args.output, args.format, notes, **options)
    for _ in progress(written, f"writing {args.output}", clips.number, "video"):
        pass
    for line in notes.lines():
        say(line)
    print(args.output)
    return 0
