"""Textures of the synthetic set: patterns in two colours that repeat without a seam, at any resolution."""

from dataclasses import dataclass

import numpy as np

from mdqe.data.reproducible import Draws, sine

Color = tuple[float, float, float]

KINDS = ("stripes", "checks", "dots", "waves", "marble", "spots")
_OCTAVES = (4, 8, 16, 32, 64)  # cells of the noise, from clouds to grain
_WEIGHTS = (0.6, 0.5, 0.4, 0.25, 0.25)


@dataclass(frozen=True)
class Texture:
    """A pattern on the unit square, whose opposite edges fit each other.

    Attributes:
        kind: one of KINDS.
        waves: how often the pattern repeats across and down, whole numbers.
        colors: RGB in [0, 1] of its lows and its highs.
        noise: grids (g, g) of values in [−1, 1), coarse to fine, each twice as fine as the one before.
        grain: how much the noise lightens and darkens, of 1.
    """

    kind: str
    waves: tuple[int, int]
    colors: tuple[Color, Color]
    noise: tuple[np.ndarray, ...]
    grain: float

    def tile(self, edge: int) -> np.ndarray:
        """(2, edge, edge) float32, the unit square: where between the two colours it is, 0 … 1, and its brightness."""
        across = ((np.arange(edge) + 0.5) / edge).astype(np.float32)[None]
        clouds, rough = _spread(self.noise[0], edge), self._rough(edge)
        tile = np.empty((2, edge, edge), np.float32)
        tile[0] = np.minimum(np.maximum(0.5 + 0.5 * self._height(across, across.T, clouds, rough), 0), 1)
        tile[1] = 1 + self.grain * rough
        return tile

    def paint(self, level: np.ndarray, light: np.ndarray) -> np.ndarray:
        """(3, …) float32: the colours, 0 … 255, of points between the two."""
        colors = np.empty((3, *level.shape), np.float32)
        for channel, low, high in zip(colors, *self.colors, strict=True):
            channel[...] = (255 * low + 255 * (high - low) * level) * light
        return colors

    def _rough(self, edge: int) -> np.ndarray:
        """(edge, edge): the sum of all the noise."""
        total = _WEIGHTS[0] * self.noise[0]
        for grid, weight in zip(self.noise[1:], _WEIGHTS[1:], strict=True):
            total = _spread(total, len(grid)) + weight * grid
        return _spread(total, edge)

    def _height(self, u: np.ndarray, v: np.ndarray, clouds: np.ndarray, rough: np.ndarray) -> np.ndarray:
        """(n, n): the pattern; it shows between −1 and 1."""
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


def draw_texture(draws: Draws) -> Texture:
    """A texture for a shape: a strong colour, and another or a lighter or darker one of the same hue."""
    hue, saturation = draws.uniform(), draws.uniform(0.5, 0.9)
    value = draws.uniform(0.62, 0.98)
    if draws.chance(0.4):  # of one hue
        contrast = draws.uniform(0.4, 0.65)
        colors = color(hue, saturation, value * contrast), color(hue, saturation * 0.8, value)
    else:
        other = hue + draws.uniform(0.15, 0.85)
        colors = color(other, draws.uniform(0.2, 0.7), draws.uniform(0.3, 1.0)), color(hue, saturation, value)
    waves = draws.between(1, 3), draws.between(-2, 3)
    return Texture(draws.pick(KINDS), waves, colors, _noise(draws), draws.uniform(0.05, 0.15))


def draw_ground(draws: Draws) -> Texture:
    """A texture for the background: the same patterns in quieter colours, finer in proportion, with more noise."""
    hue, saturation, value = draws.uniform(), draws.uniform(0.1, 0.45), draws.uniform(0.35, 0.8)
    contrast, turn = draws.uniform(0.6, 0.88), draws.uniform(-0.12, 0.12)
    colors = color(hue + turn, saturation, value * contrast), color(hue, saturation, value)
    waves = draws.between(2, 10), draws.between(-8, 8)
    return Texture(draws.pick(KINDS), waves, colors, _noise(draws), draws.uniform(0.12, 0.28))


def color(hue: float, saturation: float, value: float) -> Color:
    """RGB on a smooth wheel of hues, `hue` in turns."""
    wheel = 0.5 + 0.5 * sine(np.array([hue + 0.25, hue - 1 / 12, hue - 5 / 12]))
    red, green, blue = (value * (1 - saturation * (1 - wheel))).tolist()
    return red, green, blue


def _noise(draws: Draws) -> tuple[np.ndarray, ...]:
    return tuple(draws.uniform(-1.0, 1.0, size=(cells, cells)).astype(np.float32) for cells in _OCTAVES)


def _spread(grid: np.ndarray, edge: int) -> np.ndarray:
    """A grid (g, g) of values over (edge, edge), as smooth as cubic splines make it, without a seam."""
    cells = len(grid)
    place = (np.arange(edge) + 0.5) * (cells / edge) - 0.5
    first = np.floor(place)
    x = place - first
    y = 1 - x
    bent = (y * y * y, 4 - 3 * x * x * (1 + y), 4 - 3 * y * y * (1 + x), x * x * x)  # sixths of the four nearest cells
    first = first.astype(np.int64)
    taps = [((first + i - 1) % cells, (weight / 6).astype(np.float32)[:, None]) for i, weight in enumerate(bent)]
    for _ in range(2):  # rows, then columns
        (nearest, weight), *others = taps
        spread = grid[nearest] * weight
        for nearest, weight in others:
            spread += grid[nearest] * weight
        grid = np.ascontiguousarray(spread.T)
    return grid
