"""Frames as JPEG pictures inside a page."""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path

import numpy as np

from mdqe.errors import DependencyError, InputError
from mdqe.pages.shown import Shown

QUALITY = 82


def jpeg(image: np.ndarray, width: int) -> str:
    """A data URI of an image (H, W, 3) uint8 RGB, scaled down where it is wider than `width` pixels.

    Raises:
        ImportError: pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise DependencyError("pictures in pages need pillow: pip install 'mdqe[eval]'") from None
    picture = Image.fromarray(image)
    if picture.width > width:
        size = (width, max(1, round(picture.height * width / picture.width)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + b64encode(buffer.getvalue()).decode()


def read_frames(shown: Shown, source: str) -> Iterator[np.ndarray]:
    """The T frames of a video, (h, w, 3) uint8 RGB, perhaps smaller or larger than the masks.

    Args:
        shown: the video.
        source: the folder that its "file_names" are relative to, the folder of its frames alone, or a video file.

    Raises:
        OSError, ValueError, ImportError: they cannot be read, are of another shape, or not one for each mask.
    """
    number, height, width = 0, *shown.size
    for image in _open(shown, source):
        if number == shown.length:
            if shown.partial:
                return
            raise InputError(f"{source} holds more frames than the {shown.length} of the masks")
        tall, wide = image.shape[:2]
        if abs(tall * width / (wide * height) - 1) > 0.02:
            raise InputError(f"{source}: frame {number} is {wide}x{tall}; the masks are {width}x{height}")
        yield image
        number += 1
    if number < shown.length:
        raise InputError(f"{source} holds {number} frames; the masks are of {shown.length}")


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
    """The files of a video below a folder; none where the folder is not that of the whole set.

    Raises:
        FileNotFoundError: the first frame is there, a later one is not.
    """
    paths = [folder / name for name in file_names or ()]
    if not paths or not paths[0].is_file():
        return []
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there")
    return paths
