"""Random numbers and a sine that must be the same on every machine."""

import math

import numpy as np
import pytest

from mdqe.data.reproducible import RandomStream, cosine, sine


def test_sine_and_cosine():
    turns = np.linspace(-7.3, 9.1, 40_001)
    assert np.abs(sine(turns) - [math.sin(2 * math.pi * x) for x in turns]).max() < 1e-7
    assert np.abs(cosine(turns) - [math.cos(2 * math.pi * x) for x in turns]).max() < 1e-7
    assert sine(turns.astype(np.float32)).dtype == np.float32


def test_raw_numbers_are_those_of_pcg64():
    # numpy.random.PCG64(SeedSequence((2, 3, 0, 4, 0))), for two keys of two words. NumPy guarantees these numbers.
    raw = [5939813342456488773, 9369182247943719414, 13698605177033153934]
    random = RandomStream(3, 4)
    assert [random.uniform() for _ in range(3)] == [(number >> 11) / 2**53 for number in raw]


def test_arrays_equal_successive_numbers():
    one_by_one = RandomStream(7)
    expected = [[one_by_one.uniform(-2, 3) for _ in range(5)] for _ in range(4)]
    assert RandomStream(7).uniform(-2, 3, size=(4, 5)).tolist() == expected


def test_distributions():
    random = RandomStream(1)
    values = random.uniform(2.0, 4.0, size=(20_000,))
    assert values.min() >= 2 and values.max() < 4
    assert values.mean() == pytest.approx(3, abs=0.02) and values.std() == pytest.approx(2 / 12**0.5, abs=0.02)
    counts = np.bincount([random.below(6) for _ in range(6_000)], minlength=6)
    assert len(counts) == 6 and counts.min() > 850 and counts.max() < 1150
    assert {random.between(2, 4) for _ in range(100)} == {2, 3, 4}
    assert {random.choice("ab") for _ in range(50)} == {"a", "b"}
    assert np.mean([random.chance(0.25) for _ in range(4_000)]) == pytest.approx(0.25, abs=0.03)
    orders = [tuple(random.permutation(3)) for _ in range(600)]
    assert len(set(orders)) == 6 and min(orders.count(order) for order in set(orders)) > 60


def test_different_keys_give_different_streams():
    keys = [(0,), (1,), (0, 1), (1, 0), (0, 0, 1), (2**40, 3), (0, 256, 3), (2**64 - 1,)]
    assert len({RandomStream(*key).uniform() for key in keys}) == len(keys)
