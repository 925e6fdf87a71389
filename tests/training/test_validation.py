"""Validation: the known videos, the model's results, the numbers and the pictures of them."""

import sys
import types
from importlib.util import find_spec

import annotated_sets as sets
import numpy as np
import pytest
import tiny
import torch

from mdqe.annotations.masks import to_rle
from mdqe.data.synthetic import CATEGORIES, draw_video
from mdqe.data.ytvis import VideoClips
from mdqe.errors import InputError
from mdqe.results.instances import VideoInstances
from mdqe.results.rle import decode
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
    assert [(v.id, v.length, v.size) for v in annotations.videos.values()] == [(1, 4, (64, 96)), (2, 4, (64, 96))]
    assert len(annotations.categories) == 6 and {r["video_id"] for r in results} == {1, 2}
    seen = [(d.labels[i] + 1, d.masks[i]) for d in model.seen for i in range(len(d.labels)) if d.masks[i].any()]
    assert [one.category for one in annotations.objects] == [label for label, _ in seen]
    truth = [(v.id, one.category, one.masks) for v in annotations.videos.values() for one in v.objects]
    found = [
        (r["video_id"], r["category_id"], [mask and mask["counts"] for mask in r["segmentations"]])
        for r in results
        if any(r["segmentations"])
    ]
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
        check.frames, check.videos = check.frames * 3, [1, 2, 3]
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
        Validation({"videos": [], "categories": [], "annotations": []}, [])


@pytest.fixture
def folder(tmp_path):
    """A set of three videos; `change` writes other annotations for it."""
    document = sets.write_videos(tmp_path / "set")

    def change(function=lambda document: None):
        function(document)
        return sets.save(tmp_path / "set", document, "annotations.json").parent

    return change


def test_files_are_used_as_they_are(folder):
    validation = annotated_validation(str(folder()), videos=1)
    assert len(validation.frames) == 1
    np.testing.assert_array_equal(list(validation.frames[0]()), sets.drawing(0).frames)


class Truth:
    """A model whose results are the annotations."""

    def __init__(self, validation):
        self.videos = iter(validation.annotations.videos.values())

    def segment(self, frames, *, multi_label):
        video = next(self.videos)
        masks = [decode([to_rle(mask, video.size) for mask in one.masks if mask], video.size) for one in video.objects]
        whole = np.zeros((len(masks), video.length, *video.size), bool)
        for row, one, found in zip(whole, video.objects, masks, strict=True):
            row[[mask is not None for mask in one.masks]] = found
        labels = [one.category - 1 for one in video.objects]
        return VideoInstances.from_masks(np.ones(len(labels)), labels, range(len(labels)), whole)


def drop(key):
    return lambda document: [one.pop(key) for one in document["annotations"]]


@pytest.mark.parametrize(
    "change",
    [drop("areas"), drop("id"), lambda document: document.update(sets.minimal(document))],
    ids=["no areas", "no annotation id", "required fields alone"],
)
def test_a_validation_file_needs_no_more_than_a_training_file(folder, change):
    path = folder(change)
    check = annotated_validation(str(path), videos=3, config=tiny.model().config.replace(categories=CATEGORIES))
    assert check(Truth(check), 1)["AP"] == pytest.approx(1)
    assert len(VideoClips(path / "annotations.json", path / "JPEGImages")) == 3


def spoil(document):
    document["annotations"][0]["category_id"] = "1"
    document["annotations"][1]["segmentations"][2] = {"size": [48, 72], "counts": "1"}
    document["videos"][0]["file_names"][1] = "gone.png"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["annotations"][1].update(id=1), r'annotation 1: "id" is 1, which is not unique\n\(skip_bad'),
        (
            lambda d: d["annotations"][0].update(category_id="1"),
            "annotation 0 \\(id 1\\): \"category_id\" is '1'; expected",
        ),
        (lambda d: d["videos"][0]["file_names"].__setitem__(1, "gone.png"), r"images are missing \(1\): .*gone.png"),
        (lambda d: d.update(annotations=[]), "none of its 3 videos has an object"),
        (lambda d: d.pop("annotations"), 'the file has no "annotations"'),
        (lambda d: d.update(sets.coco_document(d)) or d.pop("videos"), "contains images; expected videos"),
        (lambda d: d.update(categories=[{"id": i + 20} for i in range(6)], annotations=[]), "none of its 3 videos"),
        (
            spoil,
            r'has 3 problems:\n- invalid "category_id" \(1\): .*\n- invalid "segmentations" \(1\): .*\n- images are',
        ),
    ],
)
def test_a_validation_file_is_checked_like_a_training_file(folder, change, message):
    path = folder(change)
    for check in (annotated_validation, lambda name: VideoClips(f"{name}/annotations.json", f"{name}/JPEGImages")):
        with pytest.raises(InputError, match=rf"^{path}/annotations\.json\b.*{message}"):
            check(str(path))


def test_bad_videos_can_be_left_out(folder):
    path = folder(spoil)
    with pytest.warns(UserWarning, match="(?s:has 3 problems.*Continuing without them)"):
        validation = annotated_validation(str(path), skip_bad=True)
    assert validation.videos == [2, 3]


def test_categories_are_matched_by_name(folder):
    def renumber(document):
        for one in document["categories"]:
            one["id"] += 20
        for one in document["annotations"]:
            one["category_id"] += 20

    path = str(folder(renumber))
    config = tiny.model().config.replace(categories=(*CATEGORIES[:5], "another"))
    assert annotated_validation(path, config=config).category_ids == [21, 22, 23, 24, 25, 20]
    with pytest.raises(
        InputError, match=r"the model's categories \(ids 1, 2, 3, 4, …\) are not those of .*annotations.json"
    ):
        annotated_validation(path, config=config.replace(categories=()))
