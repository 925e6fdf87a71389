"""`mdqe evaluate` on images annotated as COCO's are."""

import csv
import json
import os
import sys
from pathlib import Path

import annotated_sets as sets
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mdqe.data.synthetic_files import write_set

CPU = ("--device", "cpu")


@pytest.fixture(scope="module")
def stills(tmp_path_factory) -> Path:
    """A folder with the frames of a synthetic set as images, and instances.json."""
    folder = tmp_path_factory.mktemp("coco") / "stills"
    list(write_set(folder, videos=3, frames=2, seed=5, difficulty="easy", images="png"))
    sets.save(folder, sets.coco_document(json.loads((folder / "annotations.json").read_text())), "instances.json")
    return folder


def numbers_of(rows: list[list[str]], title: str) -> list[str]:
    """The line of all categories in the table of that title."""
    (start,) = [i for i, row in enumerate(rows) if row[:1] == [title]]
    assert rows[start + 1][0] == "all"
    return rows[start + 1][2:]


def test_the_bundled_model(run, stills, tmp_path):
    out = tmp_path / "out"
    options = ("evaluate", "--model", "mdqe:tiny", "--data", stills / "instances.json", "-o", out, *CPU)
    status, stdout, stderr = run(*options)
    assert status == 0 and "segmenting: 6 images" in stderr, stderr
    assert sorted(os.listdir(out)) == ["images", "numbers.json", "per_category.csv", "results.json", "run.json"]
    assert len(os.listdir(out / "images")) == 6

    # It is what the model finds.
    from mdqe import MDQE
    from mdqe.video.images import load_image

    rows = json.loads((out / "results.json").read_text())
    result = MDQE.from_pretrained("mdqe:tiny").segment_image(load_image(stills / "JPEGImages" / "00001" / "00001.png"))
    found = [row for row in rows if row["image_id"] == 4]
    assert [row["score"] for row in found] == result.scores.tolist() and len(found) > 1
    for i, row in enumerate(found):
        mask = coco_mask.decode(row["segmentation"])
        assert np.array_equal(mask, result.masks[i, 0])
        rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        assert row["bbox"] == coco_mask.toBbox(rle).tolist()
        assert row["category_id"] == result.labels[i] + 1

    # The numbers are those of pycocotools, for these very files.
    truth = COCO(str(stills / "instances.json"))
    tables = [line.split() for line in stdout.splitlines()]
    for kind, title in (("segm", "masks"), ("bbox", "boxes")):
        bare = [{key: row[key] for key in row if kind == "bbox" or key != "bbox"} for row in rows]
        compared = COCOeval(truth, truth.loadRes(bare), kind)
        compared.evaluate()
        compared.accumulate()
        compared.summarize()
        assert compared.stats[1] > 0.2, "the bundled model knows these shapes"
        expected = ["-" if one == -1 else f"{100 * one:.1f}" for one in compared.stats]
        assert numbers_of(tables, title) == expected
    with (out / "per_category.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == ["disc", "triangle", "square", "star", "cross", "heart"]
    assert {"AP", "box_AP", "box_ARl"} <= lines[0].keys()

    # A results file alone gives the same; so does a second run, which has nothing left to do.
    status, again, stderr = run("evaluate", out / "results.json", "--data", stills / "instances.json")
    assert (status, again, stderr) == (0, stdout, "")
    (out / "images" / "3.json").unlink()
    status, again, stderr = run(*options)
    assert (status, again) == (0, stdout) and "5 of 6 images are done already" in stderr


def test_masks_of_no_pixels_are_results(tiny_model, monkeypatch):
    """As in the official protocol, where they count as wrong."""
    from mdqe import MDQE, VideoInstances
    from mdqe.annotations.reader import Video
    from mdqe.evaluation import segment_set

    model = MDQE.from_pretrained(tiny_model)
    masks = np.zeros((2, 1, 4, 5), bool)
    masks[1, 0, 1:3, 2] = True
    found = VideoInstances.from_masks([0.5, 0.25], [0, 1], [0, 1], masks)
    monkeypatch.setattr(model, "segment_image", lambda *_, **__: found, raising=False)
    monkeypatch.setattr("mdqe.video.images.load_image", lambda path: None)
    first, second = segment_set.segment_image(model, Video(7, (4, 5), 1, ["a.png"]), Path(), [3, 9])
    assert first["bbox"] == [0, 0, 0, 0] and not coco_mask.decode(first["segmentation"]).any()
    assert first["image_id"] == 7 and first["category_id"] == 3
    assert second["bbox"] == [2, 1, 1, 2] and np.array_equal(coco_mask.decode(second["segmentation"]), masks[1, 0])


def test_without_labels_and_without_pycocotools(run, stills, tmp_path, monkeypatch):
    document = json.loads((stills / "instances.json").read_text())
    del document["annotations"]
    (tmp_path / "image_info.json").write_text(json.dumps(document))
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    options = ("evaluate", "--images", stills / "JPEGImages", "-o", tmp_path / "out", *CPU)
    status, out, err = run(*options, "--data", stills / "instances.json")
    assert status == 2 and err == (
        "mdqe evaluate: error: the metrics of COCO need pycocotools: pip install 'mdqe[eval]'\n"
    )
    assert not (tmp_path / "out").exists(), "reported before any work"
    status, out, err = run(*options, "--data", tmp_path / "image_info.json")
    assert status == 0 and out == f"{tmp_path / 'out' / 'results.json'}\n" and "no annotations" in err
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())) > 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["images"][1].pop("file_name"), 'image 2 has no "file_name"'),
        (lambda d: d["images"][1].update(file_name="x.png"), "images are missing (1): "),
        (lambda d: d["annotations"][0].pop("image_id"), 'set.json: annotation 0 (id 1) has no "image_id"'),
    ],
)
def test_problems_are_reported_before_any_work(run, stills, tmp_path, change, message):
    document = json.loads((stills / "instances.json").read_text())
    change(document)
    (tmp_path / "set.json").write_text(json.dumps(document))
    options = ("evaluate", "--images", stills / "JPEGImages", "-o", tmp_path / "out", *CPU)
    status, out, err = run(*options, "--data", tmp_path / "set.json")
    assert status == 2 and out == "" and message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
