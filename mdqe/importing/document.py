"""Frames of any format, collected as YouTube-VIS JSON with RLE masks; the pixels of one frame are decoded at a time."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mdqe.annotations.masks import frame_lists
from mdqe.annotations.problems import Problems
from mdqe.data.images import image_problems
from mdqe.errors import InputError, printable
from mdqe.importing.source import Frame, Source, Video, union
from mdqe.results import rle


class _Key(NamedTuple):
    """Shapes with equal keys are one object."""

    category: str
    identity: int | str
    is_crowd: bool


class DocumentBuilder:
    """Reads the frames of a source and builds the document.

    Args:
        source: the source.
        notes: receives what is left out, and what should be checked.
        categories: names in the order of their ids 1, 2, …; others are left out. None: those of the source, or all that
            occur, in alphabetical order.

    Raises:
        InputError: a category is named twice.
    """

    def __init__(self, source: Source, notes: Problems, categories: Sequence[str] | None = None) -> None:
        self.source, self.notes = source, notes
        given = dict(enumerate(categories, 1)) if categories is not None else source.categories
        self._ids = None if given is None else {name: number for number, name in given.items()}
        if given is not None and len(given) > len(self._ids or ()):
            names = list(given.values())
            twice = next(one for one in names if names.count(one) > 1)
            home = "" if categories is not None else f"{source.path}: "
            raise InputError(f"{home}two categories are named {printable(twice)!r}; expected each name once")
        self._videos: list[dict[str, Any]] = []
        self._objects: list[tuple[int, _Key, tuple[int, int], list[str | None]]] = []

    def __len__(self) -> int:
        """The number of frames."""
        return sum(video.length for video in self.source.videos)

    def read(self) -> Iterator[str]:
        """Read all frames; yields their files.

        Raises:
            OSError, InputError: something is missing or invalid; the message names it.
        """
        for number, video in enumerate(self.source.videos, 1):
            yield from self._read_video(number, video)

    def document(self) -> dict[str, Any]:
        """The document of the frames that have been read.

        Raises:
            InputError: it contains no object.
        """
        names = sorted({key.category for _, key, *_ in self._objects})
        ids = self._ids if self._ids is not None else {name: i for i, name in enumerate(names, 1)}
        if not self._objects:
            text = f"{self.source.path}: no object is left in {len(self._videos)} videos"
            raise InputError("; ".join([text, *self.notes.lines()]))
        annotations: list[dict[str, Any]] = []
        for number, key, size, masks in self._objects:
            head: dict[str, Any] = {"id": len(annotations) + 1, "video_id": number, "category_id": ids[key.category]}
            head |= {"iscrowd": int(key.is_crowd), "height": size[0], "width": size[1], "track_id": key.identity}
            annotations.append({**head, **frame_lists(masks, size)})
        categories = [{"id": number, "name": name} for name, number in sorted(ids.items(), key=lambda one: one[1])]
        return {"videos": self._videos, "categories": categories, "annotations": annotations}

    def _read_video(self, number: int, video: Video) -> Iterator[str]:
        tracks: dict[_Key, list[str | None]] = defaultdict(lambda: [None] * video.length)
        files: list[str] = []
        size = (0, 0)
        for t, frame in enumerate(video.frames):
            if t == 0:
                size = frame.size
            elif frame.size != size:
                raise InputError(
                    f"{video.name}: frame {frame.file} is {frame.size[1]}x{frame.size[0]}, "
                    f"the first one is {size[1]}x{size[0]}"
                )
            files.append(frame.file)
            for key, counts in self._join(frame).items():
                tracks[key][t] = counts
            yield frame.file
        for problem in image_problems((self.source.images / file, size) for file in files):
            if problem is not None:
                raise InputError(printable(": ".join(problem), 1000))
        known = {"id": number, "name": video.name, "height": size[0], "width": size[1]}
        self._videos.append({**known, "length": len(files), "file_names": files})
        kept = [(number, key, size, masks) for key, masks in tracks.items() if self._keep(video, key, masks)]
        if not kept:
            self.notes.add("videos without an object, kept", video.name)
        self._objects += kept

    def _join(self, frame: Frame) -> dict[_Key, str | None]:
        """A mask for each object of a frame, None if it has no pixel."""
        parts: dict[_Key, list[str]] = defaultdict(list)
        for shape in frame.shapes:
            parts[_Key(shape.category, shape.identity, shape.is_crowd)].append(shape.counts)
        joined = {key: rles[0] if len(rles) == 1 else union(rles, frame.size) for key, rles in parts.items()}
        areas = rle.area(list(joined.values()), frame.size)
        if areas.sum() > 0 and _overlap(list(joined.values()), frame.size):
            self.notes.add("frames in which objects overlap, kept as they are", frame.file)
        return {key: one if area else None for (key, one), area in zip(joined.items(), areas.tolist(), strict=True)}

    def _keep(self, video: Video, key: _Key, masks: list[str | None]) -> bool:
        name = f"{video.name}: {key.category} {key.identity}"
        if self._ids is not None and key.category not in self._ids:
            self.notes.add("objects of other categories, left out", name)
        elif not any(masks):
            self.notes.add("objects without a pixel, left out", name)
        else:
            return True
        return False


def _overlap(counts: Sequence[str], size: tuple[int, int]) -> bool:
    """Whether a pixel is in two masks, which are decoded one by one to limit the memory."""
    covered = np.zeros(size, bool)
    for one in counts:
        (mask,) = rle.decode([one], size)
        if (covered & mask).any():
            return True
        covered |= mask
    return False
