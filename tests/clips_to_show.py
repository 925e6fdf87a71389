"""A small data set with known masks: two videos with annotations and results, for the tests of the pages."""

from typing import Any

import numpy as np

from mdqe.results import rle

SIZE, FRAMES = (40, 60), 4


def square(left: int, top: int, edge: int) -> np.ndarray:
    """A mask (40, 60) bool."""
    mask = np.zeros(SIZE, bool)
    mask[top : top + edge, left : left + edge] = True
    return mask


def coco(mask: np.ndarray | None, plain: bool = False) -> dict[str, Any] | None:
    if mask is None:
        return None
    counts = rle.encode(mask[None])
    return {"size": [*SIZE], "counts": rle.run_lengths(counts, SIZE)[0].tolist() if plain else counts[0]}


def truth_masks() -> list[np.ndarray | None]:
    """Masks of the first object of video 1, which moves by 2 pixels per frame and is hidden in the last frame."""
    return [square(5 + 2 * t, 4, 12) if t < 3 else None for t in range(FRAMES)]


def predicted_masks() -> list[np.ndarray | None]:
    """Predictions one pixel to the right of the ground truth, and too low in frame 1."""
    return [square(6 + 2 * t, 4 + 3 * (t == 1), 12) if t < 3 else None for t in range(FRAMES)]


def annotations(name: str = "fish") -> dict[str, Any]:
    """Video 1 "a" with two objects, video 2 "b" with one."""
    other = [square(35, 20, 9)] * FRAMES

    def object_of(number: int, video: int, category: int, masks: list) -> dict[str, Any]:
        return {
            "id": number,
            "video_id": video,
            "category_id": category,
            "iscrowd": 0,
            "areas": [None if one is None else int(one.sum()) for one in masks],
            "segmentations": [coco(one, plain=True) for one in masks],
        }

    return {
        "videos": [
            {"id": i, "height": SIZE[0], "width": SIZE[1], "length": FRAMES,
             "file_names": [f"{folder}/{t:05}.png" for t in range(FRAMES)]}
            for i, folder in ((1, "a"), (2, "b"))
        ],
        "categories": [{"id": 4, "name": name}, {"id": 9, "name": "boat"}],
        "annotations": [
            object_of(11, 1, 4, truth_masks()), object_of(12, 1, 9, other), object_of(13, 2, 4, truth_masks()),
        ],
    }  # fmt: skip


def results() -> list[dict[str, Any]]:
    """Three results of video 1, one of them with a score below 0.3, and one of video 2."""
    low = [square(1, 25, 10)] * FRAMES

    def result_of(video: int, category: int, score: float, track: int, masks: list) -> dict[str, Any]:
        segmentations = [coco(one) for one in masks]
        return {"video_id": video, "category_id": category, "score": score, "track_id": track} | {
            "segmentations": segmentations
        }

    return [
        result_of(1, 4, 0.9, 3, predicted_masks()),
        result_of(1, 9, 0.2, 5, low),
        result_of(1, 9, 0.6, 4, [square(34, 20, 9)] * FRAMES),
        result_of(2, 4, 0.8, 3, predicted_masks()),
    ]
