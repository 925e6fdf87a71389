"""COCO instances files, checked as they are read: annotated images and results. Errors are those of `reading`."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from mdqe.annotations.masks import pack, runs, shrink
from mdqe.annotations.problems import DataError
from mdqe.annotations.reading_ import (
    Annotations,
    Video,
    load_results,
    read_categories,
    read_crowd,
    read_id,
    warn_of_results,
)
from mdqe.annotations.records import Record, Source, is_number, kind, load_json, short
from mdqe.errors import InputError
from mdqe.results import rle


@dataclass(frozen=True)
class ImageSet(Annotations):
    """A data set of images: videos of one frame, without objects of their own."""

    noun: ClassVar[str] = "image"
    objects: list[dict[str, Any]] = field(default_factory=list)
    """The annotations in COCO's form, checked, with the numbers 1, 2, … as ids."""

    def bare(self) -> "ImageSet":
        return replace(self, videos={}, objects=[])

    @property
    def labelled(self) -> bool:
        return bool(self.objects)


def read_images(source: Source, *, hidden: bool = False) -> ImageSet:
    """Read a data set of images.

    Args:
        source: a path or the loaded JSON: an object with "images", "annotations" and "categories".
        hidden: "annotations" may be missing, as in the test sets of the benchmarks.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such a file; one line names the file, the record and the field.
    """
    name, document = load_json(source, "annotations")
    if not isinstance(document, Mapping):
        raise InputError(f"{name}: {kind(document)}; annotations are an object with images, annotations, categories")
    file = Record(name, "the file", document)
    categories = read_categories(name, file.items("categories"))
    images: dict[int, Video] = {}
    for i, one in enumerate(file.items("images")):
        record = Record(name, f"image {i}", one)
        number = record.unique("id", images)
        size = (record.integer("height", 1), record.integer("width", 1))
        path = one.get("file_name")
        if path is not None and not isinstance(path, str):
            record.fail("file_name", f"{kind(path)}; expected a path")
        images[number] = Video(number, size, 1, None if path is None else [path])
    ids: set[int] = set()
    missing = hidden and document.get("annotations") is None
    objects, masks = [], defaultdict(list)
    for i, one in enumerate([] if missing else file.items("annotations")):
        record = Record(name, f"annotation {i}", one)
        objects.append(_read_object(record, i + 1, images, categories, ids))
        masks[one["image_id"]].append(record)
    for number, records in masks.items():
        _check_masks(records, images[number].size)
    return ImageSet(name, dict(sorted(images.items())), categories, objects)


def _read_object(
    record: Record, index: int, images: Mapping[int, Video], categories: Mapping[int, str], ids: set[int]
) -> dict[str, Any]:
    """An annotation in COCO's form, its id replaced by `index`; its mask is not checked."""
    read_id(record, ids)
    image = images[record.known("image_id", images, "images")]
    category = record.known("category_id", categories, "categories")
    area = record.get("area")
    if not is_number(area) or not 0 <= area < math.inf:
        record.fail("area", f"{area!r}; expected pixels")
    return {
        "id": index,
        "image_id": image.id,
        "category_id": category,
        "iscrowd": int(read_crowd(record)),
        "area": area,
        "bbox": record.box("bbox"),
        "segmentation": record.get("segmentation"),
    }


def _check_masks(records: Sequence[Record], size: tuple[int, int]) -> None:
    """Check the masks of annotations of one image, as the readers of training sets do."""
    segments = []
    for record in records:
        value = record.get("segmentation")
        if not value:  # COCO's tools fail on a mask of no polygons
            record.fail("segmentation", f"{short(value)}; expected polygons or run lengths")
        has_runs = isinstance(value, Mapping) and {"size", "counts"} <= value.keys()
        segments.append(shrink(runs(value["counts"], value["size"]) if has_runs else value))
    for record, packed in zip(records, pack(segments, size), strict=True):
        if isinstance(packed, DataError):
            raise InputError(f'{record.name}: {record.where}: "segmentation": {packed}')


def read_image_results(source: Source, images: ImageSet) -> list[dict[str, Any]]:
    """Read results for a data set of images.

    Args:
        source: a path or the loaded JSON: a list of objects with "image_id", "category_id", "score", "segmentation" and
            perhaps "bbox".
        images: the data set.

    Returns:
        The results of known categories in COCO's form, run lengths compressed, with "id" 1, 2, … and the "area" of the
        mask. A result without a box has that of its mask.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such a file, or for other images; one line names the file, the record and the field.
    """
    name, document = load_results(source)
    found: list[dict[str, Any]] = []
    unknown: dict[int, int] = {}
    by_image = defaultdict(list)
    for i, one in enumerate(document):
        record = Record(name, f"result {i}", one)
        image = record.known("image_id", images.videos, images.name)
        category = record.integer("category_id")
        row: dict[str, Any] = {"image_id": image, "category_id": category, "score": record.number("score")}
        row["bbox"] = record.box("bbox") if one.get("bbox") is not None else None
        record.get("segmentation")
        if category in images.categories:
            found.append({"id": len(found) + 1, **row})
            by_image[image].append((record, found[-1]))
        else:
            unknown[category] = unknown.get(category, 0) + 1
    for number, rows in by_image.items():
        _read_masks(rows, images.videos[number].size)
    warn_of_results(name, len(document), unknown, images.name)
    return found


def _read_masks(rows: Sequence[tuple[Record, dict[str, Any]]], size: tuple[int, int]) -> None:
    """Give the results of one image their masks, areas and, where they have none, boxes."""
    counts = []
    for record, _ in rows:
        value = record.value["segmentation"]
        if not isinstance(value, Mapping) or not {"size", "counts"} <= value.keys():
            record.fail("segmentation", f'{short(value)}; expected {{"size", "counts"}}')
        if not isinstance(value["size"], list | tuple) or tuple(value["size"]) != size:
            record.fail("segmentation", f"{short(value['size'])} large; its image is {list(size)}")
        counts.append(value["counts"])
    try:
        texts = rle.compress(counts, size)
    except (ValueError, TypeError):
        for record, _ in rows:
            try:
                rle.compress([record.value["segmentation"]["counts"]], size)
            except (ValueError, TypeError) as error:
                reason = str(error).replace(" of mask 0", "")
                raise InputError(f'{record.name}: {record.where}: "segmentation": {reason}') from None
        raise
    areas = rle.area(texts, size).tolist()
    for (_, row), text, area, box in zip(rows, texts, areas, boxes_of(texts, size), strict=True):
        row |= {"segmentation": rle.to_coco(text, size), "area": area, "bbox": row["bbox"] or box}


def boxes_of(counts: Sequence[rle.Counts], size: tuple[int, int]) -> list[list[float]]:
    """[x, y, width, height] of masks over an image of size (H, W); zeros of empty ones, as COCO's tools give them."""
    boxes = np.nan_to_num(rle.boxes(counts, size))
    boxes[:, 2:] -= boxes[:, :2]
    return boxes.tolist()
