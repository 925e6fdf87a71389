"""Annotated videos and images as sources of clips: what they have in common."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mdqe.annotations.files import Source
from mdqe.annotations.masks import decode
from mdqe.annotations.problems import SKIP_HINT, Problems
from mdqe.annotations.reader import Annotations, Layout, pack_tracks, read_annotations
from mdqe.data.augment import ClipAugmentation
from mdqe.data.images import image_problems, read_image
from mdqe.errors import InputError
from mdqe.targets import ClipTargets

_ATTEMPTS = 10  # items that may fail in a row


class Item(NamedTuple):
    """A video, or an image as a video of one frame."""

    files: tuple[str, ...]
    """Of its L frames, relative to the folder of images."""
    size: tuple[int, int]
    """H and W."""
    objects: slice
    """The positions of its N objects among all objects."""
    first: int
    """The position of its first mask among all masks, which are in order of objects, then frames."""


class PackedObjects(NamedTuple):
    """The videos or images of a file that contain objects to learn, and these objects.

    All masks are in one array of bytes, which processes share instead of copying it.
    """

    items: list[Item]
    labels: np.ndarray
    """(all objects,) int64."""
    packed: np.ndarray
    """(all bytes,) uint8."""
    ends: np.ndarray
    """(all masks,) int64: the end of each mask in `packed`."""

    @classmethod
    def pack(cls, annotations: Annotations, labels: Mapping[int, int]) -> "PackedObjects":
        """The objects whose masks are valid and not empty, without crowds; problems go to `annotations.problems`.

        Objects are removed from `annotations`, so that both forms never exist completely at the same time.

        Args:
            annotations: a data set with file names.
            labels: by category id; objects of other categories are left out.
        """
        items: list[Item] = []
        found: list[int] = []
        chunks: list[bytes] = []
        sizes: list[int] = []
        for video in annotations.videos.values():
            tracks, video.objects = video.objects, []
            first, before = len(sizes), len(found)
            tracks = [track for track in tracks if track.category in labels]
            packed = pack_tracks(annotations.name, annotations.layout, tracks, video.size, annotations.problems)
            for track, masks in packed:
                if any(masks) and not track.is_crowd:
                    found.append(labels[track.category])
                    chunks.append(b"".join(masks))
                    sizes += map(len, masks)
            if len(found) > before:
                items.append(Item(tuple(video.file_names or ()), video.size, slice(before, len(found)), first))
        together = np.frombuffer(b"".join(chunks), np.uint8)
        return cls(items, np.array(found, np.int64), together, np.cumsum(np.array(sizes, np.int64)))

    def draw(self, item: Item, frames: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Labels (K,) and masks (K, T, H, W), bool, of the objects that are in at least one of T frames of an item."""
        labels, length = self.labels[item.objects], len(item.files)
        places = item.first + np.arange(len(labels))[:, None] * length + np.asarray(frames)  # (N, T)
        starts, ends = np.where(places > 0, self.ends[places - 1], 0), self.ends[places]
        kept = (ends > starts).any(1)
        spans = zip(starts[kept].ravel().tolist(), ends[kept].ravel().tolist(), strict=True)
        masks = decode([self.packed[start:end].tobytes() for start, end in spans], item.size)  # (K · T, H, W)
        return labels[kept], masks.reshape(-1, len(frames), *item.size)


class AnnotatedClips:
    """A source of clips (`mdqe.data.loader.ClipSource`): an annotation file and the images that it names.

    All problems of the files are found when the source is created. If an image cannot be read later, a warning names it
    and another item is used instead.

    `VideoClips` and `PseudoClips` draw a clip from an item.

    Args:
        annotations: the JSON file, or what `read_annotations` made of it with `strict=False`; its objects are removed
            from it.
        images: the folder that its file names are relative to.
        clip_length: T.
        augmentation: of clips or frames; None: none.
        category_ids: the category id of each label; None: the file's own ids, in ascending order.
        category_map: from the file's category ids to those of `category_ids`; objects of other categories are left out.
        check_images: read the header of every image before training.
        skip_bad: continue without what is invalid, after a warning that lists it.
        progress: show a progress bar while images are checked.

    Raises:
        OSError: the file cannot be read.
        InputError: the file has another format, it or its images have problems, all of which are listed, or an argument
            is out of range.
    """

    layout: Layout

    def __init__(
        self,
        annotations: Source,
        images: str | Path,
        clip_length: int = 4,
        *,
        augmentation: ClipAugmentation | None = None,
        category_ids: Sequence[int] | None = None,
        category_map: Mapping[int, int] | None = None,
        check_images: bool = True,
        skip_bad: bool = False,
        progress: bool = False,
    ) -> None:
        if clip_length < 1:
            raise InputError(f"clip_length is {clip_length}, expected 1 or more")
        if category_map is not None and category_ids is None:
            raise InputError("category_map is given, expected category_ids with it: the ids that it leads to, by label")
        read = read_annotations(annotations, strict=False)
        read.expect(self.layout)
        read.require_files()
        self.name, self.images = read.name, Path(images)
        self.clip_length, self.augmentation = clip_length, augmentation
        self.category_ids = tuple(sorted(read.categories) if category_ids is None else category_ids)
        """The category id of each label."""
        self.categories = tuple(
            read.categories.get(one, "") if category_map is None else "" for one in self.category_ids
        )
        """Names of the labels; empty where a category has none in the file."""
        targets = {one: one for one in self.category_ids} if category_map is None else category_map
        if wrong := sorted(set(targets.values()) - set(self.category_ids)):
            raise InputError(f"category_map leads to {wrong}, expected ids of category_ids {list(self.category_ids)}")
        if category_map is None:
            for track in read.objects:
                if track.category not in targets and not track.is_crowd:
                    read.problems.add("annotations of categories that are not in category_ids", track.label)
        labels = {one: self.category_ids.index(to) for one, to in targets.items()}
        self.objects = PackedObjects.pack(read, labels)
        self.items = [(item, tuple(range(len(item.files)))) for item in self.objects.items]
        """What clips are drawn from, and the indices of the frames that can be read."""
        if check_images:
            self.items = list(self._readable(read.problems, progress))
        read.problems.report(self.name, skip=skip_bad, hint=SKIP_HINT)
        if not self.items:
            reason = (
                "images can be read" if self.objects.items else f"{len(read.videos)} {self.layout.items} has an object"
            )
            raise InputError(f"{self.name}: none of its {reason}")

    def __len__(self) -> int:
        return len(self.items)

    def clip(self, index: int, generator: torch.Generator) -> tuple[Tensor, ClipTargets]:
        """A clip of item `index`: frames (T, 3, H, W) uint8, RGB, and targets. `generator` is the only randomness."""
        if not 0 <= index < len(self.items):
            raise IndexError(f"item {index} of {len(self.items)}")
        for later in range(_ATTEMPTS):
            try:
                return self._draw(*self.items[(index + later) % len(self.items)], generator)
            except InputError as error:
                if later == _ATTEMPTS - 1:
                    raise
                warnings.warn(f"{error}; a clip of another item is used instead", stacklevel=2)
        raise AssertionError("unreachable")

    def _draw(self, item: Item, frames: Sequence[int], generator: torch.Generator) -> tuple[Tensor, ClipTargets]:
        """A clip of an item, from the frames that can be read."""
        raise NotImplementedError

    def _read(self, item: Item, frame: int) -> Tensor:
        """(H, W, 3) uint8, of the item's size."""
        path = self.images / item.files[frame]
        image = read_image(path)
        if tuple(image.shape[:2]) != item.size:
            raise InputError(f"{path} is {image.shape[1]}x{image.shape[0]}, not {item.size[1]}x{item.size[0]}")
        return image

    def _readable(self, problems: Problems, progress: bool) -> Iterator[tuple[Item, tuple[int, ...]]]:
        """The items that have frames which can be read, and these frames."""
        files = ((self.images / name, item.size) for item, _ in self.items for name in item.files)
        total = sum(len(item.files) for item, _ in self.items)
        found = iter(tqdm(image_problems(files), "checking images", total, unit="image", disable=not progress))
        for item, frames in self.items:
            kept = []
            for frame in frames:
                problem = next(found)
                if problem is None:
                    kept.append(frame)
                else:
                    problems.add(*problem)
            if kept:
                yield item, tuple(kept)
