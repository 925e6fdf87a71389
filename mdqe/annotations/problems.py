"""What is wrong with a data set, collected and told at once."""

import warnings

from mdqe.errors import InputError

_NAMED = 3  # examples of each kind


class DataError(InputError):
    """Annotations or images that cannot be trained on."""


class Problems:
    """Problems of a data set, by kind."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Note one: "images are missing", and which."""
        self.found.setdefault(kind, []).append(name)

    def __len__(self) -> int:
        return sum(map(len, self.found.values()))

    def lines(self) -> list[str]:
        """A line for each kind: how many there are, and the first few."""
        lines = []
        for kind, names in self.found.items():
            more = ", …" if len(names) > _NAMED else ""
            lines.append(f"{kind} ({len(names)}): {', '.join(names[:_NAMED])}{more}")
        return lines

    def settle(self, source: str, skip: bool) -> None:
        """Nothing if there are none; a warning that lists them with `skip`, otherwise an error.

        Raises:
            DataError: there are problems, and `skip` is false.
        """
        if not self.found:
            return
        lines = [f"  {line}" for line in self.lines()]
        told = "\n".join([f"{source} has {len(self)} problem{'s' if len(self) > 1 else ''}:", *lines])
        if not skip:
            raise DataError(f"{told}\nskip_bad=True (--skip-bad) goes on without these")
        warnings.warn(f"{told}\nGoing on without these", stacklevel=2)
