"""COCO's JSON with images that are frames of videos, and annotations that say which object they are of.

A frame's video is its "video_id", else the folder of its "file_name"; its place is its "frame_id" or "frame_index",
else its name in natural order. An annotation's object is its "track_id" or "instance_id", also among its "attributes".
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mdqe.annotations.masks import Segment, runs, shrink
from mdqe.annotations.problems import DataError, Problems
from mdqe.annotations.reading_ import read_categories, read_crowd
from mdqe.annotations.records import Record, kind, load_json
from mdqe.errors import InputError
from mdqe.importing.source import Frame, Shape, Source, Video, counts_of, image_root
from mdqe.video.images import natural_key

TRACK_KEYS = ("track_id", "instance_id")
FRAME_KEYS = ("frame_id", "frame_index")


class _Image(NamedTuple):
    file: str
    size: tuple[int, int]
    place: Any
    """What frames of a video are sorted by."""
    shapes: list[tuple[str, int | str, str, bool, Segment]]
    """How errors name an annotation, its object, category and crowd, and its mask."""


def recognises(source: Path) -> bool:
    """Whether it is a JSON file."""
    return source.is_file() and source.suffix == ".json"


def open_source(source: Path, images: Path | None, notes: Problems) -> Source:
    """A source of such a file; annotations without a track or a mask are left out.

    Args:
        source: the file.
        images: the folder that "file_name"s are relative to; JPEGImages beside the file, else the file's own folder.
        notes: takes what is left out.
    """
    name, document = load_json(source, str(source))
    if not isinstance(document, Mapping):
        raise InputError(f"{name}: {kind(document)}; expected an object with images, annotations, categories")
    file = Record(name, "the file", document)
    if "videos" in document and "images" not in document:
        raise InputError(f"{name} has videos and no images: it is in the form of YouTube-VIS already")
    categories = read_categories(name, file.items("categories"))
    titles = _titles(file)
    held: dict[int, _Image] = {}
    videos: dict[tuple[int | None, str], list[_Image]] = defaultdict(list)
    for i, one in enumerate(file.items("images")):
        record = Record(name, f"image {i}", one)
        number, (video, image) = record.unique("id", held), _read_image(record, titles)
        held[number] = image
        videos[video].append(image)
    for i, one in enumerate(file.items("annotations")):
        _read_annotation(Record(name, f"annotation {i}", one), held, categories, notes)
    if notes.found and not any(image.shapes for image in held.values()):
        raise InputError("; ".join([f"{name}: no annotation is left", *notes.lines()]))
    root = image_root(images, source.parent / "JPEGImages", source.parent)
    opened = [Video(video, len(one), _frames(name, one)) for (_, video), one in videos.items()]
    return Source(root, opened, categories)


def _titles(file: Record) -> dict[int, str]:
    """Names of the videos by id, where the file lists them."""
    titles: dict[int, str] = {}
    for i, one in enumerate(file.items("videos") if "videos" in file.value else ()):
        number = Record(file.name, f"video {i}", one).unique("id", titles)
        titles[number] = str(one.get("name", number))
    return titles


def _read_image(record: Record, titles: Mapping[int, str]) -> tuple[tuple[int | None, str], _Image]:
    """The id, if it has one, and the name of an image's video, and the image."""
    file = record.get("file_name")
    if not isinstance(file, str):
        record.fail("file_name", f"{kind(file)}; expected a path")
    size = (record.integer("height", 1), record.integer("width", 1))
    number, video = None, PurePosixPath(file).parent.as_posix()
    if record.value.get("video_id") is not None:
        number = record.known("video_id", titles, "videos") if titles else record.integer("video_id")
        video = titles.get(number, str(number))
    key = next((key for key in FRAME_KEYS if record.value.get(key) is not None), None)
    place = (0, record.integer(key)) if key is not None else (1, natural_key(Path(file)))
    return (number, video), _Image(file, size, place, [])


def _read_annotation(
    record: Record, images: Mapping[int, _Image], categories: Mapping[int, str], notes: Problems
) -> None:
    """Put an annotation to its image."""
    image = images[record.known("image_id", images, "images")]
    category = categories[record.known("category_id", categories, "categories")]
    attributes = record.value.get("attributes")
    homes = [record.value, attributes if isinstance(attributes, Mapping) else {}]
    tracks = [home[key] for home in homes for key in TRACK_KEYS if home.get(key) is not None]
    where = f"annotation {record.value.get('id', record.where.removeprefix('annotation '))}"
    if not tracks:
        notes.add(f"annotations without a {' or '.join(TRACK_KEYS)}, left out", where)
        return
    if not isinstance(tracks[0], int | str) or isinstance(tracks[0], bool):
        record.fail(TRACK_KEYS[0], f"{kind(tracks[0])}; expected a number or a string")
    value = record.value.get("segmentation")
    if not value:
        notes.add("annotations without a mask, left out", where)
        return
    has_runs = isinstance(value, Mapping) and {"size", "counts"} <= value.keys()
    mask = shrink(runs(value["counts"], value["size"]) if has_runs else value)
    image.shapes.append((record.where, tracks[0], category, read_crowd(record), mask))


def _frames(name: str, images: list[_Image]) -> Iterator[Frame]:
    for image in sorted(images, key=lambda one: one.place):
        shapes = []
        masks = counts_of([mask for *_, mask in image.shapes], image.size)
        for (where, track, category, crowd, _), counts in zip(image.shapes, masks, strict=True):
            if isinstance(counts, DataError):
                raise InputError(f'{name}: {where}: "segmentation": {counts}')
            shapes.append(Shape(track, category, counts, crowd))
        yield Frame(image.file, image.size, shapes)
