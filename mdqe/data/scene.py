"""Scenes of the synthetic set: the shapes, their motion, and the camera.

Lengths are in units of the frame's shorter edge; x points right and y down, from the centre of the camera's first view.
Angles are in turns and times in frames. Nothing here depends on the number of pixels: a scene can be rendered at any
resolution of the same aspect ratio.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mdqe.data.reproducible import RandomStream, cosine, sine
from mdqe.data.shapes import CATEGORIES, Texture, draw_ground, draw_texture
from mdqe.errors import InputError

_BLOCK = 20  # number of consecutive scenes with an exact share of scenes with similar shapes
_REACH, _PERIODS = (0.2, 0.34), (36.0, 56.0)  # of the way past the nearest shape: its length, and frames there and back
_NEAREST, _BEHIND = (
    (0.16, 0.22),
    (0.68, 0.8),
)  # radius of the nearest shape of a group, and of the others relative to it


@dataclass(frozen=True)
class Difficulty:
    """The difficulty of scenes.

    Attributes:
        objects: minimum and maximum number of shapes in a scene.
        similarity: share of scenes with similar shapes: all of one category, and most with one texture. The share is
            exact in every 20 scenes.
        occlusion: share of the shapes in a scene that are planned to cross others, in groups of two or three that meet
            at one place and time. The other shapes meet only by chance.
        hiding: share of the shapes that travel in groups of two or three with the same silhouette, in which the nearest
            shape passes over the others so slowly that it hides them completely for several frames. The groups move
            fast, and take the place of shapes in `occlusion`. With 0, there are no groups.

    Raises:
        ValueError: a value out of range.
    """

    objects: tuple[int, int] = (2, 6)
    similarity: float = 0.5
    occlusion: float = 0.8
    hiding: float = 0.0

    def __post_init__(self) -> None:
        first, last = self.objects
        if not 1 <= first <= last <= 40:
            raise InputError(f"objects is {first} to {last}, expected a minimum and a maximum from 1 to 40")
        for name in ("similarity", "occlusion", "hiding"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 0 to 1")


DIFFICULTIES = {
    "easy": Difficulty((1, 3), similarity=0.0, occlusion=0.2),
    "standard": Difficulty(),
    "hard": Difficulty((5, 10), similarity=1.0, occlusion=1.0),
    "occluded": Difficulty((6, 9), similarity=1.0, occlusion=1.0, hiding=1.0),  # for videos of 40 to 60 frames
}


@dataclass(frozen=True)
class Body:
    """A shape in a scene. Arrays are (frames,) float64.

    Attributes:
        label: index of its category in CATEGORIES.
        texture: index of its texture in the scene.
        offset: position of its centre on the texture.
        tone: its brightness, relative to 1.
        x, y: its centre.
        angle: its rotation.
        radius: the unit of its outline.
        stretch: factor of its size along its own first axis; its size along the second axis is divided by it.
        bends: deformation of its outline: cosine and sine parts of the second and third harmonic, (2, 2, frames).
    """

    label: int
    texture: int
    offset: tuple[float, float]
    tone: float
    x: np.ndarray
    y: np.ndarray
    angle: np.ndarray
    radius: np.ndarray
    stretch: np.ndarray
    bends: np.ndarray


@dataclass(frozen=True)
class Camera:
    """Centre and zoom of the view, (frames,) each."""

    x: np.ndarray
    y: np.ndarray
    zoom: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A scene, for all frames.

    Attributes:
        bodies: the shapes. The index of a shape is its identity.
        depths: (bodies,) their indices from the farthest to the nearest.
        textures: of the bodies.
        ground: the texture of the background.
        camera: the view.
    """

    bodies: tuple[Body, ...]
    depths: tuple[int, ...]
    textures: tuple[Texture, ...]
    ground: Texture
    camera: Camera


def draw_scene(seed: int, index: int, frames: int, half: tuple[float, float], difficulty: Difficulty) -> Scene:
    """Draw scene `index` of a seed at random.

    Args:
        seed, index: whole numbers, 0 … 2⁶⁴ − 1.
        frames: the length of the scene.
        half: half the width and half the height of the frame.
        difficulty: of the scene.
    """
    random = RandomStream(seed, index)
    count = random.between(*difficulty.objects)
    looks, textures = _draw_looks(random, count, _is_similar(seed, index, difficulty.similarity))
    ground = draw_ground(random)
    time = np.arange(frames, dtype=np.float64)
    if difficulty.hiding:
        return _draw_hiding_scene(random, looks, textures, ground, time, half, difficulty)
    size = min(1.0, 5 / (count + 1)) if count > 5 else 1.0
    meetings = _draw_meetings(random, count, frames, half, difficulty.occlusion)
    bodies = []
    for (label, texture), (moment, x, y) in zip(looks, meetings, strict=True):
        radius = size * random.uniform(0.13, 0.21)
        bodies.append(
            Body(
                label,
                texture,
                offset=(random.uniform(), random.uniform()),
                tone=random.uniform(0.93, 1.05),
                x=_draw_path(random, time, moment, x, half[0]),
                y=_draw_path(random, time, moment, y, half[1]),
                angle=random.uniform() + random.uniform(-0.008, 0.008) * time + _draw_sway(random, time, 0.04),
                radius=radius * (1 + _draw_sway(random, time, 0.12)),
                stretch=1 + _draw_sway(random, time, 0.14),
                bends=np.stack([_draw_bend(random, time, 0.09), _draw_bend(random, time, 0.07)]),
            )
        )
    depths = tuple(random.permutation(count))
    return Scene(tuple(bodies), depths, textures, ground, _draw_camera(random, time))


def _draw_hiding_scene(
    random: RandomStream,
    looks: Sequence[tuple[int, int]],
    textures: tuple[Texture, ...],
    ground: Texture,
    time: np.ndarray,
    half: tuple[float, float],
    difficulty: Difficulty,
) -> Scene:
    """The scene of a difficulty with `hiding`: groups on fast paths, in which the nearest shape hides the others."""
    count, frames = len(looks), len(time)
    depths = random.permutation(count)
    groups = _draw_groups(random, count, difficulty.hiding)
    meetings = _draw_meetings(random, len(groups), frames, half, difficulty.occlusion)
    bodies: list[Body | None] = [None] * count
    for group, (moment, x, y) in zip(groups, meetings, strict=True):
        path = [
            _draw_path(random, time, moment, place, edge, (0.25, 0.45), (14.0, 24.0))
            for place, edge in zip((x, y), half, strict=True)
        ]
        angle = random.uniform() + random.uniform(-0.008, 0.008) * time + _draw_sway(random, time, 0.04)
        stretch = 1 + _draw_sway(random, time, 0.08)
        bends = np.stack([_draw_bend(random, time, 0.06), _draw_bend(random, time, 0.05)])
        radius = random.uniform(*_NEAREST)
        for place, i in enumerate(sorted(group, key=depths.index, reverse=True)):  # the nearest first
            offsets = _draw_passing(random, time) if place else np.zeros((2, frames))
            bodies[i] = Body(
                *looks[i],
                offset=(random.uniform(), random.uniform()),
                tone=random.uniform(0.93, 1.05),
                x=path[0] + offsets[0],
                y=path[1] + offsets[1],
                angle=angle,
                radius=radius * (random.uniform(*_BEHIND) if place else 1.0) * np.ones(frames),
                stretch=stretch,
                bends=bends,
            )
    return Scene(tuple(filter(None, bodies)), tuple(depths), textures, ground, _draw_camera(random, time))


def _draw_groups(random: RandomStream, count: int, hiding: float) -> list[list[int]]:
    """The shapes in groups of two or three, which make up the share `hiding`, and one by one."""
    order, left = random.permutation(count), round(count * hiding)
    sizes = []
    while left >= 2:
        size = random.between(2, 3)
        if size > left or left - size == 1:  # no shape is left without one to hide it
            size = 5 - size
        sizes.append(size)
        left -= size
    sizes += [1] * (count - sum(sizes))
    return [[order.pop() for _ in range(size)] for size in sizes]


def _draw_passing(random: RandomStream, time: np.ndarray) -> np.ndarray:
    """(2, frames): the distance x, y of a shape from the one that hides it. The cube of a sine lingers around 0."""
    moment, period = random.uniform(0.2, 0.8) * (len(time) - 1), random.uniform(*_PERIODS)
    swing = sine((time - moment) / period)
    direction = np.array(random.uniform())
    reach = random.uniform(*_REACH)
    return np.stack((cosine(direction) * reach, sine(direction) * reach))[:, None] * (swing * swing * swing)


def _is_similar(seed: int, index: int, similarity: float) -> bool:
    """Whether the scene has similar shapes: true for exactly this share of every _BLOCK scenes, in random order."""
    block, place = divmod(index, _BLOCK)
    return RandomStream(seed, block, 1).permutation(_BLOCK)[place] < round(_BLOCK * similarity)


def _draw_looks(random: RandomStream, count: int, similar: bool) -> tuple[list[tuple[int, int]], tuple[Texture, ...]]:
    """The category and the index of the texture of every shape, and the textures."""
    if not similar:
        labels = [random.below(len(CATEGORIES)) for _ in range(count)]
        return list(zip(labels, range(count), strict=True)), tuple(draw_texture(random) for _ in range(count))
    label = random.below(len(CATEGORIES))
    strays = random.between(0, (count - 1) // 2)  # number of shapes with their own texture; the others have texture 0
    textures = tuple(draw_texture(random) for _ in range(1 + strays))
    return [(label, max(0, i - count + 1 + strays)) for i in random.permutation(count)], textures


def _draw_meetings(
    random: RandomStream, count: int, frames: int, half: tuple[float, float], occlusion: float
) -> list[tuple[float, float, float]]:
    """For each shape a time and its place (x, y) at this time. Shapes that cross have nearly the same."""
    order = random.permutation(count)
    crossing = round(count * occlusion)
    meetings = [(0.0, 0.0, 0.0)] * count
    while order:
        group = min(random.between(2, 3), crossing, len(order)) if crossing >= 2 else 1
        if crossing - group == 1:  # the last crossing shape would have no other to meet
            group = min(group + 1, len(order))
        crossing -= group
        moment = random.uniform(0.15, 0.85) * (frames - 1)
        x, y = random.uniform(-0.55, 0.55) * half[0], random.uniform(-0.5, 0.5) * half[1]
        for _ in range(group):
            meetings[order.pop()] = moment, x + random.uniform(-0.06, 0.06), y + random.uniform(-0.06, 0.06)
    return meetings


def _draw_path(
    random: RandomStream,
    time: np.ndarray,
    moment: float,
    place: float,
    half: float,
    reaches: tuple[float, float] = (0.3, 0.62),
    periods: tuple[float, float] = (30.0, 66.0),
) -> np.ndarray:
    """An oscillation along one axis that passes `place` at `moment`, nearly at full speed."""
    reach, period = half * random.uniform(*reaches), random.uniform(*periods)
    phase = random.uniform(-0.12, 0.12) + random.choice((0.0, 0.5))
    path = reach * sine((time - moment) / period + phase)
    return place + path - reach * float(sine(np.array(phase)))


def _draw_sway(random: RandomStream, time: np.ndarray, strength: float) -> np.ndarray:
    """A slow oscillation around 0 with at most this amplitude."""
    return strength * random.uniform(0.2, 1.0) * sine(time / random.uniform(16.0, 48.0) + random.uniform())


def _draw_bend(random: RandomStream, time: np.ndarray, strength: float) -> np.ndarray:
    """(2, frames): cosine and sine parts of a harmonic of an outline; its amplitude and its phase vary with time."""
    strength = strength * random.uniform(0.3, 1.0)
    size = strength * (0.6 + 0.4 * sine(time / random.uniform(10.0, 30.0) + random.uniform()))
    phase = random.uniform() + random.uniform(-0.015, 0.015) * time
    return np.stack((size * cosine(phase), size * sine(phase)))


def _draw_camera(random: RandomStream, time: np.ndarray) -> Camera:
    """A camera that pans and zooms slowly. In half of the scenes it shakes."""
    x, y, closer = _draw_sway(random, time, 0.2), _draw_sway(random, time, 0.12), _draw_sway(random, time, 0.12)
    shake = random.uniform(0.002, 0.009) if random.chance(0.5) else 0.0
    trembling = random.uniform(-shake, shake, size=(2, len(time)))
    return Camera(x - x[:1] + trembling[0], y - y[:1] + trembling[1], 1 + closer)
