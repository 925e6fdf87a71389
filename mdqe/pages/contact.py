"""Prediction beside truth on chosen frames of a video, as pictures for a page."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mdqe.errors import DependencyError
from mdqe.pages.pictures import jpeg
from mdqe.pages.shown import Side
from mdqe.results import rle
from mdqe.video.overlay import draw_instances, draw_names, track_color

WIDTH = 320
GROUND = (48, 48, 52)


class Pair(NamedTuple):
    """One frame: data URIs of its pictures."""

    frame: int
    prediction: str
    truth: str


def compare_frames(
    sides: Sequence[Side],
    size: tuple[int, int],
    frames: Sequence[int],
    load: Callable[[int], np.ndarray] | None,
) -> list[Pair]:
    """Pictures of a video's prediction and truth.

    Args:
        sides: the prediction and the truth.
        size: (H, W) of the masks.
        frames: which.
        load: gives a frame (h, w, 3) uint8; without it masks stand on plain ground.

    Raises:
        OSError, ValueError, ImportError: a frame cannot be read, or pillow is not installed.
    """
    prediction, truth = sides
    pairs = []
    for t in frames:
        image = _scale(np.full((*size, 3), GROUND, np.uint8) if load is None else load(t))
        pairs.append(Pair(t, jpeg(_draw(image, prediction, t, size), WIDTH), jpeg(_draw(image, truth, t, size), WIDTH)))
    return pairs


def _scale(image: np.ndarray) -> np.ndarray:
    """The image at that width, so that labels are as large as the page shows them."""
    try:
        from PIL import Image
    except ImportError:
        raise DependencyError("pictures in pages need pillow: pip install 'mdqe[eval]'") from None
    size = (WIDTH, max(1, round(image.shape[0] * WIDTH / image.shape[1])))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _draw(image: np.ndarray, side: Side, frame: int, size: tuple[int, int]) -> np.ndarray:
    """The instances of a side on an image (h, w, 3), to whose size the masks (H, W) are taken."""
    seen = [(one, counts) for one in side.tracks if (counts := one.masks[frame]) is not None]
    masks = rle.decode([counts for _, counts in seen], size)  # (N, H, W)
    rows = np.arange(image.shape[0]) * size[0] // image.shape[0]
    columns = np.arange(image.shape[1]) * size[1] // image.shape[1]
    masks = masks[:, rows][:, :, columns]  # (N, h, w)
    held = np.array([one.any() for one in masks], bool)
    tracks = [one for (one, _), kept in zip(seen, held, strict=True) if kept]
    masks = masks[held]
    boxes = rle.boxes(rle.encode(masks), image.shape[:2])
    ids = [one.id for one in tracks]
    names = [f"{one.id} {side.category(one)}" for one in tracks]
    return draw_names(draw_instances(image, masks, boxes, ids), names, boxes, [track_color(i) for i in ids])
