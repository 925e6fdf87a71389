"""Archives for the evaluation servers."""

import json
import zipfile

import pytest
from evaluation_cases import generate
from pycocotools import mask as coco

from mdqe.annotations.reader import read_annotations
from mdqe.evaluation import evaluate
from mdqe.evaluation.submission import check_results, write_submission


def known(seed: int):
    annotations, results = generate(seed, results=40)
    return annotations, [one for one in results if one["category_id"] != 99]


def test_an_archive_holds_the_official_form(tmp_path):
    annotations, results = known(6)
    results[0]["segmentations"] = [
        {**one, "counts": coco_list(one)} if one else None for one in results[0]["segmentations"]
    ]
    index = next(i for i, one in enumerate(results) if None in one["segmentations"])
    results[index]["segmentations"] = [mask or {} for mask in results[index]["segmentations"]]
    data = read_annotations(annotations)
    write_submission(results, data, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["results.json"]
        rows = json.loads(archive.read("results.json"))
    assert all(list(one) == ["video_id", "category_id", "score", "segmentations"] for one in rows)
    assert all(isinstance(m["counts"], str) for one in rows for m in one["segmentations"] if m is not None)
    packed, full = (evaluate(annotations, one, identity=False) for one in (rows, results))
    assert packed == full
    assert all(mask != {} for one in rows for mask in one["segmentations"])
    write_submission(results, data, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def coco_list(mask):
    """Plain counts, from pixels."""
    flat = coco.decode(mask).ravel(order="F")
    counts, value = [], 0
    run = 0
    for pixel in flat:
        if pixel != value:
            counts.append(run)
            run, value = 0, pixel
        run += 1
    return [*counts, run]


def test_all_errors_in_one_report():
    annotations, results = known(6)
    del annotations["annotations"]
    data = read_annotations(annotations, hidden=True)
    assert check_results(results, data, allow_missing=True) == []
    results[0]["score"] = float("nan")
    results[2]["category_id"] = 99
    results[3]["video_id"] = 50
    results[4]["segmentations"] = []
    index = next(i for i, one in enumerate(results[5:], 5) if any(one["segmentations"]))
    frame = next(t for t, one in enumerate(results[index]["segmentations"]) if one)
    results[index]["segmentations"][frame] = {**results[index]["segmentations"][frame], "counts": "11"}
    results.append("nothing")
    errors = check_results(results, data, allow_missing=True)
    assert [error.split(": ")[1].split(" (")[0].split(" is ")[0] for error in errors] == [
        "result 0", "result 2", "result 3", "result 4", f"result {index}", f"result {len(results) - 1}",
    ]  # fmt: skip
    for error, what in zip(
        errors, ["nan", "99, which", "50, which", "a list of 0", f"in frame {frame}: counts", "a string"], strict=True
    ):
        assert what in error


def test_every_video_has_results():
    annotations, results = known(6)
    kept = [one for one in results if one["video_id"] not in (1, 3)]
    data = read_annotations(annotations)
    assert check_results(kept, data)[-1].startswith("results: 2 of 4 videos have no result: 1, 3")
    assert check_results(kept, data, allow_missing=True) == []


def test_something_else():
    annotations, _ = known(6)
    with pytest.raises(ValueError, match="results: an object; results are a list"):
        check_results({}, read_annotations(annotations))
