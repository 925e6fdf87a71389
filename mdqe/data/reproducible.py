"""Random numbers and a sine that come out the same, bit for bit, on every machine.

NumPy promises the raw integers of PCG64 for ever, but not the streams of its distributions; and its sines and
exponentials come from whatever library or vector unit is there, which may differ in the last bit. What is drawn from a
seed is therefore built from those integers and from sums, products, quotients and square roots alone, each of which
IEEE 754 rounds in one way only. Neither matrix products nor sums over an axis: they may be fused or reordered.
"""

from collections.abc import Sequence
from typing import TypeVar, overload

import numpy as np

T = TypeVar("T")


class Draws:
    """An endless row of random numbers that its key names; keys that differ anywhere give unrelated rows.

    Args:
        key: whole numbers, 0 … 2⁶⁴ − 1 each.
    """

    def __init__(self, *key: int) -> None:
        words = [word for number in key for word in (number & 0xFFFFFFFF, number >> 32)]
        self._bits = np.random.PCG64(np.random.SeedSequence([len(key), *words]))

    @overload
    def uniform(self, low: float = 0.0, high: float = 1.0) -> float: ...
    @overload
    def uniform(self, low: float = 0.0, high: float = 1.0, *, size: tuple[int, ...]) -> np.ndarray: ...
    def uniform(self, low: float = 0.0, high: float = 1.0, *, size: tuple[int, ...] | None = None):
        """A number in [low, high), or a float64 array of them."""
        if size is None:
            return low + (high - low) * ((self._bits.random_raw() >> 11) * 2.0**-53)
        raw = self._bits.random_raw(size) >> np.uint64(11)
        return low + (high - low) * (raw.astype(np.float64) * 2.0**-53)

    def below(self, stop: int) -> int:
        """A whole number of 0 … stop − 1."""
        return (self._bits.random_raw() >> 32) * stop >> 32

    def between(self, first: int, last: int) -> int:
        """A whole number of first … last."""
        return first + self.below(last - first + 1)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def chance(self, probability: float) -> bool:
        """True that often."""
        return self.uniform() < probability

    def order(self, count: int) -> list[int]:
        """The numbers 0 … count − 1 in random order."""
        return np.argsort(self._bits.random_raw(count), kind="stable").tolist()


def sine(turns: np.ndarray) -> np.ndarray:
    """sin(2π · turns) of a float array of any shape and type, within 1e-7."""
    x = turns - np.floor(turns + 0.5)  # in [−½, ½]
    x = np.minimum(np.maximum(x, -0.5 - x), 0.5 - x)  # the same sine in [−¼, ¼]
    square = x * x
    value = square * -15.094642576822984 + 42.058693944897655  # (2π)ⁿ / n!, n = 11 … 1
    value = value * square - 76.70585975306136
    value = value * square + 81.60524927607504
    value = value * square - 41.341702240399755
    value = value * square + 6.283185307179586
    return value * x


def cosine(turns: np.ndarray) -> np.ndarray:
    """cos(2π · turns), as `sine`."""
    return sine(turns + 0.25)
