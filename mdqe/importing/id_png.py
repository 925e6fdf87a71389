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
    image_size,
    note_unannotated,
    video_folders,
    with_empty_frames,
)
from mdqe.video.id_images import masks, read_numbers


def recognises(source: Path) -> bool:
    """Whether the first image of the first folder has one channel."""
    first = next((paths[0] for paths in video_folders(source, ".png").values()), None)
    return first is not None and read_numbers(first) is not None


def open_source(
    source: Path, images: Path | None, notes: Problems, ignore: Collection[int] = (), *, identities: bool = True
) -> Source:
    """A source of such images; all pixel values except 0 and those of `ignore` are objects.

    Without `identities`, they are detections, and a frame without a PNG image is a frame without detections.
    """

    def shapes(path: Path, numbers: np.ndarray) -> list[Shape]:
        found = [(number, counts) for number, counts in masks(numbers) if number not in ignore]
        if len(ignore) and np.isin(numbers, list(ignore)).any():
            notes.add("frames with ignored pixel values, left out", str(path))
        elif numbers.max() == 255 and len(found) > 1:
            notes.add("frames with an object 255 and others; --ignore 255 leaves it out", str(path))
        return [Shape(number, OBJECT, counts) for number, counts in found]

    root = image_root(images, source / FRAMES, source.parent / FRAMES)
    return open_folders(in_folders_of_images(source, root), root, notes, shapes, every_frame=not identities)


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
    *,
    every_frame: bool = False,
) -> Source:
    """A source of videos of PNG images. A frame has the name of its PNG image; frames without one are left out.

    Args:
        folders: the name of each video, its PNG images, and the folder of its frames in `root`.
        root: the folder of all frames.
        notes: receives the frames that are left out.
        shapes: makes the shapes from the path and the pixel values (H, W) of a PNG image.
        every_frame: frames without a PNG image are not left out, but have no shapes.
    """

    def frames(names: Sequence[str], paths: dict[str, Path], files: dict[str, str], folder: Path) -> Iterator[Frame]:
        for name in names:
            if name not in files:
                raise FileNotFoundError(f"{paths[name]} has no frame: there is no image {name} in {folder}")
            if name not in paths:
                yield Frame(files[name], image_size(root / files[name]), [])
                continue
            numbers = read_numbers(paths[name])
            if numbers is None:
                raise InputError(f"{paths[name]} has colours; expected one channel with object ids")
            check_image(root / files[name], numbers.shape, str(paths[name]))
            yield Frame(files[name], numbers.shape, shapes(paths[name], numbers))

    videos = []
    for video, images, folder in folders:
        files, paths = image_files(root, folder), {path.stem: path for path in images}
        names = with_empty_frames(notes, files, paths) if every_frame else list(paths)
        if not every_frame:
            note_unannotated(notes, files, paths)
        videos.append(Video(video, len(names), frames(names, paths, files, folder)))
    return Source(root, videos)
