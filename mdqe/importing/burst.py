"""BURST: the JSON of annotations or results, with a mask for each track and annotated frame.

The frames are in IMAGES/DATASET/SEQUENCE or IMAGES/SPLIT/DATASET/SEQUENCE. Only annotated frames are read.
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from mdqe.annotations.burst import ALL_CLASSES, Burst, BurstSequence, read_burst
from mdqe.annotations.files import FRAMES
from mdqe.annotations.problems import Problems
from mdqe.errors import InputError
from mdqe.importing.source import Frame, Shape, Source, Video, check_image, image_root
from mdqe.results import rle

_FRAMES = "frames"


def recognises(source: Path) -> bool:
    """Whether it is such a file, or a folder with all_classes.json."""
    if source.is_dir():
        return (source / ALL_CLASSES).is_file()
    if source.suffix != ".json" or not source.is_file() or not source.stat().st_size:
        return False
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return all(text.find(key) >= 0 for key in (b'"sequences"', b'"annotated_image_paths"'))


def open_source(source: Path, images: Path | None, notes: Problems) -> Source:
    """A source of such a file.

    Args:
        source: the file, or a folder with all_classes.json.
        images: the folder of the frames; by default JPEGImages or frames beside the file.
        notes: receives the frames that are not annotated.
    """
    path = source / ALL_CLASSES if source.is_dir() else source
    read = read_burst(path, results=True)
    used = {category for one in read.sequences for category in one.tracks.values()}
    used |= {mask.category for one in read.sequences for frame in one.frames for mask in frame.masks}
    categories = {number: read.categories.get(number, str(number)) for number in sorted({*read.categories, *used})}
    root = image_root(images, path.parent / FRAMES, path.parent / _FRAMES)
    videos = []
    for one in read.sequences:
        folder = _folder(root, read, one)
        annotated = {frame.file for frame in one.frames}
        for file in one.files:
            if file not in annotated:
                notes.add("images without annotations, left out", (folder / file).as_posix())
        if one.frames:
            frames = _frames(read.name, root, folder, one, categories)
            videos.append(Video(Path(*one.key).as_posix(), len(one.frames), frames))
    return Source(root, videos, categories)


def _folder(root: Path, read: Burst, one: BurstSequence) -> Path:
    """The folder of the frames of a sequence, relative to the root."""
    choices = [Path(*one.key), *([Path(read.split, *one.key)] if read.split else [])]
    found = next((choice for choice in choices if (root / choice).is_dir()), None)
    if found is None:
        raise FileNotFoundError(
            f"no such folder: {root / choices[0]}, for the frames of {one.label} of {read.name}; "
            "--images names the folder of all"
        )
    return found


def _frames(name: str, root: Path, folder: Path, one: BurstSequence, categories: Mapping[int, str]) -> Iterator[Frame]:
    if one.size is None:
        raise InputError(f'{name}: {one.label} has no "height" and "width"')
    for frame in one.frames:
        file = (folder / frame.file).as_posix()
        check_image(root / file, one.size, f"{name}: {one.label}")
        shapes = []
        for mask in frame.masks:
            try:
                rle.run_lengths([mask.counts], one.size)
            except ValueError as error:
                reason = str(error).replace(" of mask 0", "")
                raise InputError(f"{name}: {one.label}: track {mask.track} in {frame.file}: {reason}") from None
            shapes.append(Shape(int(mask.track), categories[mask.category], mask.counts))
        yield Frame(file, one.size, shapes)
