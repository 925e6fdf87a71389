"""`mdqe demo` and the clip that it makes."""

import os

import numpy as np

from mdqe.cli import demo
from mdqe.cli.clip import moving_shapes
from mdqe.inference.result import VideoInstances


def test_the_clip_moves_and_is_always_the_same():
    frames = list(moving_shapes(6, (60, 90)))
    assert [(frame.shape, frame.dtype) for frame in frames] == [((60, 90, 3), np.uint8)] * 6
    assert all(np.array_equal(a, b) for a, b in zip(frames, moving_shapes(6, (60, 90)), strict=True))
    assert np.abs(frames[0].astype(int) - frames[5]).mean() > 2


def test_without_trained_weights_it_runs_and_says_so(run, tmp_path, monkeypatch):
    from mdqe.cli import clip

    monkeypatch.setattr("mdqe.source.bundled_models", lambda: ())
    monkeypatch.setattr(clip.moving_shapes, "__defaults__", (5, (96, 128), 5, 0))
    status, stdout, stderr = run("demo", "-o", tmp_path / "demo")
    assert status == 0, stderr
    assert "UNTRAINED" in stderr
    assert "untrained weights" in stdout
    assert sorted(os.listdir(tmp_path / "demo")) == ["clip.mp4", "instances.json", "overlay.mp4", "sheet.png"]
    assert VideoInstances.load(tmp_path / "demo" / "instances.json").num_frames == 5


def test_with_a_model_it_claims_nothing_about_training(run, tiny_model, tmp_path, monkeypatch):
    from mdqe.cli import clip

    monkeypatch.setattr(clip.moving_shapes, "__defaults__", (4, (64, 96), 5, 0))
    status, stdout, stderr = run("demo", "-o", tmp_path, "--model", tiny_model, "--device", "cpu")
    assert status == 0, stderr
    assert "ntrained" not in stdout + stderr


def test_the_untrained_model_is_always_the_same():
    first, second = demo.untrained_model().state_dict(), demo.untrained_model().state_dict()
    assert all((first[name] == second[name]).all() for name in first)
