"""Generated sets of images: blobs and polygons, with everything that is rare in real ones made common."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

CATEGORIES = (7, 3, 12, 5)


def generate(seed: int, images: int = 6) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations and results: ties of scores and IoUs, crowds, empty masks, plain and compressed run lengths, polygons
    of several parts, areas that are not those of the masks, categories without objects or results."""
    random = np.random.default_rng(seed)
    document: dict[str, Any] = {"images": [], "annotations": []}
    document["categories"] = [{"id": number, "name": f"kind {number}"} for number in CATEGORIES]
    results = []
    for number in random.permutation(images) + 1:
        size = tuple(int(edge) for edge in random.integers(60, 400, 2))
        document["images"].append(
            {"id": int(number), "height": size[0], "width": size[1], "file_name": f"{number}.jpg"}
        )
        outlines = []
        for _ in range(random.integers(0, 7)):
            polygons = [random_polygon(random, size) for _ in range(random.integers(1, 3))]
            outlines.append(polygons)
            document["annotations"].append(annotate(random, polygons, size, int(number), len(document["annotations"])))
        for _ in range(random.integers(0, 15)):
            polygons = [random_polygon(random, size)]
            if outlines and random.random() < 0.8:
                polygons = [one + random.choice([0, 0, 1, 4]) for one in outlines[random.integers(len(outlines))]]
            mask = run_lengths(polygons, size) if random.random() < 0.95 else encode(np.zeros(size, bool))
            results.append(
                {
                    "image_id": int(number),
                    "category_id": int(random.choice(CATEGORIES[:3], p=[0.5, 0.3, 0.2])),
                    "score": float(random.integers(0, 8)) / 8,
                    "bbox": (np.array(coco_mask.toBbox(mask)) + random.choice([0, 2.5])).tolist(),
                    "segmentation": {**mask, "counts": mask["counts"].decode()},
                }
            )
    return document, results


def annotate(
    random: np.random.Generator, polygons: list[np.ndarray], size: tuple[int, int], image: int, index: int
) -> dict[str, Any]:
    """An annotation of polygons; that of a crowd has a plain RLE, and some others have a compressed one."""
    mask, crowd = run_lengths(polygons, size), bool(random.random() < 0.2)
    segmentation: Any = [one.tolist() for one in polygons]
    if crowd:
        segmentation = {"size": list(size), "counts": plain(coco_mask.decode(mask))}
    elif random.random() < 0.3:
        segmentation = {"size": list(size), "counts": mask["counts"].decode()}
    return {
        "id": index + 1,
        "image_id": image,
        "category_id": int(random.choice([3, 7])),
        "iscrowd": int(crowd),
        "area": float(coco_mask.area(mask) * random.choice([1, 0.9])),
        "bbox": coco_mask.toBbox(mask).tolist(),
        "segmentation": segmentation,
    }


def random_polygon(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """x and y of some corners, in turn."""
    corner, extent = random.uniform(0, 0.5, 2), random.choice([0.1, 0.4, 0.9])
    points = corner + extent * random.uniform(0, 1, (int(random.integers(3, 8)), 2))
    return np.round(points.clip(0, 1) * [size[1], size[0]], 1).ravel()


def run_lengths(polygons: list[np.ndarray], size: tuple[int, int]) -> dict[str, Any]:
    return coco_mask.merge(coco_mask.frPyObjects([one.tolist() for one in polygons], *size))


def encode(mask: np.ndarray) -> dict[str, Any]:
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))


def plain(mask: np.ndarray) -> list[int]:
    """Counts of a mask, column by column, pixel by pixel."""
    counts, value = [0], 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts
