"""Drawing results: instances, initial query positions and activation maps on frames, and contact sheets.

Images are (H, W, 3) uint8 RGB. The functions return new images and do not change their arguments.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mdqe.errors import InputError
from mdqe.files import whole_file

if TYPE_CHECKING:
    from mdqe.results.instances import VideoInstances

FILL = 0.42  # opacity of an instance's colour
GREY = (150, 150, 150)
BACKGROUND, TEXT, GAP = (24, 24, 27), (228, 228, 231), 8  # of contact sheets
_HEAT = np.array(  # from black through violet, red and yellow to white, with increasing lightness
    [[0, 0, 4], [51, 13, 92], [120, 28, 109], [187, 55, 84], [237, 105, 37], [252, 181, 25], [252, 255, 164]], float
)


@cache
def track_color(track_id: int) -> tuple[int, int, int]:
    """The RGB colour of a track id. Colours of successive ids differ clearly and are visible on light and dark images.

    The hue advances by the golden angle in OKLCH, a perceptually uniform space, so that consecutive ids are spread
    evenly. Hues nearly repeat after 8, 13, 21 and 34 ids (Fibonacci numbers). The lightness therefore cycles with
    period 5, which divides none of them.
    """
    hue = np.deg2rad(137.508 * track_id + 25)
    lightness = (0.65, 0.57, 0.61, 0.69, 0.74)[track_id % 5]
    for chroma in np.arange(0.20, 0.0, -0.005):  # the highest chroma inside sRGB
        rgb = _oklab_to_linear_rgb(lightness, chroma * np.cos(hue), chroma * np.sin(hue))
        if rgb.min() >= 0 and rgb.max() <= 1:
            break
    encoded = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * np.maximum(rgb, 1e-9) ** (1 / 2.4) - 0.055)
    red, green, blue = np.clip(np.round(encoded * 255), 0, 255).astype(int).tolist()
    return red, green, blue


def draw_result(image: np.ndarray, result: "VideoInstances", frame: int, *, labels: bool = True) -> np.ndarray:
    """Draw the instances of one frame of a result, labelled with category, track id and score.

    Args:
        image: (H, W, 3) uint8.
        result: its masks have the size of the image.
        frame: index of the frame in the result.
        labels: False omits the labels, so that `draw_labels` can draw them later, over other marks.

    Raises:
        InputError: the image and the masks have different sizes.
    """
    if image.shape[:2] != result.size:
        raise InputError(f"the image is {image.shape[:2]}; the result's masks are {result.size}")
    seen = result[result.present[:, frame]]
    drawn = draw_instances(image, seen.frame_masks(frame), seen.boxes[:, frame], seen.track_ids)
    return draw_labels(drawn, result, frame) if labels else drawn


def draw_labels(image: np.ndarray, result: "VideoInstances", frame: int) -> np.ndarray:
    """Draw the labels of one frame of a result, such as "disc #3 0.90". Small instances come last, on top."""
    seen = result[result.present[:, frame]]
    boxes = seen.boxes[:, frame]
    seen = seen[np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(axis=1), kind="stable")]
    names = [f"{seen.category(i)} #{seen.track_ids[i]} {seen.scores[i]:.2f}" for i in range(len(seen))]
    return draw_names(image, names, seen.boxes[:, frame], [track_color(int(i)) for i in seen.track_ids])


def draw_instances(
    image: np.ndarray,
    masks: np.ndarray,
    boxes: np.ndarray,
    track_ids: Sequence[int] | np.ndarray,
) -> np.ndarray:
    """Tint and outline masks in the colours of their tracks, smaller masks over larger ones.

    Args:
        image: (H, W, 3) uint8.
        masks: (N, H, W) bool, none empty.
        boxes: (N, 4) xyxy in pixels; each contains its mask.
        track_ids: (N,).
    """
    drawn = image.copy()
    height, width = image.shape[:2]
    thickness = max(1, round(min(height, width) / 200))
    for i in np.argsort(-masks.sum(axis=(1, 2)), kind="stable"):
        left, top, right, bottom = (int(edge) for edge in boxes[i])
        view, mask = drawn[top:bottom, left:right], masks[i, top:bottom, left:right]
        color = np.array(track_color(int(track_ids[i])), np.float32)
        view[mask] = (view[mask] * (1 - FILL) + color * FILL + 0.5).astype(np.uint8)
        view[_edge(mask, thickness)] = color
    return drawn


def draw_queries(image: np.ndarray, points: np.ndarray, track_ids: np.ndarray) -> np.ndarray:
    """Draw the initial query positions of a frame as dots in the colours of the objects that they predict.

    Args:
        image: (H, W, 3) uint8.
        points: (Q, 2), xy in [0, 1] of this image; points outside, in the padding, are not drawn.
        track_ids: (Q,), -1 for a query without an object, which is drawn as a small grey dot below the others.
    """
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    height, width = image.shape[:2]
    radius = max(3.0, min(height, width) / 80)
    ring = max(1.0, radius / 5)
    for i in np.argsort(track_ids >= 0, kind="stable"):
        x, y = float(points[i, 0]) * width, float(points[i, 1]) * height
        if not (0 <= x < width and 0 <= y < height):
            continue
        led = track_ids[i] >= 0
        color, reach = (track_color(int(track_ids[i])), radius) if led else (GREY, radius * 0.5)
        if led:
            draw.circle((x, y), reach + 2 * ring, fill=(0, 0, 0))
            draw.circle((x, y), reach + ring, fill=(255, 255, 255))
        draw.circle((x, y), reach, fill=color)
    return np.array(canvas)


def draw_activation(image: np.ndarray, activation: np.ndarray, strength: float = 0.65) -> np.ndarray:
    """Draw the class-activation map of a frame over its greyscale version: dark is 0, bright yellow is 1.

    Args:
        image: (H, W, 3) uint8.
        activation: (h, w) in [0, 1], of this image without padding, at any resolution.
        strength: opacity of the heat colour where the map is 1; it decreases with the value of the map.
    """
    from PIL import Image

    height, width = image.shape[:2]
    small = Image.fromarray(np.ascontiguousarray(activation, np.float32))
    heat = np.clip(np.asarray(small.resize((width, height), Image.Resampling.BILINEAR)), 0, 1)
    steps = np.linspace(0, 1, len(_HEAT))
    colors = np.stack([np.interp(np.linspace(0, 1, 256), steps, channel) for channel in _HEAT.T], axis=1)
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    share = (strength * (0.35 + 0.65 * heat))[..., None]
    mixed = grey[..., None] * (1 - share) + colors.astype(np.float32)[np.round(heat * 255).astype(int)] * share
    return np.round(mixed).astype(np.uint8)


def _oklab_to_linear_rgb(lightness: float, a: float, b: float) -> np.ndarray:
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return np.array(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ]
    )


def _edge(mask: np.ndarray, thickness: int) -> np.ndarray:
    """The pixels of a mask within `thickness` of its outside. The border of the array counts as outside."""
    inner = np.pad(mask, 1)
    for _ in range(thickness):
        core = inner.copy()
        core[1:-1, 1:-1] &= inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        inner = core
    return mask & ~inner[1:-1, 1:-1]


@cache
def font(size: int) -> Any:
    """Pillow's built-in scalable font."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def text_color(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever has more contrast to the background."""
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def draw_names(
    image: np.ndarray, names: list[str], boxes: np.ndarray, colors: list[tuple[int, int, int]]
) -> np.ndarray:
    """Draw labels at the top left of their boxes, inside the image. Labels that would overlap are stacked."""
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    height, width = image.shape[:2]
    edge = min(height, width)
    face = font(max(8, min(11, edge // 13), round(edge / 30)))  # 11 pixels, or less where these cover too much
    ascent, descent = face.getmetrics()
    tall, margin = ascent + descent + 2, max(2, ascent // 5)
    taken: list[tuple[float, float, float, float]] = []
    for name, box, color in zip(names, boxes, colors, strict=True):
        name = name.replace(" ", "  ")  # the font has narrow spaces, and "#3 0.90" must not read as "#30.90"
        wide = draw.textlength(name, font=face) + 2 * margin
        left = max(0.0, min(float(box[0]), width - wide))
        top = float(box[1]) - tall if box[1] >= tall else float(box[1])
        for _ in range(len(taken)):
            hits = [t for t in taken if left < t[2] and t[0] < left + wide and top < t[3] and t[1] < top + tall]
            if not hits:
                break
            top = max(t[3] for t in hits) + 1
        top = max(0.0, min(top, height - tall))
        taken.append((left, top, left + wide, top + tall))
        draw.rectangle((left, top, left + wide - 1, top + tall - 1), fill=color)
        draw.text((left + margin, top + 1), name, font=face, fill=text_color(color))
    return np.array(canvas)


def choose_frames(number: int, count: int = 12) -> list[int]:
    """Up to `count` of `number` frame indices, evenly spaced, with the first and the last."""
    return sorted({round(i) for i in np.linspace(0, number - 1, min(count, number))}) if number > 0 else []


def contact_sheet(images: Sequence[np.ndarray], captions: Sequence[str], *, width: int = 1600) -> np.ndarray:
    """Arrange images of one size in rows, with a caption below each; (H', at most `width`, 3) uint8.

    Args:
        images: (H, W, 3) uint8 each, at least one; scaled down if a row would be wider than `width`, never up.
        captions: one short line for each image.
    """
    from PIL import Image, ImageDraw

    height, breadth = images[0].shape[:2]
    columns = min(len(images), 4 if breadth >= height else 6)
    wide = min(breadth, (width - GAP) // columns - GAP)
    high = max(1, round(height * wide / breadth))
    face = font(max(12, wide // 26))
    line = sum(face.getmetrics()) + 4
    rows = -(-len(images) // columns)
    sheet = Image.new(
        "RGB",
        (columns * (wide + GAP) + GAP, rows * (high + line + GAP) + GAP),
        BACKGROUND,
    )
    draw = ImageDraw.Draw(sheet)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = GAP + i % columns * (wide + GAP), GAP + i // columns * (high + line + GAP)
        sheet.paste(Image.fromarray(image).resize((wide, high), Image.Resampling.LANCZOS), (left, top))
        draw.text((left + 2, top + high + 1), caption, font=face, fill=TEXT)
    return np.array(sheet)


def shrink(image: np.ndarray, width: int = 520, pixel_aspect: float | Fraction = 1) -> np.ndarray:
    """Scale an image to square pixels and at most this width, so that the images of a sheet take little memory.

    Args:
        image: (H, W, 3) uint8.
        width: the maximum width.
        pixel_aspect: width of a pixel of the image divided by its height.
    """
    from PIL import Image

    height, breadth = image.shape[0], image.shape[1] * pixel_aspect
    wide = min(width, max(1, round(breadth)))
    size = (wide, max(1, round(height * wide / breadth)))
    if size == image.shape[1::-1]:
        return image
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def save_png(image: np.ndarray, path: str | Path) -> None:
    """Write an image as PNG. An error leaves no partial file."""
    from PIL import Image

    with whole_file(path) as partial:
        Image.fromarray(image).save(partial, format="PNG")
