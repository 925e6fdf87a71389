"""Development splits of training sets, by video and with the categories in proportion."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdqe.annotations.files import Loaded, Source, load_json
from mdqe.annotations.reader import VIDEOS, Video, read_annotations
from mdqe.errors import InputError


def split(source: Source, *, share: float = 0.1, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide a set in two: the videos to train on and those to develop on.

    Videos are drawn at random. Then pairs are exchanged between the two sets, each time the pair that helps most, until
    no exchange brings the number of objects of each category closer to its share: the sum over categories of
    (objects − wanted)² / wanted is at a local minimum. The same seed gives the same split.

    Args:
        source: a path or the loaded JSON.
        share: of the videos that the second set gets.
        seed: of the draw.

    Returns:
        Both sets as JSON documents, with all categories and everything else that the source contains.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not such a file, or one of the two sets would have no video.
    """
    name, document = load_json(source, "annotations")
    annotations = read_annotations(Loaded(name, document))
    annotations.expect(VIDEOS)
    videos = [annotations.videos[number] for number in sorted(annotations.videos)]
    number = round(share * len(videos)) if 0 < share < 1 else 0
    if not 0 < number < len(videos):
        raise InputError(f"{name}: a share of {share} of {len(videos)} videos leaves one side empty")
    counts = _count(videos, list(annotations.categories))
    second = _balance(counts, number, np.random.default_rng(seed))
    chosen = {one.id for one, is_second in zip(videos, second, strict=True) if is_second}
    return _part(document, annotations.videos.keys() - chosen), _part(document, chosen)


def _count(videos: Sequence[Video], categories: Sequence[int]) -> np.ndarray:
    """Objects (V, K) of each video and of each category that has objects."""
    column = {category: k for k, category in enumerate(categories)}
    counts = np.zeros((len(videos), len(column)))
    for v, video in enumerate(videos):
        for one in video.objects:
            counts[v, column[one.category]] += 1
    return counts[:, counts.any(axis=0)]


def _balance(counts: np.ndarray, number: int, random: np.random.Generator) -> np.ndarray:
    """(V,) bool: the videos of the second set, `number` of V."""
    second = np.zeros(len(counts), bool)
    second[random.permutation(len(counts))[:number]] = True
    wanted = counts.sum(axis=0) * number / len(counts)
    by_category = np.ascontiguousarray(counts.T)  # (K, V)
    inside = np.flatnonzero(second)
    squares = np.stack([_squares(by_category, int(one), wanted) for one in inside])  # (inside, V)
    while True:
        outside = np.flatnonzero(~second)
        surplus = counts[second].sum(axis=0) - wanted  # (K,)
        # The change of the sum for each exchange, (inside, outside): linear in the difference of the counts, and its
        # square, which does not depend on the other videos.
        linear = (by_category * (2 * surplus / wanted)[:, None]).sum(axis=0)  # (V,)
        change = squares[:, outside] + (linear[outside] - linear[inside][:, None])
        leaving, entering = divmod(int(change.argmin()), len(outside))
        if change[leaving, entering] > -1e-9:
            return second
        second[inside[leaving]], second[outside[entering]] = False, True
        inside[leaving] = outside[entering]
        squares[leaving] = _squares(by_category, int(outside[entering]), wanted)
        order = np.argsort(inside)
        inside, squares = inside[order], squares[order]


def _squares(by_category: np.ndarray, video: int, wanted: np.ndarray) -> np.ndarray:
    """(V,): the sum over categories of (difference of the counts (K, V) from those of a video)² / wanted."""
    step = by_category - by_category[:, video, None]
    return (step * step / wanted[:, None]).sum(axis=0)


def _part(document: Mapping[str, Any], videos: set[int]) -> dict[str, Any]:
    """The document with only these videos, in its own order."""
    return {
        **document,
        "videos": [one for one in document["videos"] if one["id"] in videos],
        "annotations": [one for one in document["annotations"] if one["video_id"] in videos],
    }
