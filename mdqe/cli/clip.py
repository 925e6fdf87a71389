"""A clip to try the model on: textured shapes that move, turn and pass in front of each other."""

from collections.abc import Iterator

import numpy as np

KINDS = ("disc", "square", "star")


def moving_shapes(
    frames: int = 36, size: tuple[int, int] = (216, 384), number: int = 5, seed: int = 0
) -> Iterator[np.ndarray]:
    """The frames of the clip, (H, W, 3) uint8, always the same for the same arguments."""
    random = np.random.default_rng(seed)
    height, width = size
    ground = _texture(random, size, (96, 112, 88), 26)
    shapes = []
    for i in range(number):
        direction = 1 if i % 2 else -1
        shapes.append(
            {
                "kind": KINDS[i % len(KINDS)],
                "radius": height * random.uniform(0.13, 0.2),
                "x": (0.5 - direction * random.uniform(0.15, 0.4)) * width,
                "y": (i + 0.7) / (number + 0.4) * height,
                "speed": direction * width / frames * random.uniform(0.4, 0.75),
                "bob": height * random.uniform(0.05, 0.15),
                "turn": random.uniform(-0.06, 0.06),
                "texture": _texture(random, size, random.integers(60, 235, 3), 40),
            }
        )
    for t in range(frames):
        image = ground.copy()
        for i, shape in enumerate(shapes):
            x = shape["x"] + shape["speed"] * t
            y = shape["y"] + shape["bob"] * np.sin(0.13 * t + i)
            inside = _inside(shape["kind"], size, x, y, shape["radius"], shape["turn"] * t)
            image[inside] = np.roll(shape["texture"], (round(y), round(x)), axis=(0, 1))[inside]
        yield image


def _texture(random: np.random.Generator, size: tuple[int, int], color: np.ndarray, contrast: float) -> np.ndarray:
    """Stripes and grain around a colour, (H, W, 3) uint8."""
    y, x = np.mgrid[: size[0], : size[1]]
    angle, period = random.uniform(0, np.pi), random.uniform(7, 18)
    stripes = np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period)
    grain = random.normal(0, contrast / 4, size)
    return np.clip(np.asarray(color) + (contrast / 2 * stripes + grain)[..., None], 0, 255).astype(np.uint8)


def _inside(kind: str, size: tuple[int, int], x: float, y: float, radius: float, angle: float) -> np.ndarray:
    """(H, W) bool: the pixels of a shape."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    right, down = columns - x, rows - y
    if kind == "disc":
        return right**2 + down**2 < radius**2
    if kind == "square":
        cos, sin = np.cos(angle), np.sin(angle)
        return np.maximum(abs(cos * right + sin * down), abs(cos * down - sin * right)) < 0.85 * radius
    bearing = np.arctan2(down, right) + angle
    return np.hypot(right, down) < radius * (0.8 + 0.35 * np.cos(5 * bearing))
