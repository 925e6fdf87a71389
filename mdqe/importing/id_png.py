"""PNG images whose pixel values are object ids: a folder per video, an image per frame; 0 is background."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mdqe.annotations.files import FRAMES
from mdqe.annotations.problems import Problems
from mdqe.errors import InputError
from mdqe.importing.source import (
    OBJECT,
    Frame,
    Shape,
    Source,
    Video,
    check_image,
    image_files,
    image_folder,
    image_root,
    note_unannotated,
    video_folders,
)
from mdqe.video.id_images import masks, read_numbers


def recognises(source: Path) -> bool:
    """Whether the first image of the first folder has one channel."""
    first = next((paths[0] for paths in video_folders(source, ".png").values()), None)
    return first is not None and read_numbers(first) is not None


def open_source(source: Path, images: Path | None, notes: Problems, ignore: Collection[int] = ()) -> Source:
    """A source of such images; all pixel values except 0 and those of `ignore` are objects."""

    def shapes(path: Path, numbers: np.ndarray) -> list[Shape]:
        found = [(number, counts) for number, counts in masks(numbers) if number not in ignore]
        if len(ignore) and np.isin(numbers, list(ignore)).any():
            notes.add("frames with ignored pixel values, left out", str(path))
        elif numbers.max() == 255 and len(found) > 1:
            notes.add("frames with an object 255 and others; --ignore 255 leaves it out", str(path))
        return [Shape(number, OBJECT, counts) for number, counts in found]

    root = image_root(images, source / FRAMES, source.parent / FRAMES)
    return open_folders(in_folders_of_images(source, root), root, notes, shapes)


def in_folders_of_images(source: Path, root: Path) -> Iterator[tuple[str, list[Path], Path]]:
    """The name, the PNG images and the folder of the frames of each video of a source."""
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
    """A source of videos of PNG images. A frame has the name of its PNG image; frames without one are left out.

    Args:
        folders: the name of each video, its PNG images, and the folder of its frames in `root`.
        root: the folder of all frames.
        notes: receives the frames that are left out.
        shapes: makes the shapes from the path and the pixel values (H, W) of a PNG image.
    """

    def frames(paths: Sequence[Path], files: dict[str, str], folder: Path) -> Iterator[Frame]:
        for path in paths:
            if path.stem not in files:
                raise FileNotFoundError(f"{path} has no frame: there is no image {path.stem} in {folder}")
            numbers = read_numbers(path)
            if numbers is None:
                raise InputError(f"{path} has colours; expected one channel with object ids")
            check_image(root / files[path.stem], numbers.shape, str(path))
            yield Frame(files[path.stem], numbers.shape, shapes(path, numbers))

    videos = []
    for name, paths, folder in folders:
        files = image_files(root, folder)
        note_unannotated(notes, files, {path.stem for path in paths})
        videos.append(Video(name, len(paths), frames(paths, files, folder)))
    return Source(root, videos)
