"""Images whose pixel values are the ids of objects; 0 is background."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mdqe.results import rle
from mdqe.video.images import opened_image

_PER_BATCH = 16  # masks in memory
_CHANNELS = ("1", "L", "P", "I", "I;16", "I;16B")


def read_numbers(path: Path) -> np.ndarray | None:
    """The pixel values (H, W) of an image, int64; None if it has colours.

    Raises:
        VideoError, FileNotFoundError, DependencyError: as `mdqe.video.images.load_image`.
    """
    with opened_image(path) as image:
        return np.asarray(image).astype(np.int64) if image.mode in _CHANNELS else None


def first_numbers(paths: Iterable[Path]) -> tuple[Path, list[int] | None] | None:
    """The first image with colours or with objects, and the values of its objects in ascending order; None: colours.

    Raises:
        VideoError, FileNotFoundError, DependencyError: as `mdqe.video.images.load_image`.
    """
    for path in paths:
        numbers = read_numbers(path)
        if numbers is None:
            return path, None
        if values := np.unique(numbers[numbers != 0]).tolist():
            return path, values
    return None


def masks(numbers: np.ndarray) -> list[tuple[int, str]]:
    """The values in an image (H, W) except 0, in ascending order, each with the RLE of its pixels."""
    columns = np.ascontiguousarray(numbers.T)  # (W, H)
    values = np.unique(columns)
    values = values[values != 0]
    counts = []
    for start in range(0, len(values), _PER_BATCH):
        chunk = values[start : start + _PER_BATCH]
        counts += rle.encode((columns == chunk[:, None, None]).transpose(0, 2, 1))  # (chunk, H, W)
    return list(zip(values.tolist(), counts, strict=True))
