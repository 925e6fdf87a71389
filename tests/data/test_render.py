"""Pictures and masks of scenes, against geometry worked out another way."""

from dataclasses import replace

import numpy as np
import pytest

from mdqe.data.render import render
from mdqe.data.reproducible import Draws
from mdqe.data.scene import Difficulty, draw_scene
from mdqe.data.shapes import directions, outline
from mdqe.data.texture import draw_ground

CLOSE = 0.02  # pixels from an edge within which float32 may round either way


def depth_by_angle(scene, k, t, size):
    """(H, W) float64: pixels by which a body's outline lies beyond every pixel's centre; by polar angles."""
    body, unit = scene.bodies[k], min(size)
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    scale = unit * scene.camera.zoom[t]
    x = (columns - size[1] / 2) / scale + scene.camera.x[t] - body.x[t]
    y = (rows - size[0] / 2) / scale + scene.camera.y[t] - body.y[t]
    point = (x + 1j * y) * np.exp(-2j * np.pi * body.angle[t]) / body.radius[t]
    point = point.real / body.stretch[t] + 1j * point.imag * body.stretch[t]
    direction = np.angle(directions()[0] + 1j * directions()[1])
    bend = sum(
        (body.bends[i, 0, t] - 1j * body.bends[i, 1, t]) * np.exp(1j * harmonic * direction)
        for i, harmonic in enumerate((2, 3))
    )
    edge = outline(body.label) * (1 + bend.real)
    order = np.argsort(direction)
    reach = np.interp(np.angle(point), direction[order], edge[order], period=2 * np.pi)
    return (reach - np.abs(point)) * body.radius[t] * scale


@pytest.mark.parametrize("size", [(96, 144), (80, 60), (41, 63)])
def test_masks_are_the_nearest_shapes_at_pixel_centres(size):
    half = size[1] / min(size) / 2, size[0] / min(size) / 2
    hiding = 0
    for index in range(4):
        scene = draw_scene(4, index, 12, half, Difficulty((4, 6), occlusion=1.0))
        frames = range(3, 9, 2)
        drawing = render(scene, frames, size)
        for i, t in enumerate(frames):
            depths = np.stack([depth_by_angle(scene, k, t, size) for k in range(len(scene.bodies))])
            nearest = np.full(size, -1)
            for k in scene.depths:
                nearest[depths[k] > 0] = k
            sure = (np.abs(depths) > CLOSE).all(axis=0)
            assert sure.mean() > 0.97
            for k in range(len(scene.bodies)):
                assert np.array_equal(drawing.masks[k, i][sure], (nearest == k)[sure])
                whole, seen = (depths[k] > 0).sum(), (nearest == k).sum()
                if whole == 0:
                    assert np.isnan(drawing.hidden[k, i])
                else:
                    assert drawing.hidden[k, i] == pytest.approx(1 - seen / whole, abs=6 / whole)
                    hiding += 0.1 < drawing.hidden[k, i] < 1
    assert hiding > 5, "the scenes must try what they are for"


def test_masks_do_not_overlap_and_name_their_category():
    scene = draw_scene(1, 3, 12, (0.75, 0.5), Difficulty((6, 6)))
    drawing = render(scene, range(12), (64, 96))
    assert drawing.masks.sum(axis=0).max() == 1
    assert drawing.labels.tolist() == [body.label for body in scene.bodies]
    assert drawing.frames.dtype == np.uint8 and drawing.masks.shape == (6, 12, 64, 96)


def test_shapes_are_opaque_and_the_ground_moves_with_the_camera():
    scene = draw_scene(2, 5, 12, (0.75, 0.5), Difficulty((4, 4)))
    plain = render(scene, range(0, 12, 3), (96, 144))
    other = render(replace(scene, ground=draw_ground(Draws(99))), range(0, 12, 3), (96, 144))
    inner = plain.masks.copy()
    for axis in (2, 3):  # away from edges, which are mixed with what is behind them
        inner &= np.roll(inner, 1, axis) & np.roll(inner, -1, axis)
    inner[:, :, [0, -1]] = inner[:, :, :, [0, -1]] = False
    inner = inner.any(axis=0)
    assert inner.sum() > 1000
    assert np.abs(plain.frames[inner].astype(int) - other.frames[inner]).max() <= 1  # by rounding
    assert (plain.frames != other.frames).any(axis=-1)[~plain.masks.any(axis=0)].mean() > 0.95

    empty = replace(scene, bodies=(), depths=())
    shift = round(96 * 0.25) / 96
    camera = scene.camera
    still = replace(camera, x=0 * camera.x, y=0 * camera.y, zoom=1 + 0 * camera.zoom)
    moved = replace(still, x=still.x + shift)
    here = render(replace(empty, camera=still), range(1), (96, 144)).frames[0].astype(int)
    there = render(replace(empty, camera=moved), range(1), (96, 144)).frames[0].astype(int)
    assert np.abs(here[:, 24:] - there[:, :-24]).max() <= 1


def test_edges_are_smooth_and_cast_a_shadow():
    scene = draw_scene(2, 5, 12, (0.75, 0.5), Difficulty((1, 1)))
    body = replace(scene.bodies[0], label=0, x=np.zeros(1), y=np.zeros(1), radius=np.full(1, 0.3), tone=3.0)
    camera = replace(scene.camera, x=np.zeros(1), y=np.zeros(1), zoom=np.ones(1))
    bright = replace(scene, bodies=(body,), depths=(0,), camera=camera)
    drawing = render(bright, range(1), (128, 128))
    ground = render(replace(bright, bodies=(), depths=()), range(1), (128, 128)).frames[0].astype(int)
    image, mask = drawing.frames[0].astype(int), drawing.masks[0, 0]
    darker = (image.sum(-1) < ground.sum(-1) - 20) & ~mask
    rows, columns = np.nonzero(darker)
    own_rows, own_columns = np.nonzero(mask)
    assert rows.mean() > own_rows.mean() + 2 and columns.mean() > own_columns.mean() + 1
    again = render(bright, range(1), (512, 512)).frames[0].reshape(128, 4, 128, 4, 3).mean(axis=(1, 3))
    rim = np.zeros_like(mask)
    for axis in (0, 1):
        rim |= (mask != np.roll(mask, 1, axis)) | (mask != np.roll(mask, -1, axis))
    assert np.abs(again - image)[rim].mean() < 14, "an edge looks as if it had been drawn finely and scaled down"


def test_the_same_scene_in_another_size():
    scene = draw_scene(6, 2, 12, (0.75, 0.5), Difficulty())
    small, large = (render(scene, range(2, 4), size) for size in ((64, 96), (192, 288)))
    middles = large.masks[:, :, 1::3, 1::3]  # the middle pixel of each 3 × 3 has the small one's centre
    assert (middles == small.masks).mean() > 0.9999
    scaled = large.frames.reshape(2, 64, 3, 96, 3, 3).mean(axis=(2, 4))
    assert np.abs(scaled - small.frames).mean() < 8
