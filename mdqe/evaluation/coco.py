"""The metrics of COCO: `evaluate_coco`. pycocotools compares; this module reads, checks and reports."""

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np

from mdqe.annotations.files import Source
from mdqe.annotations.masks import coco_boxes, to_coco, to_rle
from mdqe.annotations.problems import Problems
from mdqe.annotations.reader import IMAGES, Annotations, Track, pack_tracks, read_annotations
from mdqe.annotations.results import read_results
from mdqe.errors import DependencyError
from mdqe.evaluation.tubes import OFFICIAL
from mdqe.evaluation.ytvis import warn_of_objects
from mdqe.results import rle

KINDS = {"segm": "", "bbox": "box_"}
"""COCO's names of masks and boxes, and the prefixes of their metrics."""
AREAS = ("", "s", "m", "l")
MAX_RESULTS = (1, 10, 100)


def evaluate_coco(annotations: Source, results: Source) -> dict[str, Any]:
    """Compare instances of images with annotations, by pycocotools.

    Args:
        annotations: a path or the loaded JSON, in the form of COCO's instances files; or what `read_annotations` made
            of it. Areas and boxes that are missing are computed from the masks.
        results: a path or the loaded JSON: a list of objects with "image_id", "category_id", "score", "segmentation"
            and "bbox" ([x, y, width, height]; computed from the mask if missing).

    Returns:
        Metrics from 0 to 1, −1.0 where there is no object to count:

        - of masks: "AP" (mean over IoU thresholds 0.5 … 0.95 and categories), "AP50", "AP75"; "APs", "APm", "APl" of
          small (area up to 32²), medium and large objects (from 96²); "AR1", "AR10", "AR100" with the best 1, 10 and
          100 results per image and category; "ARs", "ARm", "ARl";
        - of boxes the same with the prefix `box_`;
        - "per_category": by category id, its "name", the number of "objects" (without crowds) and of "results", and the
          same metrics;
        - "official": those of masks under "segm" and those of boxes under "bbox", with names such as "AP_small".

        The size of a result is the area of its mask in the metrics of masks, and that of its box in those of boxes.

    Raises:
        DependencyError: pycocotools is not installed.
        OSError: a file cannot be read.
        InputError: a file is not JSON or has invalid records; the message names the file, the record and the field.

    Warns:
        UserWarning: results of unknown categories, which are ignored; no results at all; an annotation with the id 0,
            which counts here like any other.
    """
    require_pycocotools()
    truth = read_annotations(annotations)
    truth.expect(IMAGES, "; evaluate compares videos")
    found = read_results(results, truth)
    warn_of_objects(truth)
    objects = list(_rows(truth.name, truth, {number: video.objects for number, video in truth.videos.items()}))
    rows = list(_rows(found.name, truth, found.tracks))
    metrics: dict[str, Any] = {"official": {}}
    counts = Counter(one["category_id"] for one in objects if not one["iscrowd"])
    given = Counter(one["category_id"] for one in rows)
    per_category = {
        number: {"name": name, "objects": counts[number], "results": given[number]}
        for number, name in truth.categories.items()
    }
    for kind, prefix in KINDS.items():
        precision, recall = _compare(truth, objects, rows, kind)
        metrics |= _metrics(precision, recall, prefix)
        metrics["official"][kind] = {name: metrics[prefix + key] for name, key in OFFICIAL.items()}
        for k, one in enumerate(per_category.values()):
            one |= _metrics(precision[:, :, k : k + 1], recall[:, k : k + 1], prefix)
    return {**metrics, "per_category": per_category}


def require_pycocotools() -> None:
    """Raise a DependencyError with the command that installs pycocotools if it is missing."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError:
        raise DependencyError("the metrics of COCO need pycocotools: pip install 'mdqe[eval]'") from None


def _rows(name: str, truth: Annotations, tracks: Mapping[int, Sequence[Track]]) -> Iterator[dict[str, Any]]:
    """Annotations or results by image in COCO's form, with the ids 1, 2, …, the areas and the boxes.

    COCO's tools do not report masks that are invalid, so all are checked here.
    """
    problems, number = Problems(), 0
    for image, found in tracks.items():
        size = truth.videos[image].size
        packed = [(track, mask) for track, (mask,) in pack_tracks(name, IMAGES, found, size, problems)]
        areas: list[float | None] = [track.area for track, _ in packed]
        boxes: list[list[float] | None] = [track.box for track, _ in packed]
        if None in areas or None in boxes:
            masks = [to_rle(mask, size) if mask else [size[0] * size[1]] for _, mask in packed]
            areas = [
                one if own is None else own for own, one in zip(areas, rle.area(masks, size).tolist(), strict=True)
            ]
            boxes = [one if own is None else own for own, one in zip(boxes, coco_boxes(masks, size), strict=True)]
        for (track, mask), area, box in zip(packed, areas, boxes, strict=True):
            number += 1
            row: dict[str, Any] = {"id": number, "image_id": image, "category_id": track.category}
            row |= {"iscrowd": int(track.is_crowd), "score": track.score, "area": area, "bbox": box}
            yield row | {"segmentation": to_coco(mask, size)}
    problems.report(name)


def _compare(
    truth: Annotations, objects: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]], kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (T, R, K, A, M) and recall (T, K, A, M) of thresholds, recalls, categories, areas and result counts."""
    from pycocotools.cocoeval import COCOeval

    if kind == "bbox":
        results = [{**one, "area": one["bbox"][2] * one["bbox"][3]} for one in results]
    with redirect_stdout(io.StringIO()):  # it prints its progress
        compared = COCOeval(_indexed(truth, objects), _indexed(truth, results), kind)
        compared.evaluate()
        compared.accumulate()
    return compared.eval["precision"], compared.eval["recall"]


def _indexed(truth: Annotations, rows: Sequence[Mapping[str, Any]]) -> Any:
    """Annotations or results as pycocotools' COCO."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": [{"id": one.id, "height": one.size[0], "width": one.size[1]} for one in truth.videos.values()],
        "categories": [{"id": number, "name": name} for number, name in truth.categories.items()],
        "annotations": [dict(one) for one in rows],  # pycocotools changes them
    }
    coco.createIndex()
    return coco


def _metrics(precision: np.ndarray, recall: np.ndarray, prefix: str) -> dict[str, float]:
    """The twelve metrics, from precision (T, R, K, A, M) and recall (T, K, A, M)."""
    averages = {"AP": precision[..., 0, -1], "AP50": precision[0, ..., 0, -1], "AP75": precision[5, ..., 0, -1]}
    averages |= {f"AP{area}": precision[..., a, -1] for a, area in enumerate(AREAS) if area}
    averages |= {f"AR{most}": recall[..., 0, m] for m, most in enumerate(MAX_RESULTS)}
    averages |= {f"AR{area}": recall[..., a, -1] for a, area in enumerate(AREAS) if area}
    defined = {prefix + key: one[one > -1] for key, one in averages.items()}
    return {key: float(one.mean()) if one.size else -1.0 for key, one in defined.items()}
