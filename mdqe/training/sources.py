"""Data sets by name: the synthetic set, or a file of annotated videos or images."""

from __future__ import annotations

from typing import Any, NamedTuple

from mdqe.annotations.files import DataFiles, find_data
from mdqe.annotations.reader import VIDEOS, read_annotations
from mdqe.config import MDQEConfig
from mdqe.data.loader import ClipSource
from mdqe.data.synthetic import CATEGORIES, DIFFICULTIES, SyntheticClips
from mdqe.errors import InputError
from mdqe.files import expanded
from mdqe.training.recipe import Recipe

SYNTHETIC = "synthetic"


class Categories(NamedTuple):
    """The categories of the labels 0, 1, …"""

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def configure(self, config: MDQEConfig) -> MDQEConfig:
        """A configuration for these categories, without names if one of them has none."""
        names = self.names if all(self.names) else ()
        return config.replace(num_classes=len(self.ids), categories=names, category_ids=self.ids)


class DataSet(NamedTuple):
    """Clips for training, and the categories of their labels."""

    clips: ClipSource
    categories: Categories


def split_ratio(name: str) -> tuple[str, float]:
    """The name of a set and the ratio in which it is drawn: "videos.json:0.75" → "videos.json", 0.75; 1 by default.

    A number after a colon is not a ratio if it ends the name of a file or a folder, such as "2026-11-28T12:30".

    Raises:
        InputError: the ratio is not positive.
    """
    head, colon, tail = name.rpartition(":")
    try:
        ratio = float(tail)
    except ValueError:
        return name, 1.0
    paths = (name, name.rpartition("@")[2])  # of the annotations, or of the images in FILE@IMAGES
    if not colon or any(expanded(path).exists() for path in paths):
        return name, 1.0
    if not 0 < ratio < float("inf"):
        raise InputError(f"{name}: the ratio is {tail}, expected a positive number")
    return head, ratio


def synthetic_difficulty(name: str) -> str | None:
    """ "synthetic" → "standard", "synthetic:hard" → "hard"; None for a set of another kind.

    Raises:
        InputError: the difficulty is unknown.
    """
    kind, _, difficulty = name.partition(":")
    if kind != SYNTHETIC:
        return None
    difficulty = difficulty or "standard"
    if difficulty not in DIFFICULTIES:
        raise InputError(f"{name}: expected {', '.join(f'{SYNTHETIC}:{d}' for d in DIFFICULTIES)}")
    return difficulty


def find_annotations(name: str) -> DataFiles:
    """The files of a set; see `find_data`.

    Raises:
        FileNotFoundError: the annotation file or the folder of the images does not exist.
    """
    try:
        files = find_data(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}, or {SYNTHETIC}[:DIFFICULTY]") from None
    files.require_images()
    return files


def open_data(
    name: str,
    frames: int,
    recipe: Recipe,
    *,
    categories: Categories | None = None,
    size: tuple[int, int] = (128, 192),
    seed: int = 0,
    skip_bad: bool = False,
    progress: bool = False,
) -> DataSet:
    """The clips of a set.

    Args:
        name: "synthetic", "synthetic:DIFFICULTY", or as in `find_data`.
        frames: T of a clip.
        recipe: how frames are chosen and changed.
        categories: of the labels; None: the set's own. The categories of a file are mapped to them by `map_categories`.
        size, seed: of synthetic frames and scenes.
        skip_bad, progress: as in `AnnotatedClips`.

    Raises:
        OSError: the set does not exist or cannot be read.
        InputError: the set is invalid, or none of its categories is in `categories`.
    """
    difficulty = synthetic_difficulty(name)
    if difficulty is not None:
        own = Categories(tuple(CATEGORIES), tuple(range(1, len(CATEGORIES) + 1)))
        if categories not in (None, own):
            raise InputError(f"{name} has the categories {', '.join(own.names)}, not those of the first set")
        return DataSet(SyntheticClips(seed=seed, frames=frames, size=size, difficulty=difficulty), own)
    files = find_annotations(name)
    from mdqe.data.augment import ClipAugmentation
    from mdqe.data.coco import PseudoClips, map_categories
    from mdqe.data.ytvis import VideoClips

    annotations = read_annotations(files.annotations, strict=False)
    options: dict[str, Any] = {"skip_bad": skip_bad, "progress": progress}
    if categories is not None:
        try:
            mapped = map_categories(annotations.categories, categories.names, categories.ids)
        except InputError as error:
            raise InputError(f"{files.annotations} does not fit the first set: {error}") from None
        options |= {"category_ids": categories.ids, "category_map": mapped}
    clips: VideoClips | PseudoClips
    if annotations.layout == VIDEOS:
        options |= {"augmentation": ClipAugmentation(**recipe.video), "frame_range": recipe.frame_range}
        clips = VideoClips(annotations, files.images, frames, **options)
    else:
        options |= {"augmentation": ClipAugmentation(**recipe.image)}
        clips = PseudoClips(annotations, files.images, frames, **options)
    return DataSet(clips, categories or Categories(clips.categories, clips.category_ids))
