"""CVAT for video 1.1: an XML file per video, with tracks of polygons and masks.

The source is VIDEO.xml, a folder of such files, or a folder of VIDEO/annotations.xml and VIDEO/images, as CVAT packs
them. If shapes overlap, those with the greater z_order hide the others.
The XML is read as a stream; document type declarations, and so entities, are rejected.
The format: https://docs.cvat.ai/docs/manual/advanced/xml_format.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from xml.parsers import expat

import numpy as np

from mdqe.annotations.files import FRAMES
from mdqe.annotations.masks import shrink
from mdqe.annotations.problems import Problems
from mdqe.errors import InputError
from mdqe.importing.source import (
    Frame,
    Shape,
    Source,
    Video,
    check_image,
    image_files,
    image_folder,
    image_root,
    image_size,
    numbers,
    polygon_rle,
    video_folders,
)
from mdqe.results import rle

_PACKED = "annotations.xml"
_FRAMES = "images"
_SHAPES = ("polygon", "mask", "box", "polyline", "points", "cuboid", "ellipse", "skeleton")
_HEADS = ("task", "job")
_MOST = 2**31


class Placed(NamedTuple):
    """A shape of a track in a frame."""

    label: str
    """What errors call it."""
    track: int
    category: str
    order: int
    """Greater for shapes in front."""
    polygon: Any = None
    """A packed polygon."""
    box: tuple[int, int, int, int] | None = None
    """Of a mask: left, top, width, height."""
    lengths: np.ndarray = np.zeros(0, np.int64)
    """Of a mask: its run lengths within the box, row by row, background first."""


@dataclass
class Task:
    """A video and its shapes by frame, counted from 0."""

    path: Path
    length: int = 0
    size: tuple[int, int] | None = None
    """H and W, if the file has them."""
    start: int = 0
    step: int = 1
    """Frame i has the number start + step · i in the file."""
    shapes: dict[int, list[Placed]] = field(default_factory=lambda: defaultdict(list))


def recognises(source: Path) -> bool:
    """Whether it is an XML file, or a folder of them or of folders with annotations.xml."""
    first = next(iter(_files(source).values()), None)
    if first is None:
        return False
    with first.open("rb") as file:
        return b"<annotations" in file.read(4096)


def open_source(source: Path, images: Path | None, notes: Problems) -> Source:
    """A source of such files.

    Frame 12 is the image whose name ends in 12 if every frame has such an image; otherwise the thirteenth image, if
    there are as many images as frames.

    Args:
        source: VIDEO.xml, a folder of those, or a folder of VIDEO/annotations.xml.
        images: the folder of the frames of all videos; those of VIDEO are in VIDEO/images or VIDEO, or in the folder
            itself. By default, JPEGImages or images beside VIDEO.xml, or images beside annotations.xml.
        notes: receives shapes other than polygons and masks, and frames in which shapes hide others.
    """
    base, found = source if source.is_dir() else source.parent, _files(source)
    packed = images is None and all(path.name == _PACKED for path in found.values())
    root = base if packed else image_root(images, base / FRAMES, base / _FRAMES)
    videos = []
    for name, path in found.items():
        folder = path.parent if packed else image_folder(root, name)
        if packed or (folder / _FRAMES).is_dir():
            folder = folder / _FRAMES
        if not folder.is_dir():
            raise FileNotFoundError(
                f"no such folder: {folder}, for the frames of {path}; --images names the folder of all"
            )
        task = read_task(path, notes)
        files = _order(image_files(root, folder), task, folder)
        videos.append(Video(name, task.length, _frames(task, files, root, notes)))
    return Source(root, videos)


def _files(source: Path) -> dict[str, Path]:
    """The XML files by the names of their videos."""
    found = video_folders(source, ".xml")
    own = found.get(source, [source] if source.suffix == ".xml" else [])
    if own:
        return {path.resolve().parent.name if path.name == _PACKED else path.stem: path for path in own}
    return {folder.name: folder / _PACKED for folder, paths in found.items() if folder / _PACKED in paths}


def _order(files: Mapping[str, str], task: Task, folder: Path) -> list[str]:
    """The image of each frame."""
    by_number = numbers(files)
    for places in ([task.start + task.step * i for i in range(task.length)], range(task.length)):
        if all(place in by_number for place in places):
            return [by_number[place] for place in places]
    if len(files) != task.length:
        raise InputError(f"{folder} has {len(files)} images; {task.path} has {task.length} frames")
    return list(files.values())


def _frames(task: Task, files: list[str], root: Path, notes: Problems) -> Iterator[Frame]:
    size = task.size or image_size(root / files[0])
    for t, file in enumerate(files):
        check_image(root / file, size, str(task.path))
        placed = task.shapes.pop(t, [])
        rles = [_rle(task, one, size) for one in placed]
        if len({one.order for one in placed}) > 1 and (cut := _cut(placed, rles, size)) != rles:
            notes.add("frames in which shapes hide parts of others (z_order)", file)
            rles = cut
        shapes = [Shape(one.track, one.category, counts) for one, counts in zip(placed, rles, strict=True)]
        yield Frame(file, size, shapes)


def _rle(task: Task, one: Placed, size: tuple[int, int]) -> str:
    """The RLE of a shape."""
    if one.box is None:
        try:
            return polygon_rle(one.polygon, size)
        except InputError as error:
            raise InputError(f'{task.path}: {one.label}: "points": {error}') from None
    left, top, width, height = one.box
    if left + width > size[1] or top + height > size[0]:
        raise InputError(f"{task.path}: {one.label}: the mask extends beyond the image, which is {size[1]}x{size[0]}")
    mask = np.zeros(size, bool)
    inside = np.repeat(np.arange(len(one.lengths)) % 2 == 1, one.lengths)  # row by row, background first
    mask[top : top + height, left : left + width] = inside.reshape(height, width)
    return rle.encode(mask[None])[0]


def _cut(placed: list[Placed], rles: list[str], size: tuple[int, int]) -> list[str]:
    """The RLEs without the pixels that shapes with a greater z_order hide; one mask is decoded at a time."""
    hidden, cut = np.zeros(size, bool), list(rles)
    for order in sorted({one.order for one in placed}, reverse=True):
        front = hidden.copy()
        for i, one in enumerate(placed):
            if one.order == order:
                (mask,) = rle.decode([rles[i]], size)
                cut[i] = rle.encode((mask & ~hidden)[None])[0]
                front |= mask
        hidden = front
    return cut


def read_task(path: Path, notes: Problems) -> Task:
    """Read a file.

    Args:
        path: the file.
        notes: receives shapes other than polygons and masks.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not such a file. The message names the file, the line and the field.
    """
    reader = _Reader(path, notes)
    parser = reader.parser
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except (expat.ExpatError, LookupError) as error:  # of the syntax, or an unknown encoding
        raise InputError(f"{path} is not XML: {error}") from None
    return reader.finish()


class _Reader:
    """Receives what the parser finds."""

    def __init__(self, path: Path, notes: Problems) -> None:
        self.task, self.notes = Task(path), notes
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._reject
        self._open: list[str] = []
        self._words: list[str] = []
        self._values: dict[str, str] = {}
        self._track: dict[str, str] = {}
        self._numbered: list[tuple[int, Placed]] = []
        self._visible: dict[int, dict[int, bool]] = defaultdict(dict)  # by track and number of the frame

    def finish(self) -> Task:
        """The task, after everything has been read."""
        task, values = self.task, self._values
        task.length = self._whole("size", values.get("size"), 1)
        task.start = self._whole("start_frame", values.get("start_frame", "0"))
        found = re.search(r"step\s*=\s*([0-9]{1,9})\b", values.get("frame_filter", ""))
        task.step = max(int(found[1]), 1) if found else 1
        if "height" in values and "width" in values:
            task.size = (self._whole("height", values["height"], 1), self._whole("width", values["width"], 1))
        for number, placed in self._numbered:
            place, rest = divmod(number - task.start, task.step)
            if rest or not 0 <= place < task.length:
                frames = f"{task.start} to {task.start + task.step * (task.length - 1)}"
                raise InputError(f'{task.path}: {placed.label}: "frame" is {number}; its frames are {frames}')
            task.shapes[place].append(placed)
        self._check_gaps()
        return task

    def _check_gaps(self) -> None:
        """Check that no track is without a shape between its key frames, where it would be absent without a word."""
        task = self.task
        end = task.start + task.step * task.length
        for track, visible in self._visible.items():
            numbers = sorted(number for number in visible if task.start <= number < end)
            for number, after in pairwise([*numbers, end]):
                if visible[number] and after > number + task.step:
                    raise InputError(
                        f"{task.path}: track {track} has no shape in frame {number + task.step}, after frame {number}, "
                        'and no shape with outside="1" there; expected a shape in every frame, not in key frames only'
                    )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._open and tag != "annotations":
            self._fail(f"<{tag}>", "the first element; expected <annotations>")
        if tag == "image":
            self._fail("<image>", "of CVAT for images; export as CVAT for video 1.1")
        if tag == "project":
            self._fail("<project>", "of several tasks; export each by itself")
        if tag == "track":
            self._track = attributes
        elif tag in _SHAPES and self._open[-1:] == ["track"]:
            self._shape(tag, attributes)
        self._open.append(tag)
        self._words = []

    def _end(self, tag: str) -> None:
        self._open.pop()
        home = self._open[-1] if self._open else ""
        if (home in _HEADS and tag in ("size", "start_frame", "frame_filter")) or home == "original_size":
            self._values.setdefault(tag, "".join(self._words).strip())

    def _text(self, text: str) -> None:
        self._words.append(text)

    def _reject(self, *_: Any) -> NoReturn:
        self._fail("<!DOCTYPE>", "not allowed: it may contain entities, and CVAT does not write it")

    def _shape(self, tag: str, found: dict[str, str]) -> None:
        track = self._whole("id", self._track.get("id"))
        label = f"line {self.parser.CurrentLineNumber}: {tag} of track {track}"
        if "label" not in self._track:
            self._fail("label", f"missing in track {track}")
        if tag not in ("polygon", "mask"):
            self.notes.add("shapes other than polygons and masks, left out", f"{self.task.path}: {label}")
            return
        number = self._whole("frame", found.get("frame"))
        outside = found.get("outside") == "1"
        self._visible[track][number] = not outside or self._visible[track].get(number, False)
        if outside:
            return
        order = found.get("z_order", "0")
        if not re.fullmatch(r"-?[0-9]{1,9}", order):
            self._fail("z_order", f"{order[:40]!r}; expected a whole number")
        placed = Placed(label, track, self._track["label"], int(order))
        if tag == "polygon":
            placed = placed._replace(polygon=shrink([self._points(found.get("points", ""))]))
        else:
            box, lengths = self._mask(found)
            placed = placed._replace(box=box, lengths=lengths)
        self._numbered.append((number, placed))

    def _points(self, text: str) -> list[float]:
        try:
            points = [tuple(map(float, pair.split(","))) for pair in text.split(";")]
        except ValueError:
            points = []
        if not points or any(len(point) != 2 for point in points):
            self._fail("points", f"{text[:40]!r}; expected x,y;x,y;…")
        return [one for point in points for one in point]

    def _mask(self, found: dict[str, str]) -> tuple[tuple[int, int, int, int], np.ndarray]:
        left, top, width, height = (self._whole(key, found.get(key)) for key in ("left", "top", "width", "height"))
        lengths = [self._whole("rle", one.strip()) for one in found.get("rle", "").split(",")]
        if sum(lengths) != width * height:
            self._fail("rle", f"of {sum(lengths)} pixels; width x height is {width * height}")
        return (left, top, width, height), np.array(lengths, np.int64)

    def _whole(self, key: str, text: str | None, minimum: int = 0) -> int:
        if text is None or not re.fullmatch(r"[0-9]{1,10}", text) or not minimum <= int(text) < _MOST:
            self._fail(key, f"{'missing' if text is None else repr(text[:40])}; expected a whole number from {minimum}")
        return int(text)

    def _fail(self, key: str, problem: str) -> NoReturn:
        raise InputError(f'{self.task.path}: line {self.parser.CurrentLineNumber}: "{key}" is {problem}')
