"""`mdqe import`: convert annotations of videos in other formats to YouTube-VIS JSON."""

import argparse
import shlex
from pathlib import Path

from mdqe.cli import progress, say
from mdqe.cli.options import add_output, option, several, whole

HELP = "convert annotations of videos to YouTube-VIS JSON: masks as images, DAVIS, COCO, BURST, MOTS, LabelMe, CVAT"
EXAMPLE = (
    "mdqe import masks --images JPEGImages -o annotations.json\n"
    "  mdqe import DAVIS --videos DAVIS/ImageSets/2017/train.txt -o DAVIS/annotations.json\n"
    "  mdqe import labelled --format labelme --categories cat,dog -o annotations.json"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    from mdqe.importing import FORMATS

    parser.add_argument("source", metavar="SOURCE", type=Path, help="a file or folder in one of the formats")
    add_output(parser, "JSON", "the annotation file to write")
    formats = (
        "; ".join(f"{name} ({meaning})" for name, meaning in FORMATS.items()) + " (default: recognised from SOURCE)"
    )
    parser.add_argument("--format", metavar="NAME", choices=FORMATS, help=formats)
    images = (
        "the folder of the frames, which contains a folder per video (default: the standard folder of the format, or "
        "JPEGImages in or beside SOURCE)"
    )
    option(parser, "--images", "DIR", Path, images)
    names = (
        "categories with the ids 1, 2, …; others are left out (default: the ids of SOURCE, or all names in "
        "alphabetical order)"
    )
    option(parser, "--categories", "NAME,…", several(_name), names)
    option(parser, "--videos", "FILE", Path, "a text file with the names of the videos to import, one per line")
    ignored = "for id-png: pixel values that are not objects, such as 255, in addition to 0"
    option(parser, "--ignore", "NUMBER,…", several(whole(0)), ignored, default=())


def run(args: argparse.Namespace) -> int:
    """Write the file. Its path goes to stdout; a list of what was left out goes to stderr."""
    import json

    from mdqe.annotations.problems import Problems
    from mdqe.cli.segment import read_list
    from mdqe.files import regular_target, whole_file
    from mdqe.importing.document import DocumentBuilder
    from mdqe.importing.formats import open_source

    if not args.output.absolute().parent.is_dir():
        raise FileNotFoundError(f"no such folder: {args.output.absolute().parent}")
    regular_target(args.output)  # reported before any work
    notes = Problems()
    videos = None if args.videos is None else read_list(args.videos)
    source = open_source(args.source, args.format, args.images, notes, videos=videos, ignore=args.ignore)
    builder = DocumentBuilder(source, notes, args.categories)
    for _ in progress(builder.read(), f"reading {args.source}", len(builder)):
        pass
    document = builder.document()
    with whole_file(args.output) as partial:
        partial.write_text(json.dumps(document, separators=(",", ":")))
    for line in notes.lines():
        say(line)
    names = ", ".join(one["name"] for one in document["categories"])
    say(f"videos: {len(document['videos'])}; objects: {len(document['annotations'])}; categories: {names}")
    say(f"train and evaluate with --data {shlex.quote(f'{args.output}@{source.images}')}")
    print(args.output)
    return 0


def _name(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("a category has no name; expected names such as cat,dog")
    return text.strip()
