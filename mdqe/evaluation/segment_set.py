"""A model's results on the videos or images of a data set, in its form: a file for each, whole or not there."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdqe.annotations.images_ import ImageSet, boxes_of, read_images
from mdqe.annotations.reading_ import Annotations, Video, read_annotations
from mdqe.annotations.training_ import holds_images
from mdqe.atomic import whole_file
from mdqe.errors import InputError
from mdqe.results import rle

if TYPE_CHECKING:
    import numpy as np

    from mdqe.config import MDQEConfig
    from mdqe.model import MDQE

IMAGES = "JPEGImages"
_AHEAD = 8  # frames decoded early


def find_set(data: Path, images: Path | None = None) -> tuple[Path, Path]:
    """The annotation file and the folder of images of a data set.

    Args:
        data: the annotation file, or a folder with annotations.json in it.
        images: the folder that "file_names" are relative to; by default JPEGImages beside the annotation file.
    """
    annotations = data / "annotations.json" if data.is_dir() else data
    return annotations, images or annotations.parent / IMAGES


def read_set(path: Path) -> Annotations:
    """The videos, or the images, of an annotation file; it may be without annotations.

    Raises:
        OSError, ValueError: as `read_annotations` and `read_images`.
    """
    return read_images(path, hidden=True) if holds_images(path) else read_annotations(path, hidden=True)


def check_images(annotations: Annotations, images: Path) -> None:
    """Raise an error that names the first frame which is not there, before any work.

    Raises:
        FileNotFoundError: an image is missing.
        ValueError: an image has no file; a video has no list of files, or not one for each frame.
    """
    noun = annotations.noun
    for video in annotations.videos.values():
        if video.file_names is None and isinstance(annotations, ImageSet):
            raise InputError(f'{annotations.name}: image {video.id} has no "file_name"')
        if video.file_names is None or len(video.file_names) != video.length:
            held = "no" if video.file_names is None else len(video.file_names)
            raise InputError(
                f'{annotations.name}: video {video.id} has {held} "file_names"; expected {video.length}, one a frame'
            )
        for name in video.file_names:
            if not (images / name).is_file():
                raise FileNotFoundError(f"{images / name} of {noun} {video.id} is not there; --images names the folder")


def label_ids(config: "MDQEConfig", annotations: Annotations) -> list[int]:
    """The data set's category id of each of the model's labels: by name, else by the model's own ids.

    Raises:
        ValueError: the data set has neither the names nor the ids.
    """
    by_name: Mapping[str, int] = {name: number for number, name in annotations.categories.items()}
    if config.categories and all(name in by_name for name in config.categories):
        return [by_name[name] for name in config.categories]
    ids = list(config.label_ids) or [k + 1 for k in range(config.num_classes)]
    if missing := [number for number in ids if number not in annotations.categories]:
        names = ", ".join(list(config.categories)[:4]) or f"ids {', '.join(map(str, missing[:4]))}"
        raise InputError(f"the model's categories ({names}, …) are not those of {annotations.name}")
    return ids


def segment_video(model: "MDQE", video: Video, images: Path, ids: Sequence[int]) -> list[dict[str, Any]]:
    """A video's results by the benchmark protocol.

    Args:
        model: the model.
        video: one whose images have been checked.
        images: the folder of its "file_names".
        ids: the data set's category ids by label.
    """
    from mdqe.video.frames import read_ahead
    from mdqe.video.images import load_image

    def frames() -> "Iterator[np.ndarray]":
        for name in video.file_names or ():
            yield load_image(images / name)

    result = model.segment(read_ahead(frames(), _AHEAD), multi_label=True, output_size=video.size)
    return result.to_ytvis(video.id, ids)


def segment_image(model: "MDQE", image: Video, images: Path, ids: Sequence[int]) -> list[dict[str, Any]]:
    """An image's results by the COCO protocol, each with the box of its mask.

    Args:
        model, images, ids: as of `segment_video`.
        image: one that has been checked.
    """
    from mdqe.video.images import load_image

    assert image.file_names is not None  # it has been checked
    (name,) = image.file_names
    result = model.segment_image(load_image(images / name), output_size=image.size)
    (empty,) = rle.compress([[image.size[0] * image.size[1]]], image.size)
    masks = [counts or empty for (counts,) in result.runs]  # one of no pixels is a result all the same, a wrong one
    found = zip(result.scores.tolist(), result.labels.tolist(), masks, boxes_of(masks, image.size), strict=True)
    return [
        {"image_id": image.id, "category_id": ids[label], "score": score, "bbox": box}
        | {"segmentation": rle.to_coco(counts, image.size)}
        for score, label, counts, box in found
    ]


def results_file(folder: Path, annotations: Annotations, number: int) -> Path:
    """Where the results of a video or image are kept."""
    return folder / f"{annotations.noun}s" / f"{number}.json"


def write_results(path: Path, rows: list[dict[str, Any]]) -> None:
    """Keep the results of a video or image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(json.dumps(rows, separators=(",", ":"), allow_nan=False))


def merge(folder: Path, annotations: Annotations) -> list[dict[str, Any]]:
    """All results, also written to results.json.

    Raises:
        ValueError: the file of a video or image is damaged.
    """
    rows: list[dict[str, Any]] = []
    for number in annotations.videos:
        path = results_file(folder, annotations, number)
        try:
            rows += json.loads(path.read_bytes())
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}); remove it and run again") from None
    with whole_file(folder / "results.json") as partial:
        partial.write_text(json.dumps(rows, separators=(",", ":")))
    return rows
