"""`mdqe make-data`: writes a synthetic data set as frames with YouTube-VIS annotations."""

import argparse

from mdqe.cli import progress, say
from mdqe.cli.options import add_output, flag, frame_size, number, option, seed, whole

HELP = "generate a synthetic data set: videos of shapes that cross and occlude one another, with exact masks"
EXAMPLE = "mdqe make-data -o shapes --videos 40 --frames 12 --seed 1 --difficulty standard"
_FRAMES, _LONG = 12, 48


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_output(parser, "DIR", "a new or an empty folder")
    option(parser, "--videos", "N", whole(1), "number of videos", default=40)
    frames = f"frames per video (default: {_FRAMES}, or {_LONG} with --difficulty occluded)"
    option(parser, "--frames", "T", whole(1), frames)
    option(parser, "--seed", "S", seed, "seed of all random numbers", default=0)
    option(parser, "--size", "WxH", frame_size, "size of the frames in pixels", default="192x128")
    levels = "default of the next three options (default: %(default)s)"
    parser.add_argument(
        "--difficulty", choices=("easy", "standard", "hard", "occluded"), default="standard", help=levels
    )
    option(parser, "--objects", "MIN-MAX", _range, "shapes per video, such as 2-6")
    option(parser, "--similarity", "0..1", number(0, 1), "fraction of videos in which all shapes look alike")
    occlusion = "fraction of the shapes of a video whose paths cross those of others"
    option(parser, "--occlusion", "0..1", number(0, 1), occlusion)
    images = "format of the frames; png is lossless (default: %(default)s)"
    parser.add_argument("--images", choices=("jpg", "png"), default="jpg", help=images)
    flag(parser, "--mp4", "also write each video as an MP4 file")


def run(args: argparse.Namespace) -> int:
    """Write the data set, and print its annotation file; how much its shapes are occluded goes to stderr."""
    from contextlib import closing
    from dataclasses import replace

    from mdqe.annotations.files import load_json
    from mdqe.data.occlusion import OVIS, occlusion_shares, occlusion_table
    from mdqe.data.scene import DIFFICULTIES
    from mdqe.data.synthetic_files import ANNOTATIONS, write_set

    given = {name: getattr(args, name) for name in ("objects", "similarity", "occlusion")}
    frames = args.frames or (_LONG if args.difficulty == "occluded" else _FRAMES)
    paths = write_set(
        args.output,
        videos=args.videos,
        frames=frames,
        seed=args.seed,
        size=args.size,
        difficulty=replace(
            DIFFICULTIES[args.difficulty], **{name: value for name, value in given.items() if value is not None}
        ),
        images=args.images,
        mp4=args.mp4,
    )
    with closing(paths):  # an interruption removes the partial folder
        for _ in progress(paths, f"drawing {args.output}", args.videos * frames):
            pass
    path = args.output / ANNOTATIONS
    document = load_json(path, str(path)).document
    if document["annotations"]:
        say("occluded masks and objects, %:")
        say(occlusion_table({args.output.name: occlusion_shares(document), "OVIS": OVIS}))
    print(path)
    return 0


def _range(text: str) -> tuple[int, int]:
    """(2, 6) of "2-6", or (4, 4) of "4"."""
    first, _, last = text.partition("-")
    convert = whole(1)
    return convert(first), convert(last or first)
