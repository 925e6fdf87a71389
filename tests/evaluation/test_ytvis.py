"""The official evaluators' numbers: against reference files, and against the plain procedure on generated sets."""

import copy
import json
import time
import warnings
from pathlib import Path

import numpy as np
import plain_evaluation as plain
import pytest
from evaluation_cases import generate

from mdqe.data.synthetic_files import write_set
from mdqe.evaluation import evaluate

DATA = Path(__file__).parent / "data"
SUMMARY = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
OCCLUSION = ["AP_so", "AP_mo", "AP_ho", "AR_so", "AR_mo", "AR_ho"]
EXACT = {"rel": 0, "abs": 1e-12}  # sums of at most a few thousand numbers below 1, in another order


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(have categories that|no results)")
        yield


@pytest.mark.parametrize("name", ["vis_tiny", "vis_small"])
def test_equals_the_official_evaluators(name):
    found = evaluate(DATA / f"{name}_annotations.json", DATA / f"{name}_results.json")
    expected = json.loads((DATA / f"{name}_expected.json").read_text())
    assert list(found)[:18] == SUMMARY + OCCLUSION
    for key, value in {**expected["summary"], **expected["occlusion"]}.items():
        assert found[key] == pytest.approx(value, **EXACT), key
    assert len(expected["AP_per_category"]) == len(found["per_category"])
    for category, value in expected["AP_per_category"].items():
        assert found["per_category"][int(category)]["AP"] == pytest.approx(-1 if value is None else value, **EXACT)


@pytest.mark.parametrize("name", ["vis_tiny", "vis_small"])
def test_the_copies_are_the_shared_files(shared, name):
    for part in ("annotations", "expected", "results"):
        file = f"{name}_{part}.json"
        assert (DATA / file).read_bytes() == (shared / "golden" / "eval" / file).read_bytes()


@pytest.mark.parametrize("seed", range(25))
def test_equals_the_plain_procedure(seed):
    check(*generate(seed))


def test_more_results_than_count():
    check(*generate(99, videos=2, results=300))


def check(annotations, results):
    before = copy.deepcopy((annotations, results))
    found, expected = evaluate(annotations, results), plain.evaluate(annotations, results)
    assert (annotations, results) == before, "the caller's data is as it was"
    for key in [*SUMMARY, *OCCLUSION]:
        assert found[key] == pytest.approx(expected[key], **EXACT), key
        for category, line in expected["per_category"].items():
            assert found["per_category"][category][key] == pytest.approx(line[key], **EXACT), (category, key)


def test_the_generated_sets_hold_what_is_rare():
    sets = [generate(seed) for seed in range(25)]
    objects = [one for annotations, _ in sets for one in annotations["annotations"]]
    rows = [one for _, results in sets for one in results]
    assert any(one["iscrowd"] for one in objects) and any(one["category_id"] == 99 for one in rows)
    assert any(not any(one["segmentations"]) for one in objects)
    assert any(0 in one["areas"] for one in objects), "an empty mask"
    assert any(not results for _, results in sets) or any(
        {v["id"] for v in a["videos"]} - {one["video_id"] for one in r} for a, r in sets
    )
    means = [plain.mean_area(one["areas"]) for one in objects]
    assert min(means) == 0 and max(means) > 128**2


def test_no_results():
    annotations, _ = generate(0)
    with pytest.warns(UserWarning, match="results: no results: the metrics are those of an empty result"):
        found = evaluate(annotations, [])
    assert found["AP"] == found["AR100"] == found["HOTA"] == found["IDF1"] == 0
    check(annotations, [])


def test_no_objects():
    annotations, results = generate(0)
    found = evaluate({**annotations, "annotations": []}, results)
    assert [found[key] for key in SUMMARY] == [-1.0] * 12 and "AP_so" not in found
    assert found["HOTA"] == -1 and found["IDSW"] == 0


def test_the_truth_as_results_is_perfect(tmp_path):
    list(write_set(tmp_path / "set", videos=3, frames=4, size=(64, 96), difficulty="hard"))
    annotations = json.loads((tmp_path / "set" / "annotations.json").read_text())
    results = [one | {"score": 0.9, "track_id": i} for i, one in enumerate(annotations["annotations"])]
    found = evaluate(tmp_path / "set" / "annotations.json", results, per_video=True)
    # The last of many right results has a precision a rounding below 1.
    perfect = pytest.approx(1, abs=1e-12)
    assert [found[key] for key in ("AP", "AP50", "AP75", "APs", "AR100", "HOTA", "DetA", "AssA", "IDF1")] == [
        perfect
    ] * 9
    assert found["IDSW"] == 0 and found["AP_mo"] in (-1.0, perfect)
    assert list(found["per_video"]) == [1, 2, 3]
    assert all(one["AP"] == perfect and "per_category" not in one for one in found["per_video"].values())


def test_per_video_is_that_video_alone():
    annotations, results = generate(3)
    found = evaluate(annotations, results, per_video=True)
    for video in annotations["videos"]:
        alone = {**annotations, "videos": [video]}
        alone["annotations"] = [one for one in annotations["annotations"] if one["video_id"] == video["id"]]
        expected = evaluate(alone, [one for one in results if one["video_id"] == video["id"]])
        line = found["per_video"][video["id"]]
        if not alone["annotations"]:
            line = {key: value for key, value in line.items() if key not in OCCLUSION}
        del expected["per_category"], expected["official"]
        assert expected.items() <= line.items()


def test_an_id_of_0_is_a_match():
    """The official evaluator takes a match with the annotation 0 for none."""
    annotations = json.loads((DATA / "vis_tiny_annotations.json").read_text())
    expected = evaluate(annotations, DATA / "vis_tiny_results.json")
    annotations["annotations"][0]["id"] = 0
    with pytest.warns(UserWarning, match=r"annotation 0 \(id 0\): matches with the id 0 .* the official evaluator"):
        assert evaluate(annotations, DATA / "vis_tiny_results.json") == expected


def test_results_of_unknown_categories_are_ignored():
    annotations, results = generate(1)
    results = [*results, {**results[0], "category_id": 50}]
    with pytest.warns(UserWarning, match=r"results have categories that annotations does not have \(.*50.*\)"):
        assert evaluate(annotations, results)["AP"] == evaluate(annotations, results[:-1])["AP"]


def test_labels_of_some_objects_only():
    annotations, results = generate(1)
    del annotations["annotations"][0]["occlusion"]
    with pytest.warns(UserWarning, match=r"1 of \d+ annotations have no occlusion labels"):
        assert "AP_so" not in evaluate(annotations, results)


def test_annotations_without_any_mask():
    annotations, results = generate(1)
    for one in annotations["annotations"]:
        one["segmentations"] = [None] * len(one["segmentations"])
    with pytest.warns(UserWarning, match="annotations: no annotation has a mask; all objects count as missed"):
        assert evaluate(annotations, results)["AR100"] == 0


def test_small_sets_are_quick():
    """As training evaluates: 36 videos; a second is allowed, on a machine that does other things too."""
    random = np.random.default_rng(0)
    sets = [generate(int(seed), videos=4, results=30) for seed in random.integers(0, 1000, 9)]
    start = time.perf_counter()
    for annotations, results in sets:
        evaluate(annotations, results)
    assert time.perf_counter() - start < 5
