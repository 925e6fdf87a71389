"""Outlines and textures of the synthetic shapes."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from mdqe.data.reproducible import RandomStream
from mdqe.data.shapes import (
    CATEGORIES,
    PATTERNS,
    STEPS,
    bearing,
    color,
    directions,
    draw_ground,
    draw_texture,
    harmonic,
    outline,
)

LABELS = range(len(CATEGORIES))


# --- outlines -------------------------------------------------------------------------------------------------------


def angles():
    x, y = directions()
    return np.unwrap([math.atan2(b, a) for a, b in zip(x, y, strict=True)])


def test_bearing_increases_with_the_angle():
    turn = np.linspace(0, 2 * np.pi, 5_000, endpoint=False)
    for radius in (1e-3, 1.0, 40.0):
        found = bearing(radius * np.cos(turn), radius * np.sin(turn))
        assert (np.diff(found) > 0).all() and found.min() >= 0 and found.max() < STEPS
    assert bearing(np.zeros(1), np.zeros(1))[0] < STEPS
    assert 0 <= bearing(np.float32([1.0]), np.float32([-1e-9]))[0] < STEPS


def test_directions_and_their_harmonics():
    x, y = directions()
    assert np.allclose(bearing(x, y), np.arange(STEPS), atol=1e-9)
    assert np.allclose(x * x + y * y, 1)
    for number in (2, 3):
        cos, sin = harmonic(number)
        assert np.allclose(cos, np.cos(number * angles())) and np.allclose(sin, np.sin(number * angles()))


@pytest.mark.parametrize("label", LABELS, ids=CATEGORIES)
def test_sizes(label):
    edge, turn = outline(label), angles()
    area = 0.5 * np.sum(edge**2 * np.gradient(turn))
    assert area == pytest.approx(math.pi * 0.8**2, rel=0.04)
    assert edge.min() > 0.4 and edge.max() <= 1.25


def test_shapes_differ():
    assert CATEGORIES == ("disc", "triangle", "square", "star", "cross", "heart")
    for one, other in itertools.combinations(LABELS, 2):
        assert np.abs(outline(one) - outline(other)).max() > 0.15, (CATEGORIES[one], CATEGORIES[other])


@pytest.mark.parametrize(("name", "sides"), [("triangle", 3), ("square", 4), ("star", 5), ("cross", 4)])
def test_symmetry(name, sides):
    edge = outline(CATEGORIES.index(name))
    turn = angles() % (2 * np.pi)
    order = np.argsort(turn)
    turned = np.interp(turn + 2 * np.pi / sides, turn[order], edge[order], period=2 * np.pi)
    assert np.abs(turned - edge).max() < 0.05  # corners are rounded more where the bearings are coarse


# --- textures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PATTERNS)
@pytest.mark.parametrize("draw", [draw_texture, draw_ground])
def test_opposite_edges_match(kind, draw):
    tile = replace(draw(RandomStream(3)), kind=kind).tile(96)
    assert tile.shape == (2, 96, 96) and tile.dtype == np.float32
    for axis in (1, 2):
        steps = np.abs(np.diff(tile, axis=axis)).mean(axis=3 - axis)  # (2, 95): between successive lines
        seam = np.abs(tile.take(0, axis=axis) - tile.take(-1, axis=axis)).mean(axis=1)
        assert (seam < 1.2 * steps.max(axis=1)).all()


@pytest.mark.parametrize("kind", PATTERNS)
def test_patterns_use_both_colors(kind):
    level, light = replace(draw_texture(RandomStream(5)), kind=kind).tile(64)
    assert level.min() >= 0 and level.max() <= 1
    assert (level < 0.3).mean() > 0.1 and (level > 0.7).mean() > 0.1
    assert light.min() > 0.5 and light.max() < 1.5 and light.std() > 0.01


def test_textures_do_not_depend_on_the_resolution():
    texture = replace(draw_texture(RandomStream(8)), kind="marble")
    fine = texture.tile(128).reshape(2, 64, 2, 64, 2).mean(axis=(2, 4))
    assert np.abs(fine - texture.tile(64)).mean() < 0.01


def test_paint():
    texture = draw_texture(RandomStream(2))
    low, high = (255 * np.array(one) for one in texture.colors)
    painted = texture.paint(np.float32([0, 1, 0.5]), np.float32([1, 1, 0.5]))
    assert np.allclose(painted.T, [low, high, (low + high) / 4], atol=1e-3)


def test_color_wheel():
    assert color(0.3, 0.0, 0.6) == pytest.approx((0.6, 0.6, 0.6))
    assert [np.argmax(color(hue / 3, 0.8, 1.0)) for hue in range(3)] == [0, 1, 2]
    hues = [color(turn, 0.9, 1.0) for turn in np.linspace(0, 1, 12)]
    assert min(map(min, hues)) > 0 and max(map(max, hues)) <= 1
