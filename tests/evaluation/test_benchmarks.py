"""The benchmarks, against the numbers of the official evaluators on their golden sets, and their recognition."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_cases import changed, generate

from mdqe.cli import evaluate as command
from mdqe.errors import InputError
from mdqe.evaluation import evaluate
from mdqe.evaluation.benchmarks import BENCHMARKS
from mdqe.evaluation.hqvis import boundaries
from mdqe.results import rle

GOLDEN = Path(os.environ.get("MDQE_SHARED", "../shared")) / "golden" / "eval2"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden sets of ../shared are absent")
EXACT = 1e-9


def differences(found: Any, expected: Any, place: str = "") -> list[str]:
    """Where numbers differ from the expected ones by more than `EXACT`; other keys of `found` are ignored."""
    if isinstance(expected, dict):
        found = {str(key): value for key, value in found.items()}
        missing = [f"{place}/{key} is missing" for key in expected if key not in found]
        shared = [key for key in expected if key in found]
        return missing + [one for key in shared for one in differences(found[key], expected[key], f"{place}/{key}")]
    if isinstance(expected, list):
        if len(found) != len(expected):
            return [f"{place} has the length {len(found)}; expected {len(expected)}"]
        pairs = enumerate(zip(found, expected, strict=True))
        return [line for i, (one, other) in pairs for line in differences(one, other, f"{place}/{i}")]
    expected = float(expected)  # infinities are strings
    same = found == expected or abs(found - expected) <= EXACT
    return [] if same else [f"{place} is {found}; expected {expected}"]


@needs_golden
@pytest.mark.filterwarnings("ignore:.*have categories that:UserWarning")
@pytest.mark.parametrize(("name", "truth"), [("lvvis", "val_instances.json"), ("hqvis", "ytvis_hq-test.json")])
def test_equals_the_official_numbers(name, truth):
    folder = GOLDEN / name
    found = evaluate(folder / truth, folder / "results.json", per_video=True, precision_curves=True)
    assert differences(found["official"], json.loads((folder / "expected.json").read_text())) == []
    assert found["per_video"] and found["precision_curves"]
    named = evaluate(folder / truth, folder / "results.json", benchmark=name)
    assert named["official"] == found["official"]


def open_vocabulary(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    document, results = generate(seed)
    for partition, one in zip((0, 2, 5), document["categories"], strict=True):
        one["partition"] = partition
    return document, results


@pytest.mark.filterwarnings("ignore:.*have categories that:UserWarning", "ignore:.*no results:UserWarning")
@pytest.mark.parametrize("seed", range(5))
def test_lvvis_without_crowds_is_ytvis(seed):
    document, results = open_vocabulary(seed)
    for one in document["annotations"]:
        one["iscrowd"] = 0
    found = evaluate(document, results)["official"]
    plain = evaluate(document, results, benchmark="ytvis")["official"]
    assert found["all"] == {key: plain[key] for key in found["all"]}
    assert found["base_categories"] == [7] and found["novel_categories"] == [3]
    assert found["base"]["AP"] == found["per_category"][7]["AP"]


def test_lvvis_counts_every_match_of_a_crowd():
    document, _ = open_vocabulary(3)
    one = document["annotations"][0] | {"iscrowd": 1, "category_id": 7}
    document["annotations"] = [one]
    row = {"video_id": one["video_id"], "category_id": 7, "segmentations": one["segmentations"]}
    found = evaluate(document, [row | {"score": score} for score in (0.9, 0.8, 0.7)])["official"]["all"]
    assert found["AR100"] == 3 and found["AR1"] == 1 and found["AP"] == pytest.approx(1)


def test_lvvis_areas_are_whole_pixels():
    document, results = open_vocabulary(3)
    one = document["annotations"][0] = document["annotations"][0] | {"iscrowd": 0}
    document["annotations"] = [one]
    for area, small in (("16384", True), (16384.9, True), (16385, False)):
        one["areas"] = [area] + [None] * (len(one["areas"]) - 1)
        assert (evaluate(document, results)["official"]["all"]["AP_small"] >= 0) == small
    for nothing, small in (("0", True), (0, False), (None, False)):  # to the official code, "0" is an area as any other
        one["areas"][:2] = [nothing, 32768]
        assert (evaluate(document, results)["official"]["all"]["AP_small"] >= 0) == small
    one["areas"][0] = "many"
    with pytest.raises(InputError, match=r"annotation 0 .*\"areas\" is 'many'; expected pixels or null"):
        evaluate(document, results)


def test_lvvis_needs_partitions():
    document, results = open_vocabulary(0)
    changed(document, "categories.1.partition", ...)
    with pytest.raises(InputError, match='category 1 has no "partition"'):
        evaluate(document, results)


def eroded(mask: np.ndarray) -> np.ndarray:
    """Pixels whose eight neighbours are in the mask."""
    wide = np.pad(mask, 1)
    rows, columns = mask.shape
    return np.all([wide[i : i + rows, j : j + columns] for i in range(3) for j in range(3)], axis=0)


@pytest.mark.parametrize("size", [(24, 32), (1, 7), (90, 160), (300, 200)])
def test_boundaries_equal_repeated_erosion(size):
    random = np.random.default_rng(sum(size))
    coarse = random.random((6, 9, 8)) < 0.6
    rows, columns = (np.arange(edge) * part // edge for edge, part in zip(size, coarse.shape[1:], strict=True))
    masks = np.concatenate([coarse[:, rows][:, :, columns], np.ones((1, *size), bool), np.zeros((1, *size), bool)])
    found = rle.decode(boundaries(rle.encode(masks), size), size)
    width = max(1, round(0.02 * np.hypot(*size)))
    for mask, boundary in zip(masks, found, strict=True):
        inner = mask
        for _ in range(width):
            inner = eroded(inner)
        assert (boundary == mask & ~inner).all()


def test_hqvis_boundaries_are_those_of_the_refined_masks():
    size = (40, 60)
    mask = np.zeros(size, bool)
    mask[10:30, 10:40] = True
    text = rle.encode(np.stack([mask, np.roll(mask, 1, axis=1)]))
    plain, moved = ({"size": list(size), "counts": one} for one in text)
    document = {
        "videos": [{"id": 1, "height": 40, "width": 60, "length": 1}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"video_id": 1, "category_id": 1, "segmentations": [plain], "segmentations_refined": [moved]}],
    }
    found = evaluate(document, [{"video_id": 1, "category_id": 1, "score": 1, "segmentations": [plain]}])["official"]
    assert found["tube_mask"]["AP"] == pytest.approx(1) and 0 <= found["tube_boundary"]["AP"] < 1


def test_hqvis_damaged_refined_masks_are_named():
    plain, damaged = {"size": [2, 2], "counts": [0, 2, 2]}, {"size": [2, 2], "counts": [0, 2, 7]}
    truth = {
        "videos": [{"id": 1, "height": 2, "width": 2, "length": 1}],
        "categories": [{"id": 1}],
        "annotations": [{"video_id": 1, "category_id": 1, "segmentations": [plain]}],
    }
    truth["annotations"][0]["segmentations_refined"] = [damaged]
    results = [{"video_id": 1, "category_id": 1, "score": 1.0, "segmentations": [plain]}]
    message = r'annotations \(segmentations_refined\): annotation 0: "segmentations" in frame 0: counts cover 9 pixels'
    with pytest.raises(InputError, match=message):
        evaluate(truth, results, benchmark="hqvis")


def test_unknown_benchmarks_are_named():
    with pytest.raises(InputError, match="benchmark is 'davis'; expected one of ytvis, ovis, coco, lvvis, hqvis, "):
        evaluate({}, [], benchmark="davis")


def test_the_command_knows_every_benchmark():
    assert tuple(BENCHMARKS) == command.BENCHMARKS


@pytest.mark.parametrize(
    ("benchmark", "message"),
    [
        ("lvvis", 'annotations.json is not LV-VIS: no category has a "partition"'),
        ("burst", "annotations.json is a file; expected the folder with all_classes.json, as BURST has"),
        ("mots", "annotations.json is a file; expected the folder of the annotations of MOTS, or a sequence map"),
        ("coco", "annotations.json contains videos; expected images"),
    ],
)
def test_annotations_of_another_benchmark(tmp_path, benchmark, message):
    document, results = generate(0)
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=message):
        evaluate(path, results, benchmark=benchmark)


def test_a_file_of_burst_is_named():
    with pytest.raises(InputError, match="annotations is a file of BURST, whose annotations are a folder"):
        evaluate({"sequences": [], "split": "val"}, [])
    with pytest.raises(InputError, match="results: an object in the form of BURST; results are a list"):
        evaluate(generate(0)[0], {"sequences": []})
    with pytest.raises(InputError, match="results: an object with annotations; results are a list"):
        evaluate(generate(0)[0], generate(0)[0])
    with pytest.raises(InputError, match="annotations of BURST are a dict; expected the folder"):
        evaluate({}, [], benchmark="burst")
    with pytest.raises(InputError, match="annotations of MOTS are a dict; expected the path of a folder"):
        evaluate({}, [], benchmark="mots")
