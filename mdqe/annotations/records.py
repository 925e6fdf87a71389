"""Records of a JSON file, whose fields are checked as they are taken; errors name the file, the record, the field."""

import json
import sys
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from mdqe.errors import InputError
from mdqe.results.rle import Counts

Source = str | PathLike[str] | Any
"""A path, or what the JSON file there would load as; or `Loaded`, where a file was read already."""


class Loaded(NamedTuple):
    """What a JSON file held."""

    name: str
    """How errors name it."""
    document: Any


class Record:
    """An object of a file, whose fields are checked as they are taken."""

    def __init__(self, name: str, where: str, value: Any) -> None:
        self.name, self.where, self.value = name, where, value
        if not isinstance(value, Mapping):
            raise InputError(f"{name}: {where} is {kind(value)}; expected an object")

    def fail(self, key: str, problem: str) -> NoReturn:
        raise InputError(f'{self.name}: {self.where}: "{key}" is {problem}')

    def get(self, key: str) -> Any:
        if key not in self.value:
            raise InputError(f'{self.name}: {self.where} has no "{key}"')
        return self.value[key]

    def items(self, key: str, length: int | None = None) -> Sequence[Any]:
        value = self.get(key)
        if not isinstance(value, list | tuple):
            self.fail(key, f"{kind(value)}; expected a list")
        if length is not None and len(value) != length:
            self.fail(key, f"a list of {len(value)}; its video has {length} frames")
        return value

    def integer(self, key: str, least: int | None = None) -> int:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
            self.fail(key, f"{short(value)}; expected a whole number" + ("" if least is None else f" from {least}"))
        return value

    def number(self, key: str) -> float:
        value = self.get(key)
        if not is_finite(value):
            self.fail(key, f"{short(value)}; expected a finite number")
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

    def masks(self, size: tuple[int, int], length: int) -> list[Counts | None]:
        """The counts of the segmentations, one a frame, whose sizes are checked."""
        found: list[Counts | None] = []
        expected = list(size)
        for t, one in enumerate(self.items("segmentations", length)):
            if one is None:
                found.append(None)
                continue
            if (type(one) is not dict and not isinstance(one, Mapping)) or "size" not in one or "counts" not in one:
                self.fail("segmentations", f'{short(one)} in frame {t}; expected {{"size", "counts"}} or null')
            if one["size"] != expected and (not isinstance(one["size"], Sequence) or list(one["size"]) != expected):
                self.fail("segmentations", f"{short(one['size'])} large in frame {t}; its video is {expected}")
            if one["counts"] is None:
                self.fail("segmentations", f"without counts in frame {t}")
            found.append(one["counts"])
        return found

    def box(self, key: str) -> list[float]:
        """[x, y, width, height] in pixels."""
        value = self.items(key)
        if len(value) != 4 or not all(map(is_finite, value)) or min(value[2:]) < 0:
            self.fail(key, f"{short(value)}; expected [x, y, width, height]")
        return [float(one) for one in value]


def load_json(source: Source, name: str) -> Loaded:
    """The source's content; errors call it by its path, or by `name` where it has none.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON.
    """
    if isinstance(source, Loaded):
        return source
    if not isinstance(source, str | PathLike):
        return Loaded(name, source)
    path = Path(source)
    try:
        return Loaded(str(path), json.loads(path.read_bytes()))
    except ValueError as error:  # of JSON or of UTF-8
        raise InputError(f"{path} is not JSON: {error}") from None
    except RecursionError:
        raise InputError(f"{path} is not JSON of this kind: its lists are nested too deeply") from None


def is_number(value: Any) -> bool:
    """Whether JSON calls it a number: true and false are none, though Python counts with them."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether it is a number that a float can hold: no NaN, no infinity, no longer integer."""
    return is_number(value) and -sys.float_info.max <= value <= sys.float_info.max


def kind(value: Any) -> str:
    """What a loaded value is in JSON's words, with an article: "an object", "a list", "null"."""
    kinds = {dict: "an object", list: "a list", str: "a string", type(None): "null", bool: "true or false"}
    kinds |= {int: "a number", float: "a number"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def short(value: Any) -> str:
    """A value as an error shows it: its `repr`, cut at 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
