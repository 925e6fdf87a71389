"""Records of a JSON file. A record checks its fields when they are read; errors name the file, record and field."""

import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NoReturn

import numpy as np

from mdqe.annotations.problems import RecordError

_LIMIT = 2**63
MOST_PIXELS = 2**28
"""Of a frame. Pillow rejects images of more than 179 million pixels."""


class Record:
    """An object of a file.

    Args:
        file: what errors call the file.
        label: what errors call the record, such as "annotation 3".
        value: the object.

    Raises:
        RecordError: `value` is not an object. All methods raise it too, for a field that is missing or invalid.
    """

    __slots__ = ("file", "label", "value")

    def __init__(self, file: str, label: str, value: Any) -> None:
        self.file, self.label, self.value = file, label, value
        if type(value) is not dict and not isinstance(value, Mapping):
            text = f"{label} is {kind(value)}; expected an object"
            raise RecordError.make(file, text, "records that are not objects", label)

    def fail(self, key: str, problem: str) -> NoReturn:
        """Report an invalid field; `problem` is its value and what was expected."""
        text = f'{self.label}: "{key}" is {problem}'
        raise RecordError.make(self.file, text, f'invalid "{key}"', f"{self.label}: {problem}")

    def get(self, key: str, alternative: str = "") -> Any:
        """The field, which must exist; `alternative` is a field that could replace it."""
        if key not in self.value:
            missing = f'no "{key}"' + (f' and no "{alternative}"' if alternative else "")
            raise RecordError.make(self.file, f"{self.label} has {missing}", missing, self.label)
        return self.value[key]

    def items(self, key: str, length: int | None = None) -> Sequence[Any]:
        """A list, of one item for each of `length` frames if that is given."""
        value = self.get(key)
        if not isinstance(value, list | tuple):
            self.fail(key, f"{kind(value)}; expected a list")
        if length is not None and len(value) != length:
            self.fail(key, f"a list of {len(value)}; its video has {length} frames")
        return value

    def integer(self, key: str, minimum: int | None = None) -> int:
        """A whole number of 64 bits; NumPy's integers and floats without a fraction are accepted."""
        value, least = self.get(key), -_LIMIT if minimum is None else minimum
        if type(value) is not int:
            value = value.item() if isinstance(value, np.generic) else value
            if isinstance(value, float) and value.is_integer():
                value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _LIMIT:
            self.fail(key, f"{short(value)}; expected a whole number" + ("" if minimum is None else f" from {minimum}"))
        return value

    def check_path(self, key: str, text: str) -> None:
        """Check that a path stays in the folder that it is relative to, so that a file cannot show others."""
        path = PurePath(text)
        if not text or "\0" in text or path.drive or path.root or ".." in path.parts:
            self.fail(key, f"{short(text)}; expected a path inside the folder of the images")

    def size(self, height: str = "height", width: str = "width") -> tuple[int, int]:
        """H and W, of at most MOST_PIXELS pixels, so that no mask needs more memory."""
        size = (self.integer(height, 1), self.integer(width, 1))
        if size[0] * size[1] > MOST_PIXELS:
            self.fail(width, f"{size[1]} and its height {size[0]}; expected at most {MOST_PIXELS} pixels")
        return size

    def number(self, key: str) -> float:
        """A finite number."""
        value = self.get(key)
        if not is_finite(value):
            self.fail(key, f"{short(value)}; expected a finite number")
        return float(value)

    def flag(self, key: str) -> bool:
        """0 or 1; false where missing or null."""
        value = self.value.get(key)
        if not (value is None or (isinstance(value, int | float | np.generic) and value in (0, 1))):
            self.fail(key, f"{short(value)}; expected 0 or 1")
        return bool(value)

    def unique(self, key: str, taken: Container[int]) -> int:
        """A whole number that is not in `taken`."""
        value = self.integer(key)
        if value in taken:
            self.fail(key, f"{value}, which is not unique")
        return value

    def known(self, key: str, choices: Container[int], home: str) -> int:
        """A whole number that is in `choices`, the ids of `home`."""
        value = self.value.get(key)
        if type(value) is not int:
            value = self.integer(key)
        if value not in choices:
            self.fail(key, f"{value}, which is not in {home}")
        return value


def is_finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold: no true or false, no NaN, no infinity, no larger integer."""
    if type(value) is not float and type(value) is not int:
        value = value.item() if isinstance(value, np.generic) else value
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
    return -sys.float_info.max <= value <= sys.float_info.max


def kind(value: Any) -> str:
    """The kind of a loaded value in JSON's words, with an article: "an object", "a list", "null"."""
    kinds = {dict: "an object", list: "a list", str: "a string", type(None): "null", bool: "true or false"}
    kinds |= {int: "a number", float: "a number"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def short(value: Any) -> str:
    """The `repr` of a value in an error, cut at 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
