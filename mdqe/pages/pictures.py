"""Frames as JPEG pictures inside a page, also with the masks of the prediction and the ground truth."""

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mdqe.errors import DependencyError, InputError
from mdqe.pages.shown import Shown, Side
from mdqe.results import rle
from mdqe.video.overlay import draw_instances, draw_names, track_color

QUALITY = 82
WIDTH = 320  # of pictures with masks
GROUND = (48, 48, 52)


def jpeg(image: np.ndarray, width: int) -> str:
    """A data URI of an image (H, W, 3) uint8 RGB, scaled down if it is wider than `width` pixels.

    Raises:
        DependencyError: Pillow is not installed.
    """
    Image = _pillow()
    picture = Image.fromarray(image)
    if picture.width > width:
        size = (width, max(1, round(picture.height * width / picture.width)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + b64encode(buffer.getvalue()).decode()


def read_frames(shown: Shown, source: str) -> Iterator[np.ndarray]:
    """The T frames of a video, (h, w, 3) uint8 RGB; they may be smaller or larger than the masks.

    Args:
        shown: the video.
        source: the folder that its "file_names" are relative to, the folder of its frames, or a video file.

    Raises:
        OSError, InputError: frames cannot be read or have another shape, or their number is not that of the masks.
        DependencyError: Pillow is not installed.
    """
    number, height, width = 0, *shown.size
    for image in _open(shown, source):
        if number == shown.length:
            if shown.partial:
                return
            raise InputError(f"{source} has more frames than the masks, which have {shown.length}")
        tall, wide = image.shape[:2]
        if abs(tall * width / (wide * height) - 1) > 0.02:
            raise InputError(f"{source}: frame {number} is {wide}x{tall}; the masks are {width}x{height}")
        yield image
        number += 1
    if number < shown.length:
        raise InputError(f"{source} has {number} frames; the masks have {shown.length}")


def _open(shown: Shown, source: str) -> Iterator[np.ndarray]:
    paths = named_frames(shown.file_names, Path(source))
    if paths:
        from mdqe.video.images import load_image

        yield from map(load_image, paths)
        return
    from mdqe.video.read import open_frames

    with closing(open_frames(source, **shown.selection).timed()) as frames:
        for frame in frames:
            yield frame.image


def named_frames(file_names: Sequence[str] | None, folder: Path) -> list[Path]:
    """The files of a video in the folder of the whole set; none if the folder is another one.

    Raises:
        FileNotFoundError: the first frame exists, a later one does not.
    """
    paths = [folder / name for name in file_names or ()]
    if not paths or not paths[0].is_file():
        return []
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist")
    return paths


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
    """Draw the prediction and the ground truth of a video.

    Args:
        sides: the prediction and the ground truth.
        size: (H, W) of the masks.
        frames: the indices of the frames to draw.
        load: returns a frame (h, w, 3) uint8; without it, masks are drawn on a plain background.

    Raises:
        OSError, InputError: a frame cannot be read.
        DependencyError: Pillow is not installed.
    """
    prediction, truth = sides
    pairs = []
    for t in frames:
        image = _scale(np.full((*size, 3), GROUND, np.uint8) if load is None else load(t))
        pairs.append(Pair(t, jpeg(_draw(image, prediction, t, size), WIDTH), jpeg(_draw(image, truth, t, size), WIDTH)))
    return pairs


def _scale(image: np.ndarray) -> np.ndarray:
    """The image at the width of the page, so that labels keep their size."""
    Image = _pillow()
    size = (WIDTH, max(1, round(image.shape[0] * WIDTH / image.shape[1])))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _draw(image: np.ndarray, side: Side, frame: int, size: tuple[int, int]) -> np.ndarray:
    """An image (h, w, 3) with the instances of a side; the masks (H, W) are resized to it."""
    seen = [(one, counts) for one in side.tracks if (counts := one.masks[frame]) is not None]
    masks = rle.decode([counts for _, counts in seen], size)  # (N, H, W)
    rows = np.arange(image.shape[0]) * size[0] // image.shape[0]
    columns = np.arange(image.shape[1]) * size[1] // image.shape[1]
    masks = masks[:, rows][:, :, columns]  # (N, h, w)
    is_visible = np.array([one.any() for one in masks], bool)
    tracks = [one for (one, _), visible in zip(seen, is_visible, strict=True) if visible]
    masks = masks[is_visible]
    boxes = rle.boxes(rle.encode(masks), image.shape[:2])
    ids = [one.id for one in tracks]
    names = [f"{side.category(one)} #{one.id}" for one in tracks]
    return draw_names(draw_instances(image, masks, boxes, ids), names, boxes, [track_color(i) for i in ids])


def _pillow() -> Any:
    """The module PIL.Image."""
    try:
        from PIL import Image
    except ImportError:
        raise DependencyError("pictures in pages need pillow: pip install 'mdqe[eval]'") from None
    return Image
