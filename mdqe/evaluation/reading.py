"""YouTube-VIS and OVIS files, checked as they are read: annotations and results.

Every error names the file, the record and the field. Masks are taken as run lengths and decoded by nobody here; what
their counts hold is checked where they are compared.
"""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

from mdqe.inference.rle import Counts

Source = str | PathLike[str] | Any
"""A path, or what the JSON file there would load as."""

DEGREES = {"no_occlusion": 0.0, "slight_occlusion": 0.25, "severe_occlusion": 0.75}
"""The OVIS labels of a frame as degrees of occlusion."""


@dataclass(frozen=True)
class Track:
    """An annotated object or a result: one category and a mask or None per frame of a video."""

    where: str
    """How errors name it."""
    category: int
    masks: list[Counts | None]
    """(T,)."""
    score: float = 1.0
    id: int = 0
    """Of the annotation, or of the result's track."""
    crowd: bool = False
    area: float = 0.0
    """Of an annotation: the mean of its areas in pixels, over the frames where it is not 0."""
    occlusion: float | None = None
    """Of an annotation: its degree; None where it has no labels."""


@dataclass(frozen=True)
class Video:
    """A video of a data set and its annotated objects."""

    id: int
    size: tuple[int, int]
    """(height, width)."""
    length: int
    file_names: list[str] | None = None
    objects: list[Track] = field(default_factory=list)


@dataclass(frozen=True)
class Annotations:
    """A data set: videos and categories in order of their ids."""

    name: str
    videos: dict[int, Video]
    categories: dict[int, str]
    """Names by id."""

    @property
    def labelled(self) -> bool:
        """Whether there is any object."""
        return any(video.objects for video in self.videos.values())

    @property
    def occlusion(self) -> bool:
        """Whether every object has occlusion labels."""
        objects = [one for video in self.videos.values() for one in video.objects]
        return bool(objects) and all(one.occlusion is not None for one in objects)


@dataclass(frozen=True)
class Results:
    """What was found in the videos of a data set."""

    name: str
    tracks: dict[int, list[Track]]
    """By the id of the video, in the order of the file."""


def read_annotations(source: Source, *, hidden: bool = False) -> Annotations:
    """Read a data set.

    Args:
        source: a path or the loaded JSON: an object with "videos", "annotations" and "categories".
        hidden: "annotations" may be missing, as in the test sets of the benchmarks.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such a file; one line names the file, the record and the field.
    """
    name, document = load_json(source, "annotations")
    if not isinstance(document, Mapping):
        raise ValueError(f"{name}: {_kind(document)}; annotations are an object with videos, annotations, categories")
    lists = {key: _Record(name, "the file", document).items(key) for key in ("videos", "categories")}
    categories, videos = {}, {}
    for i, one in enumerate(lists["categories"]):
        record = _Record(name, f"category {i}", one)
        known = record.unique("id", categories)
        categories[known] = str(one.get("name", known))
    for i, one in enumerate(lists["videos"]):
        record = _Record(name, f"video {i}", one)
        number = record.unique("id", videos)
        size = (record.integer("height", 1), record.integer("width", 1))
        names = one.get("file_names")
        if names is not None and not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
            record.fail("file_names", "expected a list of paths")
        videos[number] = Video(number, size, record.integer("length", 1), names)
    ids: set[int] = set()
    missing = hidden and document.get("annotations") is None
    objects = [] if missing else _Record(name, "the file", document).items("annotations")
    for i, one in enumerate(objects):
        _read_object(_Record(name, f"annotation {i}", one), videos, categories, ids)
    found = Annotations(name, dict(sorted(videos.items())), dict(sorted(categories.items())))
    labelled = [one.occlusion is not None for video in videos.values() for one in video.objects]
    if any(labelled) and not all(labelled):
        warnings.warn(
            f"{name}: {labelled.count(False)} of {len(labelled)} annotations have no occlusion labels; "
            "nothing is said by degree of occlusion",
            stacklevel=3,
        )
    return found


def read_results(source: Source, annotations: Annotations) -> Results:
    """Read results for a data set.

    Args:
        source: a path or the loaded JSON: a list of objects with "video_id", "category_id", "score" and
            "segmentations", and "track_id" where results of several categories are one track.
        annotations: the data set.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such a file, or for other videos; one line names the file, the record and the field.
    """
    name, document = load_json(source, "results")
    if not isinstance(document, list):
        raise ValueError(f"{name}: {_kind(document)}; results are a list")
    found: dict[int, list[Track]] = {number: [] for number in annotations.videos}
    unknown: dict[int, int] = {}
    for i, one in enumerate(document):
        video, track = read_result(name, i, one, annotations)
        if track.category not in annotations.categories:
            unknown[track.category] = unknown.get(track.category, 0) + 1
            continue
        found[video].append(track)
    if unknown:
        warnings.warn(
            f"{name}: {sum(unknown.values())} results are of categories that {annotations.name} does not have "
            f"({', '.join(map(str, sorted(unknown)[:8]))}) and count for nothing",
            stacklevel=3,
        )
    if not document:
        warnings.warn(f"{name}: no results; every number is that of finding nothing", stacklevel=3)
    return Results(name, found)


def read_result(name: str, index: int, value: Any, annotations: Annotations) -> tuple[int, Track]:
    """The video's id and the track of one result, the `index`th of the file `name`; its category is not checked."""
    record = _Record(name, f"result {index}", value)
    video = record.known("video_id", annotations.videos, annotations.name)
    # Results of the official form have no track ids: each is a track of its own.
    track = record.integer("track_id") if value.get("track_id") is not None else -1 - index
    category, score = record.integer("category_id"), record.number("score")
    return video, Track(record.where, category, record.masks(annotations.videos[video]), score, track)


def occlusion_degree(labels: Sequence[str | None]) -> float:
    """An object's degree of occlusion: the mean of the upper half of its frames' degrees."""
    degrees = sorted((DEGREES[label] for label in labels if label is not None), reverse=True)
    half = degrees[: (len(degrees) + 1) // 2]
    return sum(half) / len(half) if half else 0.0


def _read_object(record: "_Record", videos: Mapping[int, Video], categories: Mapping[int, str], ids: set[int]) -> None:
    """Check an annotation and put it to its video."""
    number = record.unique("id", ids)
    ids.add(number)
    if number == 0:
        warnings.warn(
            f"{record.name}: {record.where} has the id 0; the official evaluator takes a match with it for none, "
            "here it counts",
            stacklevel=4,
        )
    record.where += f" (id {number})"
    video = videos[record.known("video_id", videos, "videos")]
    category = record.known("category_id", categories, "categories")
    crowd = record.value.get("iscrowd", 0)
    if crowd not in (0, 1):
        record.fail("iscrowd", f"{crowd!r}; expected 0 or 1")
    areas = record.items("areas", video.length)
    for area in areas:
        if area is not None and not (_is_number(area) and 0 <= area < math.inf):
            record.fail("areas", f"{area!r}; expected pixels or null")
    seen = [area for area in areas if area]
    occlusion = None
    if record.value.get("occlusion") is not None:
        labels = record.items("occlusion", video.length)
        for label in labels:
            if label is not None and (not isinstance(label, str) or label not in DEGREES):
                record.fail("occlusion", f"{label!r}; expected {', '.join(DEGREES)} or null")
        occlusion = occlusion_degree(labels)
    area = sum(seen) / len(seen) if seen else 0.0
    masks = record.masks(video)
    video.objects.append(Track(record.where, category, masks, 1.0, number, bool(crowd), area, occlusion))


class _Record:
    """An object of a file, whose fields are checked as they are taken."""

    def __init__(self, name: str, where: str, value: Any) -> None:
        self.name, self.where, self.value = name, where, value
        if not isinstance(value, Mapping):
            raise ValueError(f"{name}: {where} is {_kind(value)}; expected an object")

    def fail(self, key: str, problem: str) -> NoReturn:
        raise ValueError(f'{self.name}: {self.where}: "{key}" is {problem}')

    def get(self, key: str) -> Any:
        if key not in self.value:
            raise ValueError(f'{self.name}: {self.where} has no "{key}"')
        return self.value[key]

    def items(self, key: str, length: int | None = None) -> list[Any]:
        value = self.get(key)
        if not isinstance(value, list | tuple):
            self.fail(key, f"{_kind(value)}; expected a list")
        if length is not None and len(value) != length:
            self.fail(key, f"a list of {len(value)}; its video has {length} frames")
        return value

    def integer(self, key: str, least: int | None = None) -> int:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
            self.fail(key, f"{_short(value)}; expected a whole number" + ("" if least is None else f" from {least}"))
        return value

    def number(self, key: str) -> float:
        value = self.get(key)
        if not _is_number(value) or not math.isfinite(value):
            self.fail(key, f"{_short(value)}; expected a finite number")
        return float(value)

    def unique(self, key: str, taken: Any) -> int:
        value = self.integer(key)
        if value in taken:
            self.fail(key, f"{value}, which another one has too")
        return value

    def known(self, key: str, choices: Mapping[int, Any], home: str) -> int:
        value = self.integer(key)
        if value not in choices:
            self.fail(key, f"{value}, which is not in {home}")
        return value

    def masks(self, video: Video) -> list[Counts | None]:
        """The counts of the segmentations, whose sizes are checked."""
        found: list[Counts | None] = []
        size = list(video.size)
        for t, one in enumerate(self.items("segmentations", video.length)):
            if one is None:
                found.append(None)
                continue
            if (type(one) is not dict and not isinstance(one, Mapping)) or "size" not in one or "counts" not in one:
                self.fail("segmentations", f'{_short(one)} in frame {t}; expected {{"size", "counts"}} or null')
            if one["size"] != size and (not isinstance(one["size"], Sequence) or list(one["size"]) != size):
                self.fail("segmentations", f"{_short(one['size'])} large in frame {t}; its video is {size}")
            if one["counts"] is None:
                self.fail("segmentations", f"without counts in frame {t}")
            found.append(one["counts"])
        return found


def load_json(source: Source, name: str) -> tuple[str, Any]:
    """How errors name the source, and its content."""
    if not isinstance(source, str | PathLike):
        return name, source
    path = Path(source)
    try:
        return str(path), json.loads(path.read_bytes())
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(f"{path} is not JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{path} is not JSON of this kind: its lists are nested too deeply") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", type(None): "null", bool: "true or false"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
