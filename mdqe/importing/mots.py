"""MOTS text files, of KITTI MOTS and MOTSChallenge: a line for each object and frame, with its mask as an RLE.

A line is "time_frame object_id class_id image_height image_width rle". Class 1 is car, 2 is pedestrian, and 10 marks
regions to ignore. The format: https://www.vision.rwth-aachen.de/page/mots.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from mdqe.annotations import mots
from mdqe.annotations.files import FRAMES
from mdqe.annotations.mots import CATEGORIES, IGNORED, read_lines
from mdqe.annotations.problems import Problems
from mdqe.errors import InputError
from mdqe.importing.source import (
    Frame,
    Shape,
    Source,
    Video,
    check_image,
    image_files,
    image_folder,
    image_root,
    image_size,
    numbers,
    video_folders,
)

_CHALLENGE = Path("gt", "gt.txt")
_FRAMES = "img1"


def recognises(source: Path) -> bool:
    """Whether it is a text file, a folder of such files, a folder with gt/gt.txt, or a folder of such folders."""
    first = next((path for path in _text_files(source).values() if path.stat().st_size), None)
    return first is not None and mots.recognises(first)


def open_source(source: Path, images: Path | None, notes: Problems) -> Source:
    """A source of such files.

    The frame of a line is the image whose name ends in its number: 0 is 000000.png in KITTI, 1 is 000001.jpg in
    MOTSChallenge.

    Args:
        source: VIDEO.txt or a folder of such files, whose frames are in folders of the same names in `images`; or a
            folder of VIDEO/gt/gt.txt, whose frames are in VIDEO/img1; or such a folder VIDEO.
        images: the folder of the frames of all videos.
        notes: receives the regions to ignore.
    """
    if (source / _CHALLENGE).is_file():
        choices = [source.resolve().parent]
    elif source.is_dir() and not video_folders(source, ".txt").get(source):
        choices = [source]
    else:
        choices = [source.parent / FRAMES, source.parent / "images"]
    root = image_root(images, *choices)
    videos = []
    for name, path in _text_files(source).items():
        folder = root / name / _FRAMES
        files = image_files(root, folder if folder.is_dir() else image_folder(root, name))
        if not files:
            raise FileNotFoundError(f"{root / name} has no images for {path}; --images names the folder of all")
        by_number = numbers(files)
        for file in sorted(set(files.values()) - set(by_number.values())):
            notes.add("images whose names do not end in a number, left out", file)
        videos.append(Video(name, len(by_number), _frames(path, by_number, root, notes)))
    return Source(root, videos, CATEGORIES)


def _text_files(source: Path) -> dict[str, Path]:
    """The text files by the names of their videos."""
    if source.is_file():
        return {source.stem: source} if source.suffix == ".txt" else {}
    if (source / _CHALLENGE).is_file():
        return {source.resolve().name: source / _CHALLENGE}
    if own := video_folders(source, ".txt").get(source):
        return {path.stem: path for path in own}
    found = (folder / _CHALLENGE for folder in sorted(source.iterdir()))
    return {path.parents[1].name: path for path in found if path.is_file()}


def _frames(path: Path, by_number: Mapping[int, str], root: Path, notes: Problems) -> Iterator[Frame]:
    lines = defaultdict(list)
    for number, line in read_lines(path):
        if number not in by_number:
            raise InputError(f'{line.label}: "time_frame" is {number}; no image in {root} has this number')
        lines[number].append(line)
    size = next((part[0].size for part in lines.values()), None)
    for number, file in by_number.items():
        if size is not None:
            check_image(root / file, size, str(path))
        shapes = []
        for line in lines[number]:
            if line.size != size:
                raise InputError(
                    f"{line.label}: the size of the image is {list(line.size)}; before, it was {list(size or ())}"
                )
            if line.kind == IGNORED:
                notes.add("regions to ignore, left out", line.label)
            else:
                shapes.append(Shape(line.object, CATEGORIES[line.kind], line.counts))
        yield Frame(file, size or image_size(root / file), shapes)
