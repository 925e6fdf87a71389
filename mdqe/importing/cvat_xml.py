"""The XML of CVAT for video 1.1, read as it streams by. A declared document type is refused: no entities."""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from xml.parsers import expat

import numpy as np

from mdqe.annotations.masks import Segment, shrink
from mdqe.annotations.problems import Problems
from mdqe.errors import InputError

_SHAPES = ("polygon", "mask", "box", "polyline", "points", "cuboid", "ellipse", "skeleton")
_HEADS = ("task", "job")
_MOST = 2**31


class Placed(NamedTuple):
    """A shape of a track in a frame."""

    where: str
    """How errors name it."""
    track: int
    label: str
    order: int
    """Those in front have greater ones."""
    segment: Segment = None
    """A packed polygon."""
    box: tuple[int, int, int, int] | None = None
    """Of a mask: left, top, width, height."""
    runs: np.ndarray = np.zeros(0, np.int64)
    """Of a mask: its runs within the box, row by row, background first."""


@dataclass
class Task:
    """A video and its shapes by frame, counted from 0."""

    path: Path
    length: int = 0
    size: tuple[int, int] | None = None
    """H and W, if the file tells."""
    start: int = 0
    step: int = 1
    """Frame i has the number start + step · i in the file."""
    shapes: dict[int, list[Placed]] = field(default_factory=lambda: defaultdict(list))


def read_task(path: Path, notes: Problems) -> Task:
    """Read a file.

    Args:
        path: the file.
        notes: takes shapes that are no polygons or masks.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file; one line names it, the line and the field.
    """
    reader = _Reader(path, notes)
    parser = reader.parser
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except (expat.ExpatError, LookupError) as error:  # of the syntax, or of an encoding that there is not
        raise InputError(f"{path} is not XML: {error}") from None
    return reader.finish()


class _Reader:
    """Takes what the parser finds."""

    def __init__(self, path: Path, notes: Problems) -> None:
        self.task, self.notes = Task(path), notes
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._refuse
        self._open: list[str] = []
        self._words: list[str] = []
        self._told: dict[str, str] = {}
        self._track: dict[str, str] = {}
        self._numbered: list[tuple[int, Placed]] = []

    def finish(self) -> Task:
        """The task, when all is read."""
        task, told = self.task, self._told
        task.length = self._whole("size", told.get("size"), 1)
        task.start = self._whole("start_frame", told.get("start_frame", "0"))
        found = re.search(r"step\s*=\s*([0-9]+)", told.get("frame_filter", ""))
        task.step = max(int(found[1]), 1) if found else 1
        if "height" in told and "width" in told:
            task.size = (self._whole("height", told["height"], 1), self._whole("width", told["width"], 1))
        for number, placed in self._numbered:
            place, rest = divmod(number - task.start, task.step)
            if rest or not 0 <= place < task.length:
                frames = f"{task.start} to {task.start + task.step * (task.length - 1)}"
                raise InputError(f'{task.path}: {placed.where}: "frame" is {number}; its frames are {frames}')
            task.shapes[place].append(placed)
        return task

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
            self._told.setdefault(tag, "".join(self._words).strip())

    def _text(self, text: str) -> None:
        self._words.append(text)

    def _refuse(self, *_: Any) -> NoReturn:
        self._fail("<!DOCTYPE>", "there; CVAT writes none, and it may hold entities")

    def _shape(self, tag: str, found: dict[str, str]) -> None:
        track = self._whole("id", self._track.get("id"))
        where = f"line {self.parser.CurrentLineNumber}: {tag} of track {track}"
        if "label" not in self._track:
            self._fail("label", f"missing in track {track}")
        if tag not in ("polygon", "mask"):
            self.notes.add("shapes that are no polygons or masks, left out", f"{self.task.path}: {where}")
            return
        number = self._whole("frame", found.get("frame"))
        if found.get("outside") == "1":
            return
        order = found.get("z_order", "0")
        if not re.fullmatch(r"-?[0-9]{1,9}", order):
            self._fail("z_order", f"{order!r}; expected a whole number")
        placed = Placed(where, track, self._track["label"], int(order))
        if tag == "polygon":
            placed = placed._replace(segment=shrink([self._points(found.get("points", ""))]))
        else:
            box, runs = self._mask(found)
            placed = placed._replace(box=box, runs=runs)
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
        runs = [self._whole("rle", one.strip()) for one in found.get("rle", "").split(",")]
        if sum(runs) != width * height:
            self._fail("rle", f"of {sum(runs)} pixels; width x height is {width * height}")
        return (left, top, width, height), np.array(runs, np.int64)

    def _whole(self, key: str, text: str | None, least: int = 0) -> int:
        if text is None or not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) < _MOST:
            self._fail(key, f"{'missing' if text is None else repr(text[:40])}; expected a whole number from {least}")
        return int(text)

    def _fail(self, key: str, problem: str) -> NoReturn:
        raise InputError(f'{self.task.path}: line {self.parser.CurrentLineNumber}: "{key}" is {problem}')
