"""What a name of data means: the synthetic set, or a file of annotated videos or images."""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mdqe.annotations.training_ import holds_images
from mdqe.config import MDQEConfig
from mdqe.data.loader import ClipSource
from mdqe.data.synthetic import CATEGORIES, DIFFICULTIES, SyntheticClips
from mdqe.errors import InputError
from mdqe.training.recipe import Recipe

SYNTHETIC = "synthetic"
IMAGES = "JPEGImages"
_COCO_MAPS = {"r50_ytvis19": "ytvis_2019", "r50_ytvis21": "ytvis_2021", "r50_ovis_360": "ovis"}


class Categories(NamedTuple):
    """What the labels 0, 1, … mean."""

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def configure(self, config: MDQEConfig) -> MDQEConfig:
        """A configuration for these categories. Where some have no name, none has."""
        names = self.names if all(self.names) else ()
        return config.replace(num_classes=len(self.ids), categories=names, category_ids=self.ids)


class DataSet(NamedTuple):
    """Clips for training, and the categories of their labels."""

    clips: ClipSource
    categories: Categories


class AnnotationFile(NamedTuple):
    """Annotated videos, or images, and what can be known of them without reading them all."""

    path: Path
    images: Path
    videos: bool
    """Videos in the form of YouTube-VIS; otherwise images in that of COCO."""
    categories: dict[int, str]
    """Names by id, in ascending order; empty where they cannot be found."""


def split_ratio(name: str) -> tuple[str, float]:
    """A set's name and how often it is drawn: "videos.json:0.75" → "videos.json", 0.75; 1 unless it says so.

    Raises:
        ValueError: a ratio that is not positive.
    """
    head, colon, tail = name.rpartition(":")
    try:
        ratio = float(tail)
    except ValueError:
        return name, 1.0
    if not colon:
        return name, 1.0
    if not 0 < ratio < float("inf"):
        raise InputError(f"{name}: the ratio is {tail}, expected a positive number")
    return head, ratio


def synthetic_difficulty(name: str) -> str | None:
    """ "synthetic" → "standard", "synthetic:hard" → "hard"; None for a set of another kind.

    Raises:
        ValueError: an unknown difficulty.
    """
    kind, _, difficulty = name.partition(":")
    if kind != SYNTHETIC:
        return None
    difficulty = difficulty or "standard"
    if difficulty not in DIFFICULTIES:
        raise InputError(f"{name}: expected {', '.join(f'{SYNTHETIC}:{d}' for d in DIFFICULTIES)}")
    return difficulty


def find_annotations(name: str) -> AnnotationFile:
    """The files of a set.

    Args:
        name: an annotation file, "FILE@FOLDER" of its images, or a folder with annotations.json in it. Without a
            folder of images it is JPEGImages beside the file, the same in a folder of the file's name, or the file's
            own folder.

    Raises:
        FileNotFoundError: a file or folder is not there.
    """
    text, at, folder = name.partition("@")
    path = Path(text).expanduser()
    if path.is_dir():
        path = path / "annotations.json"
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}; data is {SYNTHETIC}[:DIFFICULTY], FILE[@IMAGES] or FOLDER")
    choices = (
        [Path(folder).expanduser()] if at else [path.parent / IMAGES, path.parent / path.stem / IMAGES, path.parent]
    )
    images = next((choice for choice in choices if choice.is_dir()), None)
    if images is None:
        raise FileNotFoundError(f"no such folder: {choices[0]}, for the images of {path}")
    return AnnotationFile(path, images, *_peek(path))


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
        name: "synthetic", "synthetic:DIFFICULTY", or as in `find_annotations`.
        frames: T of a clip.
        recipe: how frames are chosen and changed.
        categories: of the labels; None: the set's own. Those of COCO are mapped to the published video sets', others
            by their names.
        size, seed: of synthetic frames and scenes.
        skip_bad, progress: as in `VideoClips`.

    Raises:
        FileNotFoundError: no such set.
        ValueError: it cannot be used, or none of its categories is among those asked for.
    """
    difficulty = synthetic_difficulty(name)
    if difficulty is not None:
        own = Categories(tuple(CATEGORIES), tuple(range(1, len(CATEGORIES) + 1)))
        if categories not in (None, own):
            raise InputError(f"{name} has the categories {', '.join(own.names)}, not those of the first set")
        return DataSet(SyntheticClips(seed=seed, frames=frames, size=size, difficulty=difficulty), own)
    found = find_annotations(name)
    from mdqe.data.augment import ClipAugmentation
    from mdqe.data.coco import PseudoClips
    from mdqe.data.ytvis import VideoClips

    options: dict[str, Any] = {"skip_bad": skip_bad, "progress": progress}
    if categories is not None:
        options |= {"category_ids": categories.ids, "category_map": category_map(found, categories)}
    clips: VideoClips | PseudoClips
    if found.videos:
        options |= {"augmentation": ClipAugmentation(**recipe.video), "frame_range": recipe.frame_range}
        clips = VideoClips(found.path, found.images, frames, **options)
    else:
        clips = PseudoClips(found.path, found.images, frames, augmentation=ClipAugmentation(**recipe.image), **options)
    return DataSet(clips, categories or Categories(tuple(clips.categories), tuple(clips.category_ids)))


def category_map(found: AnnotationFile, wanted: Categories) -> Mapping[int, int]:
    """From a file's category ids to those that are wanted: COCO's as the paper maps them, others by equal names.

    Raises:
        ValueError: they have none in common.
    """
    from mdqe.data.coco import COCO_TO

    if tuple(found.categories.values()) == MDQEConfig.preset("r50_coco").categories:
        for preset, data_set in _COCO_MAPS.items():
            known = MDQEConfig.preset(preset)
            if (known.categories, known.label_ids) == (wanted.names, wanted.ids):
                return COCO_TO[data_set]
    ids = {_plain(name): one for name, one in zip(wanted.names, wanted.ids, strict=True)}
    mapped = {one: ids[_plain(name)] for one, name in found.categories.items() if _plain(name) in ids}
    if not mapped:
        raise InputError(f"{found.path} has none of the categories of the first set: {', '.join(wanted.names[:10])}, …")
    return mapped


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").strip()


def _peek(path: Path) -> tuple[bool, dict[int, str]]:
    """Whether a file holds videos, and its categories, without parsing its annotations, which may take a while."""
    videos = not holds_images(path)
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return videos, {}
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = data.find(b"[", max(data.find(b'"categories"'), 0))
            text = data[start : start + (1 << 20)].decode("utf-8", "replace")
    try:
        entries, _ = json.JSONDecoder().raw_decode(text)
        return videos, dict(sorted((entry["id"], entry["name"]) for entry in entries))
    except (ValueError, KeyError, TypeError):  # whoever reads the whole file says what is wrong with it
        return videos, {}
