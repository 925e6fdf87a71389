"""PNG images whose pixels are the numbers of objects: a folder per video, an image per frame, 0 where nothing is."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mdqe.annotations.problems import Problems
from mdqe.errors import InputError
from mdqe.importing.source import (
    OBJECT,
    Frame,
    Shape,
    Source,
    Video,
    image_files,
    image_folder,
    image_root,
    note_unannotated,
    video_folders,
)
from mdqe.results import rle
from mdqe.video.images import opened_image

IMAGES = "JPEGImages"
_AT_ONCE = 16  # masks in memory
_CHANNELS = ("1", "L", "P", "I", "I;16", "I;16B")


def recognises(source: Path) -> bool:
    """Whether the first image of the first folder has one channel."""
    first = next((paths[0] for paths in video_folders(source, ".png").values()), None)
    return first is not None and read_numbers(first) is not None


def open_source(source: Path, images: Path | None, notes: Problems, ignore: Collection[int] = ()) -> Source:
    """A source of such images; every number but 0 and those to ignore is an object."""

    def shapes(path: Path, numbers: np.ndarray) -> list[Shape]:
        found = [(number, counts) for number, counts in masks(numbers) if number not in ignore]
        if len(ignore) and np.isin(numbers, list(ignore)).any():
            notes.add("frames with numbers that were to be ignored, left out", str(path))
        elif numbers.max() == 255 and len(found) > 1:
            notes.add("frames with an object 255 among others; --ignore 255 leaves it out", str(path))
        return [Shape(number, OBJECT, counts) for number, counts in found]

    root = image_root(images, source / IMAGES, source.parent / IMAGES)
    return open_folders(in_folders_of_images(source, root), root, notes, shapes)


def in_folders_of_images(source: Path, root: Path) -> Iterator[tuple[str, list[Path], Path]]:
    """Name, PNG images and folder of frames of each video of a source."""
    for folder, paths in video_folders(source, ".png").items():
        if folder.resolve() != root.resolve():
            name = folder.resolve().name
            yield name, paths, image_folder(root, name)


def open_folders(
    folders: Iterable[tuple[str, list[Path], Path]],
    root: Path,
    notes: Problems,
    shapes: Callable[[Path, np.ndarray], list[Shape]],
) -> Source:
    """Videos of PNG images, each by its name, those images, and the folder of its frames in `root`.

    `shapes` makes them of an image's path and numbers (H, W). A frame's image has the name of its PNG image. Images
    without one are left out: nothing says that they are empty.
    """

    def frames(paths: Sequence[Path], files: dict[str, str], folder: Path) -> Iterator[Frame]:
        for path in paths:
            if path.stem not in files:
                raise FileNotFoundError(f"{path} has no frame: there is no image {path.stem} in {folder}")
            numbers = read_numbers(path)
            if numbers is None:
                raise InputError(f"{path} has colours; expected one channel, the numbers of objects")
            yield Frame(files[path.stem], numbers.shape, shapes(path, numbers))

    videos = []
    for name, paths, folder in folders:
        files = image_files(root, folder)
        note_unannotated(notes, files, {path.stem for path in paths})
        videos.append(Video(name, len(paths), frames(paths, files, folder)))
    return Source(root, videos)


def read_numbers(path: Path) -> np.ndarray | None:
    """The numbers (H, W) of an image, whole and not negative; None where it has colours.

    Raises:
        VideoError, FileNotFoundError, ImportError: as `mdqe.video.images.load_image`.
    """
    with opened_image(path) as image:
        return np.asarray(image).astype(np.int64) if image.mode in _CHANNELS else None


def masks(numbers: np.ndarray) -> list[tuple[int, str]]:
    """The numbers in an image (H, W) but 0, in ascending order, each with the run lengths of its pixels."""
    columns = np.ascontiguousarray(numbers.T)  # (W, H)
    held = np.unique(columns)
    held = held[held != 0]
    counts = []
    for start in range(0, len(held), _AT_ONCE):
        chunk = held[start : start + _AT_ONCE]
        counts += rle.encode((columns == chunk[:, None, None]).transpose(0, 2, 1))  # (chunk, H, W)
    return list(zip(held.tolist(), counts, strict=True))
