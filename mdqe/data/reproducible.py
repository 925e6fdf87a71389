"""Random numbers and a sine with the same bits on every machine.

NumPy guarantees the raw integers of PCG64, but not the streams of its distributions. Its sine depends on the math
library and the vector unit, and may differ in the last bit. Everything drawn from a seed is therefore computed from
these integers by sums, products, quotients and square roots, which IEEE 754 rounds in one way only. Matrix products and
sums over an axis are avoided, because they may be fused or reordered.
"""

from collections.abc import Sequence
from typing import TypeVar, overload

import numpy as np

T = TypeVar("T")


class RandomStream:
    """An endless stream of random numbers. Different keys give independent streams.

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
        """A whole number from 0 to stop − 1."""
        return (self._bits.random_raw() >> 32) * stop >> 32

    def between(self, first: int, last: int) -> int:
        """A whole number from first to last, both included."""
        return first + self.below(last - first + 1)

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform() < probability

    def permutation(self, count: int) -> list[int]:
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
