"""The contents of scenes, and the effect of the difficulty."""

from collections import Counter

import numpy as np
import pytest

from mdqe.data.scene import DIFFICULTIES, Difficulty, draw_scene
from mdqe.data.synthetic import render

HALF = (0.75, 0.5)


def scenes(difficulty, count=40, frames=12, seed=11):
    return [draw_scene(seed, i, frames, HALF, difficulty) for i in range(count)]


def is_similar(scene):
    """All shapes have one category, and most have one texture."""
    textures = Counter(body.texture for body in scene.bodies)
    return len({body.label for body in scene.bodies}) == 1 and max(textures.values()) * 2 > len(scene.bodies)


@pytest.mark.parametrize(("name", "fewest", "most"), [("easy", 1, 3), ("standard", 2, 6), ("hard", 5, 10)])
def test_number_of_shapes(name, fewest, most):
    counts = {len(scene.bodies) for scene in scenes(DIFFICULTIES[name], 80)}
    assert counts == set(range(fewest, most + 1))


@pytest.mark.parametrize("similarity", [0.0, 0.3, 0.5, 1.0])
def test_share_of_scenes_with_similar_shapes_is_exact(similarity):
    drawn = scenes(Difficulty((6, 6), similarity), 40)  # six shapes are never all of one category by chance
    for block in (drawn[:20], drawn[20:]):
        assert sum(map(is_similar, block)) == round(20 * similarity)


def test_shapes_of_other_scenes_vary():
    drawn = scenes(Difficulty((6, 6), similarity=0.0), 40)
    labels = Counter(body.label for scene in drawn for body in scene.bodies)
    assert set(labels) == set(range(6)) and min(labels.values()) > 20
    assert all(len({body.texture for body in scene.bodies}) == 6 for scene in drawn)
    assert {tuple(sorted(scene.depths)) for scene in drawn} == {tuple(range(6))}
    assert len({scene.depths for scene in drawn}) > 30, "random orders of depth"


def test_occlusion_hides_shapes():
    def hidden(occlusion):
        drawn = scenes(Difficulty((4, 4), 0.5, occlusion), 24)
        return np.nanmean([render(scene, range(0, 12, 2), (32, 48)).hidden for scene in drawn])

    apart, half, crossing = hidden(0.0), hidden(0.5), hidden(1.0)
    assert apart < 0.75 * half < 0.75 * crossing
    assert crossing > 0.2


def test_with_full_occlusion_every_shape_crosses_another():
    closest = []
    for scene in scenes(Difficulty((5, 5), 0.5, 1.0), 30):
        x, y = (np.stack([getattr(body, name) for body in scene.bodies]) for name in "xy")
        apart = np.hypot(x[:, None] - x, y[:, None] - y) + 9 * np.eye(5)[..., None]
        closest += apart.min(axis=(1, 2)).tolist()
    # When they meet, possibly between two frames, two shapes are at most 0.12 apart in x and in y.
    assert max(closest) < 0.25


def test_all_shapes_move_smoothly():
    for scene in scenes(DIFFICULTIES["standard"], 20, frames=60):
        for body in scene.bodies:
            speed = np.hypot(np.diff(body.x), np.diff(body.y))
            assert speed.mean() > 0.01 and speed.max() < 0.16
            assert np.abs(np.diff(body.x, 2)).max() < 0.025
            assert np.ptp(body.radius) > 0 and np.ptp(body.stretch) > 0 and np.ptp(body.bends, axis=2).min() > 0
        assert np.ptp(scene.camera.zoom) > 0 and np.ptp(scene.camera.x) > 0


def test_half_of_the_cameras_shake():
    jerks = [np.abs(np.diff(scene.camera.x, 3)).max() for scene in scenes(DIFFICULTIES["standard"], 60)]
    assert 0.3 < np.mean(np.array(jerks) > 2e-3) < 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0, 3),), "objects is 0 to 3"),
        (((4, 3),), "objects is 4 to 3"),
        (((2, 41),), "objects is 2 to 41, expected a minimum and a maximum from 1 to 40"),
        (((2, 6), 1.5), "similarity is 1.5, expected 0 to 1"),
        (((2, 6), 0.5, -0.1), "occlusion is -0.1, expected 0 to 1"),
        (((2, 6), float("nan")), "similarity is nan"),
        (((2, 6), 0.5, 0.8, 2), "hiding is 2, expected 0 to 1"),
    ],
)
def test_difficulty_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        Difficulty(*arguments)
