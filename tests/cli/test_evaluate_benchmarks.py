"""`mdqe evaluate` on the golden sets of the benchmarks: recognition, numbers.json and the tables."""

import json
import os
from pathlib import Path

import pytest

GOLDEN = Path(os.environ.get("MDQE_SHARED", "../shared")) / "golden" / "eval2"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden sets of ../shared are absent")

CASES = {
    "lvvis": ("lvvis/val_instances.json", "lvvis/results.json", ("all", "base", "novel")),
    "hqvis": ("hqvis/ytvis_hq-test.json", "hqvis/results.json", ("tube_mask", "tube_boundary")),
    "burst": ("burst/gt", "burst/pred.json", ("class_guided", "open_world")),
    "mots": ("mots/kitti/gt", "mots/kitti/trackers/t1/data", ("car", "pedestrian")),
}


def floats(value):
    """Numbers of a golden file or of numbers.json, whose infinities are strings, close to those given."""
    if isinstance(value, dict):
        return {key: floats(one) for key, one in value.items()}
    return [floats(one) for one in value] if isinstance(value, list) else pytest.approx(float(value), abs=1e-9)


@pytest.mark.parametrize(("name", "named"), [*((name, False) for name in CASES), ("mots", True)])
def test_numbers_json_has_the_official_numbers(run, tmp_path, name, named):
    data, results, groups = CASES[name]
    options = ["--benchmark", name] if named else []
    status, out, err = run("evaluate", GOLDEN / results, "--data", GOLDEN / data, "-o", tmp_path, *options)
    assert status == 0, err
    assert all(group in out for group in groups)
    expected = json.loads((GOLDEN / name / "expected.json").read_text())
    expected = expected["mots_tools_kitti"] if name == "mots" else expected
    official = json.loads((tmp_path / "numbers.json").read_text(), parse_constant=pytest.fail)["official"]
    for group in groups:
        found = official[group] if name != "burst" else official[group]["summary"]
        wanted = expected[group] if name != "burst" else expected[group]["summary"]
        assert found.keys() == wanted.keys()
        for key, one in wanted.items():
            assert as_floats(found[key]) == floats(one), (group, key)


def as_floats(value):
    """The same, without a tolerance."""
    if isinstance(value, dict):
        return {key: as_floats(one) for key, one in value.items()}
    return [as_floats(one) for one in value] if isinstance(value, list) else float(value)


def test_a_model_cannot_be_run_on_a_folder(run, tmp_path):
    for options in (["--model", "mdqe:tiny", "-o", tmp_path], []):
        status, _, err = run("evaluate", "--data", GOLDEN / "burst" / "gt", *options)
        assert status == 2 and "has annotations of burst: give RESULTS; a model cannot be run on them" in err


def test_results_that_are_a_folder(run):
    status, _, err = run("evaluate", GOLDEN / "burst", "--data", GOLDEN / "burst" / "gt")
    assert status == 2 and "burst is a folder; results of burst are a JSON file" in err


def test_one_file_of_burst_is_named(run):
    data = GOLDEN / "burst" / "gt" / "common_classes.json"
    status, _, err = run("evaluate", GOLDEN / "burst" / "pred.json", "--data", data)
    assert status == 2 and "common_classes.json is a file of BURST, whose annotations are a folder" in err
