"""The numbers of COCO: `evaluate_coco`. What compares is pycocotools; this reads, checks and reports."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np

from mdqe.annotations.images_ import ImageSet, read_image_results, read_images
from mdqe.annotations.records import Source
from mdqe.errors import DependencyError

KINDS = {"segm": "", "bbox": "box_"}
"""What COCO's tools call masks and boxes, and what the names of their numbers begin with."""
AREAS = ("", "s", "m", "l")
MAX_RESULTS = (1, 10, 100)


def evaluate_coco(annotations: Source, results: Source) -> dict[str, Any]:
    """Compare instances of images with annotations, by pycocotools.

    Args:
        annotations: a path or the loaded JSON, in the form of COCO's instances files; masks may be polygons or run
            lengths.
        results: a path or the loaded JSON: a list of objects with "image_id", "category_id", "score", "segmentation"
            (run lengths) and "bbox" ([x, y, width, height]; where it is missing, that of the mask).

    Returns:
        Numbers from 0 to 1, −1.0 where there is no object to count:

        - of masks: "AP" (mean over IoU thresholds 0.5 … 0.95 and categories), "AP50", "AP75"; "APs", "APm", "APl" of
          small (area up to 32²), medium and large objects (from 96²); "AR1", "AR10", "AR100" with so many results per
          image and category; "ARs", "ARm", "ARl";
        - of boxes the same with `box_` before it;
        - "per_category": by category id, its "name", how many "objects" (no crowds) and "results" it has, and the same
          numbers.

        A result's size is the area of its mask among masks and that of its box among boxes.

    Raises:
        ImportError: pycocotools is not installed.
        OSError: a file cannot be read.
        ValueError: malformed JSON or records; one line names the file, the record and the field.

    Warns:
        UserWarning: results of unknown categories, which count for nothing; no results at all; an annotation with the
            id 0, which here counts like any other.
    """
    require_pycocotools()
    truth = read_images(annotations)
    found = read_image_results(results, truth)
    numbers: dict[str, Any] = {}
    objects = Counter(one["category_id"] for one in truth.objects if not one["iscrowd"])
    given = Counter(one["category_id"] for one in found)
    per_category = {
        number: {"name": name, "objects": objects[number], "results": given[number]}
        for number, name in truth.categories.items()
    }
    for kind, prefix in KINDS.items():
        precision, recall = _compare(truth, found, kind)
        numbers |= _numbers(precision, recall, prefix)
        for k, one in enumerate(per_category.values()):
            one |= _numbers(precision[:, :, k : k + 1], recall[:, k : k + 1], prefix)
    return {**numbers, "per_category": per_category}


def require_pycocotools() -> None:
    """Raise an ImportError that says what to install where pycocotools is missing."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError:
        raise DependencyError("the numbers of COCO need pycocotools: pip install 'mdqe[eval]'") from None


def _compare(truth: ImageSet, found: Sequence[Mapping[str, Any]], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Precision (T, R, K, A, M) and recall (T, K, A, M) of thresholds, recalls, categories, areas and result counts."""
    from pycocotools.cocoeval import COCOeval

    rows = [{**one, "iscrowd": 0} for one in found]
    if kind == "bbox":
        rows = [{**one, "area": one["bbox"][2] * one["bbox"][3]} for one in rows]
    with redirect_stdout(io.StringIO()):  # it talks
        compared = COCOeval(_indexed(truth, truth.objects), _indexed(truth, rows), kind)
        compared.evaluate()
        compared.accumulate()
    return compared.eval["precision"], compared.eval["recall"]


def _indexed(truth: ImageSet, objects: Sequence[Mapping[str, Any]]) -> Any:
    """Annotations or results as pycocotools' COCO."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": [{"id": one.id, "height": one.size[0], "width": one.size[1]} for one in truth.videos.values()],
        "categories": [{"id": number, "name": name} for number, name in truth.categories.items()],
        "annotations": [dict(one) for one in objects],  # it writes in them
    }
    coco.createIndex()
    return coco


def _numbers(precision: np.ndarray, recall: np.ndarray, prefix: str) -> dict[str, float]:
    """The twelve numbers, from precision (T, R, K, A, M) and recall (T, K, A, M)."""
    averages = {"AP": precision[..., 0, -1], "AP50": precision[0, ..., 0, -1], "AP75": precision[5, ..., 0, -1]}
    averages |= {f"AP{area}": precision[..., a, -1] for a, area in enumerate(AREAS) if area}
    averages |= {f"AR{most}": recall[..., 0, m] for m, most in enumerate(MAX_RESULTS)}
    averages |= {f"AR{area}": recall[..., a, -1] for a, area in enumerate(AREAS) if area}
    return {prefix + key: float(held.mean()) if len(held := one[one > -1]) else -1.0 for key, one in averages.items()}
