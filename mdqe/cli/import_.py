"""`mdqe import`: annotations of videos in other formats as YouTube-VIS JSON."""

import argparse
from pathlib import Path

HELP = "make YouTube-VIS annotations of those that you have: masks as images, DAVIS, COCO, MOTS, LabelMe, CVAT"
EXAMPLE = (
    "mdqe import masks --images JPEGImages -o annotations.json\n"
    "  mdqe import DAVIS --videos DAVIS/ImageSets/2017/train.txt -o DAVIS/annotations.json\n"
    "  mdqe import labelled --format labelme --categories cat,dog -o annotations.json"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    from mdqe.importing import FORMATS

    parser.add_argument("source", metavar="SOURCE", type=Path, help="a file or folder in one of the formats")
    parser.add_argument("-o", "--output", metavar="JSON", type=Path, required=True, help="the annotation file to write")
    parser.add_argument(
        "--format",
        metavar="NAME",
        choices=FORMATS,
        help="; ".join(f"{name}: {meaning}" for name, meaning in FORMATS.items())
        + " (default: the one that SOURCE is recognised as)",
    )
    parser.add_argument(
        "--images",
        metavar="DIR",
        type=Path,
        help="the folder of the frames, with a folder per video in it (default: where the format has them, or "
        "JPEGImages in or beside SOURCE)",
    )
    parser.add_argument(
        "--categories",
        metavar="NAME,…",
        type=_names,
        help="these get the ids 1, 2, … and others are left out (default: the source's own ids, or all names in order)",
    )
    parser.add_argument(
        "--videos", metavar="FILE", type=Path, help="a text file of the names of the videos to take, one a line"
    )
    parser.add_argument(
        "--ignore",
        metavar="NUMBER,…",
        type=_numbers,
        default=(),
        help="of id-png: pixels with these numbers are no objects, such as 255; nor are those with 0",
    )


def run(args: argparse.Namespace) -> int:
    """Write the file; its path goes to stdout, what was left out to stderr."""
    import json

    from mdqe.annotations.problems import Problems
    from mdqe.atomic import whole_file
    from mdqe.cli import say
    from mdqe.cli.progress import shown
    from mdqe.importing.document import Gathering
    from mdqe.importing.formats import open_source

    if not args.output.absolute().parent.is_dir():
        raise FileNotFoundError(f"no such folder: {args.output.absolute().parent}")
    notes = Problems()
    videos = None if args.videos is None else args.videos.read_text(encoding="utf-8").split()
    source = open_source(args.source, args.format, args.images, notes, videos=videos, ignore=args.ignore)
    gathering = Gathering(source, notes, args.categories)
    for _ in shown(gathering.read(), f"reading {args.source}", len(gathering)):
        pass
    document = gathering.document()
    with whole_file(args.output) as partial:
        partial.write_text(json.dumps(document, separators=(",", ":")))
    for line in notes.lines():
        say(line)
    names = ", ".join(one["name"] for one in document["categories"])
    say(f"videos: {len(document['videos'])}; objects: {len(document['annotations'])}; categories: {names}")
    say(f"train with --data {args.output}@{source.images}; evaluate with --data {args.output} --images {source.images}")
    print(args.output)
    return 0


def _names(text: str) -> list[str]:
    names = [one.strip() for one in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of names, such as cat,dog")
    return names


def _numbers(text: str) -> frozenset[int]:
    if not all(one.strip().isdecimal() for one in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers, such as 254,255")
    return frozenset(map(int, text.split(",")))
