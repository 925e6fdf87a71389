"""The synthetic set: any number of videos of textured shapes that move, deform, cross and hide each other.

Scene `index` of a seed has the same bytes on every machine. `mdqe.data.scene` defines what a scene contains, and
`mdqe.data.synthetic_files` writes a set to disk.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mdqe.data.reproducible import cosine, sine
from mdqe.data.scene import DIFFICULTIES, Body, Difficulty, Scene, draw_scene
from mdqe.data.shapes import CATEGORIES, bearing, directions, harmonic, outline
from mdqe.errors import InputError
from mdqe.targets import ClipTargets

__all__ = [
    "CATEGORIES", "DIFFICULTIES", "Difficulty", "Drawing", "SyntheticClips", "clip_targets", "demo_scene", "draw_video",
    "generate", "render",
]  # fmt: skip

DEMO = 46_368, 14  # seed and index of the demo scene; do not train with this seed

_GROUND = 2.0  # units after which the texture of the background repeats
_SHADOW = (0.012, 0.022)  # offset of a shadow to the right and down, in units
_SOFT = 0.05  # width of the edge of a shadow, in units


class Drawing(NamedTuple):
    """Frames of a scene, and the masks of its N shapes.

    Attributes:
        frames: (T, H, W, 3) uint8, RGB.
        labels: (N,) int64, indices in CATEGORIES. The index of a shape is its identity.
        masks: (N, T, H, W) bool: the pixels at whose centre the shape is the nearest one.
        hidden: (N, T) float64: the share of a shape's pixels in the frame that nearer shapes hide; NaN where the shape
            is outside the frame.
    """

    frames: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    hidden: np.ndarray


# --- videos and clips -----------------------------------------------------------------------------------------------


def generate(seed: int, index: int = 0, **options: Any) -> tuple[np.ndarray, ClipTargets]:
    """Draw a video of the synthetic set; options and errors as in `draw_video`.

    Returns:
        frames (T, H, W, 3) uint8, RGB, and the targets of `clip_targets`.
    """
    drawing = draw_video(seed, index, **options)
    return drawing.frames, clip_targets(drawing)


def draw_video(
    seed: int,
    index: int = 0,
    *,
    frames: int = 12,
    size: tuple[int, int] = (128, 192),
    difficulty: str | Difficulty = "standard",
    start: int = 0,
    scene_frames: int | None = None,
) -> Drawing:
    """Draw a video of the synthetic set, or a part of it.

    Args:
        seed, index: the scene: whole numbers, 0 … 2⁶⁴ − 1.
        frames: T.
        size: H and W in pixels, at least 16 each. A scene looks the same at all sizes of the same aspect ratio.
        difficulty: one of DIFFICULTIES, or a custom one.
        start: the first frame to draw.
        scene_frames: the length of the scene, within which shapes cross; None: `start + frames`.

    Returns:
        The frames and, for each of N shapes, its category, its exact visible mask and the share of it that is hidden.

    Raises:
        ValueError: a value out of range.
    """
    length = start + frames if scene_frames is None else scene_frames
    if isinstance(difficulty, str):
        if difficulty not in DIFFICULTIES:
            raise InputError(f"difficulty is {difficulty!r}, expected {', '.join(DIFFICULTIES)} or a Difficulty")
        difficulty = DIFFICULTIES[difficulty]
    if not (0 <= seed < 2**64 and 0 <= index < 2**64):
        raise InputError(f"seed and index are {seed} and {index}, expected 0 to 2**64 - 1")
    if frames < 1 or start < 0 or start + frames > length:
        raise InputError(
            f"frames is {frames}, start is {start} and scene_frames is {length}, expected frames within the scene"
        )
    if min(size) < 16:
        raise InputError(f"size is {size[0]}x{size[1]}, expected a height and a width of at least 16")
    half = 0.5 * size[1] / min(size), 0.5 * size[0] / min(size)
    scene = draw_scene(seed, index, length, half, difficulty)
    return render(scene, range(start, start + frames), size)


def clip_targets(drawing: Drawing) -> ClipTargets:
    """The targets of a drawing: the K shapes that are visible in at least one of its frames.

    Labels are indices in CATEGORIES. Ids are indices of shapes in the scene, so a shape has the same id in all clips of
    a scene. Boxes enclose the visible pixels; the right and bottom edges are exclusive.
    """
    return ClipTargets.from_masks(torch.from_numpy(drawing.labels), torch.from_numpy(drawing.masks))


def demo_scene(frames: int = 48, size: tuple[int, int] = (256, 384)) -> Drawing:
    """A scene of standard difficulty for demonstrations."""
    seed, index = DEMO
    return draw_video(seed, index, frames=frames, size=size)


class SyntheticClips:
    """Clips of scenes that are drawn on demand (a `mdqe.data.loader.ClipSource`).

    Args:
        length: number of scenes; by default more than any training needs.
        seed: of the scenes. Use different seeds for training and validation.
        frames: T of a clip.
        size: H and W.
        difficulty: as in `draw_video`.
        scene_frames: length of the scenes that clips are cut from.
        flip: probability of a horizontal flip.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(
        self,
        length: int = 2**40,
        seed: int = 0,
        *,
        frames: int = 4,
        size: tuple[int, int] = (128, 192),
        difficulty: str | Difficulty = "standard",
        scene_frames: int = 16,
        flip: float = 0.0,
    ) -> None:
        self.length, self.seed, self.frames, self.size = length, seed, frames, size
        self.difficulty, self.scene_frames, self.flip = difficulty, scene_frames, flip
        if length < 1:
            raise InputError(f"length is {length}, expected at least 1")
        if not 0 <= flip <= 1:
            raise InputError(f"flip is {flip}, expected 0 to 1")
        self.clip(0, torch.Generator())  # checks the rest

    def __len__(self) -> int:
        return self.length

    def clip(self, index: int, generator: torch.Generator) -> tuple[Tensor, ClipTargets]:
        """A clip of scene `index`: frames (T, 3, H, W) uint8 and targets. `generator` chooses its start."""
        if not 0 <= index < self.length:
            raise IndexError(f"scene {index} of {self.length}")
        starts = max(1, self.scene_frames - self.frames + 1)
        drawing = draw_video(
            self.seed,
            index,
            frames=self.frames,
            size=self.size,
            difficulty=self.difficulty,
            start=int(torch.randint(starts, (), generator=generator)),
            scene_frames=self.scene_frames,
        )
        if torch.rand((), generator=generator) < self.flip:
            masks = np.ascontiguousarray(drawing.masks[..., ::-1])
            drawing = drawing._replace(frames=drawing.frames[:, :, ::-1], masks=masks)
        frames = torch.from_numpy(np.ascontiguousarray(drawing.frames.transpose(0, 3, 1, 2)))  # (T, 3, H, W)
        return frames, clip_targets(drawing)


# --- rendering ------------------------------------------------------------------------------------------------------


class _Cutout(NamedTuple):
    """A shape as if nothing hid it: a region (h, w) of the frame that contains it, and its P drawn pixels."""

    place: tuple[slice, slice]  # rows and columns of the region
    covers: np.ndarray  # (h, w) bool: the pixels whose centre is inside the shape
    shade: np.ndarray  # (h, w), 0 … 1: the shadow of the shape
    drawn: tuple[np.ndarray, np.ndarray]  # rows and columns (P,) of the drawn pixels
    opacity: np.ndarray  # (P,), 0 … 1
    color: np.ndarray  # (3, P), 0 … 255


def render(scene: Scene, frames: range, size: tuple[int, int]) -> Drawing:
    """Render frames of a scene with exact masks, from the background to the nearest shape.

    Args:
        size: H and W in pixels.
    """
    height, width = size
    unit = float(min(size))
    ground = scene.ground.tile(round(_GROUND * unit))
    tiles = [texture.tile(max(24, round(0.5 * unit))) for texture in scene.textures]
    count = len(scene.bodies)
    images = np.empty((len(frames), height, width, 3), np.uint8)
    masks = np.zeros((count, len(frames), height, width), bool)
    whole = np.zeros((count, len(frames)), np.int64)
    for i, t in enumerate(frames):
        image = _draw_ground(scene, ground, t, size)
        front = np.full(size, -1, np.int8)  # index of the nearest shape
        for k in scene.depths:
            cutout = _cut_out(scene, k, tiles, t, size)
            if cutout is not None:
                _composite(image[(slice(None), *cutout.place)], cutout)
                front[cutout.place][cutout.covers] = k
                whole[k, i] = np.count_nonzero(cutout.covers)
        images[i] = np.minimum(image + 0.5, 255).transpose(1, 2, 0)  # (3, H, W) → (H, W, 3)
        np.equal(front, np.arange(count, dtype=np.int8)[:, None, None], out=masks[:, i])
    visible = np.count_nonzero(masks, axis=(2, 3))
    hidden = np.where(whole > 0, 1 - visible / np.maximum(whole, 1), np.nan)
    labels = np.array([body.label for body in scene.bodies], np.int64)
    return Drawing(images, labels, masks, hidden)


def _draw_ground(scene: Scene, tile: np.ndarray, t: int, size: tuple[int, int]) -> np.ndarray:
    """The background, (3, H, W) float32, 0 … 255, by bilinear sampling of its tile."""
    camera, unit, edge = scene.camera, float(min(size)), tile.shape[1]
    sampled = tile
    for axis, centre in ((1, float(camera.y[t])), (2, float(camera.x[t]))):  # rows, then columns
        pixels = np.arange(size[axis - 1]) + 0.5 - 0.5 * size[axis - 1]
        place = (pixels / (unit * float(camera.zoom[t])) + centre + 0.5 * _GROUND) * (edge / _GROUND) - 0.5
        first = np.floor(place)
        share = (place - first).astype(np.float32)
        share = share[:, None] if axis == 1 else share
        first = first.astype(np.int64) % edge
        before = sampled.take(first, axis=axis)
        sampled = before + (sampled.take((first + 1) % edge, axis=axis) - before) * share
    return scene.ground.paint(*sampled)


def _cut_out(scene: Scene, k: int, tiles: list[np.ndarray], t: int, size: tuple[int, int]) -> _Cutout | None:
    """Shape k at frame t; None if neither it nor its shadow can be in the frame."""
    body, camera, unit = scene.bodies[k], scene.camera, float(min(size))
    scale = unit * float(camera.zoom[t])
    centre_x = (float(body.x[t]) - float(camera.x[t])) * scale + 0.5 * size[1]
    centre_y = (float(body.y[t]) - float(camera.y[t])) * scale + 0.5 * size[0]
    radius, stretch = float(body.radius[t]) * scale, float(body.stretch[t])
    edge = _edge(body, t)
    margin = float(edge.max()) * max(stretch, 1 / stretch) * radius + (_SOFT + max(_SHADOW)) * unit + 2
    rows, columns = _span(centre_y, margin, size[0]), _span(centre_x, margin, size[1])
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    right = ((np.arange(columns.start, columns.stop) + (0.5 - centre_x)) / radius).astype(np.float32)
    down = ((np.arange(rows.start, rows.stop) + (0.5 - centre_y)) / radius).astype(np.float32)
    turn = body.angle[t : t + 1]
    cos, sin = float(cosine(turn)[0]), float(sine(turn)[0])
    own_x = (cos / stretch) * right + (sin / stretch) * down[:, None]
    own_y = (cos * stretch) * down[:, None] - (sin * stretch) * right
    inward = _inward(edge, own_x, own_y) * radius
    down_at, right_at = drawn = np.nonzero(inward > -0.5)
    depth = inward[drawn]
    texture, tile = scene.textures[body.texture], tiles[body.texture]
    level, light = _sample(tile, 0.5 * own_x[drawn] + body.offset[0], 0.5 * own_y[drawn] + body.offset[1])
    lit, gloss = _light(right[right_at], down[down_at], depth / (0.04 * unit))
    return _Cutout(
        (rows, columns),
        covers=inward > 0,
        shade=_shade(inward, unit),
        drawn=(down_at, right_at),
        opacity=np.minimum(depth + 0.5, 1),
        color=np.minimum(texture.paint(level, light * lit * body.tone) + gloss, 255),
    )


def _span(centre: float, margin: float, edge: int) -> slice:
    """The pixels of one axis that are within `margin` of `centre`."""
    return slice(max(0, int(np.floor(centre - margin))), min(edge, int(np.ceil(centre + margin))))


def _edge(body: Body, t: int) -> np.ndarray:
    """(STEPS,) float64: the deformed outline at frame t, in radii."""
    (cos2, sin2), (cos3, sin3) = harmonic(2), harmonic(3)
    (a, b), (c, d) = body.bends[:, :, t].tolist()
    return outline(body.label) * (1 + a * cos2 + b * sin2 + c * cos3 + d * sin3)


def _inward(edge: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to an outline, in radii: positive exactly inside it, and accurate near the edge."""
    after = np.roll(edge, -1)
    x_step, y_step = np.roll(directions(), -1, axis=1) - np.roll(directions(), 1, axis=1)
    slope = (after - np.roll(edge, 1)) / (edge * np.sqrt(x_step * x_step + y_step * y_step))
    facing = (1 / np.sqrt(1 + slope * slope)).astype(np.float32)  # cosine between the edge's normal and the ray
    place = bearing(x, y)
    first = place.astype(np.int32)
    reach = edge.astype(np.float32)[first] + (after - edge).astype(np.float32)[first] * (place - first)
    return (reach - np.sqrt(x * x + y * y)) * facing[first]


def _sample(tile: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(2, P): a texture's tile (2, n, n) at P points, bilinear; the tile repeats after one unit."""
    edge = tile.shape[1]
    pixels = tile.reshape(2, -1)  # (2, n · n)
    u, v = u * edge, v * edge
    left, top = np.floor(u), np.floor(v)
    u, v = u - left, v - top
    left, top = left.astype(np.int32) % edge, top.astype(np.int32) % edge
    right, below = (left + 1) % edge, (top + 1) % edge * edge
    top = top * edge
    upper, lower = pixels.take(top + left, axis=1), pixels.take(below + left, axis=1)
    upper += (pixels.take(top + right, axis=1) - upper) * u
    lower += (pixels.take(below + right, axis=1) - lower) * u
    return upper + (lower - upper) * v


def _light(right: np.ndarray, down: np.ndarray, inward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factor of the colour and gloss added to it, for light from the upper left; the edge is darker."""
    rim = np.minimum(np.maximum(inward, 0), 1)
    rim = rim * (2 - rim)
    slant = np.minimum(np.maximum(-0.10 * right - 0.16 * down, -0.2), 0.2)
    x, y = right + 0.3, down + 0.36
    gloss = np.maximum(1 - (x * x + y * y) * 3.2, 0)
    return (0.98 + slant) * (0.55 + 0.45 * rim), 46 * gloss * gloss


def _shade(inward: np.ndarray, unit: float) -> np.ndarray:
    """Darkness of a shape's shadow, 0 … 1: its blurred outline, shifted to the right and down."""
    right, down = (round(part * unit) for part in _SHADOW)
    height, width = inward.shape
    dark = np.minimum(np.maximum(0.6 + inward / (_SOFT * unit), 0), 1)
    shade = np.zeros_like(dark)
    shade[down:, right:] = dark[: max(0, height - down), : max(0, width - right)]
    return shade * shade * (3 - 2 * shade)


def _composite(image: np.ndarray, cutout: _Cutout) -> None:
    """Draw the shadow of a shape and then the shape on its region (3, h, w) of the frame."""
    image *= 1 - 0.42 * cutout.shade
    pixels = (slice(None), *cutout.drawn)
    behind = image[pixels]
    image[pixels] = behind + (cutout.color - behind) * cutout.opacity
