"""A development split of a training set, whose test labels are hidden: by video, with the categories in proportion."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mdqe.annotations.reading_ import Annotations, read_annotations
from mdqe.annotations.records import Source, load_json
from mdqe.errors import InputError


def split(source: Source, *, share: float = 0.1, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two sets of one: the videos to train on and those to develop on.

    Videos are drawn at random, then exchanged between the two, each time the pair that helps most, until no exchange
    brings the objects of each category nearer to their share: the sum over categories of (objects − wanted)² / wanted
    is a local minimum. The same seed gives the same split.

    Args:
        source: a path or the loaded JSON.
        share: of the videos that the second set gets.
        seed: of the draw.

    Returns:
        Both as JSON documents, with all categories and everything else that the source has.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such a file, or one of the two would have no video.
    """
    name, document = load_json(source, "annotations")
    annotations = read_annotations(source)
    videos = len(annotations.videos)
    number = round(share * videos) if 0 < share < 1 else 0
    if not 0 < number < videos:
        raise InputError(f"{name}: a share of {share} of {videos} videos leaves one side empty")
    counts = _count(annotations)
    second = _balance(counts, number, np.random.default_rng(seed))
    chosen = {one for one, held in zip(annotations.videos, second, strict=True) if held}
    return _part(document, annotations.videos.keys() - chosen), _part(document, chosen)


def _count(annotations: Annotations) -> np.ndarray:
    """Objects (V, K) of each video and category that has any."""
    column = {category: k for k, category in enumerate(annotations.categories)}
    counts = np.zeros((len(annotations.videos), len(column)))
    for v, video in enumerate(annotations.videos.values()):
        for one in video.objects:
            counts[v, column[one.category]] += 1
    return counts[:, counts.any(axis=0)]


def _balance(counts: np.ndarray, number: int, random: np.random.Generator) -> np.ndarray:
    """Which of the V videos (V,) bool are the `number` of the second set."""
    second = np.zeros(len(counts), bool)
    second[random.permutation(len(counts))[:number]] = True
    wanted = counts.sum(axis=0) * number / len(counts)
    while True:
        inside, outside = np.flatnonzero(second), np.flatnonzero(~second)
        surplus = counts[second].sum(axis=0) - wanted  # (K,)
        # Of each exchange the change of the sum, for the categories one by one, to bound the memory: (inside, outside).
        change = np.zeros((len(inside), len(outside)))
        for k in range(counts.shape[1]):
            step = counts[outside, k] - counts[inside, k][:, None]
            change += (2 * surplus[k] * step + step**2) / wanted[k]
        best = np.unravel_index(change.argmin(), change.shape)
        if change[best] > -1e-9:
            return second
        second[inside[best[0]]], second[outside[best[1]]] = False, True


def _part(document: Mapping[str, Any], videos: set[int]) -> dict[str, Any]:
    """The document with those videos alone, in its own order."""
    return {
        **document,
        "videos": [one for one in document["videos"] if one["id"] in videos],
        "annotations": [one for one in document["annotations"] if one["video_id"] in videos],
    }
