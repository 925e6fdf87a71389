"""COCO's compressed strings of run lengths, for many masks in one call.

From the fourth count on, each count is stored as the difference from the count two places before it. A number is a
sequence of groups of 5 bits, lowest first, with one printable character per group (offset 48). Bit 5 is set if another
group follows. Bit 4 of the last group is the sign.
"""

from itertools import pairwise

import numpy as np

_GROUPS = 7  # maximum number of 5-bit groups for a signed difference of counts below 2 ** 31


def to_strings(lengths: np.ndarray, num_runs: np.ndarray) -> list[str]:
    """Strings of M masks from the concatenated run lengths of all masks, `num_runs` (M,) of each."""
    if not len(lengths):
        return [""] * len(num_runs)
    place = np.arange(len(lengths)) - np.repeat(np.cumsum(num_runs) - num_runs, num_runs)
    values = lengths.copy()
    later = np.flatnonzero(place > 2)
    values[later] -= lengths[later - 2]
    # The number of groups that a value and its sign need.
    magnitude = values ^ (values >> 63)  # |v|, or |v| - 1 of negative v: the bits without the sign
    most = int(magnitude.max())
    size = np.ones(len(values), np.int8)
    for bits in range(4, 5 * _GROUPS - 1, 5):
        if most >> bits:
            size += magnitude >> bits != 0
    ends = np.cumsum(size, dtype=np.int64)
    text = np.empty(int(ends[-1]), np.uint8)
    for group in range(int(size.max())):
        longer = slice(None) if group == 0 else np.flatnonzero(size > group)
        more = (size[longer] > group + 1).astype(np.uint8)
        five = ((values[longer] >> (5 * group)) & 0x1F).astype(np.uint8)
        text[(ends - size)[longer] + group] = five + (more << 5) + 48
    cuts = np.concatenate([[0], ends[np.cumsum(num_runs)[num_runs > 0] - 1]]).tolist()
    characters = text.tobytes().decode("ascii")
    strings = iter([characters[start:end] for start, end in pairwise(cuts)])
    return [next(strings) if number else "" for number in num_runs]


def from_strings(texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenated run lengths of compressed strings, and the number of runs of each string.

    Raises:
        ValueError: a string that is not a sequence of such numbers.
    """
    size = np.array([len(text) for text in texts], np.int64)
    groups = np.frombuffer(b"".join(texts), np.uint8) - np.uint8(48)  # characters below 48 wrap to large numbers
    text_ends = np.cumsum(size)
    bad = np.flatnonzero(groups > 63)
    if len(bad):
        mask = np.searchsorted(text_ends, bad[0], "right")
        raise ValueError(f"counts of mask {mask} hold the character {chr((int(groups[bad[0]]) + 48) % 256)!r}")
    if not len(groups):
        return groups.astype(np.int64), size
    last = groups & 0x20 == 0  # the last group of a number
    cut = np.flatnonzero(~last[text_ends[size > 0] - 1])
    if len(cut):
        raise ValueError(f"counts of mask {np.flatnonzero(size)[cut[0]]} end in the middle of a number")
    ends = np.flatnonzero(last)
    number = np.diff(ends, prepend=-1)  # of groups per value
    if number.max() > _GROUPS:
        mask = np.searchsorted(text_ends, ends[number.argmax()], "right")
        raise ValueError(f"counts of mask {mask} hold a number of {number.max()} groups")
    values = (groups[ends] & 0x1F).astype(np.int64)
    values -= (values & 0x10) << 1  # the last group has the sign
    for place in range(1, int(number.max())):
        longer = np.flatnonzero(number > place)
        values[longer] = (values[longer] << 5) | (groups[ends[longer] - place] & 0x1F)
    num_runs = np.diff(np.searchsorted(ends, text_ends), prepend=0)
    return _undo_differences(values, num_runs), num_runs


def _undo_differences(values: np.ndarray, num_runs: np.ndarray) -> np.ndarray:
    """Counts from COCO's differences: the first count of a mask as it is, odd and even counts summed separately."""
    even = num_runs + num_runs % 2
    starts = np.cumsum(even) - even
    index = np.arange(len(values)) + np.repeat(starts - (np.cumsum(num_runs) - num_runs), num_runs)
    first = starts[num_runs > 0]
    pairs = np.zeros(int(even.sum()), np.int64)
    pairs[index] = values
    alone = pairs[first]
    pairs[first] = 0
    pairs = np.cumsum(pairs.reshape(-1, 2), axis=0)  # (pairs of num_runs, 2)
    before = np.concatenate([[[0, 0]], pairs])[starts // 2]
    counts = (pairs - np.repeat(before, even // 2, axis=0)).ravel()
    counts[first] = alone
    return counts[index]
