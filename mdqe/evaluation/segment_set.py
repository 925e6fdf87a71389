"""The results of a model on the videos or images of a data set; a file per video or image, complete or absent."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdqe.annotations.masks import coco_boxes
from mdqe.annotations.problems import Problems
from mdqe.annotations.reader import Annotations, Video
from mdqe.errors import InputError
from mdqe.files import read_json, whole_file
from mdqe.results import rle

if TYPE_CHECKING:
    import numpy as np

    from mdqe.config import MDQEConfig
    from mdqe.model import MDQE

_AHEAD = 8  # frames that are decoded early


def check_images(annotations: Annotations, images: Path) -> None:
    """Check that all frames exist.

    Raises:
        InputError: frames are missing, all of which are listed, or a video or image has no file names.
    """
    annotations.require_files()
    problems = Problems()
    for video in annotations.videos.values():
        for name in video.file_names or ():
            if not (images / name).is_file():
                problems.add("images are missing", str(images / name))
    problems.report(annotations.name, hint="\n(--images names their folder)")


def label_ids(config: "MDQEConfig", annotations: Annotations, *, partial: bool = False) -> list[int]:
    """The data set's category id of each label of the model: by name, otherwise by the model's own ids.

    With `partial`, one category in common is enough; results of the others have a category id that is not in the set.

    Raises:
        InputError: the data set has neither the names nor the ids.
    """
    by_name: Mapping[str, int] = {name: number for number, name in annotations.categories.items()}
    enough = any if partial else all
    if config.categories and enough(name in by_name for name in config.categories):
        unknown = min(annotations.categories) - 1
        return [by_name.get(name, unknown) for name in config.categories]
    ids = list(config.label_ids) or [k + 1 for k in range(config.num_classes)]
    missing = [number for number in ids if number not in annotations.categories]
    if missing and not (partial and len(missing) < len(ids)):
        names = ", ".join(list(config.categories)[:4]) or f"ids {', '.join(map(str, missing[:4]))}"
        raise InputError(f"the model's categories ({names}, …) are not those of {annotations.name}")
    return ids


def segment_video(model: "MDQE", video: Video, images: Path, ids: Sequence[int]) -> list[dict[str, Any]]:
    """The results of a video under the benchmark protocol.

    Args:
        model: the model.
        video: the video; its images have been checked.
        images: the folder that its "file_names" are relative to.
        ids: the data set's category ids by label.
    """
    from mdqe.video.frames import read_ahead
    from mdqe.video.images import load_image

    def frames() -> "Iterator[np.ndarray]":
        for name in video.file_names or ():
            yield load_image(images / name)

    with closing(read_ahead(frames(), _AHEAD)) as ahead:
        result = model.segment(ahead, multi_label=True, output_size=video.size)
    return result.to_ytvis(video.id, ids)


def segment_image(model: "MDQE", image: Video, images: Path, ids: Sequence[int]) -> list[dict[str, Any]]:
    """The results of an image under the COCO protocol, with boxes of the masks; arguments as in `segment_video`."""
    from mdqe.video.images import load_image

    assert image.file_names is not None  # the images have been checked
    (name,) = image.file_names
    result = model.segment_image(load_image(images / name), output_size=image.size)
    (empty,) = rle.compress([[image.size[0] * image.size[1]]], image.size)
    masks = [counts or empty for (counts,) in result.rles]  # a result without pixels counts as wrong
    found = zip(result.scores.tolist(), result.labels.tolist(), masks, coco_boxes(masks, image.size), strict=True)
    return [
        {"image_id": image.id, "category_id": ids[label], "score": score, "bbox": box}
        | {"segmentation": rle.to_coco(counts, image.size)}
        for score, label, counts, box in found
    ]


def results_file(folder: Path, annotations: Annotations, number: int) -> Path:
    """The file with the results of a video or image."""
    return folder / annotations.layout.items / f"{number}.json"


def write_results(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the results of a video or image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(json.dumps(rows, separators=(",", ":"), allow_nan=False))


def merge(folder: Path, annotations: Annotations) -> list[dict[str, Any]]:
    """All results in order of the ids, also written to results.json.

    Raises:
        InputError: the file of a video or image is damaged.
    """
    rows: list[dict[str, Any]] = []
    for number in sorted(annotations.videos):
        path = results_file(folder, annotations, number)
        try:
            rows += read_json(path, max_bytes=None)
        except (ValueError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}); remove it and run again") from None
    with whole_file(folder / "results.json") as partial:
        partial.write_text(json.dumps(rows, separators=(",", ":")))
    return rows
