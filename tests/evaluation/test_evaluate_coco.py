"""The numbers of COCO, against pycocotools used as its own documentation uses it."""

import builtins
import copy
import json
from typing import Any

import numpy as np
import pytest
from coco_cases import generate
from evaluation_cases import changed
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mdqe.evaluation import evaluate_coco

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def official(tmp_path, document: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    """COCOeval's own summaries, of everything and of each category alone."""
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(document))
    truth, numbers = COCO(str(path)), {"per_category": {one["id"]: {} for one in document["categories"]}}
    for kind, prefix in (("segm", ""), ("bbox", "box_")):
        # With boxes in them, results would be small or large by their boxes among the masks too.
        rows = [{key: one[key] for key in one if kind == "bbox" or key != "bbox"} for one in copy.deepcopy(results)]
        found = truth.loadRes(rows)
        for category in (None, *numbers["per_category"]):
            compared = COCOeval(truth, found, kind)
            if category is not None:
                compared.params.catIds = [category]
            compared.evaluate()
            compared.accumulate()
            compared.summarize()
            target = numbers if category is None else numbers["per_category"][category]
            target |= {prefix + name: float(one) for name, one in zip(NAMES, compared.stats, strict=True)}
    return numbers


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_pycocotools(tmp_path, seed):
    document, results = generate(seed)
    expected, numbers = official(tmp_path, document, results), evaluate_coco(document, results)
    for category, one in expected.pop("per_category").items():
        own = numbers["per_category"][category]
        assert {key: own[key] for key in one} == pytest.approx(one, abs=1e-12)
        assert own["objects"] == sum(a["category_id"] == category and not a["iscrowd"] for a in document["annotations"])
        assert own["results"] == sum(a["category_id"] == category for a in results)
        assert own["name"] == f"kind {category}"
    assert {key: numbers[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    assert 0 < numbers["AP"] < 1 and numbers["AP"] != numbers["box_AP"]


def test_the_cases_have_what_is_rare():
    sets = [generate(seed) for seed in range(12)]
    annotations = [one for document, _ in sets for one in document["annotations"]]
    counts = [one["segmentation"]["counts"] for one in annotations if isinstance(one["segmentation"], dict)]
    assert {type(one) for one in counts} == {list, str} and len(counts) < len(annotations)
    areas = np.array([one["area"] for one in annotations])
    assert (areas < 32**2).any() and (areas > 96**2).any()
    assert any(not coco_mask.area(one["segmentation"]) for _, results in sets for one in results)


def test_paths_and_plain_counts(tmp_path):
    document, results = generate(3)
    (tmp_path / "a.json").write_text(json.dumps(document))
    (tmp_path / "r.json").write_text(json.dumps(results))
    expected = evaluate_coco(document, results)
    assert evaluate_coco(tmp_path / "a.json", str(tmp_path / "r.json")) == expected
    from mdqe.results import rle

    for one in results:
        mask = one["segmentation"]
        mask["counts"] = rle.run_lengths([mask["counts"]], tuple(mask["size"]))[0].tolist()
    assert evaluate_coco(document, results) == expected


def test_a_result_without_a_box_has_that_of_its_mask(tmp_path):
    document, results = generate(5)
    for one in results:
        del one["bbox"]
    numbers, expected = evaluate_coco(document, results), official(tmp_path, document, results)
    # COCO's loadRes takes the box from the mask too, but the mask's area for its size.
    for key in ("AP", "AP50", "AR100", "box_AP", "box_AP75", "box_AR1", "APm", "ARs"):
        assert numbers[key] == pytest.approx(expected[key], abs=1e-12)


def test_areas_and_boxes_of_pycocotools_where_they_are_missing(tmp_path):
    document, results = generate(7)
    sizes = {one["id"]: (one["height"], one["width"]) for one in document["images"]}
    for one in document["annotations"]:
        mask = one["segmentation"]
        if isinstance(mask, list):
            mask = coco_mask.merge(coco_mask.frPyObjects(mask, *sizes[one["image_id"]]))
        elif isinstance(mask["counts"], list):
            mask = coco_mask.frPyObjects(mask, *mask["size"])
        one |= {"area": int(coco_mask.area(mask)), "bbox": coco_mask.toBbox(mask).tolist()}
    expected = official(tmp_path, document, results)
    del expected["per_category"]
    for one in document["annotations"]:
        del one["area"], one["bbox"], one["id"]
    numbers = evaluate_coco(document, results)
    assert {key: numbers[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    for empty in (None, [], {}):  # an object without a mask cannot be found
        document["annotations"].append({"image_id": 1, "category_id": 12, "segmentation": empty})
        document["images"][0].pop("file_name", None)
    assert evaluate_coco(document, results)["per_category"][12]["AP"] == 0


def test_what_is_given_is_left_as_it_is():
    document, results = generate(1)
    before = copy.deepcopy((document, results))
    evaluate_coco(document, results)
    assert (document, results) == before


def test_an_annotation_with_the_id_0_counts():
    document, results = generate(2)
    expected = evaluate_coco(document, results)
    for one in document["annotations"]:
        one["id"] -= 1
    with pytest.warns(UserWarning, match=r"annotation 0 \(id 0\): matches with the id 0 count here"):
        assert evaluate_coco(document, results) == expected


def test_unknown_categories_and_no_results():
    document, results = generate(4)
    expected = evaluate_coco(document, results)
    strange = [{**results[0], "category_id": 99}]
    with pytest.warns(UserWarning, match=r"1 of \d+ results have categories that annotations does not have \(99\)"):
        assert evaluate_coco(document, results + strange) == expected
    with pytest.warns(UserWarning, match="no results"):
        numbers = evaluate_coco(document, [])
    assert numbers["AP"] == numbers["box_AR100"] == 0 and numbers["per_category"][5]["AP"] == -1


def small() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One image, an object and a result."""
    mask = {"size": [4, 5], "counts": [6, 2, 12]}
    annotations = {
        "images": [{"id": 1, "height": 4, "width": 5, "file_name": "a.jpg"}],
        "categories": [{"id": 3, "name": "fish"}],
        "annotations": [
            {"id": 8, "image_id": 1, "category_id": 3, "iscrowd": 0, "area": 2, "bbox": [1, 2, 1, 2]}
            | {"segmentation": mask}
        ],
    }
    return annotations, [
        {"image_id": 1, "category_id": 3, "score": 0.5, "bbox": [1, 2, 1, 2], "segmentation": dict(mask)}
    ]


def test_the_small_set_is_good():
    assert evaluate_coco(*small())["AP"] == pytest.approx(1)


OBJECT = "annotations.json: annotation 0 (id 8)"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("annotations", ..., 'annotations.json: the file has no "annotations"'),
        ("images", {}, 'annotations.json: the file: "images" is an object; expected a list'),
        ("images.0.file_name", 7, 'annotations.json: image 0: "file_name" is a number; expected a path'),
        ("annotations.0.image_id", 2, f'{OBJECT}: "image_id" is 2, which is not in images'),
        ("annotations.0.area", -1, f'{OBJECT}: "area" is -1; expected pixels'),
        ("annotations.0.bbox", [1, 2, 3], f'{OBJECT}: "bbox" is [1, 2, 3]; expected [x, y, width, height]'),
        ("annotations.0.bbox.2", -1, f'{OBJECT}: "bbox" is [1, 2, -1, 2]; expected [x, y, width, height]'),
        ("annotations.0.segmentation", ..., f'{OBJECT} has no "segmentation"'),
        ("annotations.0.segmentation", [[1, 2, 3, 4]], f'{OBJECT}: "segmentation": a polygon is not a list of x and y'),
        (
            "annotations.0.segmentation",
            {"size": [4]},
            f"{OBJECT}: \"segmentation\": {{'size': [4]}} is neither an RLE nor",
        ),
        ("annotations.0.segmentation.counts", [6, 2], f'{OBJECT}: "segmentation": counts cover 8 pixels; size 4 x 5'),
    ],
)
def test_bad_annotations(tmp_path, path, value, message):
    document, results = copy.deepcopy(small())
    changed(document, path, value)
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    with pytest.raises(ValueError) as caught:
        evaluate_coco(tmp_path / "annotations.json", results)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("0.image_id", 9, 'results.json: result 0: "image_id" is 9, which is not in annotations'),
        (
            "0.bbox",
            [1, 2, 3, "4"],
            "results.json: result 0: \"bbox\" is [1, 2, 3, '4']; expected [x, y, width, height]",
        ),
        (
            "0.segmentation",
            [[1, 2, 3, 4]],
            'results.json: result 0: "segmentation": a polygon is not a list of x and y',
        ),
        ("0.segmentation.size", [5, 4], 'results.json: result 0: "segmentation": its size is [5, 4]; expected [4, 5]'),
        ("0.segmentation.counts", [6, 2], 'results.json: result 0: "segmentation": counts cover 8 pixels; size 4 x 5'),
        (
            "0.segmentation.counts",
            "6\x07",
            "results.json: result 0: \"segmentation\": counts hold the character '\\x07'",
        ),
        ("0.segmentation.counts", None, 'results.json: result 0: "segmentation": its counts are null; expected a str'),
    ],
)
def test_bad_results(tmp_path, path, value, message):
    document, results = copy.deepcopy(small())
    changed(results, path, value)
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError) as caught:
        evaluate_coco(document, tmp_path / "results.json")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_without_pycocotools(monkeypatch):
    imported = builtins.__import__

    def without(name, *rest, **named):
        if name.startswith("pycocotools"):
            raise ModuleNotFoundError(name)
        return imported(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"^the metrics of COCO need pycocotools: pip install 'mdqe\[eval\]'$"):
        evaluate_coco(*small())
