"""The synthetic set: the same bytes on every machine, exact masks and targets, and clips for training."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import masks_to_boxes

from mdqe.data.reproducible import RandomStream
from mdqe.data.scene import draw_scene
from mdqe.data.shapes import directions, draw_ground, outline
from mdqe.data.synthetic import (
    DEMO,
    Difficulty,
    SyntheticClips,
    clip_targets,
    demo_scene,
    draw_video,
    generate,
    render,
)

# The frames, masks, labels and hidden shares of scenes. They change only in a release that announces a new set.
DIGEST = "2b94ab5862dc286573b80f8af51d5badbcfa6ccf9177d22263cf4e2fd3dd7ee2"
DEMO_DIGEST = "4df4a73ed414a7b3f9d39b05883b294d3d5a4eea98f2e10f31c0339d2d2b976a"
NEAR = 0.02  # distance from an edge, in pixels, within which float32 can round either way
HALF = (0.75, 0.5)  # of frames with an aspect ratio of 3:2


def digest() -> str:
    total = hashlib.sha256()
    for index, difficulty in enumerate(("easy", "standard", "standard", "standard", "hard", "hard")):
        drawing = draw_video(2024, index, frames=3, size=(96, 144), difficulty=difficulty, start=5, scene_frames=12)
        total.update(drawing.frames.tobytes())
        total.update(np.packbits(drawing.masks).tobytes())
        total.update(drawing.labels.astype("<i8").tobytes())
        total.update(drawing.hidden.astype("<f8").tobytes())
    return total.hexdigest()


# --- the same everywhere --------------------------------------------------------------------------------------------


def test_scenes_have_the_published_bytes():
    assert digest() == DIGEST
    frame = draw_video(*DEMO, frames=1, size=(64, 96), start=20, scene_frames=48).frames
    assert hashlib.sha256(frame.tobytes()).hexdigest() == DEMO_DIGEST


def test_bytes_do_not_depend_on_vector_instructions():
    core = pytest.importorskip("numpy._core._multiarray_umath", reason="it has another name before NumPy 2")
    features = [name for name in core.__cpu_dispatch__ if core.__cpu_features__.get(name)]
    if not features:
        pytest.skip("NumPy uses no optional vector instructions on this processor")
    program = (
        "from numpy._core._multiarray_umath import __cpu_features__ as has\n"
        f"assert not any(has[name] for name in {features!r})\n"
        "from test_synthetic import digest; print(digest())"
    )
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(features)}
    environment["PYTHONPATH"] = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == DIGEST, ran.stderr


def test_seeds_and_indices_identify_scenes():
    frames = [draw_video(*key, frames=1, size=(32, 48)).frames.tobytes() for key in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    assert len(set(frames)) == 4
    assert draw_video(1, 1, frames=1, size=(32, 48)).frames.tobytes() == frames[3]


def test_parts_equal_the_whole():
    whole = draw_video(3, 4, frames=10, size=(48, 72))
    part = draw_video(3, 4, frames=4, size=(48, 72), start=5, scene_frames=10)
    assert np.array_equal(part.frames, whole.frames[5:9])
    assert np.array_equal(part.masks, whole.masks[:, 5:9])
    assert np.array_equal(part.hidden, whole.hidden[:, 5:9], equal_nan=True)


def test_scenes_do_not_depend_on_the_resolution():
    scene = draw_scene(6, 2, 12, HALF, Difficulty())
    small, large = (render(scene, range(2, 4), size) for size in ((64, 96), (192, 288)))
    middles = large.masks[:, :, 1::3, 1::3]  # the middle pixel of 3 × 3 has the centre of the small pixel
    assert (middles == small.masks).mean() > 0.9999
    scaled = large.frames.reshape(2, 64, 3, 96, 3, 3).mean(axis=(2, 4))
    assert np.abs(scaled - small.frames).mean() < 8


# --- rendering ------------------------------------------------------------------------------------------------------


def depth_by_angle(scene, k, t, size):
    """(H, W) float64: signed distance in pixels from every pixel's centre to a shape's outline, by polar angles."""
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
        assert drawing.labels.tolist() == [body.label for body in scene.bodies]
        for i, t in enumerate(frames):
            depths = np.stack([depth_by_angle(scene, k, t, size) for k in range(len(scene.bodies))])
            nearest = np.full(size, -1)
            for k in scene.depths:
                nearest[depths[k] > 0] = k
            sure = (np.abs(depths) > NEAR).all(axis=0)
            assert sure.mean() > 0.97
            for k in range(len(scene.bodies)):
                assert np.array_equal(drawing.masks[k, i][sure], (nearest == k)[sure])
                whole, visible = (depths[k] > 0).sum(), (nearest == k).sum()
                if whole == 0:
                    assert np.isnan(drawing.hidden[k, i])
                else:
                    assert drawing.hidden[k, i] == pytest.approx(1 - visible / whole, abs=6 / whole)
                    hiding += 0.1 < drawing.hidden[k, i] < 1
    assert hiding > 5, "some shapes are partly hidden"


def test_shapes_are_opaque_and_the_ground_moves_with_the_camera():
    scene = draw_scene(2, 5, 12, HALF, Difficulty((4, 4)))
    plain = render(scene, range(0, 12, 3), (96, 144))
    other = render(replace(scene, ground=draw_ground(RandomStream(99))), range(0, 12, 3), (96, 144))
    inner = plain.masks.copy()
    for axis in (2, 3):  # without the edges, which are blended with the background
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
    scene = draw_scene(2, 5, 12, HALF, Difficulty((1, 1)))
    body = replace(scene.bodies[0], label=0, x=np.zeros(1), y=np.zeros(1), radius=np.full(1, 0.3), tone=3.0)
    camera = replace(scene.camera, x=np.zeros(1), y=np.zeros(1), zoom=np.ones(1))
    bright = replace(scene, bodies=(body,), depths=(0,), camera=camera)
    drawing = render(bright, range(1), (128, 128))
    ground = render(replace(bright, bodies=(), depths=()), range(1), (128, 128)).frames[0].astype(int)
    image, mask = drawing.frames[0].astype(int), drawing.masks[0, 0]
    rows, columns = np.nonzero((image.sum(-1) < ground.sum(-1) - 20) & ~mask)
    own_rows, own_columns = np.nonzero(mask)
    assert rows.mean() > own_rows.mean() + 2 and columns.mean() > own_columns.mean() + 1
    again = render(bright, range(1), (512, 512)).frames[0].reshape(128, 4, 128, 4, 3).mean(axis=(1, 3))
    rim = np.zeros_like(mask)
    for axis in (0, 1):
        rim |= (mask != np.roll(mask, 1, axis)) | (mask != np.roll(mask, -1, axis))
    assert np.abs(again - image)[rim].mean() < 14, "edges look like those of a downscaled larger frame"


# --- targets and clips ----------------------------------------------------------------------------------------------


def assert_boxes_enclose_masks(targets):
    present = targets.ids >= 0
    expected = masks_to_boxes(targets.masks[present]) + torch.tensor([0, 0, 1, 1])
    assert torch.equal(targets.boxes[present], expected)
    assert (targets.boxes[~present] == 0).all()


@pytest.mark.parametrize("size", [(128, 192), (100, 60), (33, 47)])
def test_generate(size):
    frames, targets = generate(5, 2, frames=12, size=size, difficulty="hard")
    drawing = draw_video(5, 2, frames=12, size=size, difficulty="hard")
    assert np.array_equal(frames, drawing.frames) and frames.shape == (12, *size, 3) and frames.dtype == np.uint8
    count = len(targets.labels)
    assert 5 <= count <= 10 and targets.masks.shape == (count, 12, *size)
    present = targets.masks.flatten(2).any(2)
    assert torch.equal(targets.ids >= 0, present) and present.any(1).all()
    for labels, ids, masks in zip(targets.labels, targets.ids, targets.masks, strict=True):
        (number,) = set(ids.tolist()) - {-1}
        assert labels == drawing.labels[number] and np.array_equal(masks.numpy(), drawing.masks[number])
    assert_boxes_enclose_masks(targets)


def test_invisible_shapes_are_not_targets():
    drawing = draw_video(6, frames=3, size=(64, 96), difficulty=Difficulty((4, 4)))
    drawing.masks[1] = False
    drawing.masks[2, 1] = False
    targets = clip_targets(drawing)
    assert targets.ids[:, 0].tolist() == [0, 2, 3]
    assert targets.ids[1].tolist() == [2, -1, 2]
    drawing.masks[:] = False
    assert clip_targets(drawing).masks.shape == (0, 3, 64, 96)


def test_clips_start_at_every_frame_of_their_scene():
    clips = SyntheticClips(60, seed=1, frames=2, size=(16, 24), scene_frames=5)
    starts = set()
    for i in range(60):
        frames, _ = clips.clip(i, torch.Generator().manual_seed(i))
        whole = draw_video(1, i, frames=5, size=(16, 24)).frames
        starts |= {start for start in range(4) if np.array_equal(frames.permute(0, 2, 3, 1), whole[start : start + 2])}
    assert starts == {0, 1, 2, 3}
    assert len(clips) == 60
    with pytest.raises(IndexError):
        clips.clip(60, torch.Generator())


def test_clips_are_flipped_with_their_targets():
    options = {"seed": 2, "frames": 3, "size": (32, 48), "scene_frames": 3}
    frames, targets = SyntheticClips(**options).clip(7, torch.Generator())
    flipped, flipped_targets = SyntheticClips(**options, flip=1).clip(7, torch.Generator())
    assert torch.equal(flipped, frames.flip(-1))
    assert torch.equal(flipped_targets.masks, targets.masks.flip(-1))
    assert torch.equal(flipped_targets.ids, targets.ids) and torch.equal(flipped_targets.labels, targets.labels)
    assert_boxes_enclose_masks(flipped_targets)
    generator = torch.Generator().manual_seed(0)
    half = SyntheticClips(**options, flip=0.5)
    assert 15 < sum(torch.equal(half.clip(7, generator)[0], flipped) for _ in range(60)) < 45, "six sigma"


def test_demo_scene():
    drawing = demo_scene(48, (64, 96))
    assert drawing.frames.shape == (48, 64, 96, 3)
    assert np.array_equal(drawing.frames[20], draw_video(*DEMO, frames=48, size=(64, 96)).frames[20])
    assert len(set(drawing.labels.tolist())) == 1 and 2 <= len(drawing.labels) <= 6
    returns = 0
    for hidden in drawing.hidden:
        for gone in np.flatnonzero(hidden > 0.95):
            returns += (hidden[:gone] < 0.3).any() and (hidden[gone:] < 0.3).any()
    assert returns > 0, "a shape disappears behind others and reappears"


def test_standard_scenes_match_the_documentation():
    hidden = [draw_video(0, i, size=(64, 96)).hidden for i in range(40)]
    shares = np.concatenate([one.ravel() for one in hidden])
    shares = shares[~np.isnan(shares)]
    assert 0.4 < (shares < 0.05).mean() < 0.75
    assert 0.1 < (shares >= 0.5).mean() < 0.3
    assert np.mean([len(one) for one in hidden]) == pytest.approx(4, abs=0.6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed and index are -1 and 0"),
        ({"index": 2**64}, "expected 0 to 2"),
        ({"frames": 0}, "frames is 0, start is 0 and scene_frames is 0, expected frames within the scene"),
        ({"frames": 4, "start": 3, "scene_frames": 6}, "frames is 4, start is 3 and scene_frames is 6"),
        ({"start": -1}, "start is -1"),
        ({"size": (15, 200)}, "size is 15x200"),
        ({"difficulty": "brutal"}, "difficulty is 'brutal', expected easy, standard, hard, occluded"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_video(**{"seed": 0, **arguments})


def test_invalid_clips():
    with pytest.raises(ValueError, match="length is 0"):
        SyntheticClips(0)
    with pytest.raises(ValueError, match="frames is 5, start is 0 and scene_frames is 4"):
        SyntheticClips(10, frames=5, scene_frames=4)
    with pytest.raises(ValueError, match="flip is 2"):
        SyntheticClips(flip=2)
