"""Generated sets: rectangles in videos of different sizes, with everything that is rare in real ones made common."""

from typing import Any

import numpy as np

from mdqe.results import rle

LABELS = ("no_occlusion", "slight_occlusion", "severe_occlusion", None)


def generate(seed: int, videos: int = 4, results: int = 12) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations and results: ties of scores and of IoUs, crowds, absent frames and objects, empty masks, categories
    without objects or results, unknown categories, plain and compressed run lengths."""
    random = np.random.default_rng(seed)
    categories = [{"id": i, "name": f"kind {i}"} for i in (7, 3, 12)]
    document: dict[str, Any] = {"videos": [], "annotations": [], "categories": categories}
    found = []
    for number in random.permutation(videos) + 1:
        size, frames = [int(random.integers(150, 400)) for _ in range(2)], int(random.integers(1, 6))
        video = {"id": int(number), "height": size[0], "width": size[1], "length": frames, "file_names": []}
        document["videos"].append(video)
        boxes = [random_boxes(random, frames) for _ in range(random.integers(0, 5))]
        for track in boxes:
            one = {
                "id": len(document["annotations"]) + 1,
                "video_id": video["id"],
                "category_id": int(random.choice([3, 7])),
                "iscrowd": int(random.random() < 0.2),
                "occlusion": [LABELS[i] for i in random.integers(0, 4, frames)],
            }
            masks = [draw(size, box, random.random() < 0.5) for box in track]
            one["areas"] = [None if mask is None else int(rle.area([mask["counts"]], size)[0]) for mask in masks]
            document["annotations"].append(one | {"segmentations": masks})
        for _ in range(random.integers(0, results)):
            track = random_boxes(random, frames)
            if boxes and random.random() < 0.8:
                track = boxes[random.integers(len(boxes))]
                track = [None if b is None else b + random.choice([0, 0, 0.03, 0.1]) for b in track]
            one = {"video_id": video["id"], "category_id": int(random.choice([3, 7, 12, 99], p=[0.5, 0.3, 0.15, 0.05]))}
            one["score"] = float(random.integers(0, 8)) / 8
            if random.random() < 0.8:
                one["track_id"] = int(random.integers(0, 5))
            found.append(one | {"segmentations": [draw(size, box) for box in track]})
    return document, found


def changed(document: Any, path: str, value: Any) -> None:
    """Set what "annotations.0.areas.1" names; `...` removes it."""
    *way, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    for part in way:
        document = document[part]
    if value is ...:
        del document[last]
    else:
        document[last] = value


def random_boxes(random: np.random.Generator, frames: int) -> list[np.ndarray | None]:
    """A box (top, left, bottom, right) in 0 … 1 for each frame, None where absent; sometimes everywhere."""
    corner, extent = random.uniform(0, 0.5, 2), random.uniform(0, 1, 2) ** 2
    box = np.concatenate([corner, corner + extent])
    absent = random.choice([0.1, 0.3, 1.0], p=[0.6, 0.3, 0.1])
    return [None if random.random() < absent else box + 0.02 * t for t in range(frames)]


def draw(size: list[int], box: np.ndarray | None, plain: bool = False) -> dict[str, Any] | None:
    """A filled box as run lengths, perhaps an empty one."""
    if box is None:
        return None
    mask = np.zeros(size, bool)
    top, left, bottom, right = (box * [*size, *size]).astype(int)
    mask[top:bottom, left:right] = True
    counts = rle.encode(mask[None])
    return {"size": list(size), "counts": rle.run_lengths(counts, tuple(size))[0].tolist() if plain else counts[0]}
