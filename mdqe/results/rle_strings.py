"""COCO's strings of run lengths, many at a time.

Each count from the fourth on is written as the difference from the one two before it, in groups of 5 bits, lowest
first, one printable character per group (offset 48; bit 5 says that another group follows, bit 4 of the last group is
the sign).
"""

from itertools import pairwise

import numpy as np

_GROUPS = 7  # 5-bit groups that hold any signed difference of counts below 2 ** 31


def write(lengths: np.ndarray, runs: np.ndarray) -> list[str]:
    """Strings of M masks from all their run lengths one after the other, `runs` (M,) of each."""
    if not len(lengths):
        return [""] * len(runs)
    place = np.arange(len(lengths)) - np.repeat(np.cumsum(runs) - runs, runs)
    values = lengths.copy()
    later = np.flatnonzero(place > 2)
    values[later] -= lengths[later - 2]
    # Groups of 5 bits, as many as hold the number and its sign; all but a number's last say that another follows.
    magnitude = values ^ (values >> 63)  # |v|, less one of negative v: as many bits, without the sign
    most = int(magnitude.max())
    size = np.ones(len(values), np.int8)
    for bits in range(4, 5 * _GROUPS - 1, 5):
        if most >> bits:
            size += magnitude >> bits != 0
    ends = np.cumsum(size, dtype=np.int64)
    text = np.empty(int(ends[-1]), np.uint8)
    for group in range(int(size.max())):
        held = slice(None) if group == 0 else np.flatnonzero(size > group)
        more = (size[held] > group + 1).astype(np.uint8)
        text[(ends - size)[held] + group] = ((values[held] >> (5 * group)) & 0x1F).astype(np.uint8) + (more << 5) + 48
    cuts = np.concatenate([[0], ends[np.cumsum(runs)[runs > 0] - 1]]).tolist()
    characters = text.tobytes().decode("ascii")
    strings = iter([characters[start:end] for start, end in pairwise(cuts)])
    return [next(strings) if held else "" for held in runs > 0]


def expand(texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Run lengths of compressed strings: all of them, and how many each string has."""
    size = np.array([len(text) for text in texts], np.int64)
    groups = np.frombuffer(b"".join(texts), np.uint8) - np.uint8(48)  # characters below 48 wrap to large numbers
    text_ends = np.cumsum(size)
    bad = np.flatnonzero(groups > 63)
    if len(bad):
        mask = np.searchsorted(text_ends, bad[0], "right")
        raise ValueError(f"counts of mask {mask} hold the character {chr((int(groups[bad[0]]) + 48) % 256)!r}")
    if not len(groups):
        return groups.astype(np.int64), size
    last = groups & 0x20 == 0  # of its number
    cut = np.flatnonzero(~last[text_ends[size > 0] - 1])
    if len(cut):
        raise ValueError(f"counts of mask {np.flatnonzero(size)[cut[0]]} end in the middle of a number")
    ends = np.flatnonzero(last)
    number = np.diff(ends, prepend=-1)  # groups of each number
    if number.max() > _GROUPS:
        mask = np.searchsorted(text_ends, ends[number.argmax()], "right")
        raise ValueError(f"counts of mask {mask} hold a number of {number.max()} groups")
    values = (groups[ends] & 0x1F).astype(np.int64)
    values -= (values & 0x10) << 1  # the top group has the sign
    for place in range(1, int(number.max())):
        longer = np.flatnonzero(number > place)
        values[longer] = (values[longer] << 5) | (groups[ends[longer] - place] & 0x1F)
    runs = np.diff(np.searchsorted(ends, text_ends), prepend=0)
    return _undo_differences(values, runs), runs


def _undo_differences(values: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Counts from COCO's differences: each mask's first as it is, its odd and its even ones summed up apart."""
    even = runs + runs % 2
    starts = np.cumsum(even) - even
    index = np.arange(len(values)) + np.repeat(starts - (np.cumsum(runs) - runs), runs)
    first = starts[runs > 0]
    pairs = np.zeros(int(even.sum()), np.int64)
    pairs[index] = values
    alone = pairs[first]
    pairs[first] = 0
    pairs = np.cumsum(pairs.reshape(-1, 2), axis=0)  # (pairs of runs, 2)
    before = np.concatenate([[[0, 0]], pairs])[starts // 2]
    counts = (pairs - np.repeat(before, even // 2, axis=0)).ravel()
    counts[first] = alone
    return counts[index]
