"""Data sets by name, their files, and the categories of several sets."""

import os

import annotated_sets as sets
import pytest
import torch

from mdqe import MDQEConfig
from mdqe.data.synthetic import CATEGORIES
from mdqe.errors import InputError
from mdqe.training.recipe import Recipe
from mdqe.training.sources import Categories, find_annotations, open_data, split_ratio


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


@pytest.mark.skipif(os.name != "posix", reason="names that only POSIX allows")
def test_a_number_at_the_end_of_a_path_is_no_ratio(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("2026-11-28T12:30", "run:1", "images:5"):
        assert split_ratio(name) == (name.rpartition(":")[0], float(name.rpartition(":")[2]))
        (tmp_path / name).mkdir()
        assert split_ratio(name) == (name, 1.0)
        assert split_ratio(f"{name}:0.5") == (name, 0.5)
    assert split_ratio("a.json@images:5") == ("a.json@images:5", 1.0)
    assert split_ratio("a.json@images:5:2") == ("a.json@images:5", 2.0)
    sets.write_videos(tmp_path / "run:1", videos=1)
    assert find_annotations("run:1").images.samefile(tmp_path / "run:1" / "JPEGImages")


@pytest.mark.parametrize("name", ["a:0", "a:-1", "a:nan", "a:inf"])
def test_wrong_ratios(name):
    with pytest.raises(ValueError, match=r"the ratio is .*, expected a positive number"):
        split_ratio(name)


def test_files_of_a_set(tmp_path):
    sets.write_videos(tmp_path / "set", videos=1)
    name = str(tmp_path / "set" / "annotations.json")
    assert find_annotations(name).images == tmp_path / "set" / "JPEGImages"
    with pytest.raises(FileNotFoundError, match=r"no such folder: nowhere, for the images of .*annotations.json"):
        find_annotations(f"{name}@nowhere")
    with pytest.raises(FileNotFoundError, match=r"no such file: none.json; expected FILE.*, or synthetic\[:DIFF"):
        find_annotations("none.json")


@pytest.mark.parametrize("images", [False, True])
def test_sets_of_files(tmp_path, images):
    """Videos and images are recognised, and the categories of a second set are mapped to those of the first by name."""
    document = sets.write_videos(tmp_path / "set")
    path = sets.save(tmp_path, sets.coco_document(document) if images else sets.minimal(document))
    name = f"{path}@{tmp_path / 'set' / 'JPEGImages'}"
    found = open_data(name, 2, Recipe())
    assert type(found.clips).__name__ == ("PseudoClips" if images else "VideoClips")
    assert found.categories == Categories(CATEGORIES, (1, 2, 3, 4, 5, 6))
    wanted = Categories(("person", CATEGORIES[1].upper(), CATEGORIES[0]), (4, 9, 2))
    second = open_data(name, 2, Recipe(), categories=wanted)
    assert second.categories == wanted
    labels = {int(label) for i in range(len(second.clips)) for label in second.clips.clip(i, generator())[1].labels}
    assert labels and labels <= {1, 2}
    with pytest.raises(
        InputError, match=r"changed.json does not fit the first set: none of its categories is one of dog"
    ):
        open_data(name, 2, Recipe(), categories=Categories(("dog",), (1,)))


def generator():
    return torch.Generator().manual_seed(0)


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
