"""Drawing on frames: instances, initial query positions, the class-activation map.

Every function takes an image (H, W, 3) uint8 RGB and gives a new one of the same size.
"""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mdqe.errors import InputError

if TYPE_CHECKING:
    from mdqe.results.instances import VideoInstances

FILL = 0.42  # how much of an instance's colour lies over its pixels
GREY = (150, 150, 150)
_HEAT = np.array(  # black over violet, red and yellow to white: lighter all the way, also without colour
    [[0, 0, 4], [51, 13, 92], [120, 28, 109], [187, 55, 84], [237, 105, 37], [252, 181, 25], [252, 255, 164]], float
)


@cache
def track_color(track_id: int) -> tuple[int, int, int]:
    """The RGB colour of a track: always the same, far from its neighbours', seen on light and on dark ground.

    Hues advance by the golden angle in OKLCH, where equal steps look equal, so any run of ids is spread evenly. After
    8, 13, 21 and 34 steps, Fibonacci numbers, they nearly return: lightness takes turns of five, which divides none.
    """
    hue = np.deg2rad(137.508 * track_id + 25)
    lightness = (0.65, 0.57, 0.61, 0.69, 0.74)[track_id % 5]
    for chroma in np.arange(0.20, 0.0, -0.005):  # the strongest that the screen can show
        rgb = _oklab_to_linear_rgb(lightness, chroma * np.cos(hue), chroma * np.sin(hue))
        if rgb.min() >= 0 and rgb.max() <= 1:
            break
    encoded = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * np.maximum(rgb, 1e-9) ** (1 / 2.4) - 0.055)
    red, green, blue = np.clip(np.round(encoded * 255), 0, 255).astype(int).tolist()
    return red, green, blue


def draw_result(image: np.ndarray, result: "VideoInstances", frame: int, *, labels: bool = True) -> np.ndarray:
    """The instances of one frame of a result (counted from its first), each labelled with id, class and score.

    Without `labels`, `draw_labels` can follow later, over what else is drawn.

    Raises:
        ValueError: the image is not of the result's size.
    """
    if image.shape[:2] != result.size:
        raise InputError(f"the image is {image.shape[:2]}; the result's masks are {result.size}")
    seen = result[result.present[:, frame]]
    drawn = draw_instances(image, seen.frame_masks(frame), seen.boxes[:, frame], seen.track_ids)
    return draw_labels(drawn, result, frame) if labels else drawn


def draw_labels(image: np.ndarray, result: "VideoInstances", frame: int) -> np.ndarray:
    """The labels alone of the instances of one frame of a result, those of small instances over those of large ones."""
    seen = result[result.present[:, frame]]
    boxes = seen.boxes[:, frame]
    seen = seen[np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(axis=1), kind="stable")]
    names = [f"{seen.track_ids[i]} {seen.category(i)} {seen.scores[i]:.2f}" for i in range(len(seen))]
    return draw_names(image, names, seen.boxes[:, frame], [track_color(int(i)) for i in seen.track_ids])


def draw_instances(
    image: np.ndarray,
    masks: np.ndarray,
    boxes: np.ndarray,
    track_ids: Sequence[int] | np.ndarray,
) -> np.ndarray:
    """Masks tinted and outlined in their track's colour, smaller ones over larger.

    Args:
        image: (H, W, 3) uint8.
        masks: (N, H, W) bool, none empty.
        boxes: (N, 4) xyxy in pixels, which contain the masks.
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
    """The initial query positions of a frame (paper, Fig. 5) as dots in the colour of the object they lead to.

    Args:
        image: (H, W, 3) uint8.
        points: (Q, 2), xy in [0, 1] of this image; points outside it (in a padded border) are left out.
        track_ids: (Q,), -1 for a query that leads to no object: a small grey dot, under the others.
    """
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    height, width = image.shape[:2]
    radius = max(3.0, min(height, width) / 80)
    for i in np.argsort(track_ids >= 0, kind="stable"):
        x, y = float(points[i, 0]) * width, float(points[i, 1]) * height
        if not (0 <= x < width and 0 <= y < height):
            continue
        led = track_ids[i] >= 0
        color, reach = (track_color(int(track_ids[i])), radius) if led else (GREY, radius * 0.5)
        if led:
            draw.circle((x, y), reach + 2.0, fill=(0, 0, 0))
            draw.circle((x, y), reach + 1.0, fill=(255, 255, 255))
        draw.circle((x, y), reach, fill=color)
    return np.array(canvas)


def draw_activation(image: np.ndarray, activation: np.ndarray, strength: float = 0.65) -> np.ndarray:
    """The class-activation map of a frame as heat over its greyscale picture: dark is 0, bright yellow is 1.

    Args:
        image: (H, W, 3) uint8.
        activation: (h, w) in [0, 1], of this image without padding, at any resolution.
        strength: how much of the heat colour lies over the picture where the map is 1; it falls with the map's value.
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
    """The mask's own pixels within `thickness` of its outside; the border of the array counts as outside."""
    inner = np.pad(mask, 1)
    for _ in range(thickness):
        core = inner.copy()
        core[1:-1, 1:-1] &= inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        inner = core
    return mask & ~inner[1:-1, 1:-1]


@cache
def font(size: int) -> Any:
    """Pillow's own scalable font."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def text_color(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever stands out more."""
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def draw_names(
    image: np.ndarray, names: list[str], boxes: np.ndarray, colors: list[tuple[int, int, int]]
) -> np.ndarray:
    """Labels on their colour at the top left of their boxes, inside the image, below one another where they meet."""
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    height, width = image.shape[:2]
    face = font(max(11, round(min(height, width) / 30)))
    ascent, descent = face.getmetrics()
    tall, margin = ascent + descent + 2, max(2, ascent // 5)
    taken: list[tuple[float, float, float, float]] = []
    for name, box, color in zip(names, boxes, colors, strict=True):
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
