"""Masks as PNG images with one value per pixel: ids of objects, and DAVIS.

A pixel belongs to one object. Where objects overlap, the one with the better score keeps the pixel.
"""

import io
from collections.abc import Iterator, Sequence

import numpy as np

from mdqe.annotations.problems import Problems
from mdqe.annotations.reader import Track
from mdqe.errors import DependencyError
from mdqe.importing.davis import ANNOTATIONS, VOID
from mdqe.results import rle
from mdqe.writing.clips import Clip, track_numbers

OVERLAP = "frames in which objects overlap; the pixels belong to the object with the better score"
BEYOND = "objects beyond the number that the format can hold, left out"
CROWDS = "crowd regions, left out"


def id_png_files(clip: Clip, notes: Problems, tolerance: float | None = None) -> Iterator[tuple[str, bytes]]:
    """The PNG images, of 8 bits if the ids permit it."""
    tracks = _held(clip, 2**16 - 1, notes)
    note_crowds(clip, notes)
    numbers = track_numbers(clip, tracks, 1, 2**16 - 1, notes)
    # `mdqe import` asks whether the value 255 is an object, because many files mark ignored pixels with it.
    kind = np.uint8 if max(numbers, default=0) < VOID else np.uint16
    for t, stem in enumerate(clip.stems):
        yield f"{clip.name}/{stem}.png", png(paint(clip, t, tracks, numbers, notes).astype(kind))


def davis_files(clip: Clip, notes: Problems, tolerance: float | None = None) -> Iterator[tuple[str, bytes]]:
    """The palette images. Crowd regions are void."""
    tracks = _held(clip, VOID - 1, notes)
    numbers = track_numbers(clip, tracks, 1, VOID - 1, notes)
    crowds = clip.crowds()
    colours = palette()
    for t, stem in enumerate(clip.stems):
        drawn = paint(clip, t, [*tracks, *crowds], [*numbers, *[VOID] * len(crowds)], notes)
        yield f"{ANNOTATIONS}/{clip.name}/{stem}.png", png(drawn.astype(np.uint8), colours)


def paint(clip: Clip, frame: int, tracks: Sequence[Track], numbers: Sequence[int], notes: Problems) -> np.ndarray:
    """The pixel values (H, W), int64, of a frame; 0 is background. One mask is decoded at a time.

    Args:
        clip: the video.
        frame: its frame.
        tracks: the tracks to draw, those in front first.
        numbers: the value of each track.
        notes: receives the pixels of objects that others hide.
    """
    canvas, hidden = np.zeros(clip.size, np.int64), 0
    for track, number in zip(tracks, numbers, strict=True):
        counts = track.masks[frame]
        if counts is not None:
            (mask,) = rle.decode([counts], clip.size)
            if not track.is_crowd:
                hidden += int((mask & (canvas != 0)).sum())
            canvas[mask & (canvas == 0)] = number
    if hidden:
        notes.add(OVERLAP, clip.files[frame], hidden)
    return canvas


def png(values: np.ndarray, colours: bytes | None = None) -> bytes:
    """A PNG file of pixel values (H, W), uint8 or uint16; with a palette of 768 bytes if `colours` is given.

    Raises:
        DependencyError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise DependencyError("writing images needs pillow: pip install 'mdqe[video]'") from None
    image = Image.fromarray(values)
    if colours is not None:
        image.putpalette(colours)
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return file.getvalue()


def palette() -> bytes:
    """Red, green and blue of 256 indices, as PASCAL VOC and DAVIS colour them.

    The bits of an index in threes, from the lowest, are the bits of red, green and blue from the highest.
    """
    index = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for group in range(3):
        for channel in range(3):
            colours[:, channel] |= (index >> (3 * group + channel) & 1) << (7 - group)
    return colours.astype(np.uint8).tobytes()


def _held(clip: Clip, most: int, notes: Problems) -> list[Track]:
    """The best objects, as many as the format can hold."""
    objects = clip.objects()
    for track in objects[most:]:
        notes.add(BEYOND, f"{clip.name}: {track.label}")
    return objects[:most]


def note_crowds(clip: Clip, notes: Problems) -> None:
    """Note the crowd regions of a video, for formats that cannot hold them."""
    for track in clip.crowds():
        notes.add(CROWDS, f"{clip.name}: {track.label}")
