"""Outlines and textures of the synthetic shapes.

An outline is the distance from the centre to the edge in every direction. A texture is a pattern of two colours that
repeats without a seam, at any resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from mdqe.data.reproducible import RandomStream, sine

Color = tuple[float, float, float]

CATEGORIES = ("disc", "triangle", "square", "star", "cross", "heart")
STEPS = 256
"""Number of directions of an outline. They are evenly spaced in `bearing`."""
PATTERNS = ("stripes", "checks", "dots", "waves", "marble", "spots")
_NOISE_CELLS = (4, 8, 16, 32, 64)  # from coarse to fine
_NOISE_WEIGHTS = (0.6, 0.5, 0.4, 0.25, 0.25)


# --- directions -----------------------------------------------------------------------------------------------------


def bearing(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The direction of points, in [0, STEPS). It increases with the angle, but needs only sums and a quotient.

    It measures the distance along the square |x| + |y| = 1, from (1, 0) over (0, 1), (−1, 0) and (0, −1).
    """
    along = x / np.maximum(np.abs(x) + np.abs(y), 1e-12)
    turned = np.where(y >= 0, 1 - along, 3 + along) * (STEPS / 4)
    return turned * (turned < STEPS)


@cache
def directions() -> np.ndarray:
    """(2, STEPS): the unit vector (x, y) of every bearing."""
    turned = np.arange(STEPS) * (4 / STEPS)
    x = np.where(turned < 2, 1 - turned, turned - 3)
    y = np.where(turned < 2, 1 - np.abs(x), np.abs(x) - 1)
    return np.stack((x, y)) / np.sqrt(x * x + y * y)


@cache
def harmonic(number: int) -> np.ndarray:
    """(2, STEPS): cosine and sine of `number` times the angle of every bearing."""
    x, y = directions()
    cos, sin = x, y
    for _ in range(number - 1):
        cos, sin = cos * x - sin * y, sin * x + cos * y
    return np.stack((cos, sin))


# --- outlines -------------------------------------------------------------------------------------------------------


@cache
def outline(label: int) -> np.ndarray:
    """(STEPS,): the distance from centre to edge of a category's shape, with rounded corners.

    All shapes cover about the area of a disc of radius 0.8, and no distance exceeds 1.25.
    """
    if CATEGORIES[label] == "disc":
        return np.full(STEPS, 0.8)
    if CATEGORIES[label] == "heart":
        point = _polygon([(0.79, -0.02), (0, 1.0), (-0.79, -0.02), (0, -0.44)])
        return _rounded(np.maximum(np.maximum(_disc_at(0.37, -0.28), _disc_at(-0.37, -0.28)), point), 2)
    corners, times = {
        "triangle": ([(0, -1.248), (1.08, 0.624), (-1.08, 0.624)], 4),
        "square": ([(-0.71, -0.71), (0.71, -0.71), (0.71, 0.71), (-0.71, 0.71)], 3),
        "star": (_star(), 3),
        "cross": (_cross(), 2),
    }[CATEGORIES[label]]
    return _rounded(_polygon(corners), times)


def _star() -> list[tuple[float, float]]:
    """Five tips at 72° from each other, the first at the top, and the notches between them."""
    tips = [(0, -1), (0.951057, -0.309017), (0.587785, 0.809017), (-0.587785, 0.809017), (-0.951057, -0.309017)]
    corners = []
    for (x, y), (next_x, next_y) in zip(tips, tips[1:] + tips[:1], strict=True):
        corners += [(1.2 * x, 1.2 * y), (0.357 * (x + next_x), 0.357 * (y + next_y))]
    return corners


def _cross() -> list[tuple[float, float]]:
    arm, half = 0.96, 0.31
    quarter = [(arm, -half), (arm, half), (half, half)]
    rotations = ((1, 0), (0, 1), (-1, 0), (0, -1))  # cosine, sine
    return [(x * cos - y * sin, x * sin + y * cos) for cos, sin in rotations for x, y in quarter]


def _polygon(corners: Sequence[tuple[float, float]]) -> np.ndarray:
    """(STEPS,): centre to edge of a polygon that is star-shaped around the centre; corners in ascending bearing."""
    x, y = directions()
    edge = np.zeros(STEPS)
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        towards_a, towards_b = x * ay - y * ax, x * by - y * bx  # signed distances of the ends from the ray
        between = (towards_a <= 0) & (towards_b > 0)
        distance = (ax * by - ay * bx) / np.where(between, towards_b - towards_a, 1)
        edge = np.where(between, distance, edge)
    return edge


def _disc_at(x: float, y: float, radius: float = 0.51) -> np.ndarray:
    """(STEPS,): the distance at which rays from the centre leave a disc that contains the centre."""
    along_x, along_y = directions()
    along, aside = along_x * x + along_y * y, along_x * y - along_y * x
    return along + np.sqrt(radius * radius - aside * aside)


def _rounded(edge: np.ndarray, times: int) -> np.ndarray:
    for _ in range(times):
        edge = 0.5 * edge + 0.25 * (np.roll(edge, 1) + np.roll(edge, -1))
    return edge


# --- textures -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texture:
    """A pattern on the unit square whose opposite edges match.

    Attributes:
        kind: one of PATTERNS.
        waves: number of repetitions of the pattern across and down, whole numbers.
        colors: RGB in [0, 1] of the lows and the highs of the pattern.
        noise: grids (g, g) of values in [−1, 1), coarse to fine, each with twice the resolution of the previous one.
        grain: amplitude of the noise in the brightness, relative to 1.
    """

    kind: str
    waves: tuple[int, int]
    colors: tuple[Color, Color]
    noise: tuple[np.ndarray, ...]
    grain: float

    def tile(self, edge: int) -> np.ndarray:
        """(2, edge, edge) float32: the unit square's position between the two colours, 0 … 1, and its brightness."""
        across = ((np.arange(edge) + 0.5) / edge).astype(np.float32)[None]
        clouds, rough = _spread(self.noise[0], edge), self._rough(edge)
        tile = np.empty((2, edge, edge), np.float32)
        tile[0] = np.minimum(np.maximum(0.5 + 0.5 * self._height(across, across.T, clouds, rough), 0), 1)
        tile[1] = 1 + self.grain * rough
        return tile

    def paint(self, level: np.ndarray, light: np.ndarray) -> np.ndarray:
        """(3, …) float32: the colours, 0 … 255, of points with this position between the two and this brightness."""
        colors = np.empty((3, *level.shape), np.float32)
        for channel, low, high in zip(colors, *self.colors, strict=True):
            channel[...] = (255 * low + 255 * (high - low) * level) * light
        return colors

    def _rough(self, edge: int) -> np.ndarray:
        """(edge, edge): the sum of all noise grids."""
        total = _NOISE_WEIGHTS[0] * self.noise[0]
        for grid, weight in zip(self.noise[1:], _NOISE_WEIGHTS[1:], strict=True):
            total = _spread(total, len(grid)) + weight * grid
        return _spread(total, edge)

    def _height(self, u: np.ndarray, v: np.ndarray, clouds: np.ndarray, rough: np.ndarray) -> np.ndarray:
        """(n, n): the height of the pattern; the colours cover −1 … 1."""
        a, b = self.waves
        along, aside = a * u + b * v, b * u - a * v  # whole turns from edge to edge
        if self.kind == "stripes":
            return 2.2 * sine(along + 0.15 * clouds)
        if self.kind == "checks":
            return 3.5 * sine(along) * sine(aside)
        if self.kind == "dots":
            return 2.5 * (sine(along) + sine(aside)) - 1.6
        if self.kind == "waves":
            return 1.8 * sine(along + 0.22 * sine(aside))
        if self.kind == "marble":
            return 1.3 * sine(along + 0.7 * rough)
        return 5.0 * (rough - 0.1)


def draw_texture(random: RandomStream) -> Texture:
    """A random texture of a shape: a strong colour, with another one or with another brightness of the same hue."""
    hue, saturation = random.uniform(), random.uniform(0.5, 0.9)
    value = random.uniform(0.62, 0.98)
    if random.chance(0.4):  # one hue
        contrast = random.uniform(0.4, 0.65)
        colors = color(hue, saturation, value * contrast), color(hue, saturation * 0.8, value)
    else:
        other = hue + random.uniform(0.15, 0.85)
        colors = color(other, random.uniform(0.2, 0.7), random.uniform(0.3, 1.0)), color(hue, saturation, value)
    waves = random.between(1, 3), random.between(-2, 3)
    return Texture(random.choice(PATTERNS), waves, colors, _noise(random), random.uniform(0.05, 0.15))


def draw_ground(random: RandomStream) -> Texture:
    """A random texture of the background: finer, noisier, and in less saturated colours than those of the shapes."""
    hue, saturation, value = random.uniform(), random.uniform(0.1, 0.45), random.uniform(0.35, 0.8)
    contrast, turn = random.uniform(0.6, 0.88), random.uniform(-0.12, 0.12)
    colors = color(hue + turn, saturation, value * contrast), color(hue, saturation, value)
    waves = random.between(2, 10), random.between(-8, 8)
    return Texture(random.choice(PATTERNS), waves, colors, _noise(random), random.uniform(0.12, 0.28))


def color(hue: float, saturation: float, value: float) -> Color:
    """RGB on a smooth colour wheel; `hue` in turns."""
    wheel = 0.5 + 0.5 * sine(np.array([hue + 0.25, hue - 1 / 12, hue - 5 / 12]))
    red, green, blue = (value * (1 - saturation * (1 - wheel))).tolist()
    return red, green, blue


def _noise(random: RandomStream) -> tuple[np.ndarray, ...]:
    return tuple(random.uniform(-1.0, 1.0, size=(cells, cells)).astype(np.float32) for cells in _NOISE_CELLS)


def _spread(grid: np.ndarray, edge: int) -> np.ndarray:
    """A grid (g, g) of values, interpolated to (edge, edge) by cubic B-splines without a seam."""
    cells = len(grid)
    place = (np.arange(edge) + 0.5) * (cells / edge) - 0.5
    first = np.floor(place)
    x = place - first
    y = 1 - x
    sixths = (y * y * y, 4 - 3 * x * x * (1 + y), 4 - 3 * y * y * (1 + x), x * x * x)  # of the four nearest cells
    first = first.astype(np.int64)
    taps = [((first + i - 1) % cells, (weight / 6).astype(np.float32)[:, None]) for i, weight in enumerate(sixths)]
    for _ in range(2):  # rows, then columns
        (nearest, weight), *others = taps
        spread = grid[nearest] * weight
        for nearest, weight in others:
            spread += grid[nearest] * weight
        grid = np.ascontiguousarray(spread.T)
    return grid
