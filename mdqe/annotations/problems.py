"""Problems of a data set, which are collected and reported together."""

import warnings
from collections import Counter
from types import TracebackType

from mdqe.errors import InputError, printable

SKIP_HINT = "\n(skip_bad=True or --skip-bad continues without them)"
_LISTED = 3  # examples of each kind


class RecordError(InputError):
    """A record of a file is invalid. The message names the file, the record and the field."""

    kind = ""
    """What `Problems` lists the record under."""
    example = ""
    """The record and what is wrong with it."""

    @classmethod
    def make(cls, file: str, text: str, kind: str, example: str) -> "RecordError":
        """An error with the message "FILE: TEXT"."""
        error = cls(f"{file}: {text}")
        error.kind, error.example = kind, example
        return error


class Problems:
    """Problems of a data set, by kind.

    As a context manager, it adds the `RecordError` that ends the block, and the program continues after the block.
    """

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}
        """Examples by kind."""
        self.errors: list[RecordError] = []
        """The errors among the problems, in order."""
        self.pixels: Counter[str] = Counter()
        """The number of pixels that problems concern, by kind."""

    def add(self, kind: str, example: str, pixels: int = 0) -> None:
        """Add a problem, such as "images are missing" and the path of the image; and the pixels that it concerns."""
        self.pixels[kind] += pixels
        # Names of a file may contain control characters, which a terminal would obey.
        self.found.setdefault(kind, []).append(printable(example, 1000))

    def add_error(self, error: RecordError) -> None:
        """Add the problem of an invalid record."""
        self.errors.append(error)
        self.add(error.kind, error.example.replace("; ", ", "))  # a semicolon separates examples

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if not isinstance(error, RecordError):
            return False
        self.add_error(error)
        return True

    def __len__(self) -> int:
        return sum(map(len, self.found.values()))

    def lines(self) -> list[str]:
        """A line for each kind: the number of problems, and the first examples."""
        return [
            f"{kind} ({len(names)}{f', {pixels:,} pixels' if (pixels := self.pixels[kind]) else ''}): "
            f"{'; '.join(names[:_LISTED])}{'; …' if len(names) > _LISTED else ''}"
            for kind, names in self.found.items()
        ]

    def report(self, source: str, *, skip: bool = False, hint: str = "") -> None:
        """Raise an error that lists the problems; with `skip`, warn instead. Does nothing if there are no problems.

        Args:
            source: the file.
            skip: the caller continues without what is invalid.
            hint: the end of the error's message.

        Raises:
            InputError: there are problems, and `skip` is false.
        """
        if not self.found:
            return
        if len(self) == 1:
            text = str(self.errors[0]) if self.errors else f"{source}: {self.lines()[0]}"
        else:
            text = "\n".join([f"{source} has {len(self)} problems:", *(f"- {line}" for line in self.lines())])
        if not skip:
            raise InputError(text + hint)
        warnings.warn(f"{text}\nContinuing without them", stacklevel=3)
