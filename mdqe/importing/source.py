"""The common form of all formats, one frame at a time, and how formats find their files."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mdqe.annotations.masks import Mask, decode, pack, read_mask
from mdqe.annotations.problems import Problems
from mdqe.data.images import WRONG_SIZE, image_problem
from mdqe.errors import InputError, printable
from mdqe.results import rle
from mdqe.video.images import is_image, natural_key

OBJECT = "object"
"""The category of objects in formats without categories."""


class Shape(NamedTuple):
    """An object, or a part of one, in a frame."""

    identity: int | str
    """The same in every frame of the video, among the objects of a category."""
    category: str
    counts: str
    """Its mask, as a compressed RLE."""
    is_crowd: bool = False
    score: float = 1.0


class Frame(NamedTuple):
    """A frame and its shapes."""

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
    """Names by id, if the format has them."""
    path: Path = Path()
    """What was opened."""


def video_folders(source: Path, suffix: str) -> dict[Path, list[Path]]:
    """Files with a suffix in natural order, by folder: the folders in `source` that have any, otherwise `source`."""

    def files(folder: Path) -> list[Path]:
        found = (path for path in folder.iterdir() if path.suffix.lower() == suffix and not path.name.startswith("."))
        return sorted(found, key=natural_key)

    if not source.is_dir():
        return {}
    visible = (path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
    folders = sorted(visible, key=natural_key)
    found = {folder: paths for folder in folders if (paths := files(folder))}
    return found or ({source: own} if (own := files(source)) else {})


def image_root(given: Path | None, *choices: Path) -> Path:
    """The folder of all frames: the given one, or the first of the choices that exists.

    Raises:
        FileNotFoundError: it does not exist.
    """
    found = given if given is not None else next((one for one in choices if one.is_dir()), None)
    if found is None:
        raise FileNotFoundError(f"no such folder: {choices[0]}, for the frames; --images names it")
    if not found.is_dir():
        raise FileNotFoundError(f"no such folder: {found}")
    return found


def image_folder(root: Path, name: str) -> Path:
    """The folder of a video's frames: the one with its name, or `root` itself if that contains images.

    Raises:
        FileNotFoundError: there are no frames in either.
    """
    if (root / name).is_dir():
        return root / name
    if any(is_image(path) for path in root.iterdir()):
        return root
    raise FileNotFoundError(
        f"no such folder: {root / name}, for the frames of {name}; --images names the folder of all"
    )


def image_files(root: Path, folder: Path) -> dict[str, str]:
    """The images of a folder in natural order, relative to `root`, by their names without extension.

    Raises:
        InputError: two images differ only in their extension, as frames and masks in one folder.
    """
    files: dict[str, str] = {}
    for path in sorted(filter(is_image, folder.iterdir()), key=natural_key):
        if path.stem in files:
            raise InputError(
                f"{folder} has {Path(files[path.stem]).name} and {path.name}; expected one image for each name; "
                "--images names a folder of frames only"
            )
        files[path.stem] = path.relative_to(root).as_posix()
    return files


def with_empty_frames(notes: Problems, files: Mapping[str, str], paths: Collection[str]) -> list[str]:
    """The names of all frames of a video, with those that have no file of detections, which are noted.

    Args:
        notes: receives them.
        files: the images, of `image_files`.
        paths: the names of the files of detections. Some without an image are an error later.
    """
    if any(name not in files for name in paths):
        return list(paths)
    for name, file in files.items():
        if name not in paths:
            notes.add("images without a file, taken as frames without detections", file)
    return list(files)


def note_unannotated(notes: Problems, files: Mapping[str, str], annotated: Collection[str]) -> None:
    """Note the images, of `image_files`, that have no annotations; they may or may not contain objects."""
    for stem, file in files.items():
        if stem not in annotated:
            notes.add("images without annotations, left out", file)


def numbers(files: Mapping[str, str]) -> dict[int, str]:
    """The images, of `image_files`, whose names end in a number, by this number: 12 for "frame_000012"."""
    return {int(found[0]): file for stem, file in files.items() if (found := re.search(r"[0-9]{1,18}$", stem))}


def check_image(path: Path, size: tuple[int, int], masks: str) -> None:
    """Check the header of an image of H, W, before masks of that size are made.

    Args:
        path: the image.
        size: H and W of the masks.
        masks: what errors call the masks.

    Raises:
        InputError: it is missing or damaged, or the masks have another size.
    """
    if (problem := image_problem((path, size))) is not None:
        kind, example = problem
        if kind == WRONG_SIZE:
            kind = f"{masks} is for frames of {size[1]}x{size[0]}; its frame has another size"
        raise InputError(printable(f"{kind}: {example}", 1000))


def image_size(path: Path) -> tuple[int, int]:
    """H and W of an image, with its EXIF orientation applied."""
    from mdqe.video.images import load_image

    height, width = load_image(path).shape[:2]
    return height, width


def compressed(masks: Sequence[Mask | None], size: tuple[int, int]) -> Iterator[str | InputError]:
    """Masks of a file as compressed RLEs; an error instead of an invalid mask."""
    for packed in pack(masks, size):
        yield packed if isinstance(packed, InputError) else rle.encode(decode([packed], size))[0]


def polygon_rle(polygons: Any, size: tuple[int, int]) -> str:
    """The compressed RLE of polygons, as in COCO's files or packed.

    Raises:
        InputError: they are not polygons, or extend far beyond the frame.
    """
    return str(next(compressed([read_mask(polygons, list(size))], size)))


def union(counts: Iterable[str], size: tuple[int, int]) -> str:
    """The RLE of the union of masks."""
    return rle.encode(rle.decode(list(counts), size).any(axis=0, keepdims=True))[0]
