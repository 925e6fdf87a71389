"""The reader of result files: lists in the form of YouTube-VIS, OVIS and COCO."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mdqe.annotations.files import Source, load_json
from mdqe.annotations.masks import Rle
from mdqe.annotations.problems import Problems
from mdqe.annotations.reader import IMAGES, VIDEOS, Annotations, Track, Video, read_box, read_masks
from mdqe.annotations.records import Record, kind
from mdqe.errors import InputError
from mdqe.results.instances import VideoInstances


@dataclass(frozen=True)
class Results:
    """Results for a data set."""

    name: str
    """What errors call the file."""
    tracks: dict[int, list[Track]]
    """By the id of the video or image, in the order of the file."""


def load_results(source: Source) -> tuple[str, list[Any]]:
    """The name of a results file in errors, and its records, unchecked.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not JSON, or not a list.
    """
    name, document = load_json(source, "results")
    if not isinstance(document, list):
        raise InputError(f"{name}: {kind(document)}{_form(document)}; results are a list")
    return name, document


def _form(document: Any) -> str:
    """What an object is that is not a list of results."""
    if not isinstance(document, Mapping):
        return ""
    if "annotations" in document or "videos" in document:
        return " with annotations"
    return " in the form of BURST" if "sequences" in document else ""


def read_result(record: Record, index: int, annotations: Annotations) -> tuple[int, Track]:
    """One result: the id of its video or image, and its track. Its category may not be in the data set.

    Args:
        record: the result.
        index: its place in the list.
        annotations: the data set.

    Raises:
        RecordError: a field is missing or invalid.
    """
    layout, value = annotations.layout, record.value
    video = annotations.videos[record.known(layout.item_id, annotations.videos, annotations.name)]
    # In the official form results have no track ids: each is a track of its own.
    track = record.integer("track_id") if value.get("track_id") is not None else -1 - index
    category, score = record.integer("category_id"), record.number("score")
    box = read_box(record, layout.boxes, value.get(layout.boxes)) if layout == IMAGES else None
    return video.id, Track(record.label, category, read_masks(record, video, layout), score, track, box=box)


def read_results(source: Source, annotations: Annotations) -> Results:
    """Read results for a data set.

    Args:
        source: a path or the loaded JSON: a list of objects with "category_id", "score" and, for videos, "video_id" and
            "segmentations"; for images, "image_id", "segmentation" and perhaps "bbox". Results of several categories
            that are one track have the same "track_id".
        annotations: the data set.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not such a file, or for other videos. The message lists all problems with the file, the record
            and the field.

    Warns:
        UserWarning: there are no results, or results of categories that the data set does not have, which are left out.
    """
    sizes: dict[tuple[int, int], list[int]] = {}

    def small(entry: dict[str, Any]) -> Any:
        """A mask in little memory: without an object of its own, and with one list for all equal sizes."""
        if len(entry) != 2 or "size" not in entry or type(entry.get("counts")) is not str:
            return entry
        size = entry["size"]
        if type(size) is list and len(size) == 2 and type(size[0]) is int and type(size[1]) is int:
            size = sizes.setdefault((size[0], size[1]), size)
        return Rle(entry["counts"], size)

    name, document = load_results(load_json(source, "results", small))
    problems, unknown = Problems(), Counter[int]()
    tracks: dict[int, list[Track]] = {number: [] for number in annotations.videos}
    for i, one in enumerate(document):
        with problems:
            number, track = read_result(Record(name, f"result {i}", one), i, annotations)
            if track.category in annotations.categories:
                tracks[number].append(track)
            else:
                unknown[track.category] += 1
    problems.report(name)
    if unknown:
        warnings.warn(
            f"{name}: {unknown.total()} of {len(document)} results have categories that {annotations.name} does not "
            f"have ({', '.join(map(str, sorted(unknown)[:8]))}); they are ignored",
            stacklevel=4,
        )
    if not document:
        warnings.warn(f"{name}: no results: the metrics are those of an empty result", stacklevel=4)
    return Results(name, tracks)


def group_results(name: str, document: Sequence[Any]) -> dict[int, list[tuple[int, Record]]]:
    """Results, with their places in the list, by the id of their video.

    Raises:
        RecordError: a result is not an object or has no video.
    """
    rows: dict[int, list[tuple[int, Record]]] = {}
    for i, one in enumerate(document):
        record = Record(name, f"result {i}", one)
        rows.setdefault(record.integer("video_id"), []).append((i, record))
    return rows


def read_alone(name: str, number: int, rows: Sequence[tuple[int, Record]]) -> tuple[Video, list[Track]]:
    """A video of results without annotations, and its tracks. Its size and length are those of its masks.

    Args:
        name: what errors call the file.
        number: the id of the video.
        rows: its results, of `group_results`.

    Raises:
        InputError: a result is invalid, or no result has an RLE.
    """
    size, length = None, 0
    for _, record in rows:
        masks = record.items("segmentations")
        length = length or len(masks)
        size = size or next((_size(record, t, one) for t, one in enumerate(masks) if isinstance(one, Mapping)), None)
    if size is None:
        raise InputError(f"{name}: no result of video {number} has an RLE; the size of the video is unknown")
    video = Video(number, size, length)
    alone = Annotations(name, VIDEOS, {number: video}, {})
    return video, [read_result(record, i, alone)[1] for i, record in rows]


def instance_tracks(result: VideoInstances) -> list[Track]:
    """The rows of a result as tracks, whose categories are its labels."""
    rows = zip(result.labels, result.scores, result.track_ids, strict=True)
    return [
        Track(f"result {i}", int(label), list(result.rles[i]), float(score), int(number))
        for i, (label, score, number) in enumerate(rows)
    ]


def _size(record: Record, frame: int, mask: Mapping[str, Any]) -> tuple[int, int] | None:
    if not mask:  # absent
        return None
    size = mask.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(type(edge) is int and edge > 0 for edge in size):
        record.fail("segmentations", f"without a size [height, width] in frame {frame}")
    return size[0], size[1]
