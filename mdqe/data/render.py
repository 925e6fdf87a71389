"""Drawing scenes of the synthetic set, with exact masks."""

from typing import NamedTuple

import numpy as np

from mdqe.data.reproducible import cosine, sine
from mdqe.data.scene import Body, Scene
from mdqe.data.shapes import bearing, directions, harmonic, outline

_GROUND = 2.0  # units that the background's texture spans before it repeats
_SHADOW = (0.012, 0.022)  # units a shadow lies to the right and down
_SOFT = 0.05  # units over which it fades


class Drawing(NamedTuple):
    """Frames of a scene and where its N bodies are in them.

    Attributes:
        frames: (T, H, W, 3) uint8, RGB.
        labels: (N,) int64, places in CATEGORIES; a body's number is its identity.
        masks: (N, T, H, W) bool: the pixels at whose centre a body is the nearest one.
        hidden: (N, T) float64: the share of a body's pixels in the picture that nearer bodies hide; NaN where it is
            outside the picture.
    """

    frames: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    hidden: np.ndarray


class _Cutout(NamedTuple):
    """A body as it would look if nothing hid it: a part (h, w) of the picture, and P pixels there that are drawn."""

    place: tuple[slice, slice]  # rows and columns of the part
    covers: np.ndarray  # (h, w) bool: the pixels whose centre lies in it
    shade: np.ndarray  # (h, w), 0 … 1: its shadow
    drawn: tuple[np.ndarray, np.ndarray]  # rows and columns (P,) of the pixels that it touches
    opacity: np.ndarray  # (P,), 0 … 1: how much it hides of what is behind it
    color: np.ndarray  # (3, P), 0 … 255


def render(scene: Scene, frames: range, size: tuple[int, int]) -> Drawing:
    """Draw some frames of a scene, (H, W) pixels each."""
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
        front = np.full(size, -1, np.int8)  # the nearest body's number
        for k in scene.depths:
            cutout = _cut_out(scene, k, tiles, t, size)
            if cutout is not None:
                _lay(image[(slice(None), *cutout.place)], cutout)
                front[cutout.place][cutout.covers] = k
                whole[k, i] = np.count_nonzero(cutout.covers)
        images[i] = np.minimum(image + 0.5, 255).transpose(1, 2, 0)  # (3, H, W) → (H, W, 3)
        np.equal(front, np.arange(count, dtype=np.int8)[:, None, None], out=masks[:, i])
    seen = np.count_nonzero(masks, axis=(2, 3))
    hidden = np.where(whole > 0, 1 - seen / np.maximum(whole, 1), np.nan)
    labels = np.array([body.label for body in scene.bodies], np.int64)
    return Drawing(images, labels, masks, hidden)


def _draw_ground(scene: Scene, tile: np.ndarray, t: int, size: tuple[int, int]) -> np.ndarray:
    """The background, (3, H, W) float32, 0 … 255."""
    camera, unit, edge = scene.camera, float(min(size)), tile.shape[1]
    sampled = tile
    for axis, centre in ((1, float(camera.y[t])), (2, float(camera.x[t]))):  # between the tile's rows, then its columns
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
    """Body k at frame t; None where neither it nor its shadow can be in the picture."""
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
    """The pixels of one axis within `margin` of `centre`."""
    return slice(max(0, int(np.floor(centre - margin))), min(edge, int(np.ceil(centre + margin))))


def _edge(body: Body, t: int) -> np.ndarray:
    """(STEPS,) float64: the body's outline at frame t, in radii."""
    (cos2, sin2), (cos3, sin3) = harmonic(2), harmonic(3)
    (a, b), (c, d) = body.bends[:, :, t].tolist()
    return outline(body.label) * (1 + a * cos2 + b * sin2 + c * cos3 + d * sin3)


def _inward(edge: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How far points lie within an outline, in radii: above 0 inside, exactly; near the edge, the distance to it."""
    after = np.roll(edge, -1)
    x_step, y_step = np.roll(directions(), -1, axis=1) - np.roll(directions(), 1, axis=1)
    slope = (after - np.roll(edge, 1)) / (edge * np.sqrt(x_step * x_step + y_step * y_step))
    facing = (1 / np.sqrt(1 + slope * slope)).astype(np.float32)  # how directly the edge faces the centre
    place = bearing(x, y)
    first = place.astype(np.int32)
    reach = edge.astype(np.float32)[first] + (after - edge).astype(np.float32)[first] * (place - first)
    return (reach - np.sqrt(x * x + y * y)) * facing[first]


def _sample(tile: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(2, P): a texture's tile (2, n, n) at P points whose unit is its period, between its pixels."""
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
    """Brightness of the colour, and gloss above it, for light from the upper left; dark towards the edge."""
    rim = np.minimum(np.maximum(inward, 0), 1)
    rim = rim * (2 - rim)
    slant = np.minimum(np.maximum(-0.10 * right - 0.16 * down, -0.2), 0.2)
    x, y = right + 0.3, down + 0.36
    gloss = np.maximum(1 - (x * x + y * y) * 3.2, 0)
    return (0.98 + slant) * (0.55 + 0.45 * rim), 46 * gloss * gloss


def _shade(inward: np.ndarray, unit: float) -> np.ndarray:
    """How dark a body's shadow is, 0 … 1: its own soft outline, a little to the right and down."""
    right, down = (round(part * unit) for part in _SHADOW)
    height, width = inward.shape
    dark = np.minimum(np.maximum(0.6 + inward / (_SOFT * unit), 0), 1)
    shade = np.zeros_like(dark)
    shade[down:, right:] = dark[: max(0, height - down), : max(0, width - right)]
    return shade * shade * (3 - 2 * shade)


def _lay(image: np.ndarray, cutout: _Cutout) -> None:
    """Put a body over its part (3, h, w) of the picture, and its shadow under it."""
    image *= 1 - 0.42 * cutout.shade
    pixels = (slice(None), *cutout.drawn)
    behind = image[pixels]
    image[pixels] = behind + (cutout.color - behind) * cutout.opacity
