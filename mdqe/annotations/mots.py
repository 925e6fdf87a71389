"""The text files of MOTS: a line for each object and frame.

A line is "time_frame object_id class_id image_height image_width rle". Class 1 is car, 2 is pedestrian, and 10 marks
regions to ignore. The format: https://www.vision.rwth-aachen.de/page/mots.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mdqe.errors import InputError
from mdqe.results import rle

CATEGORIES = {1: "car", 2: "pedestrian"}
IGNORED = 10
CLASS_STEP = 1000
"""Ids of objects are 1000 · class + instance."""
_TOGETHER = 1024  # lines that are checked together
FIELDS = ("time_frame", "object_id", "class_id", "image_height", "image_width", "rle")


class Line(NamedTuple):
    """An object or a region in a frame."""

    label: str
    """What errors call it."""
    object: int
    kind: int
    size: tuple[int, int]
    counts: str


def expected_class() -> str:
    """The classes, for an error message."""
    return f"expected {', '.join(f'{number} ({name})' for number, name in CATEGORIES.items())} or {IGNORED} (to ignore)"


def has_class(number: int) -> bool:
    """Whether the class of an object id, 1000 · class + instance, is one of MOTS."""
    return number // CLASS_STEP in {*CATEGORIES, IGNORED}


def recognises(path: Path) -> bool:
    """Whether the first line of a file has the fields of MOTS. An empty file, a video without objects, has none."""
    with path.open("rb") as file:
        fields = file.readline(1 << 16).split(b" ")
    return len(fields) == len(FIELDS) and all(one.isdigit() for one in fields[:-1])


def read_lines(path: Path) -> Iterator[tuple[int, Line]]:
    """The lines of a file, each with the number of its frame.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not such a file; the message names the line and the field.
    """
    try:
        text = path.read_text(encoding="ascii")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file of MOTS: {error}") from None
    rows = text.splitlines()
    for start in range(0, len(rows), _TOGETHER):
        lines = [_read_line(f"{path}: line {i + 1}", rows[i]) for i in range(start, min(start + _TOGETHER, len(rows)))]
        _check_counts([line for _, line in lines])
        yield from lines


def _read_line(label: str, text: str) -> tuple[int, Line]:
    fields = text.split(" ")
    if len(fields) != len(FIELDS):
        raise InputError(f"{label} has {len(fields)} fields; expected {' '.join(FIELDS)}, separated by spaces")
    for key, value in zip(FIELDS[:-1], fields, strict=False):
        if not re.fullmatch(r"[0-9]{1,18}", value):
            raise InputError(f'{label}: "{key}" is {value[:40]!r}; expected a whole number')
    number, identity, kind, height, width = map(int, fields[:-1])
    if kind not in CATEGORIES and kind != IGNORED:
        raise InputError(f'{label}: "class_id" is {kind}; {expected_class()}')
    return number, Line(label, identity, kind, (height, width), fields[-1])


def _check_counts(lines: Sequence[Line]) -> None:
    """Check the RLEs of lines, those of equal size together; if they are invalid, one by one for the error."""
    by_size: dict[tuple[int, int], list[Line]] = {}
    for line in lines:
        by_size.setdefault(line.size, []).append(line)
    for size, part in by_size.items():
        try:
            rle.run_lengths([line.counts for line in part], size)
        except ValueError as error:
            if len(lines) == 1:
                reason = str(error).replace(" of mask 0", "")
                raise InputError(f'{lines[0].label}: "rle": {reason}') from None
            for line in lines:
                _check_counts([line])
            raise
