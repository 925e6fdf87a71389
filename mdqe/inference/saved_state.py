"""Checks of the tensors and numbers of a saved state. Errors name the entry and what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from mdqe.errors import InputError

MOST = 2**53
"""Larger numbers are no counts of frames or clips."""


class SavedTensors:
    """Named tensors of a saved state. Each is taken once.

    Args:
        tensors: the tensors by name.
        prefix: of the names in errors.

    Raises:
        InputError: by all methods. A tensor is missing, unknown, or has another type, shape or range of values.
    """

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
        self._left, self.prefix = dict(tensors), prefix

    @property
    def names(self) -> list[str]:
        """Names of the tensors that were not taken."""
        return list(self._left)

    def group(self, prefix: str) -> SavedTensors:
        """Take all tensors whose names begin with `prefix`."""
        names = [name for name in self._left if name.startswith(prefix)]
        return SavedTensors({name.removeprefix(prefix): self._left.pop(name) for name in names}, self.prefix + prefix)

    def take(self, name: str, dtypes: tuple[torch.dtype, ...], *shape: int | None) -> Tensor:
        """A tensor of one of the types and of a shape, in which None is any size."""
        if name not in self._left:
            raise InputError(f"the tensor {self.prefix + name!r} is missing")
        tensor = self._left.pop(name)
        fits = tensor.dim() == len(shape) and all(
            n in (None, size) for n, size in zip(shape, tensor.shape, strict=True)
        )
        if tensor.dtype not in dtypes or not fits:
            sizes = ", ".join("any" if size is None else str(size) for size in shape)
            kinds = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            given = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
            self._fail(name, given, f"({sizes}) {kinds}")
        return tensor

    def floats(self, name: str, *shape: int | None, like: Tensor | None = None) -> Tensor:
        """A finite float32 or float64 tensor, or one of the type of `like`."""
        tensor = self.take(name, (torch.float32, torch.float64) if like is None else (like.dtype,), *shape)
        if not torch.isfinite(tensor).all():
            self._fail(name, "not finite", "finite numbers")
        return tensor

    def integers(self, name: str, low: int, high: int, *shape: int | None) -> Tensor:
        """An int64 tensor with values from `low` to `high`."""
        tensor = self.take(name, (torch.int64,), *shape)
        if tensor.numel() and not low <= int(tensor.min()) <= int(tensor.max()) <= high:
            self._fail(name, f"from {int(tensor.min())} to {int(tensor.max())}", f"{low} to {high}")
        return tensor

    def integer(self, name: str, low: int, high: int = MOST) -> int:
        """The number of a tensor without axes."""
        return int(self.integers(name, low, high))

    def ids(self, name: str, number: int) -> Tensor:
        """Ids below `number`, ascending."""
        tensor = self.integers(name, 0, number - 1, None)
        if (tensor[1:] <= tensor[:-1]).any():
            self._fail(name, "not ascending", "each id once, in ascending order")
        return tensor

    def finish(self) -> None:
        """Raise an InputError if tensors are left."""
        if self._left:
            names = sorted(self.prefix + name for name in self._left)
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise InputError(f"unknown tensors {', '.join(repr(name)[:60] for name in names[:5])}{more}")

    def _fail(self, name: str, given: str, expected: str) -> NoReturn:
        raise InputError(f"the tensor {self.prefix + name!r} is {given}, expected {expected}")


def whole_number(values: Any, name: str, low: int = 0, high: int = MOST) -> int:
    """The entry `name` of an object, a whole number from `low` to `high`.

    Raises:
        InputError: it is missing, or something else.
    """
    value: Any = values.get(name) if isinstance(values, Mapping) else None
    if not is_whole(value, low, high):
        raise InputError(f"{name!r} is {str(value)[:40]!r}, expected a whole number from {low} to {high}")
    return value


def is_whole(value: Any, low: int, high: int = MOST) -> bool:
    """Whether a value is a whole number from `low` to `high`."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
