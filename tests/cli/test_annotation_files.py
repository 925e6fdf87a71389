"""All commands accept the same annotation files, and the same names for them."""

import json

import annotated_sets as sets
import numpy as np
import pytest
from doc_pages import ROOT, blocks, run_python
from pycocotools import mask as coco
from test_train import CONFIG

from mdqe.annotations.reader import read_annotations
from mdqe.data.ytvis import VideoClips


def with_polygons(document):
    """The minimal document with a rectangle instead of each mask."""
    for one in document["annotations"]:
        for t, mask in enumerate(one["segmentations"]):
            if mask:
                x, y, w, h = coco.toBbox(mask).tolist()
                one["segmentations"][t] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return document


@pytest.fixture(params=["docs/data.md", "required fields alone", "polygons"])
def folder(request, tmp_path, monkeypatch):
    """A data set on disk."""
    monkeypatch.chdir(tmp_path)
    if request.param == "docs/data.md":
        (block,) = [one for one in blocks(ROOT / "docs" / "data.md") if 'folder = Path("squares")' in one.code]
        run_python(block, {})
        return tmp_path / "squares"
    document = sets.minimal(sets.write_videos(tmp_path / "set"))
    sets.save(
        tmp_path / "set", with_polygons(document) if request.param == "polygons" else document, "annotations.json"
    )
    return tmp_path / "set"


@pytest.fixture
def results(folder, tmp_path):
    """A file with the annotations as results; a frame in which an object is absent has null, [] or {}."""
    rows = [
        {"video_id": one["video_id"], "category_id": one["category_id"], "score": 0.9, "track_id": i}
        | {"segmentations": one["segmentations"]}
        for i, one in enumerate(json.loads((folder / "annotations.json").read_text())["annotations"])
    ]
    return sets.save(tmp_path, rows, "results.json")


def test_train(run, folder, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    images = (folder / "JPEGImages").rename(tmp_path / "images")
    name = f"{folder / 'annotations.json'}@{images}"
    options = ["--steps", 1, "--batch", 1, "--edges", "native", "--validate-every", 1, "--device", "cpu"]
    options += ["--config", tmp_path / "config.json", "--data", name, "--validate", name]
    status, _, err = run("train", "-o", tmp_path / "run", *options)
    assert status == 0, err
    assert len(list((tmp_path / "run" / "validation").glob("000001-*.png"))) > 1
    clips = VideoClips(folder / "annotations.json", images, 2)
    truth = read_annotations(folder / "annotations.json")
    assert len(clips) == len(truth.videos)


def test_evaluate(run, folder, results, tmp_path):
    path = folder / "annotations.json"
    for name in (folder, path, f"{path}@{folder / 'JPEGImages'}"):
        status, out, err = run("evaluate", results, "--data", name, "-o", tmp_path / "out")
        assert status == 0 and out.splitlines()[1].split()[2:5] == ["100.0"] * 3, err
        assert "left out" not in err and "data:image/jpeg" in (tmp_path / "out" / "report.html").read_text()


def test_view(run, folder, results, tmp_path):
    page = tmp_path / "page.html"
    status, _, err = run("view", results, "--annotations", folder, "--video", 2, "-o", page)
    assert status == 0 and f"reading {folder / 'JPEGImages'}" in err
    data = json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])
    prediction, truth = ([(one["id"], one["masks"]) for one in side["tracks"]] for side in data["sides"])
    assert truth and [masks for _, masks in prediction] == [masks for _, masks in truth]
    for name in (folder, f"{folder / 'annotations.json'}@{folder / 'JPEGImages'}"):
        status, _, err = run("view", name, "--video", 1, "-o", page)
        assert status == 0 and page.read_text().count("data:image/jpeg") >= 6, err


def test_split(run, folder, tmp_path):
    document = json.loads((folder / "annotations.json").read_text())
    for name in (folder, f"{folder / 'annotations.json'}@elsewhere"):
        status, _, err = run("split", name, "-o", tmp_path / "split", "--share", 0.5)
        assert status == 0, err
        parts = [json.loads((tmp_path / "split" / f"{part}.json").read_text()) for part in ("train", "dev")]
        for key in ("videos", "annotations"):
            assert sorted(map(json.dumps, parts[0][key] + parts[1][key])) == sorted(map(json.dumps, document[key]))


def test_submit(run, folder, results, tmp_path):
    status, out, err = run("submit", results, "--data", folder, "-o", tmp_path / "s.zip")
    assert (status, out) == (0, f"{tmp_path / 's.zip'}\n"), err


def test_areas_are_those_of_pycocotools(folder):
    """Of the masks that training draws."""
    document = json.loads((folder / "annotations.json").read_text())
    videos = {one["id"]: one for one in document["videos"]}
    clips = VideoClips(folder / "annotations.json", folder / "JPEGImages")
    drawn = [clips.objects.draw(item, range(len(item.files)))[1].sum((2, 3)) for item in clips.objects.items]
    for one, areas in zip(document["annotations"], np.concatenate(drawn), strict=True):
        size = videos[one["video_id"]]["height"], videos[one["video_id"]]["width"]
        masks = [
            coco.merge(coco.frPyObjects(m, *size)) if isinstance(m, list) and m else m for m in one["segmentations"]
        ]
        assert areas.tolist() == [int(coco.area(mask)) if mask else 0 for mask in masks]
