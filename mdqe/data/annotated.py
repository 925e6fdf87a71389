"""What videos and images with annotation files have in common as sources of clips."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from mdqe.annotations.problems import DataError, Problems
from mdqe.annotations.training_ import Annotations, Item, Layout, read_annotations
from mdqe.data.augment import ClipAugmentation
from mdqe.data.images import image_problems, read_image
from mdqe.errors import InputError
from mdqe.targets import ClipTargets

_TRIES = 10  # items that may fail in a row before something greater must be wrong


class AnnotatedClips:
    """A source of clips (`mdqe.data.loader.ClipSource`): an annotation file and the images that it names.

    Whatever is wrong with the files is found when the source is made. An image that cannot be read later all the same
    costs a warning: another item takes its item's place.

    `VideoClips` and `PseudoClips` say how a clip is drawn from an item, and what the arguments are.
    """

    layout: Layout

    def __init__(
        self,
        annotations: str | Path,
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
        self.path, self.images = Path(annotations), Path(images)
        self.clip_length, self.augmentation = clip_length, augmentation
        problems = Problems()
        self.annotations: Annotations = read_annotations(
            self.path, self.layout, problems, category_ids=category_ids, category_map=category_map
        )
        self.items = [(item, tuple(range(len(item.files)))) for item in self.annotations.items]
        """What clips are drawn from, and the numbers of its frames that can be read."""
        if check_images:
            self.items = list(self._readable(problems, progress))
        problems.settle(str(self.path), skip_bad)
        if not self.items:
            raise DataError(f"{self.path}: none of its images under {self.images} can be read")

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the labels; empty where a category has none in the file."""
        return self.annotations.categories

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The category id of each label."""
        return self.annotations.category_ids

    def __len__(self) -> int:
        return len(self.items)

    def clip(self, index: int, generator: torch.Generator) -> tuple[Tensor, ClipTargets]:
        """A clip of item `index`: frames (T, 3, H, W) uint8, RGB, and targets. All randomness is the generator's."""
        if not 0 <= index < len(self.items):
            raise IndexError(f"item {index} of {len(self.items)}")
        for later in range(_TRIES):
            try:
                return self._draw(*self.items[(index + later) % len(self.items)], generator)
            except DataError as error:
                if later == _TRIES - 1:
                    raise
                warnings.warn(f"{error}; a clip of another item takes its place", stacklevel=2)
        raise AssertionError("unreachable")

    def _draw(self, item: Item, frames: Sequence[int], generator: torch.Generator) -> tuple[Tensor, ClipTargets]:
        """A clip of an item, of which these frames can be read."""
        raise NotImplementedError

    def _read(self, item: Item, frame: int) -> Tensor:
        """(H, W, 3) uint8, of the item's size."""
        path = self.images / item.files[frame]
        image = read_image(path)
        if tuple(image.shape[:2]) != item.size:
            raise DataError(f"{path} is {image.shape[1]}x{image.shape[0]}, not {item.size[1]}x{item.size[0]}")
        return image

    def _readable(self, problems: Problems, progress: bool) -> Iterator[tuple[Item, tuple[int, ...]]]:
        """The items with the frames that can be read, if any."""
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
