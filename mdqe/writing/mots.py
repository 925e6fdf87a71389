"""MOTS: text files with a line for each object and frame, or 16-bit PNG images.

Both have classes car and pedestrian only, and ids 1000 · class + instance. A pixel belongs to one object: the official
tools reject text files with masks that overlap. Crowd regions are regions to ignore.
"""

from collections.abc import Iterator

import numpy as np

from mdqe.annotations.mots import CATEGORIES, CLASS_STEP, IGNORED
from mdqe.annotations.problems import Problems
from mdqe.annotations.reader import Track
from mdqe.video.id_images import masks
from mdqe.writing.clips import Clip, frame_numbers
from mdqe.writing.pngs import BEYOND, paint, png

_CLASSES = {name: number for number, name in CATEGORIES.items()}


def mots_files(clip: Clip, notes: Problems, tolerance: float | None = None) -> Iterator[tuple[str, bytes]]:
    """The text file. A line has the number at the end of the name of its frame."""
    lines = []
    for number, values in zip(frame_numbers(clip, notes), _images(clip, notes), strict=True):
        for value, counts in masks(values):
            head = (number, value, value // CLASS_STEP, *clip.size)
            lines.append(f"{' '.join(map(str, head))} {counts}\n")
    yield f"{clip.name}.txt", "".join(lines).encode("ascii")


def mots_png_files(clip: Clip, notes: Problems, tolerance: float | None = None) -> Iterator[tuple[str, bytes]]:
    """The PNG images of 16 bits."""
    for stem, values in zip(clip.stems, _images(clip, notes), strict=True):
        yield f"{clip.name}/{stem}.png", png(values.astype(np.uint16))


def _images(clip: Clip, notes: Problems) -> Iterator[np.ndarray]:
    """The pixel values (H, W) of each frame."""
    numbered = _numbered(clip, notes)
    crowds = clip.crowds()
    tracks = [track for track, _ in numbered] + crowds
    values = [value for _, value in numbered] + [IGNORED * CLASS_STEP] * len(crowds)
    for t in range(len(clip.files)):
        yield paint(clip, t, tracks, values, notes)


def _numbered(clip: Clip, notes: Problems) -> list[tuple[Track, int]]:
    """The objects that MOTS has classes for, with their values.

    The id of a track is its value if it is of its class, or otherwise the instance, if that is possible for all tracks.
    Otherwise the instances of a class are 0, 1, ….
    """
    held: list[tuple[Track, int]] = []
    taken = dict.fromkeys(_CLASSES.values(), 0)
    for track in clip.objects():
        number = _CLASSES.get(clip.category(track))
        if number is None:
            names = " or ".join(_CLASSES)
            notes.add(f"objects of categories other than {names}, left out", f"{clip.name}: {clip.category(track)}")
        elif taken[number] == CLASS_STEP:
            notes.add(BEYOND, f"{clip.name}: {track.label}")
        else:
            held.append((track, CLASS_STEP * number + taken[number]))
            taken[number] += 1
    for own in (
        [track.id for track, _ in held],
        [value // CLASS_STEP * CLASS_STEP + track.id for track, value in held],
    ):
        classes = [value // CLASS_STEP for _, value in held]
        if len(set(own)) == len(own) and [one // CLASS_STEP for one in own] == classes:
            return [(track, value) for (track, _), value in zip(held, own, strict=True)]
    notes.add(f"videos whose objects are numbered anew, because instances are 0 to {CLASS_STEP - 1}", clip.name)
    return held
