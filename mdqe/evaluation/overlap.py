"""Areas and intersections of the tracks of a video, from run lengths to numbers without a mask in between.

The compiled library `_C_rle` does it where it was built; else NumPy does, several times slower, with the same numbers.
"""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mdqe.annotations.reading_ import Track
from mdqe.errors import InputError
from mdqe.results import rle
from mdqe.results.rle import compiled_library, pointer


class Overlap(NamedTuple):
    """Pixels, int64, of D results and G objects in the T frames of a video; 0 where absent."""

    results: np.ndarray
    """(D, T)."""
    objects: np.ndarray
    """(G, T)."""
    shared: np.ndarray
    """(D, G, T)."""


def overlap(
    results: tuple[str, Sequence[Track]], objects: tuple[str, Sequence[Track]], size: tuple[int, int], frames: int
) -> Overlap:
    """Compare the masks of results and objects of one video.

    Args:
        results, objects: each the name of their file, for the error, and the tracks.
        size: (height, width) of the frames.
        frames: T.

    Raises:
        ValueError: counts that are not run lengths of that size; names the file, the record and the frame.
    """
    tracks = [*results[1], *objects[1]]
    held = [i * frames + t for i, track in enumerate(tracks) for t, one in enumerate(track.masks) if one is not None]
    places = np.array(held, np.int64)  # (M,): track and frame of each mask
    counts = [one for track in tracks for one in track.masks if one is not None]
    number = len(results[1])
    compiled = compiled_library() is not None and size[0] * size[1] < 2**31
    compute = _compute_compiled if compiled else _compute
    try:
        areas, shared = compute(counts, places, size, (number, len(tracks) - number, frames))
    except (ValueError, TypeError):
        for name, part in (results, objects):
            find_damage(name, part, size)
        raise
    return Overlap(areas[:number], areas[number:], shared)


def _compute(
    counts: Sequence[rle.Counts], places: np.ndarray, size: tuple[int, int], shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Areas (D + G, T) and shared pixels (D, G, T) of masks at `places` (M,); shape is (D, G, T)."""
    results, objects, frames = shape
    lengths, number = rle.runs(counts, size)
    # Runs as positions in one line of pixels: frame by frame, each column by column.
    ends = np.cumsum(lengths) + np.repeat((places % frames - np.arange(len(places))) * size[0] * size[1], number)
    drawn = rle.foreground(number) & (lengths > 0)
    starts, ends = (ends - lengths)[drawn], ends[drawn]
    bounds = np.searchsorted(np.repeat(places, number)[drawn], np.arange((results + objects) * frames + 1))

    def per_mask(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        return np.diff(np.concatenate([[0], np.cumsum(values)])[bounds]).reshape(-1, frames)

    first = bounds[results * frames]
    shared = np.zeros(shape, np.int64)
    for j in range(objects):
        mine = slice(*bounds[[(results + j) * frames, (results + j + 1) * frames]])
        if mine.stop > mine.start:
            # The object's pixels before each position: it rises by one a pixel within runs and is level between them.
            covered = np.cumsum(ends[mine] - starts[mine])
            knots = np.stack([starts[mine], ends[mine]], axis=1).ravel()
            before = np.stack([covered - (ends[mine] - starts[mine]), covered], axis=1).ravel()
            within = np.interp(ends[:first], knots, before) - np.interp(starts[:first], knots, before)
            shared[:, j] = per_mask(within, bounds[: results * frames + 1])
    return per_mask(ends - starts, bounds), shared


def _compute_compiled(
    counts: Sequence[rle.Counts], places: np.ndarray, size: tuple[int, int], shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """As `_compute`."""
    results, objects, frames = shape
    try:
        text = "".join(counts).encode("ascii")  # type: ignore[arg-type]
    except TypeError:  # some are plain lists or bytes
        counts = rle.texts(counts)
        text = b"".join(counts)
    ends = np.cumsum(list(map(len, counts)), dtype=np.int64)
    areas, shared = np.zeros((results + objects, frames), np.int64), np.zeros(shape, np.int64)

    numbers = map(ctypes.c_int64, (len(ends), size[0] * size[1], *shape))
    damaged = compiled_library().mdqe_overlap(  # type: ignore[union-attr]
        text, pointer(ends), pointer(places), *numbers, pointer(areas), pointer(shared)
    )
    if damaged >= 0:
        raise InputError(f"mask {damaged} is damaged")
    return areas, shared


def find_damage(name: str, tracks: Sequence[Track], size: tuple[int, int]) -> None:
    """Raise the error that names the first mask that cannot be decoded."""
    for track in tracks:
        for t, one in enumerate(track.masks):
            try:
                rle.runs([] if one is None else [one], size)
            except (ValueError, TypeError) as error:
                reason = str(error).replace("counts of mask 0", "counts")
                raise InputError(f'{name}: {track.where}: "segmentations" in frame {t}: {reason}') from None
