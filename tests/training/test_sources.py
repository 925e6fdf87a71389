"""What names of data mean, where their files lie, and how categories of several sets go together."""

import json

import pytest
import torch

from mdqe import MDQEConfig
from mdqe.data.synthetic import CATEGORIES
from mdqe.training.recipe import Recipe
from mdqe.training.sources import Categories, category_map, find_annotations, open_data, split_ratio

VIDEOS = {
    "annotations": [{"video_id": 1, "category_id": 7}],
    "categories": [{"id": 9, "name": "Dog"}, {"id": 7, "name": "giant_panda"}],
    "videos": [{"id": 1}],
}
IMAGES = {"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "dog"}, {"id": 4, "name": "cat"}]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("synthetic", ("synthetic", 1.0)),
        ("synthetic:hard", ("synthetic:hard", 1.0)),
        ("synthetic:hard:0.75", ("synthetic:hard", 0.75)),
        ("a/b.json:2", ("a/b.json", 2.0)),
        ("a/b.json@c/d:0.5", ("a/b.json@c/d", 0.5)),
        ("C:/a/b.json", ("C:/a/b.json", 1.0)),
        ("2024", ("2024", 1.0)),
    ],
)
def test_ratios(name, expected):
    assert split_ratio(name) == expected


@pytest.mark.parametrize("name", ["a:0", "a:-1", "a:nan", "a:inf"])
def test_wrong_ratios(name):
    with pytest.raises(ValueError, match=r"the ratio is .*, expected a positive number"):
        split_ratio(name)


@pytest.fixture
def write(tmp_path):
    def put(name, document):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return put


def test_files_are_recognised_without_being_read(write):
    videos, images = find_annotations(str(write("v.json", VIDEOS))), find_annotations(str(write("i.json", IMAGES)))
    assert (videos.videos, images.videos) == (True, False)
    assert list(videos.categories.items()) == [(7, "giant_panda"), (9, "Dog")]  # by id
    assert images.categories == {1: "dog", 4: "cat"}
    assert find_annotations(str(write("e.json", ""))).categories == {}
    assert find_annotations(str(write("x.json", '{"categories": 3}'))).categories == {}


def test_where_the_images_are(write, tmp_path):
    path = write("set/annotations.json", VIDEOS)
    assert find_annotations(str(path)).images == tmp_path / "set"
    assert find_annotations(str(tmp_path / "set")) == find_annotations(str(path))
    (tmp_path / "set" / "annotations" / "JPEGImages").mkdir(parents=True)
    assert find_annotations(str(path)).images == tmp_path / "set" / "annotations" / "JPEGImages"
    (tmp_path / "set" / "JPEGImages").mkdir()
    assert find_annotations(str(path)).images == tmp_path / "set" / "JPEGImages"
    assert find_annotations(f"{path}@{tmp_path}").images == tmp_path
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*nowhere, for the images of .*annotations.json"):
        find_annotations(f"{path}@{tmp_path / 'nowhere'}")
    with pytest.raises(FileNotFoundError, match=r"no such file: .*other.json; data is synthetic"):
        find_annotations(str(tmp_path / "other.json"))


def test_the_synthetic_set():
    found = open_data("synthetic:hard", 3, Recipe(), size=(64, 96), seed=2)
    assert found.categories == Categories(tuple(CATEGORIES), (1, 2, 3, 4, 5, 6))
    frames, targets = found.clips.clip(0, torch.Generator())
    assert frames.shape == (3, 3, 64, 96) and len(targets.labels)
    assert open_data("synthetic", 2, Recipe(), categories=found.categories).categories == found.categories
    with pytest.raises(ValueError, match="synthetic has the categories disc"):
        open_data("synthetic", 2, Recipe(), categories=Categories(("dog",), (1,)))


def test_a_model_for_the_categories():
    config = MDQEConfig.preset("r50_ovis_360")
    named = Categories(("dog", "cat"), (3, 9)).configure(config)
    assert (named.num_classes, named.categories, named.label_ids) == (2, ("dog", "cat"), (3, 9))
    unnamed = Categories(("dog", ""), (3, 9)).configure(config)
    assert (unnamed.num_classes, unnamed.categories, unnamed.label_ids) == (2, (), (3, 9))


def test_categories_by_name(write):
    pytest.importorskip("mdqe.data.coco")
    found = find_annotations(str(write("v.json", VIDEOS)))
    wanted = Categories(("person", "Giant Panda", "DOG"), (1, 2, 5))
    assert category_map(found, wanted) == {7: 2, 9: 5}
    with pytest.raises(ValueError, match=r"v.json has none of the categories of the first set: person"):
        category_map(found, Categories(("person",), (1,)))


def test_coco_as_the_published_video_sets(shared, write):
    pytest.importorskip("mdqe.data.coco")
    coco = MDQEConfig.preset("r50_coco")
    entries = [{"id": i, "name": n} for i, n in zip(coco.category_ids, coco.categories, strict=True)]
    found = find_annotations(str(write("coco.json", {**IMAGES, "categories": entries})))
    facts = json.loads((shared / "facts" / "datasets.json").read_text())
    for preset, name in (("r50_ytvis19", "ytvis_2019"), ("r50_ytvis21", "ytvis_2021"), ("r50_ovis_360", "ovis")):
        config = MDQEConfig.preset(preset)
        mapped = category_map(found, Categories(config.categories, config.label_ids))
        assert dict(mapped) == {int(one): to for one, to in facts["coco_to"][name].items()}
