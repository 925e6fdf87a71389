"""`mdqe demo`: its files and its output."""

import os
import re

import numpy as np
import pytest

from mdqe.cli.demo import score
from mdqe.data import synthetic
from mdqe.data.synthetic import CATEGORIES, draw_video
from mdqe.results.instances import VideoInstances


def truth(scene, labels=None, masks=None, ids=None):
    number = len(scene.labels)
    labels = scene.labels if labels is None else labels
    ids, masks = range(number) if ids is None else ids, scene.masks if masks is None else masks
    return VideoInstances.from_masks([0.9] * number, labels, ids, masks, categories=CATEGORIES)


@pytest.fixture(scope="module")
def scene():
    return draw_video(3, frames=6, size=(64, 96))


def test_the_ground_truth_has_the_maximum_scores(scene):
    (line,) = score(truth(scene), scene)
    assert f"{len(scene.labels)} shapes" in line
    assert "AP 100.0, AP50 100.0, HOTA 100.0, IDF1 100.0, identity switches 0" in line


def test_wrong_categories_and_empty_results_score_0(scene):
    (line,) = score(truth(scene, labels=(scene.labels + 1) % 6), scene)
    assert "AP 0.0," in line
    (line,) = score(truth(scene, masks=np.zeros_like(scene.masks)), scene)
    assert "AP 0.0, AP50 0.0, HOTA 0.0" in line


def test_a_model_of_other_categories_is_not_scored(run, tiny_model, tmp_path, monkeypatch, scene):
    monkeypatch.setattr(synthetic, "demo_scene", lambda: scene)
    status, stdout, stderr = run("demo", "-o", tmp_path, "--model", tiny_model, "--device", "cpu")
    assert status == 0, stderr
    assert "no scores: the model has other categories" in stdout


def test_the_bundled_model_is_scored(run, tmp_path, monkeypatch, scene):
    monkeypatch.setattr(synthetic, "demo_scene", lambda: scene)
    status, stdout, stderr = run("demo", "-o", tmp_path / "demo", "--device", "cpu")
    assert status == 0, stderr
    assert sorted(os.listdir(tmp_path / "demo")) == ["clip.mp4", "instances.json", "overlay.mp4", "sheet.png"]
    found = VideoInstances.load(tmp_path / "demo" / "instances.json")
    assert (found.num_frames, found.categories) == (6, CATEGORIES)
    assert re.search(r"compared with the \d shapes of the scene: AP \d+\.\d, .*, identity switches \d", stdout)
