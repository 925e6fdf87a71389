"""Validation: the known videos, the model's results, the numbers and the pictures of them."""

import sys
import types
from importlib.util import find_spec

import numpy as np
import pytest
import tiny
import torch

from mdqe.cli import main
from mdqe.data.synthetic import draw_video
from mdqe.results.instances import VideoInstances
from mdqe.training import validation as validation_module
from mdqe.training.validation import Validation, annotated_validation, best_classes, synthetic_validation

SIZE = (64, 96)


class Evaluator(types.ModuleType):
    """Stands in for `mdqe.evaluation` and remembers what it was given."""

    def __init__(self):
        super().__init__("mdqe.evaluation")
        self.calls = []

    def evaluate(self, annotations, results):
        self.calls.append((annotations, results))
        return {"AP": 0.25, "IDSW": 3, "per_category": {1: {"AP": 0.5}}}


@pytest.fixture
def evaluator(monkeypatch):
    stand_in = Evaluator()
    monkeypatch.setitem(sys.modules, "mdqe.evaluation", stand_in)
    return stand_in


class Perfect:
    """A model that knows the scenes."""

    def __init__(self, seed):
        self.seed, self.seen = seed, []

    def segment(self, frames, *, multi_label):
        assert multi_label
        frames = list(frames)
        drawing = draw_video(self.seed, len(self.seen), frames=len(frames), size=SIZE)
        assert all(np.array_equal(a, b) for a, b in zip(frames, drawing.frames, strict=True))
        self.seen.append(drawing)
        count = len(drawing.labels)
        names = tuple(f"c{i}" for i in range(6))
        return VideoInstances.from_masks(
            np.full(count, 0.9), drawing.labels, range(count), drawing.masks, categories=names
        )


def test_documents_and_results_belong_together(evaluator):
    model = Perfect(3)
    values = synthetic_validation(2, seed=3, frames=4, size=SIZE)(model, 10)
    assert values == {"AP": 0.25, "IDSW": 3.0}
    ((annotations, results),) = evaluator.calls
    assert [(v["id"], v["length"], v["height"], v["width"]) for v in annotations["videos"]] == [
        (1, 4, 64, 96),
        (2, 4, 64, 96),
    ]
    assert len(annotations["categories"]) == 6 and {r["video_id"] for r in results} == {1, 2}
    seen = [(d.labels[i] + 1, d.masks[i]) for d in model.seen for i in range(len(d.labels)) if d.masks[i].any()]
    assert [one["category_id"] for one in annotations["annotations"]] == [label for label, _ in seen]
    truth = [(one["video_id"], one["category_id"], one["segmentations"]) for one in annotations["annotations"]]
    found = [(r["video_id"], r["category_id"], r["segmentations"]) for r in results if any(r["segmentations"])]
    assert found == truth


def test_the_real_evaluator_finds_perfect_results_perfect():
    if find_spec("mdqe.evaluation") is None:
        pytest.skip("mdqe.evaluation is not there")
    values = synthetic_validation(2, seed=3, frames=4, size=SIZE)(Perfect(3), 10)
    assert values["AP"] == pytest.approx(1) and values["AP50"] == pytest.approx(1)
    assert all(isinstance(value, float) for value in values.values())


def test_a_model_is_validated_as_it_is(evaluator):
    model = tiny.model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    synthetic_validation(1, seed=3, frames=4, size=SIZE)(model, 10)
    assert model.training and all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert evaluator.calls


def test_pictures(evaluator, tmp_path):
    Image = pytest.importorskip("PIL.Image")
    check = synthetic_validation(6, seed=3, frames=4, size=SIZE, folder=tmp_path / "pictures")
    check(Perfect(3), 20)
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == [f"000020-{i}.png" for i in range(4)]
    drawn = np.asarray(Image.open(tmp_path / "pictures" / names[0]))
    plain = draw_video(3, 0, frames=4, size=SIZE).frames
    assert drawn.shape[1] > 4 * SIZE[1] and drawn.std() > plain.std() / 4


def test_without_pictures_it_says_so_once(evaluator, tmp_path, monkeypatch):
    monkeypatch.setattr(validation_module, "find_spec", lambda name: None)
    said = []
    check = synthetic_validation(1, seed=3, frames=2, size=SIZE, folder=tmp_path / "pictures", say=said.append)
    check(Perfect(3), 1)
    assert said == ["validation draws no pictures; for them: pip install 'mdqe[video]'"]
    assert not (tmp_path / "pictures").exists()


def test_processes_share_the_videos(evaluator, monkeypatch):
    monkeypatch.setattr(validation_module, "ranks", lambda: 2)
    shares = []
    for number in (1, 0):
        monkeypatch.setattr(validation_module, "rank", lambda number=number: number)

        def gather(value, number=number):
            shares.append(value)
            return [value] if number else shares[::-1]

        monkeypatch.setattr(validation_module, "gather", gather)
        model = Perfect(3)
        model.segment = lambda frames, multi_label: Perfect.segment(Perfect(3), frames, multi_label=multi_label)
        check = synthetic_validation(1, seed=3, frames=2, size=SIZE)
        check.frames, check.document["videos"] = check.frames * 3, [{"id": i} for i in (1, 2, 3)]
        values = check(model, 1)
        assert bool(values) == (number == 0)
    ids = [{r["video_id"] for r in share} for share in shares]
    assert ids == [{2}, {1, 3}]
    ((_, results),) = evaluator.calls
    assert {r["video_id"] for r in results} == {1, 2, 3}


def test_every_track_is_drawn_once():
    masks = np.ones((4, 1, 2, 2), bool)
    result = VideoInstances.from_masks([0.2, 0.9, 0.5, 0.7], [0, 1, 2, 1], [5, 7, 5, 7], masks)
    best = best_classes(result)
    assert list(zip(best.track_ids.tolist(), best.labels.tolist(), strict=True)) == [(7, 1), (5, 2)]


def test_videos_without_frames():
    with pytest.raises(ValueError, match="0 videos and frames of 0"):
        Validation({"videos": []}, [])


def test_files_are_shown_as_they_are(tmp_path):
    options = ["--videos", "2", "--frames", "3", "--size", "96x64", "--images", "png", "--seed", "5"]
    assert main(["make-data", "-o", str(tmp_path / "set"), *options]) == 0
    validation = annotated_validation(str(tmp_path / "set"), videos=1)
    assert len(validation.frames) == 1
    np.testing.assert_array_equal(list(validation.frames[0]()), draw_video(5, 0, frames=3, size=SIZE).frames)
