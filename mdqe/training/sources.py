"""What a name of training data means: a synthetic set, or annotated videos and images."""

from __future__ import annotations

from typing import NamedTuple

from mdqe.data.loader import ClipSource
from mdqe.data.synthetic import CATEGORIES, DIFFICULTIES, SyntheticClips

SYNTHETIC = "synthetic"


class DataSet(NamedTuple):
    """Clips for training, and the categories that their labels mean."""

    clips: ClipSource
    categories: tuple[str, ...]
    category_ids: tuple[int, ...]


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
        raise ValueError(f"{name}: the ratio is {tail}, expected a positive number")
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
        raise ValueError(f"{name}: expected {', '.join(f'{SYNTHETIC}:{d}' for d in DIFFICULTIES)}")
    return difficulty


def open_data(name: str, *, frames: int, size: tuple[int, int] = (128, 192), seed: int = 0) -> DataSet:
    """The clips of a set.

    Args:
        name: "synthetic", "synthetic:DIFFICULTY".
        frames: T of a clip.
        size: height and width of synthetic frames.
        seed: of synthetic scenes.

    Raises:
        ValueError: an unknown name.
    """
    difficulty = synthetic_difficulty(name)
    if difficulty is None:
        raise ValueError(f"data is {name!r}, expected {SYNTHETIC}[:DIFFICULTY]")
    clips = SyntheticClips(seed=seed, frames=frames, size=size, difficulty=difficulty)
    return DataSet(clips, tuple(CATEGORIES), tuple(range(1, len(CATEGORIES) + 1)))
