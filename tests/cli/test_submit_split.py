"""`mdqe submit` and `mdqe split`."""

import json
import zipfile
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "evaluation" / "data"
RESULTS, ANNOTATIONS = DATA / "vis_small_results.json", DATA / "vis_small_annotations.json"


def test_pack(run, tmp_path):
    path = tmp_path / "s.zip"
    status, out, err = run("submit", RESULTS, "--data", ANNOTATIONS, "-o", path)
    assert (status, out, err) == (0, f"{path}\n", "")
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("results.json")) == json.loads(RESULTS.read_text())
    status, out, err = run("submit", RESULTS, "--data", ANNOTATIONS)
    assert status == 0 and out == "" and "vis_small_results.json: no error" in err


def test_errors_are_reported_together(run, tmp_path):
    rows = json.loads(RESULTS.read_text())
    rows = [one for one in rows if one["video_id"] != 2]
    rows[3]["score"], rows[5]["video_id"] = None, 77
    (tmp_path / "results.json").write_text(json.dumps(rows))
    status, out, err = run("submit", tmp_path / "results.json", "--data", ANNOTATIONS, "-o", tmp_path / "s.zip")
    lines = err.splitlines()
    assert status == 2 and out == "" and len(lines) == 4 and not (tmp_path / "s.zip").exists()
    assert lines[0] == f'{tmp_path / "results.json"}: result 3: "score" is None; expected a finite number'
    assert "result 5" in lines[1] and "1 of 14 videos have no result: 2" in lines[2]
    assert lines[3] == f"mdqe submit: error: {tmp_path / 'results.json'} has 3 errors; no archive is written"


def test_split(run, tmp_path):
    status, out, err = run("split", ANNOTATIONS, "-o", tmp_path / "s", "--share", "0.3", "--seed", 2)
    assert status == 0 and out == f"{tmp_path / 's' / 'train.json'}\n{tmp_path / 's' / 'dev.json'}\n"
    train, dev = (json.loads((tmp_path / "s" / f"{name}.json").read_text()) for name in ("train", "dev"))
    assert (len(train["videos"]), len(dev["videos"])) == (10, 4) and "dev.json: 4 videos" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["submit", "none.json", "--data", ANNOTATIONS], "none.json"),
        (["submit", ANNOTATIONS, "--data", ANNOTATIONS], "results are a list"),
        (["split", ANNOTATIONS, "-o", "x", "--share", "3"], "a share of 3.0 of 14 videos leaves one side empty"),
        (["split", ANNOTATIONS, "-o", "x", "--seed", "-1"], "'-1' is not a whole number"),
        (["split", RESULTS, "-o", "x"], "annotations are an object"),
    ],
)
def test_bad_options(run, options, message):
    status, out, err = run(*options)
    assert status == 2 and out == "" and message in err and err.count("\n") == 1
