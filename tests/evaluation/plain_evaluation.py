"""The same numbers by the plainest procedure: a pair, a frame, a threshold at a time, by pycocotools' calls."""

import itertools
from typing import Any

import numpy as np
from pycocotools import mask as coco
from scipy.optimize import linear_sum_assignment

THRESHOLDS = [0.5 + 0.05 * i for i in range(10)]
RANGES = {"": (0, 1e10), "s": (0, 128**2), "m": (128**2, 256**2), "l": (256**2, 1e10)}
OCCLUSION_RANGES = {"_so": (0, 0.25), "_mo": (0.25, 0.5), "_ho": (0.5, 1)}
DEGREES = {"no_occlusion": 0, "slight_occlusion": 0.25, "severe_occlusion": 0.75}


def evaluate(annotations: dict, results: list) -> dict[str, Any]:
    """The numbers of the official evaluators, of every category and of all."""
    pairs = compare_pairs(annotations, results)
    ranges = dict(RANGES)
    if all("occlusion" in one for one in annotations["annotations"]):
        ranges.update(OCCLUSION_RANGES)
    categories = sorted(one["id"] for one in annotations["categories"])
    cells = {
        (category, name, most): category_curve(annotations, pairs, category, name, limits, most)
        for category in categories
        for name, limits in ranges.items()
        for most in ((1, 10, 100) if name == "" else (100,))
    }
    return {**numbers(cells, categories, ranges), "per_category": {c: numbers(cells, [c], ranges) for c in categories}}


def numbers(cells: dict, categories: list, ranges: dict) -> dict[str, float]:
    def average(name, most, pick):
        values = [pick(cells[c, name, most]) for c in categories if cells[c, name, most] is not None]
        return np.mean(values) if values else -1.0

    found = {}
    for name in ranges:
        found[f"AP{name}"] = average(name, 100, lambda cell: cell[0])
        found[f"AR{name}"] = average(name, 100, lambda cell: cell[1])
    for most in (1, 10, 100):
        found[f"AR{most}"] = average("", most, lambda cell: cell[1])
    found["AP50"] = average("", 100, lambda cell: cell[0][0])
    found["AP75"] = average("", 100, lambda cell: cell[0][5])
    del found["AR"]
    return found


def compressed(segmentation: dict) -> dict:
    if isinstance(segmentation["counts"], list):
        return coco.frPyObjects(segmentation, *segmentation["size"])
    return segmentation


def mean_area(areas: list) -> float:
    seen = [area for area in areas if area]
    return np.mean(seen) if seen else 0


def compare_pairs(annotations: dict, results: list) -> dict:
    """By video and category: objects, results, IoUs of each pair, of pairs of masks one by one."""
    pairs = {}
    for video, category in itertools.product(annotations["videos"], annotations["categories"]):
        key = (video["id"], category["id"])
        objects = [o for o in annotations["annotations"] if (o["video_id"], o["category_id"]) == key]
        rows = [r for r in results if (r["video_id"], r["category_id"]) == key]
        rows = sorted(rows, key=lambda row: -row["score"])[:100]
        ious = {}
        for (d, row), (g, one) in itertools.product(enumerate(rows), enumerate(objects)):
            shared = union = 0
            for a, b in zip(row["segmentations"], one["segmentations"], strict=True):
                masks = [compressed(mask) for mask in (a, b) if mask is not None]
                if len(masks) == 2:
                    shared += int(coco.area(coco.merge(masks, intersect=True)))
                if masks:
                    union += int(coco.area(coco.merge(masks)))
            ious[d, g] = shared / union if union else 0
        pairs[key] = (objects, rows, ious)
    return pairs


def category_curve(annotations: dict, pairs: dict, category: int, name: str, limits: tuple, most: int):
    """Average precision (10,) and recall (10,) of a category under a range; None where it has no object."""
    kept = []  # of every result: score, and at each threshold 1 right, 0 wrong, None neither
    total = 0
    for video in sorted(one["id"] for one in annotations["videos"]):
        objects, rows, ious = pairs[video, category]
        ignored = [not counts(one, name, limits) for one in objects]
        total += ignored.count(False)
        verdicts = [match(rows[:most], objects, ious, ignored, threshold, name, limits) for threshold in THRESHOLDS]
        kept += [(row["score"], [line[d] for line in verdicts]) for d, row in enumerate(rows[:most])]
    if not total:
        return None
    kept.sort(key=lambda one: -one[0])
    precisions, recalls = [], []
    for t in range(10):
        right, curve = 0, []
        counted = [verdict[t] for _, verdict in kept if verdict[t] is not None]
        for number, verdict in enumerate(counted, 1):
            right += verdict
            curve.append((right / total, right / number))
        recalls.append(right / total)
        best = [max([p for r, p in curve if r >= recall], default=0) for recall in np.linspace(0, 1, 101)]
        precisions.append(np.mean(best))
    return np.array(precisions), np.array(recalls)


def counts(one: dict, name: str, limits: tuple) -> bool:
    if name.startswith("_"):
        degrees = sorted(DEGREES[label] for label in one["occlusion"] if label is not None)
        value = np.mean(degrees[len(degrees) // 2 :]) if degrees else 0
    else:
        value = mean_area(one["areas"])
    return not one["iscrowd"] and limits[0] <= value <= limits[1]


def match(rows: list, objects: list, ious: dict, ignored: list, threshold: float, name: str, limits: tuple) -> list:
    taken: set[int] = set()
    verdicts: list[int | None] = []
    for d, row in enumerate(rows):
        free = [g for g in range(len(objects)) if g not in taken or objects[g]["iscrowd"]]
        free = [g for g in free if ious[d, g] >= threshold]
        free = [g for g in free if not ignored[g]] or free
        if free:
            chosen = max(free, key=lambda g: (ious[d, g], g))
            taken.add(chosen)
            verdicts.append(None if ignored[chosen] else 1)
        else:
            areas = [None if mask is None else int(coco.area(mask)) for mask in row["segmentations"]]
            out = not name.startswith("_") and not limits[0] <= mean_area(areas) <= limits[1]
            verdicts.append(None if out else 0)
    return verdicts


def hota(sequences: list[tuple[list, list, dict]]) -> tuple[float, float, float]:
    """HOTA, DetA and AssA, written as in the paper: sequences of objects' and tracks' frames, and IoU[g, d, t]."""
    scores = []
    for alpha in [i / 20 for i in range(1, 20)]:
        true, missed, wrong, association = 0, 0, 0, 0.0
        for objects, tracks, iou in sequences:
            matches = {t: hota_matches(objects, tracks, iou, t) for one in (*objects, *tracks) for t in one}
            paired = [(g, d) for t, found in matches.items() for g, d in found if iou[g, d, t] >= alpha - 1e-12]
            true += len(paired)
            missed += sum(map(len, objects)) - len(paired)
            wrong += sum(map(len, tracks)) - len(paired)
            for g, d in paired:
                tpa = paired.count((g, d))
                association += tpa / (len(objects[g]) + len(tracks[d]) - tpa)
        det = true / (true + missed + wrong)
        ass = association / true if true else 0
        scores.append((np.sqrt(det * ass), det, ass))
    return tuple(np.mean(scores, axis=0))


def hota_matches(objects: list, tracks: list, iou: dict, t: int) -> list[tuple[int, int]]:
    def soft(g, d, t):
        row = sum(iou.get((g, k, t), 0) for k in range(len(tracks)))
        column = sum(iou.get((k, d, t), 0) for k in range(len(objects)))
        value = iou.get((g, d, t), 0)
        return value / (row + column - value) if value else 0

    value = np.zeros((len(objects), len(tracks)))
    for g, d in itertools.product(range(len(objects)), range(len(tracks))):
        shared = sum(soft(g, d, u) for u in objects[g] if u in tracks[d])
        value[g, d] = shared / (len(objects[g]) + len(tracks[d]) - shared) * iou.get((g, d, t), 0)
    return [(g, d) for g, d in zip(*linear_sum_assignment(-value), strict=True) if value[g, d] > 0]


def identical_masks(objects: list, tracks: list, iou: dict) -> int:
    """Masks that the best one-to-one pairs of objects and tracks share, by trying every pairing."""
    number = max(len(objects), len(tracks))
    shared = np.zeros((number, number), int)
    for g, d, t in iou:
        shared[g, d] += iou[g, d, t] >= 0.5
    return max(sum(shared[g, d] for g, d in enumerate(order)) for order in itertools.permutations(range(number)))


def switches(objects: list, tracks: list, iou: dict, frames: int) -> int:
    """Identity switches, every matching of a frame tried."""
    last: dict[int, int] = {}
    before: dict[int, int] = {}
    count = 0
    for t in range(frames):
        if not any(t in one for one in objects) or not any(t in one for one in tracks):
            continue
        able = [(g, d) for (g, d, u), value in iou.items() if u == t and value >= 0.5]
        best, found = -1.0, []
        for size in range(len(able) + 1):
            for pairs in itertools.combinations(able, size):
                if len({g for g, _ in pairs}) == len({d for _, d in pairs}) == size:
                    value = sum(iou[g, d, t] + 1000 * (before.get(g) == d) for g, d in pairs)
                    if value > best:
                        best, found = value, pairs
        count += sum(g in last and last[g] != d for g, d in found)
        before = dict(found)
        last.update(before)
    return count
