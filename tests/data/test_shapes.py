"""Outlines of the six categories."""

import itertools
import math

import numpy as np
import pytest

from mdqe.data.shapes import CATEGORIES, STEPS, bearing, directions, harmonic, outline

LABELS = range(len(CATEGORIES))


def angles():
    x, y = directions()
    return np.unwrap([math.atan2(b, a) for a, b in zip(x, y, strict=True)])


def test_bearing_grows_with_the_angle_once_round():
    turn = np.linspace(0, 2 * np.pi, 5_000, endpoint=False)
    for radius in (1e-3, 1.0, 40.0):
        found = bearing(radius * np.cos(turn), radius * np.sin(turn))
        assert (np.diff(found) > 0).all() and found.min() >= 0 and found.max() < STEPS
    assert bearing(np.zeros(1), np.zeros(1))[0] < STEPS
    assert 0 <= bearing(np.float32([1.0]), np.float32([-1e-9]))[0] < STEPS


def test_directions_lie_on_their_bearings():
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
    for one, other in itertools.combinations(LABELS, 2):
        assert np.abs(outline(one) - outline(other)).max() > 0.15, (CATEGORIES[one], CATEGORIES[other])


@pytest.mark.parametrize(("name", "sides"), [("triangle", 3), ("square", 4), ("star", 5), ("cross", 4)])
def test_symmetry(name, sides):
    edge = outline(CATEGORIES.index(name))
    turn = angles() % (2 * np.pi)
    order = np.argsort(turn)
    turned = np.interp(turn + 2 * np.pi / sides, turn[order], edge[order], period=2 * np.pi)
    assert np.abs(turned - edge).max() < 0.05  # corners are rounded a little more where bearings are coarse
