"""CVAT for video 1.1: an XML file per video, with tracks of polygons and masks.

VIDEO.xml, a folder of those, or a folder of VIDEO/annotations.xml with VIDEO/images beside, as CVAT packs them. Of two
shapes the one with the greater z_order hides the other. The format: https://docs.cvat.ai/docs/manual/advanced/xml_format.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from mdqe.annotations.problems import DataError, Problems
from mdqe.errors import InputError
from mdqe.importing.cvat_xml import Placed, Task, read_task
from mdqe.importing.source import (
    Frame,
    Shape,
    Source,
    Video,
    counts_of,
    image_files,
    image_folder,
    image_root,
    image_size,
    numbers,
    video_folders,
)
from mdqe.results import rle

_PACKED = "annotations.xml"
_FRAMES = "images"


def recognises(source: Path) -> bool:
    """Whether it is an XML file, or a folder of them or of folders with annotations.xml."""
    first = next(iter(_files(source).values()), None)
    if first is None:
        return False
    with first.open("rb") as file:
        return b"<annotations" in file.read(4096)


def open_source(source: Path, images: Path | None, notes: Problems) -> Source:
    """A source of such files.

    Frame 12 is the image whose name ends in 12, if every frame has such an image; else the thirteenth image, if there
    are as many as frames.

    Args:
        source: VIDEO.xml, a folder of those, or a folder of VIDEO/annotations.xml.
        images: the folder of the frames of all videos; those of VIDEO are in VIDEO/images or VIDEO, or in the folder
            itself. If it is not given, JPEGImages or images beside VIDEO.xml, or images beside annotations.xml.
        notes: takes shapes that are no polygons or masks, and frames in which shapes hide others.
    """
    base, found = source if source.is_dir() else source.parent, _files(source)
    packed = images is None and all(path.name == _PACKED for path in found.values())
    root = base if packed else image_root(images, base / "JPEGImages", base / _FRAMES)
    videos = []
    for name, path in found.items():
        folder = path.parent if packed else image_folder(root, name)
        if packed or (folder / _FRAMES).is_dir():
            folder = folder / _FRAMES
        if not folder.is_dir():
            raise FileNotFoundError(f"no such folder: {folder}, for the frames of {path}; --images names that of all")
        task = read_task(path, notes)
        files = _order(image_files(root, folder), task, folder)
        videos.append(Video(name, task.length, _frames(task, files, root, notes)))
    return Source(root, videos)


def _files(source: Path) -> dict[str, Path]:
    """The XML files by the names of their videos."""
    found = video_folders(source, ".xml")
    own = found.get(source, [source] if source.suffix == ".xml" else [])
    if own:
        return {path.resolve().parent.name if path.name == _PACKED else path.stem: path for path in own}
    return {folder.name: folder / _PACKED for folder, paths in found.items() if folder / _PACKED in paths}


def _order(files: Mapping[str, str], task: Task, folder: Path) -> list[str]:
    """The image of each frame."""
    by_number = numbers(files)
    for places in ([task.start + task.step * i for i in range(task.length)], range(task.length)):
        if all(place in by_number for place in places):
            return [by_number[place] for place in places]
    if len(files) != task.length:
        raise InputError(f"{folder} has {len(files)} images; {task.path} is of {task.length} frames")
    return list(files.values())


def _frames(task: Task, files: list[str], root: Path, notes: Problems) -> Iterator[Frame]:
    size = task.size or image_size(root / files[0])
    for t, file in enumerate(files):
        placed = task.shapes.pop(t, [])
        counts = [_counts(task, one, size) for one in placed]
        if len({one.order for one in placed}) > 1 and (cut := _cut(placed, counts, size)) != counts:
            notes.add("frames in which shapes behind lose pixels to those in front (z_order)", file)
            counts = cut
        shapes = [Shape(one.track, one.label, held) for one, held in zip(placed, counts, strict=True)]
        yield Frame(file, size, shapes)


def _counts(task: Task, one: Placed, size: tuple[int, int]) -> str:
    """The run lengths of a shape."""
    if one.box is None:
        (counts,) = counts_of([one.segment], size)
        if isinstance(counts, DataError):
            raise InputError(f'{task.path}: {one.where}: "points": {counts}')
        return counts
    left, top, width, height = one.box
    if left + width > size[1] or top + height > size[0]:
        raise InputError(f"{task.path}: {one.where}: the mask reaches beyond the image, which is {size[1]}x{size[0]}")
    mask = np.zeros(size, bool)
    inside = np.repeat(np.arange(len(one.runs)) % 2 == 1, one.runs)  # row by row, background first
    mask[top : top + height, left : left + width] = inside.reshape(height, width)
    return rle.encode(mask[None])[0]


def _cut(placed: list[Placed], counts: list[str], size: tuple[int, int]) -> list[str]:
    """The run lengths without the pixels that shapes of a greater z_order hide; one mask decoded at a time."""
    hidden, cut = np.zeros(size, bool), list(counts)
    for order in sorted({one.order for one in placed}, reverse=True):
        front = hidden.copy()
        for i, one in enumerate(placed):
            if one.order == order:
                (mask,) = rle.decode([counts[i]], size)
                cut[i] = rle.encode((mask & ~hidden)[None])[0]
                front |= mask
        hidden = front
    return cut
