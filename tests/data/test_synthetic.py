"""The synthetic set as a model meets it: the same bytes everywhere, exact targets, clips for training."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torchvision.ops import masks_to_boxes

from mdqe.data.synthetic import (
    CATEGORIES,
    DEMO,
    Difficulty,
    SyntheticClips,
    clip_targets,
    demo_scene,
    draw_video,
    generate,
)

# Of every number that `digest` draws. It may change only with a release that says that the set is another one.
DIGEST = "2b94ab5862dc286573b80f8af51d5badbcfa6ccf9177d22263cf4e2fd3dd7ee2"


def digest() -> str:
    """All that scenes of every difficulty hold."""
    total = hashlib.sha256()
    for index, difficulty in enumerate(("easy", "standard", "standard", "standard", "hard", "hard")):
        drawing = draw_video(2024, index, frames=3, size=(96, 144), difficulty=difficulty, start=5, scene_frames=12)
        total.update(drawing.frames.tobytes())
        total.update(np.packbits(drawing.masks).tobytes())
        total.update(drawing.labels.astype("<i8").tobytes())
        total.update(drawing.hidden.astype("<f8").tobytes())
    return total.hexdigest()


def test_same_seed_same_bytes():
    assert digest() == DIGEST


def test_same_bytes_on_a_processor_that_knows_less():
    core = pytest.importorskip("numpy._core._multiarray_umath", reason="its name before NumPy 2 is another")
    features = [name for name in core.__cpu_dispatch__ if core.__cpu_features__.get(name)]
    if not features:
        pytest.skip("NumPy uses nothing here that every processor of the kind does not know")
    program = (
        "from numpy._core._multiarray_umath import __cpu_features__ as has\n"
        f"assert not any(has[name] for name in {features!r})\n"
        "from test_synthetic import digest; print(digest())"
    )
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(features)}
    environment["PYTHONPATH"] = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == DIGEST, ran.stderr


def test_seeds_and_indices_name_different_scenes():
    frames = [draw_video(*key, frames=1, size=(32, 48)).frames.tobytes() for key in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    assert len(set(frames)) == 4
    assert draw_video(1, 1, frames=1, size=(32, 48)).frames.tobytes() == frames[3]


def test_a_part_is_that_part_of_the_whole():
    whole = draw_video(3, 4, frames=10, size=(48, 72))
    part = draw_video(3, 4, frames=4, size=(48, 72), start=5, scene_frames=10)
    assert np.array_equal(part.frames, whole.frames[5:9])
    assert np.array_equal(part.masks, whole.masks[:, 5:9])
    assert np.array_equal(part.hidden, whole.hidden[:, 5:9], equal_nan=True)


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
    expected = masks_to_boxes(targets.masks[present]) + torch.tensor([0, 0, 1, 1])
    assert torch.equal(targets.boxes[present], expected)
    assert (targets.boxes[~present] == 0).all()


def test_shapes_that_are_never_seen_are_not_targets():
    drawing = draw_video(6, frames=3, size=(64, 96), difficulty=Difficulty((4, 4)))
    drawing.masks[1] = False
    drawing.masks[2, 1] = False
    targets = clip_targets(drawing)
    assert targets.ids[:, 0].tolist() == [0, 2, 3]
    assert targets.ids[1].tolist() == [2, -1, 2]
    drawing.masks[:] = False
    assert clip_targets(drawing).masks.shape == (0, 3, 64, 96)


def test_clips_are_cut_from_all_over_their_scenes():
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


def test_clips_are_mirrored_with_their_targets():
    options = {"seed": 2, "frames": 3, "size": (32, 48), "scene_frames": 3}
    frames, targets = SyntheticClips(**options).clip(7, torch.Generator())
    mirrored, mirrored_targets = SyntheticClips(**options, flip=1).clip(7, torch.Generator())
    assert torch.equal(mirrored, frames.flip(-1))
    assert torch.equal(mirrored_targets.masks, targets.masks.flip(-1))
    assert torch.equal(mirrored_targets.ids, targets.ids) and torch.equal(mirrored_targets.labels, targets.labels)
    present = targets.ids >= 0
    expected = masks_to_boxes(targets.masks.flip(-1)[present]) + torch.tensor([0, 0, 1, 1])
    assert torch.equal(mirrored_targets.boxes[present], expected)
    generator = torch.Generator().manual_seed(0)
    half = SyntheticClips(**options, flip=0.5)
    flipped = [torch.equal(half.clip(7, generator)[0], mirrored) for _ in range(60)]
    assert 15 < sum(flipped) < 45, "six sigma"


def test_demo_scene():
    drawing = demo_scene(48, (64, 96))
    assert drawing.frames.shape == (48, 64, 96, 3)
    assert np.array_equal(drawing.frames[20], draw_video(*DEMO, frames=48, size=(64, 96)).frames[20])
    assert len(set(drawing.labels.tolist())) == 1 and 2 <= len(drawing.labels) <= 6
    returns = 0
    for hidden in drawing.hidden:
        for gone in np.flatnonzero(hidden > 0.95):
            returns += (hidden[:gone] < 0.3).any() and (hidden[gone:] < 0.3).any()
    assert returns > 0, "a shape passes wholly behind others and comes out again"


def test_standard_scenes_are_those_that_the_documentation_describes():
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
        ({"frames": 0}, "frames is 0 from 0 on"),
        ({"frames": 4, "start": 3, "scene_frames": 6}, "frames is 4 from 3 on, of a scene of 6"),
        ({"start": -1}, "from -1 on"),
        ({"size": (15, 200)}, "size is 15x200"),
        ({"difficulty": "brutal"}, "difficulty is 'brutal'; expected easy, standard, hard"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_video(**{"seed": 0, **arguments})


def test_bad_clips():
    with pytest.raises(ValueError, match="length is 0"):
        SyntheticClips(0)
    with pytest.raises(ValueError, match="frames is 5 from 0 on, of a scene of 4"):
        SyntheticClips(10, frames=5, scene_frames=4)
    with pytest.raises(ValueError, match="flip is 2"):
        SyntheticClips(flip=2)


def test_categories():
    assert CATEGORIES == ("disc", "triangle", "square", "star", "cross", "heart")
