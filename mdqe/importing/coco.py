"""COCO's JSON whose images are frames of videos and whose annotations name their objects.

The video of a frame is its "video_id", otherwise the folder of its "file_name". Its position is its "frame_id" or
"frame_index", otherwise its name in natural order. The object of an annotation is its "track_id" or "instance_id",
which may also be among its "attributes".
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NoReturn

from mdqe.annotations.files import FRAMES, load_json
from mdqe.annotations.masks import Mask, read_mask
from mdqe.annotations.problems import Problems
from mdqe.annotations.reader import IMAGES, mask_error, read_id, read_names
from mdqe.annotations.records import Record, kind, short
from mdqe.errors import InputError, printable
from mdqe.importing import burst
from mdqe.importing.other_json import other_form
from mdqe.importing.source import Frame, Shape, Source, Video, check_image, compressed, image_root
from mdqe.video.images import natural_key

TRACK_KEYS = ("track_id", "instance_id")
FRAME_KEYS = ("frame_id", "frame_index")


class _Image(NamedTuple):
    file: str
    size: tuple[int, int]
    place: Any
    """The sorting key of the frames of a video."""
    shapes: list[tuple[str, int | str, str, bool, float, Mask]]
    """Each annotation's label in errors, object, category, crowd, score and mask."""


def recognises(source: Path) -> bool:
    """Whether it is a JSON file, and not one of BURST."""
    return source.is_file() and source.suffix == ".json" and not burst.recognises(source)


def open_source(source: Path, images: Path | None, notes: Problems, *, identities: bool = True) -> Source:
    """A source of such a file; annotations without a track or a mask are left out.

    Args:
        source: the file.
        images: the folder that "file_name"s are relative to; by default JPEGImages beside the file, otherwise the
            folder of the file.
        notes: receives what is left out.
        identities: whether annotations need a track. Without, those without one are objects of their own, and "score"
            is read.
    """
    name, document = load_json(source, str(source))
    if (other := other_form(document)) is not None:
        raise InputError(f"{name} is {other}")
    if not isinstance(document, Mapping):
        raise InputError(f"{name}: {kind(document)}; expected an object with images, annotations, categories")
    file = Record(name, "the file", document)
    problems = Problems()
    categories = read_names(file, "categories", "category", problems)
    titles = read_names(file, "videos", "video", problems) if "videos" in document else {}
    known: dict[int, _Image] = {}
    videos: dict[tuple[int | None, str], list[_Image]] = defaultdict(list)
    for i, one in enumerate(file.items("images")):
        with problems:
            record = Record(name, f"image {i}", one)
            number, (video, image) = record.unique("id", known), _read_image(record, titles)
            known[number] = image
            videos[video].append(image)
    problems.report(name)
    for (_, title), frames in videos.items():
        _check_order(name, title, frames)
    ids: set[int] = set()
    for i, one in enumerate(file.items("annotations")):
        with problems:
            record = Record(name, f"annotation {i}", one)
            read_id(record, i, ids)
            _read_annotation(record, known, categories, notes, identities)
    problems.report(name)
    if notes.found and not any(image.shapes for image in known.values()):
        raise InputError("; ".join([f"{name}: no annotation is left", *notes.lines()]))
    root = image_root(images, source.parent / FRAMES, source.parent)
    opened = [Video(video, len(one), _frames(name, root, one)) for (_, video), one in videos.items()]
    return Source(root, opened, categories)


def _read_image(record: Record, titles: Mapping[int, str]) -> tuple[tuple[int | None, str], _Image]:
    """The id, if any, and the name of an image's video; and the image."""
    file = record.get("file_name")
    if not isinstance(file, str):
        record.fail("file_name", f"{kind(file)}; expected a path")
    record.check_path("file_name", file)
    size = record.size()
    number, video = None, PurePosixPath(file).parent.as_posix()
    if record.value.get("video_id") is not None:
        number = record.known("video_id", titles, "videos") if titles else record.integer("video_id")
        video = titles.get(number, str(number))
    key = next((key for key in FRAME_KEYS if record.value.get(key) is not None), None)
    place = (0, record.integer(key)) if key is not None else (1, natural_key(Path(file)))
    return (number, video), _Image(file, size, place, [])


def _check_order(name: str, video: str, images: list[_Image]) -> None:
    """Check that the order of a video's frames is known: they are images of their own, with numbers or without."""

    def fail(problem: str) -> NoReturn:
        raise InputError(f"{name}: {printable(problem, 300)}")

    for file, count in Counter(image.file for image in images).items():
        if count > 1:
            fail(f"{count} images of the video {video} are {file}; expected one for each frame")
    numbered = [image for image in images if image.place[0] == 0]
    if numbered and len(numbered) < len(images):
        other = next(image.file for image in images if image.place[0])
        fail(f"no {' or '.join(FRAME_KEYS)}, as {numbered[0].file} of the same video has, for {other}")
    first: dict[Any, str] = {}
    for image in numbered:
        if (other := first.setdefault(image.place, image.file)) != image.file:
            reason = 'images of several videos in one folder need a "video_id"'
            fail(f"frame {image.place[1]} is {other} and {image.file}; {reason}")


def _read_annotation(
    record: Record, images: Mapping[int, _Image], categories: Mapping[int, str], notes: Problems, identities: bool
) -> None:
    """Check an annotation and add it to its image."""
    image = images[record.known("image_id", images, "images")]
    category = categories[record.known("category_id", categories, "categories")]
    attributes = record.value.get("attributes")
    homes = [record.value, attributes if isinstance(attributes, Mapping) else {}]
    tracks = [home[key] for home in homes for key in TRACK_KEYS if home.get(key) is not None]
    score = 1.0
    if not identities:
        tracks = [*tracks, record.label]
        score = read_score(record)
    if not tracks:
        notes.add(f"annotations without a {' or '.join(TRACK_KEYS)}, left out", record.label)
        return
    identity = tracks[0]
    if isinstance(identity, float) and identity.is_integer():  # tables write whole numbers as 7.0
        identity = int(identity)
    if not isinstance(identity, int | str) or isinstance(identity, bool):
        record.fail(TRACK_KEYS[0], f"{short(identity)}; expected a whole number or a string")
    try:
        mask = read_mask(record.value.get(IMAGES.masks), list(image.size))
    except InputError as error:
        raise mask_error(record.file, record.label, IMAGES, 0, error) from None
    if mask is None:
        notes.add("annotations without a mask, left out", record.label)
    else:
        image.shapes.append((record.label, identity, category, record.flag("iscrowd"), score, mask))


def read_score(record: Record) -> float:
    """The "score" of a detection, 1 where missing."""
    score = record.number("score") if record.value.get("score") is not None else 1.0
    if not 0 <= score <= 1:
        record.fail("score", f"{score:g}; expected 0 to 1")
    return score


def _frames(name: str, root: Path, images: list[_Image]) -> Iterator[Frame]:
    for image in sorted(images, key=lambda one: one.place):
        check_image(root / image.file, image.size, f"{name}: the entry of an image")
        shapes = []
        masks = compressed([mask for *_, mask in image.shapes], image.size)
        for (label, track, category, is_crowd, score, _), counts in zip(image.shapes, masks, strict=True):
            if isinstance(counts, InputError):
                raise mask_error(name, label, IMAGES, 0, counts)
            shapes.append(Shape(track, category, counts, is_crowd, score))
        yield Frame(image.file, image.size, shapes)
