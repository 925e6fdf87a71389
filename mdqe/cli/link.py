"""`mdqe link`: give persistent identities to the detections of single frames."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdqe.cli import progress, say
from mdqe.cli.options import add_device, add_output, add_score_threshold, flag, given_path, number, option, whole
from mdqe.errors import InputError

if TYPE_CHECKING:
    from mdqe.annotations.problems import Problems
    from mdqe.importing.source import Frame, Video
    from mdqe.results.instances import VideoInstances
    from mdqe.video.frames import Frames

HELP = "give persistent identities to the masks of single frames from any detector"
EXAMPLE = (
    "mdqe link detections.json --frames street.mp4 -o results\n"
    "  mdqe link labelled --images frames -o results --rejoin\n"
    "  mdqe link street.mp4 --detector torchvision:maskrcnn_resnet50_fpn_v2 -o results"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    from mdqe.importing.detections import DETECTION_FORMATS

    source = "detections in one of the formats, or with --detector a video file or a folder of images"
    parser.add_argument("source", metavar="INPUT", type=given_path, help=source)
    add_output(parser, "DIR", "output folder, in which each video gets a folder with its results")
    formats = "; ".join(f"{name} ({meaning})" for name, meaning in DETECTION_FORMATS.items())
    parser.add_argument(
        "--format", metavar="NAME", choices=DETECTION_FORMATS, help=f"{formats} (default: recognised from INPUT)"
    )
    option(
        parser, "--images", "DIR", given_path, "the folder of the frames (default: the standard folder of the format)"
    )
    frames = "the frames under the overlay: a video file or a folder of images (default: the images of INPUT, if any)"
    option(parser, "--frames", "DIR|VIDEO", str, frames)
    group = parser.add_argument_group("detector")
    detector = "find the masks first: torchvision:NAME, a Mask R-CNN whose weights are in the folder of torch.hub"
    option(group, "--detector", "NAME", str, detector)
    add_device(group)
    group = parser.add_argument_group("identities")
    absence = "an object that returns after at most so many frames keeps its identity if it fits"
    option(group, "--max-absence", "FRAMES", whole(1, 10**5), absence, default=30)
    start = "a detection that fits no track starts one if its score is above this value"
    option(group, "--start-score", "SCORE", number(0, 1), start, default=0.5)
    flag(group, "--rejoin", "afterwards, undo exchanges of identities, and join tracks also after longer absences")
    group = parser.add_argument_group("results")
    add_score_threshold(group, "minimum mean score of an instance")
    flag(group, "--no-video", "write no overlay")
    flag(group, "--no-labels", "draw the instances without category, track id and score")


def run(args: argparse.Namespace) -> int:
    """Link each video; the folders of the results go to stdout."""
    from mdqe.files import check_writable

    length = None
    if args.frames is not None:  # an error here comes before the linking, which may take hours
        from mdqe.video.read import open_frames

        length = open_frames(args.frames).count
    if args.detector:
        if args.format or args.images:
            raise InputError("--format and --images are for files of detections, not for --detector")
        from mdqe.cli.link_detector import chosen_device, detected

        args.device = chosen_device(args.device)
        videos = [detected(args.source, args.detector, args.device)]
        origin: Any = args.frames or str(args.source)
        images = notes = None
    else:
        from mdqe.annotations.problems import Problems
        from mdqe.importing.detections import open_detections

        notes = Problems()
        source = open_detections(args.source, args.format, args.images, notes, length)
        videos, origin, images = source.videos, args.frames, source.images
    if args.frames and len(videos) > 1:
        raise InputError(
            f"--frames is for one video; {args.source} has {len(videos)}: name the folder of their frames with --images"
        )
    folders = [folder_name(video.name, args.source) for video in videos]
    if twice := sorted({name for name in folders if folders.count(name) > 1}):
        raise InputError(f"{args.source} has several videos whose results would be in {args.output / twice[0]}")
    check_writable(args.output)
    for video, name in zip(videos, folders, strict=True):
        result, files = link_frames(video, args, notes)
        if images is not None and origin is None and files and all((images / file).is_file() for file in files):
            frames: Any = [str(images / file) for file in files]
        else:
            frames = origin
        folder = args.output / name
        write_results(result.above(args.score_threshold), frames, folder, args)
        print(folder)
    if notes is not None:
        for line in notes.lines():
            say(line)
    return 0


def folder_name(video: str, source: Path) -> str:
    """The folder of a video's results; the name of the source for files that are in no folder."""
    if video.strip("."):
        return video.replace("/", "_")
    return Path(os.path.abspath(source)).stem or "video"  # also of "." and ".."; links keep their names


def link_frames(
    video: "Video", args: argparse.Namespace, notes: "Problems | None" = None
) -> "tuple[VideoInstances, list[str]]":
    """The instances of a video, and the files of its frames; `notes` receives what is left out."""
    import numpy as np

    from mdqe.inference.link_video import link
    from mdqe.results import rle

    categories: dict[str, int] = {}
    files: list[str] = []
    scores: list[list[float]] = []
    labels: list[list[int]] = []

    def masks() -> Any:
        first = None
        for frame in progress(video.frames, f"linking {video.name}", video.length):
            if min(frame.size) > 0:  # in results, the frames before the first detection have none
                first = first or frame
                check_size(args.source, frame, first)
            files.append(frame.file)
            shapes = [shape for shape in frame.shapes if not shape.is_crowd]
            if notes is not None and len(shapes) < len(frame.shapes):
                notes.add("frames with crowds, which are left out", frame.file)
            scores.append([shape.score for shape in shapes])
            labels.append([categories.setdefault(shape.category, len(categories)) for shape in shapes])
            found = [rle.to_coco(shape.counts, frame.size) for shape in shapes]
            yield found or np.zeros((0, *frame.size), bool)  # a frame without shapes has a size

    options = {"max_absence": args.max_absence, "start_score": args.start_score, "rejoin": args.rejoin}
    # Scores and labels of a frame are read after its masks.
    result = link(masks(), scores=iter_later(scores), labels=iter_later(labels), **options)
    return named(result, categories), files


def check_size(source: Path, frame: "Frame", first: "Frame") -> None:
    """Raise an InputError if a frame has another size than the first one."""
    if frame.size != first.size:
        raise InputError(
            f"{source}: frame {frame.file} is {frame.size[1]}x{frame.size[0]}; expected "
            f"{first.size[1]}x{first.size[0]}, the size of frame {first.file}"
        )


def iter_later(values: list[Any]) -> Any:
    """The items of a list that grows while it is read."""
    place = 0
    while place < len(values):
        yield values[place]
        place += 1


def named(result: "VideoInstances", categories: dict[str, int]) -> "VideoInstances":
    """The result with the names of its categories."""
    from dataclasses import replace

    return replace(result, categories=tuple(categories) or ("object",))


def write_results(result: "VideoInstances", frames: Any, folder: Path, args: argparse.Namespace) -> None:
    """Write instances.json, the overlay and the page of a video."""
    from dataclasses import replace

    from mdqe.cli.segment_video import Job, notes, render
    from mdqe.files import whole_file
    from mdqe.pages.shown import read_shown
    from mdqe.pages.viewer import viewer
    from mdqe.video.read import open_frames

    folder.mkdir(parents=True, exist_ok=True)
    opened = None if frames is None else open_frames(frames)
    if opened is not None:
        rate = opened.fps
        result = replace(result, fps=None if rate is None else float(rate))
    settings = {name: getattr(args, name) for name in ("max_absence", "start_score", "rejoin", "score_threshold")}
    path = folder / "instances.json"
    device = args.device if args.detector else "cpu"
    result.save(path, complete=True, **notes(str(args.source), args.detector or "mdqe link", device, **settings))
    say(f"{folder.name}: {len(result)} instances in {result.num_frames} frames")
    pictures: list[str] = []
    if opened is None:
        say(f"{folder.name}: no overlay: name the frames with --frames")
    else:
        job = Job(args.score_threshold, overlay=not args.no_video, labels=not args.no_labels)
        for remark in render(opened, result, folder, job):
            say(f"{folder.name}: {remark}")
        pictures, warning = pictures_of(open_frames(frames), result.num_frames)
        if warning is not None:
            say(f"warning: {folder.name}: {warning}")
    page = viewer(read_shown(path), pictures, score_threshold=args.score_threshold)
    with whole_file(folder / "page.html") as partial:
        partial.write_bytes(page)


def pictures_of(frames: "Frames", number: int) -> tuple[list[str], str | None]:
    """The pictures of the first frames for the page, and a warning if their number is not that of the detections.

    Args:
        frames: the frames.
        number: of the frames of the input, with or without detections.

    Returns:
        Data URIs, none if there are fewer frames; and the warning.
    """
    from contextlib import closing

    from mdqe.pages.pictures import jpeg

    pictures: list[str] = []
    with closing(frames.timed()) as timed:
        for frame in timed:
            if len(pictures) == number:
                exact = frames.count is not None and frames.count > number  # it is an estimate for video files
                count = frames.count if exact else f"more than {number}"
                return pictures, f"{frames.name} has {count} frames, and the input has {number}; the first are shown"
            pictures.append(jpeg(frame.image, 640))
    if len(pictures) < number:
        return [], f"{frames.name} has {len(pictures)} frames, and the input has {number}; the page has no pictures"
    return pictures, None
