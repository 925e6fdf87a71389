"""Image files as frames: a folder or a glob in natural order, or a single image."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from mdqe.errors import DependencyError, InputError
from mdqe.video.frames import Frames, VideoError, require_regular

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".png", ".bmp", ".webp", ".tif", ".tiff", ".tga", ".ppm", ".pgm",
    ".pnm",
)  # fmt: skip


def is_image(path: Path) -> bool:
    """Whether a file name has the extension of an image and does not begin with a dot."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that puts "frame 10" after "frame 9"."""
    parts = re.split(r"0*([0-9]+)", str(path).casefold())
    # A longer number is larger. Python converts only numbers of up to 4,300 digits, and a file can contain longer ones.
    return [(1, len(part), part) if i % 2 else (0, 0, part) for i, part in enumerate(parts)]


class ImageFrames(Frames):
    """Images as the frames of a video without times.

    The EXIF orientation is applied. Greyscale becomes RGB, and 16 bits become 8. Transparency is ignored: a pixel has
    its stored colour.
    """

    def __init__(self, paths: list[Path], name: str, **selection: Any) -> None:
        super().__init__(name, **selection)
        if self.start is not None or self.end is not None:
            raise InputError(f"start and end are seconds; the images of {name} have no times")
        self.paths = sorted(paths, key=natural_key)
        self.count = -(-len(paths) // self.every)
        self.size = self._load(self.paths[0]).shape[:2]

    def _items(self, start: Fraction) -> Iterator[tuple[None, Path]]:
        for path in self.paths:
            yield None, path

    def _load(self, item: Path) -> np.ndarray:
        return load_image(item)


def load_image(path: str | Path) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8, RGB.

    Raises:
        FileNotFoundError: there is no such file.
        VideoError: the file is damaged or not an image.
        DependencyError: pillow is not installed.
    """
    with opened_image(path) as image:
        if image.mode.startswith("I"):  # 16-bit greyscale
            values = np.asarray(image).astype(np.int64)
            if values.size and not 0 <= values.min() <= values.max() < 2**16:
                raise VideoError(f"{path} has values from {values.min()} to {values.max()}; expected 8 or 16 bits")
            grey = (values // 257).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        return np.array(image.convert("RGB"))


def require_one_image(image: "Image", path: str | Path | BinaryIO) -> None:
    """Raise a VideoError if an opened file has more than one image, or pixels without a known range."""
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format != "MPO":  # the other images of an MPO file are previews of the first
        raise VideoError(f"{path} contains {count} images; expected one image per file, or a video file")
    if image.mode == "F":
        raise VideoError(f"{path} has floating-point pixels, whose range is unknown; expected 8 or 16 bits")


@contextmanager
def opened_image(path: str | Path | BinaryIO) -> Iterator["Image"]:
    """Yield an image file as a Pillow image with its EXIF orientation applied. Its pixels are read inside the block.

    Raises:
        FileNotFoundError, VideoError, DependencyError: as `load_image`, also for errors inside the block.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise DependencyError("reading images needs pillow: pip install 'mdqe[video]'") from None
    try:
        if isinstance(path, str | Path):
            require_regular(Path(path))
        with Image.open(path) as opened:
            require_one_image(opened, path)
            yield ImageOps.exif_transpose(opened)
    except (FileNotFoundError, VideoError):
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise VideoError(f"{path} cannot be read: {reason}") from error
