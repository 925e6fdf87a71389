"""YouTube-VIS and OVIS files, checked as they are read: annotations and results.

Every error names the file, the record and the field. Masks are taken as run lengths and decoded by nobody here; what
their counts hold is checked where they are compared.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from mdqe.annotations.records import Record, Source, is_finite, kind, load_json
from mdqe.errors import InputError
from mdqe.results.rle import Counts

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

    noun: ClassVar[str] = "video"
    """What one of its items is called."""

    name: str
    videos: dict[int, Video]
    categories: dict[int, str]
    """Names by id."""

    def bare(self) -> "Annotations":
        """The set without its videos: what a process needs that is given them one by one."""
        return replace(self, videos={})

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
        raise InputError(f"{name}: {kind(document)}; annotations are an object with videos, annotations, categories")
    lists = {key: Record(name, "the file", document).items(key) for key in ("videos", "categories")}
    categories = read_categories(name, lists["categories"])
    videos: dict[int, Video] = {}
    for i, one in enumerate(lists["videos"]):
        record = Record(name, f"video {i}", one)
        number = record.unique("id", videos)
        size = (record.integer("height", 1), record.integer("width", 1))
        names = one.get("file_names")
        if names is not None and not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
            record.fail("file_names", "no list of paths")
        videos[number] = Video(number, size, record.integer("length", 1), names)
    ids: set[int] = set()
    missing = hidden and document.get("annotations") is None
    objects = [] if missing else Record(name, "the file", document).items("annotations")
    for i, one in enumerate(objects):
        _read_object(Record(name, f"annotation {i}", one), videos, categories, ids)
    found = Annotations(name, dict(sorted(videos.items())), categories)
    labelled = [one.occlusion is not None for video in videos.values() for one in video.objects]
    if any(labelled) and not all(labelled):
        warnings.warn(
            f"{name}: {labelled.count(False)} of {len(labelled)} annotations have no occlusion labels; "
            "nothing is said by degree of occlusion",
            stacklevel=3,
        )
    return found


def read_categories(name: str, entries: Sequence[Any]) -> dict[int, str]:
    """Names by id, in order of the ids; a category without a name is called by its id."""
    categories: dict[int, str] = {}
    for i, one in enumerate(entries):
        known = Record(name, f"category {i}", one).unique("id", categories)
        categories[known] = str(one.get("name", known))
    return dict(sorted(categories.items()))


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
    name, document = load_results(source)
    found: dict[int, list[Track]] = {number: [] for number in annotations.videos}
    unknown: dict[int, int] = {}
    for i, one in enumerate(document):
        video, track = read_result(name, i, one, annotations)
        if track.category not in annotations.categories:
            unknown[track.category] = unknown.get(track.category, 0) + 1
            continue
        found[video].append(track)
    warn_of_results(name, len(document), unknown, annotations.name)
    return Results(name, found)


def warn_of_results(name: str, number: int, unknown: Mapping[int, int], home: str) -> None:
    """Say which results, by category id, are of categories that the annotations `home` lack, or that there are none."""
    if unknown:
        warnings.warn(
            f"{name}: {sum(unknown.values())} results are of categories that {home} does not have "
            f"({', '.join(map(str, sorted(unknown)[:8]))}) and count for nothing",
            stacklevel=4,
        )
    if not number:
        warnings.warn(f"{name}: no results; every number is that of finding nothing", stacklevel=4)


def load_results(source: Source) -> tuple[str, list[Any]]:
    """How errors name the source of results, and its records, unchecked.

    Raises:
        OSError, ValueError: it cannot be read, is not JSON or no list.
    """
    name, document = load_json(source, "results")
    if not isinstance(document, list):
        raise InputError(f"{name}: {kind(document)}; results are a list")
    return name, document


def read_result(name: str, index: int, value: Any, annotations: Annotations) -> tuple[int, Track]:
    """The video's id and the track of one result, the `index`th of the file `name`; its category is not checked."""
    record = Record(name, f"result {index}", value)
    video = annotations.videos[record.known("video_id", annotations.videos, annotations.name)]
    # Results of the official form have no track ids: each is a track of its own.
    track = record.integer("track_id") if value.get("track_id") is not None else -1 - index
    category, score = record.integer("category_id"), record.number("score")
    return video.id, Track(record.where, category, record.masks(video.size, video.length), score, track)


def occlusion_degree(labels: Sequence[str | None]) -> float:
    """An object's degree of occlusion: the mean of the upper half of its frames' degrees."""
    degrees = sorted((DEGREES[label] for label in labels if label is not None), reverse=True)
    half = degrees[: (len(degrees) + 1) // 2]
    return sum(half) / len(half) if half else 0.0


def _read_object(record: Record, videos: Mapping[int, Video], categories: Mapping[int, str], ids: set[int]) -> None:
    """Check an annotation and put it to its video."""
    number = read_id(record, ids)
    video = videos[record.known("video_id", videos, "videos")]
    category = record.known("category_id", categories, "categories")
    crowd = read_crowd(record)
    areas = record.items("areas", video.length)
    for area in areas:
        if area is not None and not (is_finite(area) and area >= 0):
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
    masks = record.masks(video.size, video.length)
    video.objects.append(Track(record.where, category, masks, 1.0, number, crowd, area, occlusion))


def read_id(record: Record, ids: set[int]) -> int:
    """An annotation's id, which joins `ids` and the name that errors give the record."""
    number = record.unique("id", ids)
    ids.add(number)
    if number == 0:
        warnings.warn(
            f"{record.name}: {record.where} has the id 0; the official evaluator takes a match with it for none, "
            "here it counts",
            stacklevel=5,
        )
    record.where += f" (id {number})"
    return number


def read_crowd(record: Record) -> bool:
    """Whether an annotation is of a crowd."""
    crowd = record.value.get("iscrowd", 0)
    if crowd not in (0, 1):
        record.fail("iscrowd", f"{crowd!r}; expected 0 or 1")
    return bool(crowd)
