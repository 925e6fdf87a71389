"""Areas and intersections of the tracks of a video, computed from RLEs without decoding them.

The compiled library `_C_rle` computes them where it was built. Otherwise NumPy does, several times slower, with the
same results.
"""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mdqe.annotations.masks import to_rle
from mdqe.annotations.reader import VIDEOS, Track, compress_tracks
from mdqe.errors import InputError
from mdqe.results import rle
from mdqe.results.foreign_call import pointer
from mdqe.results.rle import compiled_library


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
        results, objects: the name of the file in errors, and the tracks.
        size: (height, width) of the frames.
        frames: T.

    Raises:
        InputError: counts that are not an RLE of that size. The message names the file, the record and the frame.
    """
    tracks = [*results[1], *objects[1]]
    masks = [one for track in tracks for one in track.masks]
    places = np.array([i for i, one in enumerate(masks) if one is not None], np.int64)  # (M,), of tracks x frames
    counts = [to_rle(one, size) for one in masks if one is not None]
    number = len(results[1])
    try:
        areas, shared = _pixels(counts, places, size, (number, len(tracks) - number, frames))
    except (ValueError, TypeError):
        for name, part in (results, objects):
            compress_tracks(name, VIDEOS, part, size)
        raise
    return Overlap(areas[:number], areas[number:], shared)


def frame_overlap(results: Sequence[rle.Counts], objects: Sequence[rle.Counts], size: tuple[int, int]) -> Overlap:
    """Compare the masks of results and objects in one frame of `size` (height, width); T is 1.

    Raises:
        InputError, ValueError, TypeError: counts that are not an RLE of that size.
    """
    counts = [*results, *objects]
    shape = (len(results), len(objects), 1)
    areas, shared = _pixels(counts, np.arange(len(counts), dtype=np.int64), size, shape)
    return Overlap(areas[: len(results)], areas[len(results) :], shared)


def _pixels(
    counts: Sequence[rle.Counts], places: np.ndarray, size: tuple[int, int], shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """`_compute`, by the compiled library where it was built."""
    compiled = compiled_library() is not None and size[0] * size[1] < 2**31
    return (_compute_compiled if compiled else _compute)(counts, places, size, shape)


def tube_ious(pixels: Overlap) -> np.ndarray:
    """The IoUs (D, G) over all frames; 0 where both are empty."""
    shared = pixels.shared.sum(axis=2)
    union = pixels.results.sum(axis=1)[:, None] + pixels.objects.sum(axis=1) - shared
    return shared / np.maximum(union, 1)


def _compute(
    counts: Sequence[rle.Counts], places: np.ndarray, size: tuple[int, int], shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Areas (D + G, T) and shared pixels (D, G, T) of masks at `places` (M,) among D + G tracks x T frames.

    `shape` is (D, G, T).
    """
    results, objects, frames = shape
    lengths, number = rle.run_lengths(counts, size)
    # Runs as positions in one row of all pixels: frame by frame, each column by column.
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
            # The number of the object's pixels before each position increases within runs and is constant between.
            covered = np.cumsum(ends[mine] - starts[mine])
            knots = np.stack([starts[mine], ends[mine]], axis=1).ravel()
            before = np.stack([covered - (ends[mine] - starts[mine]), covered], axis=1).ravel()
            within = np.interp(ends[:first], knots, before) - np.interp(starts[:first], knots, before)
            shared[:, j] = per_mask(within, bounds[: results * frames + 1])
    return per_mask(ends - starts, bounds), shared


def _compute_compiled(
    counts: Sequence[rle.Counts], places: np.ndarray, size: tuple[int, int], shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The same as `_compute`."""
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
