"""Textures without seams."""

from dataclasses import replace

import numpy as np
import pytest

from mdqe.data.reproducible import Draws
from mdqe.data.texture import KINDS, color, draw_ground, draw_texture


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("draw", [draw_texture, draw_ground])
def test_opposite_edges_fit(kind, draw):
    tile = replace(draw(Draws(3)), kind=kind).tile(96)
    assert tile.shape == (2, 96, 96) and tile.dtype == np.float32
    for axis in (1, 2):
        steps = np.abs(np.diff(tile, axis=axis)).mean(axis=3 - axis)  # (2, 95): from each line to the next
        seam = np.abs(tile.take(0, axis=axis) - tile.take(-1, axis=axis)).mean(axis=1)
        assert (seam < 1.2 * steps.max(axis=1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_pattern_uses_both_colors(kind):
    level, light = replace(draw_texture(Draws(5)), kind=kind).tile(64)
    assert level.min() >= 0 and level.max() <= 1
    assert (level < 0.3).mean() > 0.1 and (level > 0.7).mean() > 0.1
    assert light.min() > 0.5 and light.max() < 1.5 and light.std() > 0.01


def test_the_same_texture_at_another_resolution():
    texture = replace(draw_texture(Draws(8)), kind="marble")
    fine = texture.tile(128).reshape(2, 64, 2, 64, 2).mean(axis=(2, 4))
    assert np.abs(fine - texture.tile(64)).mean() < 0.01


def test_paint():
    texture = draw_texture(Draws(2))
    low, high = (255 * np.array(one) for one in texture.colors)
    painted = texture.paint(np.float32([0, 1, 0.5]), np.float32([1, 1, 0.5]))
    assert np.allclose(painted.T, [low, high, (low + high) / 4], atol=1e-3)


def test_wheel_of_hues():
    assert color(0.3, 0.0, 0.6) == pytest.approx((0.6, 0.6, 0.6))
    assert np.argmax(color(0.0, 0.8, 1.0)) == 0
    assert np.argmax(color(1 / 3, 0.8, 1.0)) == 1
    assert np.argmax(color(2 / 3, 0.8, 1.0)) == 2
    hues = [color(turn, 0.9, 1.0) for turn in np.linspace(0, 1, 12)]
    assert min(map(min, hues)) > 0 and max(map(max, hues)) <= 1
