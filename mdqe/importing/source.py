"""What every format becomes on its way to YouTube-VIS JSON, a frame at a time; and how formats find their files."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mdqe.annotations.masks import Segment, decode, pack
from mdqe.annotations.problems import DataError, Problems
from mdqe.results import rle
from mdqe.video.images import is_image, natural_key

OBJECT = "object"
"""The category of objects whose format has none."""


class Shape(NamedTuple):
    """An object, or a part of one, in a frame."""

    identity: int | str
    """The same in every frame of the video, among the objects of a category."""
    category: str
    counts: str
    """Its mask, as compressed run lengths."""
    crowd: bool = False


class Frame(NamedTuple):
    """A frame and what is in it."""

    file: str
    """Relative to the folder of images, with forward slashes."""
    size: tuple[int, int]
    """H and W."""
    shapes: list[Shape]


class Video(NamedTuple):
    """A video whose frames are read one after the other."""

    name: str
    length: int
    frames: Iterator[Frame]


class Source(NamedTuple):
    """Annotations of videos, opened but not read."""

    images: Path
    """The folder that the frames' files are relative to."""
    videos: list[Video]
    categories: Mapping[int, str] | None = None
    """Names by id, where the format says them."""


def video_folders(source: Path, suffix: str) -> dict[Path, list[Path]]:
    """Files with a suffix in natural order, by their folder: of each folder in `source` that has any, else its own."""

    def files(folder: Path) -> list[Path]:
        found = (path for path in folder.iterdir() if path.suffix.lower() == suffix and not path.name.startswith("."))
        return sorted(found, key=natural_key)

    if not source.is_dir():
        return {}
    folders = sorted((path for path in source.iterdir() if path.is_dir()), key=natural_key)
    found = {folder: held for folder in folders if (held := files(folder))}
    return found or ({source: own} if (own := files(source)) else {})


def image_root(given: Path | None, *choices: Path) -> Path:
    """The folder of all frames: the one that is given, or the first of the choices that is there.

    Raises:
        FileNotFoundError: it is not there.
    """
    found = given if given is not None else next((one for one in choices if one.is_dir()), None)
    if found is None:
        raise FileNotFoundError(f"no such folder: {choices[0]}, for the frames; --images names it")
    if not found.is_dir():
        raise FileNotFoundError(f"no such folder: {found}")
    return found


def image_folder(root: Path, name: str) -> Path:
    """The folder of a video's frames: the one of its name, or `root` itself where that holds images.

    Raises:
        FileNotFoundError: it is neither.
    """
    if (root / name).is_dir():
        return root / name
    if any(is_image(path) for path in root.iterdir()):
        return root
    raise FileNotFoundError(f"no such folder: {root / name}, for the frames of {name}; --images names that of all")


def image_files(root: Path, folder: Path) -> dict[str, str]:
    """Images of a folder in natural order, relative to `root`, by their names without extension."""
    paths = sorted(filter(is_image, folder.iterdir()), key=natural_key)
    return {path.stem: path.relative_to(root).as_posix() for path in paths}


def note_unannotated(notes: Problems, files: Mapping[str, str], annotated: Collection[str]) -> None:
    """Note the images, of `image_files`, that have no annotations: nothing says that they are empty."""
    for stem, file in files.items():
        if stem not in annotated:
            notes.add("images without annotations, left out", file)


def numbers(files: Mapping[str, str]) -> dict[int, str]:
    """Of `image_files`, those whose names end in a number, by it: "frame_000012" has 12."""
    return {int(found[0]): file for stem, file in files.items() if (found := re.search(r"[0-9]+$", stem))}


def image_size(path: Path) -> tuple[int, int]:
    """H and W of an image, turned as its EXIF orientation says."""
    from mdqe.video.images import load_image

    height, width = load_image(path).shape[:2]
    return height, width


def counts_of(segments: Sequence[Segment], size: tuple[int, int]) -> Iterator[str | DataError]:
    """Compressed run lengths of masks that a file holds as polygons or run lengths; what is wrong with each that is."""
    for packed in pack(segments, size):
        if isinstance(packed, DataError):
            yield packed
        else:
            yield rle.encode(decode([packed], size))[0]


def union(counts: Iterable[str], size: tuple[int, int]) -> str:
    """The run lengths of all masks' pixels."""
    return rle.encode(rle.decode(list(counts), size).any(axis=0, keepdims=True))[0]
