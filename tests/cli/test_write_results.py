"""`mdqe write`: a folder of many videos, existing files, and failures on the way."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdqe.results.instances import VideoInstances

SIZE = (6, 8)
FORMATS = ("id-png", "davis", "mots", "mots-png", "coco", "burst", "ytvis", "cvat", "labelme")
DOCUMENTS = {"coco": "videos", "burst": "sequences", "ytvis": "videos"}


def segmented(folder: Path, videos: int) -> Path:
    """The output of `mdqe segment`."""
    for number in range(videos):
        masks = np.zeros((2, 2, *SIZE), bool)
        masks[0, :, 1:3, 2:5] = masks[1, :, 4:, : 1 + number % 8] = True
        (folder / f"v{number:03}").mkdir(parents=True)
        result = VideoInstances.from_masks([0.9, 0.1], [0, 0], [1, 2], masks, categories=("car",))
        result.save(folder / f"v{number:03}" / "instances.json")
    return folder


@pytest.fixture
def results(tmp_path):
    """That of eight videos."""
    return segmented(tmp_path / "results", 8)


@pytest.mark.parametrize("format", ["id-png", "coco", "cvat"])
def test_a_hundred_videos(run, tmp_path, format):
    results = segmented(tmp_path / "results", 100)
    output = tmp_path / "out.json" if format in DOCUMENTS else tmp_path / "out"
    status, out, err = run("write", results, "-o", output, "--format", format)
    assert (status, out) == (0, f"{output}\n"), err
    assert err.splitlines()[0].startswith(f"writing {output}: 100 videos in ")
    assert "results with a score below 0.3, left out (100): v000: result 1; v001: result 1; v002: result 1; …" in err
    if output.suffix:
        assert len(json.loads(output.read_text())[DOCUMENTS[format]]) == 100
    else:
        files = [path for path in output.rglob("*") if path.is_file()]
        assert len(files) == (100 if format in ("mots", "cvat") else 200)
        assert not list(output.glob(".*"))


def test_the_documented_round_trip(run, results, tmp_path):
    """From the results to shapes in LabelMe and back to a training set."""
    for t in range(2):
        (tmp_path / "frames" / "v007").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(tmp_path / "frames" / "v007" / f"{t:05}.jpg")
    source = results / "v007" / "instances.json"
    status, _, err = run("write", source, "-o", tmp_path / "frames", "--format", "labelme", "--score-threshold", 0)
    assert status == 0, err
    status, _, err = run("import", tmp_path / "frames", "-o", tmp_path / "annotations.json")
    assert status == 0, err
    document = json.loads((tmp_path / "annotations.json").read_text())
    assert [one["areas"] for one in document["annotations"]] == [[6, 6], [16, 16]]


def test_existing_files_are_kept(run, results, tmp_path):
    output = tmp_path / "out"
    (output / "v001").mkdir(parents=True)
    (output / "v001" / "00001.png").write_text("mine")
    status, out, err = run("write", results, "-o", output, "--format", "id-png")
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].endswith(f"{output / 'v001' / '00001.png'} exists; --overwrite replaces it")
    assert (output / "v001" / "00001.png").read_text() == "mine"
    assert sorted(one.name for one in output.iterdir()) == ["v000", "v001"]
    assert sorted(one.name for one in (output / "v001").iterdir()) == ["00001.png"]
    status, _, err = run("write", results, "-o", output, "--format", "id-png", "--overwrite")
    assert status == 0 and np.asarray(Image.open(output / "v001" / "00001.png")).max() == 1


@pytest.mark.parametrize("format", FORMATS)
def test_a_failure_on_the_way(run, results, tmp_path, format):
    """The videos before it are complete; of a single file, the old one stays."""
    (results / "v003" / "instances.json").write_text('{"format": "mdqe-instances"')
    output = tmp_path / "out.json" if format in DOCUMENTS else tmp_path / "out"
    if output.suffix:
        output.write_text("old")
    status, out, err = run("write", results, "-o", output, "--format", format)
    assert (status, out) == (2, "") and "v003/instances.json is not JSON" in err.splitlines()[-1]
    if output.suffix:
        assert output.read_text() == "old"
    else:
        files = [path for path in output.rglob("*") if path.is_file()]
        assert len(files) == (3 if format in ("mots", "cvat") else 6)
    assert not list(tmp_path.glob("**/*partial*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "x", "--format", "xml"], "invalid choice: 'xml'"),
        (["-o", "x"], "the following arguments are required: --format"),
        (["-o", "x", "--format", "coco", "--polygons", "1"], "polygons are for cvat and labelme; the format is coco"),
        (["-o", "no/x", "--format", "coco"], "no such folder: "),
        (["-o", "x", "--format", "cvat", "--polygons", "-1"], "'-1' is not a number from 0 to 1000"),
        (["-o", "x", "--format", "cvat", "--images", "no"], "no such folder: no"),
    ],
)
def test_bad_options(run, results, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("write", results, *options)
    assert status == 2 and out == "" and message in err.splitlines()[-1]
