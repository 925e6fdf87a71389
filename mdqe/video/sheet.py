"""A contact sheet: chosen frames of a video on one picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mdqe.atomic import whole_file
from mdqe.video.overlay import font

GROUND, INK, GAP = (24, 24, 27), (228, 228, 231), 8


def choose_frames(number: int, count: int = 12) -> list[int]:
    """Up to `count` of `number` frames, evenly spread, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, number - 1, min(count, number))}) if number > 0 else []


def contact_sheet(images: Sequence[np.ndarray], captions: Sequence[str], *, width: int = 1600) -> np.ndarray:
    """Images of one size in rows, each over its caption; (H', width or less, 3) uint8.

    Args:
        images: (H, W, 3) uint8 each, at least one; scaled down where a row would be wider than `width`, never up.
        captions: one short line each.
    """
    from PIL import Image, ImageDraw

    height, breadth = images[0].shape[:2]
    columns = min(len(images), 4 if breadth >= height else 6)
    wide = min(breadth, (width - GAP) // columns - GAP)
    high = max(1, round(height * wide / breadth))
    face = font(max(12, wide // 26))
    line = sum(face.getmetrics()) + 4
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (wide + GAP) + GAP, rows * (high + line + GAP) + GAP), GROUND)
    draw = ImageDraw.Draw(sheet)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = GAP + i % columns * (wide + GAP), GAP + i // columns * (high + line + GAP)
        sheet.paste(Image.fromarray(image).resize((wide, high), Image.Resampling.LANCZOS), (left, top))
        draw.text((left + 2, top + high + 1), caption, font=face, fill=INK)
    return np.array(sheet)


def shrink(image: np.ndarray, width: int = 520) -> np.ndarray:
    """The image at no more than that width, for a sheet: many small pictures instead of many large ones in memory."""
    from PIL import Image

    height, breadth = image.shape[:2]
    if breadth <= width:
        return image
    size = (width, max(1, round(height * width / breadth)))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def save_png(image: np.ndarray, path: str | Path) -> None:
    """Write an image as PNG, whole or not at all."""
    from PIL import Image

    with whole_file(path) as partial:
        Image.fromarray(image).save(partial, format="PNG")
