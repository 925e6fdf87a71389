"""DAVIS: palette images of object ids in Annotations/480p/VIDEO/00000.png, and frames in JPEGImages/480p/VIDEO.

The level of resolutions ("480p") may be missing. 255 is void: neither object nor background. DAVIS 2016 has one object
with the value 255 in greyscale images. The format: https://davischallenge.org.
"""

from pathlib import Path

import numpy as np

from mdqe.annotations.files import FRAMES
from mdqe.annotations.problems import Problems
from mdqe.errors import InputError
from mdqe.importing.id_png import open_folders
from mdqe.importing.source import OBJECT, Shape, Source, image_root, video_folders
from mdqe.video.id_images import masks
from mdqe.video.images import opened_image

ANNOTATIONS = "Annotations"
VOID = 255


def recognises(source: Path) -> bool:
    """Whether both folders exist, or the first one has PNG images in folders of videos; frames can be elsewhere."""
    annotations = source / ANNOTATIONS
    if not annotations.is_dir():
        return False
    return (source / FRAMES).is_dir() or any(next(annotations.glob(one), None) for one in ("*/*.png", "*/*/*.png"))


def open_source(source: Path, images: Path | None, notes: Problems) -> Source:
    """A source of such folders.

    Args:
        source: the folder that contains Annotations, that folder, or the folder of a resolution in it.
        images: the folder to use instead of JPEGImages.
        notes: receives frames with void pixels, and images without annotations.
    """

    def shapes(path: Path, numbers: np.ndarray) -> list[Shape]:
        found = masks(numbers)
        if [number for number, _ in found] == [VOID] and _is_grey(path):
            return [Shape(1, OBJECT, found[0][1])]
        if VOID in (number for number, _ in found):
            notes.add("frames with void pixels, left out", str(path))
        return [Shape(number, OBJECT, counts) for number, counts in found if number != VOID]

    annotations, level = _find(source)
    root = image_root(images, annotations.parent / FRAMES)
    frames = root / level.relative_to(annotations)
    folders = [(folder.name, paths, frames / folder.name) for folder, paths in video_folders(level, ".png").items()]
    if missing := [folder for *_, folder in folders if not folder.is_dir()]:
        raise FileNotFoundError(f"no such folder: {missing[0]}, for the frames of {level / missing[0].name}")
    return open_folders(folders, root, notes, shapes)


def _find(source: Path) -> tuple[Path, Path]:
    """The folder Annotations, and the folder in it, or itself, that contains the folders of the videos."""
    level = source / ANNOTATIONS
    if not level.is_dir():
        level = source.resolve()
    annotations = next((one for one in (level, level.parent) if one.name == ANNOTATIONS), None)
    if annotations is None:
        raise InputError(f"{source} has no folder {ANNOTATIONS}, as DAVIS has")
    if video_folders(level, ".png"):
        return annotations, level
    found = [one for one in sorted(level.iterdir()) if video_folders(one, ".png")]
    if len(found) > 1:
        raise InputError(f"{level} has {', '.join(one.name for one in found)}: name one of these folders as the source")
    return annotations, found[0] if found else level


def _is_grey(path: Path) -> bool:
    with opened_image(path) as image:
        return image.mode != "P"
