"""`mdqe import`, from the command line to a training set."""

import json

import numpy as np
import pytest
from PIL import Image

from mdqe.data.synthetic import draw_video


@pytest.fixture
def masks(tmp_path):
    """Two videos: images in JPEGImages, numbers of objects as PNG images in masks."""
    for index in range(2):
        drawing = draw_video(4, index, frames=3, size=(48, 64))
        for home in ("JPEGImages", "masks"):
            (tmp_path / home / f"v{index}").mkdir(parents=True)
        for t, frame in enumerate(drawing.frames):
            numbers = np.zeros((48, 64), np.uint8)
            for number, mask in enumerate(drawing.masks[:, t], 1):
                numbers[mask] = number
            Image.fromarray(frame).save(tmp_path / "JPEGImages" / f"v{index}" / f"{t}.png")
            Image.fromarray(numbers).save(tmp_path / "masks" / f"v{index}" / f"{t}.png")
    return tmp_path / "masks"


def test_from_masks_to_a_training_set(run, masks, tmp_path):
    path = tmp_path / "annotations.json"
    status, out, err = run("import", masks, "-o", path)
    assert (status, out) == (0, f"{path}\n")
    assert f"reading {masks}: 6 frames" in err and "videos: 2; objects: " in err and "; categories: object" in err
    assert err.endswith(f"train and evaluate with --data {path}@{tmp_path / 'JPEGImages'}\n")
    # Training finds the frames, with the folder that the command printed or without.
    from mdqe.training.recipe import Recipe
    from mdqe.training.sources import open_data

    for name in (str(path), f"{path}@{tmp_path / 'JPEGImages'}"):
        data = open_data(name, 2, Recipe())
        assert len(data.clips) == 2 and data.categories.names == ("object",)
    document = json.loads(path.read_text())
    results = [
        {"video_id": one["video_id"], "category_id": 1, "score": 0.9, "segmentations": one["segmentations"]}
        for one in document["annotations"]
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    status, out, _ = run("evaluate", tmp_path / "results.json", "--data", path)
    assert status == 0 and out.splitlines()[1].split()[2] == "100.0"


def test_chosen_videos_and_categories(run, masks, tmp_path):
    (tmp_path / "train.txt").write_text("v1\n")
    options = ("--videos", tmp_path / "train.txt", "--categories", "thing, object", "--format", "id-png")
    status, _, err = run("import", masks, "-o", tmp_path / "a.json", *options)
    assert status == 0, err
    document = json.loads((tmp_path / "a.json").read_text())
    assert [one["name"] for one in document["videos"]] == ["v1"]
    assert document["categories"] == [{"id": 1, "name": "thing"}, {"id": 2, "name": "object"}]
    assert {one["category_id"] for one in document["annotations"]} == {2}
    number = document["annotations"][0]["track_id"]
    status, _, err = run("import", masks, "-o", tmp_path / "a.json", "--ignore", number)
    assert status == 0 and "frames with ignored pixel values, left out (" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["none", "-o", "a.json"], "no such file or folder: none"),
        (["masks", "-o", "nowhere/a.json"], "nowhere"),
        (
            ["JPEGImages", "-o", "a.json"],
            "JPEGImages is not in a known format; --format names one of id-png, davis",
        ),
        (["masks", "-o", "a.json", "--format", "mots"], "masks has no video in the form mots: MOTS text files"),
        (["masks", "-o", "a.json", "--format", "davis"], "masks has no folder Annotations, as DAVIS has"),
        (["masks", "-o", "a.json", "--images", "x"], "no such folder: x"),
        (["masks", "-o", "a.json", "--ignore", "x"], "'x' is not a whole number"),
        (["masks", "-o", "a.json", "--categories", "a,,b"], "a category has no name"),
        (["masks", "-o", "a.json", "--categories", "a,a"], "two categories are named 'a'; expected each name once"),
        (["masks", "-o", "a.json", "--videos", "list.txt"], "masks has no video 'v7'"),
        (["masks", "-o", "a.json", "--videos", "latin.txt"], r"masks has no video 'caf\udce9'"),
        (["masks", "-o", "a.json", "--videos", "empty.txt"], "empty.txt names no videos"),
        (["masks", "-o", "JPEGImages"], "JPEGImages: is a folder; expected the path of a file"),
        (["masks", "-o", "a.json", "--format", "xml"], "invalid choice: 'xml'"),
        (["masks", "-o", "a.json", "--format", "coco"], "masks: Is a directory"),
    ],
)
def test_bad_options(run, masks, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("v1\nv7\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "a.json").write_text("kept")
    status, out, err = run("import", *options)
    assert status == 2 and out == "" and message in err and len(err.splitlines()) == 1
    assert (tmp_path / "a.json").read_text() == "kept"


def test_names_with_spaces(run, masks, tmp_path):
    for home in ("masks", "JPEGImages"):
        (tmp_path / home / "v1").rename(tmp_path / home / "my video")
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbfmy video\r\n")  # as an editor on Windows writes it
    status, _, err = run("import", masks, "-o", tmp_path / "a.json", "--videos", tmp_path / "train.txt")
    assert status == 0, err
    assert [one["name"] for one in json.loads((tmp_path / "a.json").read_text())["videos"]] == ["my video"]


def test_a_failure_on_the_way_leaves_the_old_file(run, masks, tmp_path):
    (tmp_path / "a.json").write_text("kept")
    (masks / "v1" / "2.png").write_bytes(b"\x89PNG")
    status, out, err = run("import", masks, "-o", tmp_path / "a.json")
    assert status == 2 and out == "" and "v1/2.png cannot be read: not an image" in err
    assert (tmp_path / "a.json").read_text() == "kept"


def test_help_has_the_examples_and_formats(run):
    import importlib

    status, out, _ = run("import", "--help")
    assert status == 0 and importlib.import_module("mdqe.cli.import_").EXAMPLE in out
    for name in ("id-png", "davis", "coco", "mots", "mots-png", "labelme", "cvat"):
        assert name in out
