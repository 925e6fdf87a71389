"""The reader of annotation files: videos as in YouTube-VIS and OVIS, images as in COCO.

Training, validation, evaluation, `mdqe view`, `mdqe split` and `mdqe submit` read annotations with the same rules. Ids
are whole numbers. Areas, boxes, the length of a video and the id of an annotation are optional. `read_annotations`
checks every field. The counts of RLEs are checked when masks are packed or compared.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

from mdqe.annotations.files import Loaded, Source, load_json
from mdqe.annotations.masks import Mask, Rle, pack, read_mask, shrink, to_text
from mdqe.annotations.problems import Problems, RecordError
from mdqe.annotations.records import Record, is_finite, kind, short
from mdqe.errors import InputError

DEGREES = {"no_occlusion": 0.0, "slight_occlusion": 0.25, "severe_occlusion": 0.75}
"""The OVIS labels of a frame as degrees of occlusion."""


class Layout(NamedTuple):
    """The keys in which the formats of videos and images differ."""

    noun: str
    items: str
    """The list of videos or images."""
    item_id: str
    """The video or image of an annotation."""
    files: str
    """The files of an item: a list for a video, one name for an image; likewise the masks, boxes and areas."""
    masks: str
    boxes: str
    areas: str


VIDEOS = Layout("video", "videos", "video_id", "file_names", "segmentations", "bboxes", "areas")
IMAGES = Layout("image", "images", "image_id", "file_name", "segmentation", "bbox", "area")


class Track(NamedTuple):
    """An annotated object or a result: a category, and a mask for each frame of a video."""

    label: str
    """What errors call it."""
    category: int
    masks: list[Mask | None]
    """(T,); None where absent."""
    score: float = 1.0
    id: int = -1
    """Of the annotation, or of the track of a result; negative where the file has none."""
    is_crowd: bool = False
    area: float | None = None
    """The mean of the annotated areas in pixels, over the frames where they are not 0; None where the file has none."""
    box: list[float] | None = None
    """[x, y, width, height] in an image; None where the file has none."""
    occlusion: float | None = None
    """The degree of occlusion; None where the annotation has no labels."""


@dataclass(slots=True)
class Video:
    """A video and its annotated objects; an image is a video of one frame."""

    id: int
    size: tuple[int, int]
    """(height, width)."""
    length: int
    file_names: list[str] | None = None
    objects: list[Track] = field(default_factory=list)


@dataclass(frozen=True)
class Annotations:
    """A data set."""

    name: str
    """What errors call the file."""
    layout: Layout
    """VIDEOS or IMAGES."""
    videos: dict[int, Video]
    """By id, in the order of the file."""
    categories: dict[int, str]
    """Names by id, in ascending order."""
    problems: Problems = field(default_factory=Problems)
    """Of the annotations that were left out."""

    def bare(self) -> "Annotations":
        """The set without its videos, for processes that receive videos one by one."""
        return replace(self, videos={})

    def expect(self, layout: Layout, hint: str = "") -> None:
        """Raise an InputError if the set is not one of videos or images."""
        if self.layout != layout:
            raise InputError(f"{self.name} contains {self.layout.items}; expected {layout.items}{hint}")

    def require_files(self) -> None:
        """Raise an InputError if a video has no file names."""
        for video in self.videos.values():
            if video.file_names is None:
                raise InputError(f'{self.name}: {self.layout.noun} {video.id} has no "{self.layout.files}"')

    @property
    def objects(self) -> Iterator[Track]:
        """All objects."""
        return (one for video in self.videos.values() for one in video.objects)


def load_annotations(source: Source) -> Loaded:
    """The content of an annotation file. Masks are made small while the file is parsed.

    Raises:
        OSError, InputError: as `load_json`.
    """
    return load_json(source, "annotations", _shrink_masks)


def read_annotations(
    source: Source, *, hidden: bool = False, strict: bool = True, whole_areas: bool = False
) -> Annotations:
    """Read a data set.

    Args:
        source: a path or the loaded JSON: an object with "videos" or "images", "annotations" and "categories"; or a set
            that has been read, which is returned.
        hidden: "annotations" may be missing, as in the test sets of the benchmarks.
        strict: invalid annotations are an error. Otherwise they are left out, and `problems` lists them.
        whole_areas: areas are used without their fractions, and may be strings of digits, as for LV-VIS.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not such a file. The message lists all problems with the file, the record and the field.
    """
    if isinstance(source, Annotations):
        return source
    name, document = load_annotations(source)
    if not isinstance(document, Mapping):
        raise InputError(f"{name}: {kind(document)}; annotations are an object with videos, annotations, categories")
    file, problems = Record(name, "the file", document), Problems()
    layout = IMAGES if "images" in document and "videos" not in document else VIDEOS
    categories = read_names(file, "categories", "category", problems)
    videos: dict[int, Video] = {}
    for i, one in enumerate(file.items(layout.items)):
        with problems:
            video = _read_video(Record(name, f"{layout.noun} {i}", one), layout, videos)
            videos[video.id] = video
    problems.report(name)
    ids: set[int] = set()
    is_missing = hidden and document.get("annotations") is None
    if not hidden and document.get("annotations", ids) is None:
        file.fail("annotations", "null; expected a list: the annotations of this set are not in the file")
    for i, one in enumerate([] if is_missing else file.items("annotations")):
        with problems:
            _read_object(Record(name, f"annotation {i}", one), i, layout, videos, categories, ids, whole_areas)
    if strict:
        problems.report(name)
    return Annotations(name, layout, videos, categories, problems)


def read_names(file: Record, key: str, noun: str, problems: Problems) -> dict[int, str]:
    """The names of the records of a list such as "categories", by ascending id; the id where a name is missing."""
    names: dict[int, str] = {}
    for i, one in enumerate(file.items(key)):
        with problems:
            number = Record(file.file, f"{noun} {i}", one).unique("id", names)
            names[number] = str(one.get("name", number))
    return dict(sorted(names.items()))


def read_id(record: Record, index: int, ids: set[int]) -> int:
    """The id of an annotation, which is added to `ids` and to the label; negative if the annotation has none."""
    if record.value.get("id") is None:
        return -1 - index
    number = record.unique("id", ids)
    ids.add(number)
    record.label += f" (id {number})"
    return number


def read_masks(record: Record, video: Video, layout: Layout) -> list[Mask | None]:
    """The masks (T,) of an annotation or a result."""
    values = [record.get(layout.masks)] if layout == IMAGES else record.items(layout.masks, video.length)
    size, masks = list(video.size), []
    try:
        for value in values:
            masks.append(None if value is None else read_mask(value, size))
    except InputError as error:
        raise mask_error(record.file, record.label, layout, len(masks), error) from None
    return masks


def read_box(record: Record, key: str, value: Any) -> list[float] | None:
    """[x, y, width, height] in pixels; None where there is no box."""
    if value is None or value == []:
        return None
    if not isinstance(value, list | tuple) or len(value) != 4 or not all(map(is_finite, value)) or min(value[2:]) < 0:
        record.fail(key, f"{short(value)}; expected [x, y, width, height]")
    return [float(one) for one in value]


def pack_tracks(
    name: str, layout: Layout, tracks: Sequence[Track], size: tuple[int, int], problems: Problems
) -> Iterator[tuple[Track, list[bytes]]]:
    """The tracks of one video whose masks are valid, and their packed masks; `problems` lists the other tracks.

    Args:
        name: what errors call the file.
        layout: of the file.
        tracks: annotations or results.
        size: H and W of the frames.
        problems: receives invalid tracks.
    """
    packed = iter(pack([mask for track in tracks for mask in track.masks], size))
    for track in tracks:
        masks = list(islice(packed, len(track.masks)))
        valid = [mask for mask in masks if isinstance(mask, bytes)]
        if len(valid) == len(masks):
            yield track, valid
        else:
            frame, reason = next((t, mask) for t, mask in enumerate(masks) if isinstance(mask, InputError))
            problems.add_error(mask_error(name, track.label, layout, frame, reason))


def compress_tracks(name: str, layout: Layout, tracks: Sequence[Track], size: tuple[int, int]) -> list[Track]:
    """The tracks of one video with compressed RLEs as masks, None where a mask has no pixel. Arguments: `pack_tracks`.

    Raises:
        InputError: masks are invalid. The message names the file, the record and the frame.
    """
    problems = Problems()
    found = [
        track._replace(masks=[to_text(mask, size) for mask in masks])
        for track, masks in pack_tracks(name, layout, tracks, size, problems)
    ]
    problems.report(name)
    return found


def mask_error(file: str, label: str, layout: Layout, frame: int, reason: InputError) -> RecordError:
    """The error of a record with an invalid mask."""
    place = "" if layout == IMAGES else f" in frame {frame}"
    kind = f'invalid "{layout.masks}"'
    return RecordError.make(file, f'{label}: "{layout.masks}"{place}: {reason}', kind, f"{label}{place}: {reason}")


def occlusion_degree(labels: Iterable[str | None]) -> float:
    """The degree of occlusion of an object: the mean of the upper half of the degrees of its frames."""
    degrees = sorted((DEGREES[label] for label in labels if label is not None), reverse=True)
    half = degrees[: (len(degrees) + 1) // 2]
    return sum(half) / len(half) if half else 0.0


def _shrink_masks(entry: dict[str, Any]) -> Any:
    """An object of the file with small masks, so that the lists of their numbers never exist all at the same time."""
    if "counts" in entry and "size" in entry:
        return shrink(entry)
    if VIDEOS.masks in entry:
        masks = entry[VIDEOS.masks]
        if isinstance(masks, list):
            entry[VIDEOS.masks] = [mask if mask is None or type(mask) is Rle else shrink(mask) for mask in masks]
    elif IMAGES.masks in entry:
        entry[IMAGES.masks] = shrink(entry[IMAGES.masks])
    return entry


def _read_video(record: Record, layout: Layout, taken: Mapping[int, Video]) -> Video:
    number = record.unique("id", taken)
    size = record.size()
    names = record.value.get(layout.files)
    if layout == IMAGES:
        if names is not None and not isinstance(names, str):
            record.fail(layout.files, f"{kind(names)}; expected a path")
        if names is not None:
            record.check_path(layout.files, names)
        return Video(number, size, 1, None if names is None else [names])
    if names is not None and not (isinstance(names, list | tuple) and all(isinstance(one, str) for one in names)):
        record.fail(layout.files, f"{short(names)}; expected a list of paths")
    for one in names or ():
        record.check_path(layout.files, one)
    if record.value.get("length") is None and names:
        length = len(names)
    else:
        record.get("length", layout.files)
        length = record.integer("length", 1)
    if names and len(names) != length:
        record.fail(layout.files, f"a list of {len(names)}; the video has {length} frames")
    return Video(number, size, length, list(names) if names else None)


def _read_object(
    record: Record,
    index: int,
    layout: Layout,
    videos: Mapping[int, Video],
    categories: Mapping[int, str],
    ids: set[int],
    whole_areas: bool,
) -> None:
    """Check an annotation and add it to its video."""
    value, number = record.value, read_id(record, index, ids)
    video = videos[record.known(layout.item_id, videos, layout.items)]
    category = record.known("category_id", categories, "categories")
    is_crowd, masks = record.flag("iscrowd"), read_masks(record, video, layout)
    box, occlusion = None, None
    areas, boxes = value.get(layout.areas), value.get(layout.boxes)
    if layout == IMAGES:
        box = read_box(record, layout.boxes, boxes)
        areas = None if areas is None else [areas]
    else:
        areas = None if areas is None else record.items(layout.areas, video.length)
        for one in () if boxes is None else record.items(layout.boxes, video.length):
            read_box(record, layout.boxes, one)
        if value.get("occlusion") is not None:
            occlusion = occlusion_degree(_read_labels(record, video.length))
    area = None if areas is None else _mean_area(record, layout.areas, areas, whole_areas)
    video.objects.append(Track(record.label, category, masks, 1.0, number, is_crowd, area, box, occlusion))


def _mean_area(record: Record, key: str, areas: Sequence[Any], whole: bool) -> float:
    visible = []
    for area in areas:
        is_text = whole and isinstance(area, str) and re.fullmatch("[0-9]{1,18}", area)
        value = float(area) if is_text else area
        if value is not None and not (is_finite(value) and value >= 0):
            record.fail(key, f"{short(area)}; expected pixels or null")
        if area:  # the string "0" counts as a frame, as in the official code of LV-VIS
            visible.append(float(int(value) if whole else value))
    return sum(visible) / len(visible) if visible else 0.0


def _read_labels(record: Record, length: int) -> Sequence[str | None]:
    labels = record.items("occlusion", length)
    for label in labels:
        if label is not None and (not isinstance(label, str) or label not in DEGREES):
            record.fail("occlusion", f"{short(label)}; expected {', '.join(DEGREES)} or null")
    return labels
