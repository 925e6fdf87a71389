"""Scenes of the synthetic set: which shapes there are, how they move, and how the camera looks at them.

Lengths are in units of the picture's shorter edge, x to the right and y down, from the middle of the picture as the
camera first sees it; angles are in turns, times in frames. Nothing here depends on the number of pixels: the same scene
can be drawn in any size of its proportions.
"""

from dataclasses import dataclass

import numpy as np

from mdqe.data.reproducible import Draws, cosine, sine
from mdqe.data.shapes import CATEGORIES
from mdqe.data.texture import Texture, draw_ground, draw_texture
from mdqe.errors import InputError

_BLOCK = 20  # scenes among which the share of alike ones is exact


@dataclass(frozen=True)
class Difficulty:
    """How hard scenes are.

    Attributes:
        objects: the fewest and the most shapes of a scene.
        similarity: share of the scenes whose shapes are all of one category and most of one texture; exact in every
            20 scenes.
        occlusion: share of a scene's shapes that are sent to cross one another, in twos and threes, each pair at one
            place at one time. The others meet by chance only.

    Raises:
        ValueError: a value out of range.
    """

    objects: tuple[int, int] = (2, 6)
    similarity: float = 0.5
    occlusion: float = 0.8

    def __post_init__(self) -> None:
        first, last = self.objects
        if not 1 <= first <= last <= 40:
            raise InputError(f"objects is {first} to {last}; expected the fewest and the most, 1 to 40")
        for name in ("similarity", "occlusion"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected 0 to 1")


DIFFICULTIES = {
    "easy": Difficulty((1, 3), similarity=0.0, occlusion=0.2),
    "standard": Difficulty(),
    "hard": Difficulty((5, 10), similarity=1.0, occlusion=1.0),
}


@dataclass(frozen=True)
class Body:
    """A shape of a scene. Arrays are (frames,), float64.

    Attributes:
        label: its category's place in CATEGORIES.
        texture: its texture's place in the scene's.
        offset: where on the texture its centre is.
        tone: its brightness, of 1.
        x, y: its centre.
        angle: how far it is turned.
        radius: its outline's unit.
        stretch: how much wider than its radius it is along its own first axis, and narrower along the second.
        bends: how its outline swells and shrinks: of the second and third harmonic, strength and phase, (2, 2, frames).
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
    """Where the camera looks and how closely, (frames,) each."""

    x: np.ndarray
    y: np.ndarray
    zoom: np.ndarray


@dataclass(frozen=True)
class Scene:
    """All there is to draw, for every frame.

    Attributes:
        bodies: the shapes; one's place here is its identity.
        depths: (bodies,) their identities from the farthest to the nearest.
        textures: of the bodies.
        ground: the background's texture.
        camera: the view.
    """

    bodies: tuple[Body, ...]
    depths: tuple[int, ...]
    textures: tuple[Texture, ...]
    ground: Texture
    camera: Camera


def draw_scene(seed: int, index: int, frames: int, half: tuple[float, float], difficulty: Difficulty) -> Scene:
    """Scene `index` of the endless row that `seed` names.

    Args:
        seed, index: whole numbers, 0 … 2⁶⁴ − 1.
        frames: its length.
        half: half the picture's width and height.
        difficulty: how hard it is.
    """
    draws = Draws(seed, index)
    count = draws.between(*difficulty.objects)
    looks, textures = _draw_looks(draws, count, _alike(seed, index, difficulty.similarity))
    ground = draw_ground(draws)
    time = np.arange(frames, dtype=np.float64)
    size = min(1.0, 5 / (count + 1)) if count > 5 else 1.0
    meetings = _draw_meetings(draws, count, frames, half, difficulty.occlusion)
    bodies = []
    for (label, texture), (moment, x, y) in zip(looks, meetings, strict=True):
        radius = size * draws.uniform(0.13, 0.21)
        bodies.append(
            Body(
                label,
                texture,
                offset=(draws.uniform(), draws.uniform()),
                tone=draws.uniform(0.93, 1.05),
                x=_path(draws, time, moment, x, half[0]),
                y=_path(draws, time, moment, y, half[1]),
                angle=draws.uniform() + draws.uniform(-0.008, 0.008) * time + _sway(draws, time, 0.04),
                radius=radius * (1 + _sway(draws, time, 0.12)),
                stretch=1 + _sway(draws, time, 0.14),
                bends=np.stack([_draw_bend(draws, time, 0.09), _draw_bend(draws, time, 0.07)]),
            )
        )
    return Scene(tuple(bodies), tuple(draws.order(count)), textures, ground, _draw_camera(draws, time))


def _alike(seed: int, index: int, similarity: float) -> bool:
    """Whether the shapes of a scene are alike: for exactly that share of every _BLOCK scenes, in random order."""
    block, place = divmod(index, _BLOCK)
    return Draws(seed, block, 1).order(_BLOCK)[place] < round(_BLOCK * similarity)


def _draw_looks(draws: Draws, count: int, alike: bool) -> tuple[list[tuple[int, int]], tuple[Texture, ...]]:
    """Category and place of the texture of every shape, and the textures."""
    if not alike:
        labels = [draws.below(len(CATEGORIES)) for _ in range(count)]
        return list(zip(labels, range(count), strict=True)), tuple(draw_texture(draws) for _ in range(count))
    label = draws.below(len(CATEGORIES))
    strays = draws.between(0, (count - 1) // 2)  # most have texture 0, some have their own
    textures = tuple(draw_texture(draws) for _ in range(1 + strays))
    return [(label, max(0, i - count + 1 + strays)) for i in draws.order(count)], textures


def _draw_meetings(
    draws: Draws, count: int, frames: int, half: tuple[float, float], occlusion: float
) -> list[tuple[float, float, float]]:
    """Per shape a time and a place where it is then: the same, but for a little, for those that shall cross."""
    order = draws.order(count)
    crossing = round(count * occlusion)
    meetings = [(0.0, 0.0, 0.0)] * count
    while order:
        group = min(draws.between(2, 3), crossing, len(order)) if crossing >= 2 else 1
        if crossing - group == 1:  # nobody is left over to meet no one
            group = min(group + 1, len(order))
        crossing -= group
        moment = draws.uniform(0.15, 0.85) * (frames - 1)
        x, y = draws.uniform(-0.55, 0.55) * half[0], draws.uniform(-0.5, 0.5) * half[1]
        for _ in range(group):
            meetings[order.pop()] = moment, x + draws.uniform(-0.06, 0.06), y + draws.uniform(-0.06, 0.06)
    return meetings


def _path(draws: Draws, time: np.ndarray, moment: float, place: float, half: float) -> np.ndarray:
    """To and fro along one axis, through `place` at `moment`, at nearly full speed then."""
    reach, period = half * draws.uniform(0.3, 0.62), draws.uniform(30.0, 66.0)
    phase = draws.uniform(-0.12, 0.12) + draws.pick((0.0, 0.5))
    path = reach * sine((time - moment) / period + phase)
    return place + path - reach * float(sine(np.array(phase)))


def _sway(draws: Draws, time: np.ndarray, strength: float) -> np.ndarray:
    """A slow swing about 0, at most that strong."""
    return strength * draws.uniform(0.2, 1.0) * sine(time / draws.uniform(16.0, 48.0) + draws.uniform())


def _draw_bend(draws: Draws, time: np.ndarray, strength: float) -> np.ndarray:
    """(2, frames): cosine and sine parts of an outline's harmonic that breathes and wanders round it."""
    size = strength * draws.uniform(0.3, 1.0) * (0.6 + 0.4 * sine(time / draws.uniform(10.0, 30.0) + draws.uniform()))
    phase = draws.uniform() + draws.uniform(-0.015, 0.015) * time
    return np.stack((size * cosine(phase), size * sine(phase)))


def _draw_camera(draws: Draws, time: np.ndarray) -> Camera:
    """Pans and zooms slowly; in half of the scenes a hand shakes it."""
    x, y, closer = _sway(draws, time, 0.2), _sway(draws, time, 0.12), _sway(draws, time, 0.12)
    shake = draws.uniform(0.002, 0.009) if draws.chance(0.5) else 0.0
    trembling = draws.uniform(-shake, shake, size=(2, len(time)))
    return Camera(x - x[:1] + trembling[0], y - y[:1] + trembling[1], 1 + closer)
