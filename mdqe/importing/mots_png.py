"""MOTS images, of KITTI MOTS and MOTSChallenge: 16-bit PNG images with pixel values 1000 · class + instance.

The format: https://www.vision.rwth-aachen.de/page/mots.
"""

from pathlib import Path

import numpy as np

from mdqe.annotations.files import FRAMES
from mdqe.annotations.mots import CATEGORIES, CLASS_STEP, IGNORED, expected_class, has_class
from mdqe.annotations.problems import Problems
from mdqe.errors import InputError
from mdqe.importing.id_png import in_folders_of_images, open_folders
from mdqe.importing.source import Shape, Source, image_root, video_folders
from mdqe.video.id_images import first_numbers, masks


def recognises(source: Path) -> bool:
    """Whether all pixel values of the first image with objects have a known class."""
    first = first_numbers(path for paths in video_folders(source, ".png").values() for path in paths)
    return first is not None and first[1] is not None and all(map(has_class, first[1]))


def open_source(source: Path, images: Path | None, notes: Problems) -> Source:
    """A source of such images: a folder per video, with the frames in a folder of the same name in `images`."""

    def shapes(path: Path, numbers: np.ndarray) -> list[Shape]:
        found = []
        for number, counts in masks(numbers):
            kind = number // CLASS_STEP
            if kind == IGNORED:
                notes.add("regions to ignore, left out", str(path))
            elif kind not in CATEGORIES:
                raise InputError(f"{path}: value {number}: class is {kind}; {expected_class()}")
            else:
                found.append(Shape(number, CATEGORIES[kind], counts))
        return found

    root = image_root(images, source / FRAMES, source.parent / FRAMES)
    return open_folders(in_folders_of_images(source, root), root, notes, shapes)._replace(categories=CATEGORIES)
