"""Identities of noisy detections: `mdqe.Linker` beside box trackers and a linker by mask IoU, on synthetic scenes.

    pip install trackers
    python examples/benchmarks/linking.py

Every method gets the same detections: the true masks with noise. Each detection is missed with a probability of 10 %;
masks are shifted, grown or shrunk; a pair of touching objects, one of which is partly hidden, is one detection with a
probability of 25 %; and false detections appear. HOTA, IDF1 and switches compare the visible masks, without classes.
Embeddings are not given. Labels are given to the methods "with labels" only; with noise, 10 % of them are random.
Without the package `trackers`, its rows are left out.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

import mdqe
from mdqe.data.synthetic import CATEGORIES, Drawing, draw_video
from mdqe.evaluation.identity import IdentityCounts, compare_identities
from mdqe.results import rle

SEED = 271_828  # of the reported scenes
MISSED, MERGED, FALSE = 0.10, 0.25, 0.3  # probabilities; and the mean number of false detections in a frame
SHIFT = 0.04  # standard deviation of a mask's place, relative to the square root of its area
WRONG = 0.10  # probability of a random label
LEAST = 16  # pixels; smaller visible parts are never detected


class Noisy(NamedTuple):
    """The detections of one frame, in random order, and their IoU (G, D) with the objects."""

    masks: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    ious: np.ndarray


class Sample(NamedTuple):
    """A scene: its frames; and for its G objects, the visible areas and the hidden shares (G, T)."""

    frames: list[Noisy]
    areas: np.ndarray
    hidden: np.ndarray


Assign = Callable[[list[Noisy]], list[np.ndarray]]
"""A method: the frames of a video → the ids (D,) of each frame, −1 where dropped."""


def samples(
    seed: int, count: int, difficulty: str, *, noise: tuple[bool, ...] = (True, False), frames: int = 60
) -> Iterator[list[Sample]]:
    """Draw scenes, each with and without noise; without, the detections are the visible masks."""
    for index in range(count):
        drawing = draw_video(seed, index, frames=frames, size=(144, 256), difficulty=difficulty)
        drawn = []
        for noisy in noise:
            random, wrong = np.random.default_rng([seed, index]), np.random.default_rng([seed, index, 1])
            found = [_detect(drawing, t, random, wrong, noisy) for t in range(frames)]
            drawn.append(Sample(found, drawing.masks.sum(axis=(2, 3)), drawing.hidden))
        yield drawn


def _detect(drawing: Drawing, t: int, random: np.random.Generator, wrong: np.random.Generator, noise: bool) -> Noisy:
    truth, hidden = drawing.masks[:, t], drawing.hidden[:, t]
    areas = truth.sum(axis=(1, 2))
    visible = np.flatnonzero(areas >= (LEAST if noise else 1)).tolist()
    parts = [[i] for i in visible]
    if noise:
        grown = {i: ndimage.binary_dilation(truth[i], iterations=2) for i in visible}
        for a in visible:
            for b in visible:
                single = [a] in parts and [b] in parts and a < b
                crossing = single and max(hidden[a], hidden[b]) > 0.2 and (grown[a] & truth[b]).any()
                if crossing and random.random() < MERGED:
                    parts = [one for one in parts if one not in ([a], [b])] + [[a, b]]
        parts = [part for part in parts if random.random() >= MISSED]
    masks = [truth[part].any(axis=0) for part in parts]
    scores = [0.9 - 0.3 * np.nanmax(hidden[part]) for part in parts]
    if noise:
        masks = [_jitter(mask, random) for mask in masks]
        scores = [score + random.normal(0, 0.07) for score in scores]
        for _ in range(random.poisson(FALSE)):
            masks.append(_blob(truth.shape[1:], random))
            scores.append(random.uniform(0.2, 0.7))
    order = random.permutation(len(masks)) if noise else np.arange(len(masks))
    order = [i for i in order if masks[i].any()]
    stacked = np.stack([masks[i] for i in order]) if len(order) else np.zeros((0, *truth.shape[1:]), bool)
    ious = _ious(truth, stacked)
    labels = drawing.labels[ious.argmax(axis=0)]
    if noise:
        unknown = (wrong.random(len(labels)) < WRONG) | ~ious.any(axis=0)
        labels = np.where(unknown, wrong.integers(len(CATEGORIES), size=len(labels)), labels)
    return Noisy(stacked, np.clip([scores[i] for i in order], 0.05, 0.99), labels, ious)


def _jitter(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A mask shifted, and grown or shrunk by up to one pixel."""
    shift = np.round(random.normal(0, SHIFT * np.sqrt(mask.sum()), 2)).astype(int)
    moved = ndimage.shift(mask, shift, order=0)
    change = random.integers(-1, 2)
    if change == 0 or moved.sum() < 4 * LEAST:
        return moved
    return (ndimage.binary_dilation if change > 0 else ndimage.binary_erosion)(moved)


def _blob(size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    height, width = random.uniform(8, 24, 2)
    down, right = random.uniform(0, size[0]), random.uniform(0, size[1])
    return ((y - down) / height) ** 2 + ((x - right) / width) ** 2 < 1


def _ious(truth: np.ndarray, masks: np.ndarray) -> np.ndarray:
    a, b = (x.reshape(len(x), x.shape[1] * x.shape[2]).astype(np.float32) for x in (truth, masks))
    shared = a @ b.T
    return shared / np.maximum(a.sum(axis=1)[:, None] + b.sum(axis=1) - shared, 1)


def count(sample: Sample, ids: list[np.ndarray]) -> IdentityCounts:
    """Compare the identities of a method with the objects."""
    number = 1 + max((int(one.max(initial=-1)) for one in ids), default=-1)
    ious = np.zeros((len(sample.areas), number, len(ids)))
    areas = np.zeros((number, len(ids)), np.int64)
    for t, (frame, one) in enumerate(zip(sample.frames, ids, strict=True)):
        kept = np.flatnonzero(one >= 0)
        ious[:, one[kept], t] = frame.ious[:, kept]
        areas[one[kept], t] = frame.masks[kept].sum(axis=(1, 2))
    return compare_identities(ious, sample.areas, areas)


def kinds(sample: Sample, ids: list[np.ndarray]) -> Counter[str]:
    """Count the switches on perfect detections by where the object was, how much of it is visible, and its new id."""
    last: dict[int, tuple[int, int]] = {}  # the id and the frame of each object's last detection
    known: set[int] = set()
    found: Counter[str] = Counter()
    for t, (frame, own) in enumerate(zip(sample.frames, ids, strict=True)):
        objects = frame.ious.argmax(axis=0)
        for g, track in zip(objects.tolist(), own.tolist(), strict=True):
            before, seen = last.get(g, (track, t))
            if track >= 0 and track != before:
                absent = sample.hidden[g, seen + 1 : t]
                where = "visible" if not len(absent) else "out of frame" if np.isnan(absent).any() else "hidden"
                share = 1 - sample.hidden[g, t]
                part = "in full" if share > 0.9 else "in part" if share > 0.3 else "as a sliver"
                kind = "a new id" if track not in known else "exchanged" if before in own else "the id of another one"
                found[f"{where} before, now visible {part}: {kind}"] += 1
        last |= {g: (track, t) for g, track in zip(objects.tolist(), own.tolist(), strict=True) if track >= 0}
        known |= set(own.tolist())
    return found


# --- methods --------------------------------------------------------------------------------------------------------


def by_iou(frames: list[Noisy], least: float = 0.3, memory: int = 30) -> list[np.ndarray]:
    """Assign each frame's masks to the last masks of the tracks of `memory` frames by their IoU, at least `least`."""
    ids, number = [], 0
    masks, known, seen = np.zeros((0, *frames[0].masks.shape[1:]), bool), np.zeros(0, int), np.zeros(0, int)
    for t, frame in enumerate(frames):
        own = np.full(len(frame.masks), -1)
        ious = _ious(masks, frame.masks)
        rows, columns = linear_sum_assignment(np.where(ious >= least, ious, 0), maximize=True)
        keep = ious[rows, columns] >= least
        own[columns[keep]] = known[rows[keep]]
        new = own < 0
        own[new] = number + np.arange(new.sum())
        number += int(new.sum())
        ids.append(own)
        left = ~np.isin(known, own) & (t - seen < memory)
        masks, known = np.concatenate([masks[left], frame.masks]), np.concatenate([known[left], own])
        seen = np.concatenate([seen[left], np.full(len(own), t)])
    return ids


def online(frames: list[Noisy], *, labels: bool = False) -> list[np.ndarray]:
    """`mdqe.Linker` with its defaults."""
    linker = mdqe.Linker()
    return [linker.push(frame.masks, frame.scores, frame.labels if labels else None) for frame in frames]


def offline(frames: list[Noisy], *, labels: bool = False) -> list[np.ndarray]:
    """`mdqe.link` with `rejoin`."""
    given = {"scores": [frame.scores for frame in frames]}
    given |= {"labels": [frame.labels for frame in frames]} if labels else {}
    result = mdqe.link([frame.masks for frame in frames], **given, rejoin=True)
    ids = []
    for t, frame in enumerate(frames):
        own = np.full(len(frame.masks), -1)
        counts = rle.encode(frame.masks)
        for row in np.flatnonzero(result.present[:, t]):
            own[counts.index(result.rles[row, t])] = result.track_ids[row]
        ids.append(own)
    return ids


def box_tracker(name: str, **options: Any) -> Assign:
    """A tracker of the package `trackers` on the boxes of the masks."""
    import supervision
    import trackers

    def assign(frames: list[Noisy]) -> list[np.ndarray]:
        tracker = getattr(trackers, name)(**options)
        ids, seen = [], {-1: -1}
        for frame in frames:
            boxes = supervision.mask_to_xyxy(frame.masks).astype(float).reshape(-1, 4)
            boxes[:, 2:] += 1
            scores = frame.scores.astype(float).reshape(-1)
            labels = np.arange(len(boxes))  # to find the detections again: trackers may change their order
            given = supervision.Detections(xyxy=boxes, confidence=scores, class_id=labels)
            found = tracker.update(given)
            own = np.full(len(boxes), -1)
            for place, track in zip(found.class_id, found.tracker_id, strict=True):
                own[place] = seen.setdefault(int(track), len(seen) - 1)
            ids.append(own)
        return ids

    return assign


def methods() -> dict[str, Assign]:
    """The methods by name. Box trackers also run with a start in the first frame, as the others do."""
    found: dict[str, Assign] = {"mask IoU": by_iou}
    try:
        import trackers  # noqa: F401

        low = {"minimum_consecutive_frames": 1}
        sure = low | {"high_conf_det_threshold": 0.5}
        found["SORT"], found["SORT, from frame 1"] = box_tracker("SORTTracker"), box_tracker("SORTTracker", **low)
        found["ByteTrack"] = box_tracker("ByteTrackTracker")
        found["ByteTrack, from frame 1"] = box_tracker("ByteTrackTracker", track_activation_threshold=0.5, **sure)
        found["OC-SORT"], found["OC-SORT, from frame 1"] = (
            box_tracker("OCSORTTracker"),
            box_tracker("OCSORTTracker", **sure),
        )
    except ImportError as error:
        print(f"the package trackers is left out: {error}", file=sys.stderr)
    return found | linkers()


def linkers() -> dict[str, Assign]:
    """The methods of this library by name."""
    return {
        "mdqe.Linker": online,
        "mdqe.Linker, with labels": partial(online, labels=True),
        "mdqe.link(rejoin=True)": offline,
        "mdqe.link(rejoin=True), with labels": partial(offline, labels=True),
    }


def speed(objects: int = 20, size: tuple[int, int] = (480, 854), frames: int = 60) -> dict[str, float]:
    """Milliseconds of processor time of a frame for objects that move, by the form of the masks."""
    random = np.random.default_rng(0)
    start, move = random.uniform(0, 1, (objects, 2)) * (size[0] - 80, size[1] - 80), random.uniform(-3, 3, (objects, 2))
    videos = []
    for t in range(frames):
        masks = np.zeros((objects, *size), bool)
        for mask, (y, x) in zip(masks, (start + move * t).clip(0).astype(int), strict=True):
            mask[y : y + 70, x : x + 50] = True
        videos.append(masks)
    runs = [rle.encode(masks) for masks in videos]
    found = {}
    for name, given in (("bool masks", videos), ("run lengths", runs)):
        times = []
        for _ in range(5):
            linker = mdqe.Linker(size=size)
            begin = time.process_time()
            for masks in given:
                linker.push(masks)
            times.append((time.process_time() - begin) / frames * 1000)
        found[name] = min(times)
    return found


def memory(frames: int) -> tuple[int, int]:
    """Bytes at the peak of a stream with new objects all the time: of its first tenth, and of all of it."""
    import tracemalloc

    random, linker, peaks = np.random.default_rng(0), mdqe.Linker(), []
    tracemalloc.start()
    for t in range(frames):
        masks = np.zeros((8, 120, 200), bool)
        for mask, (y, x) in zip(masks, random.integers(0, (100, 180), (8, 2)), strict=True):
            mask[y : y + 15, x : x + 15] = True
        linker.push(masks)
        if t == frames // 10:
            peaks.append(tracemalloc.get_traced_memory()[1])
    peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    return peaks[0], peaks[1]


def print_kinds(seed: int, scenes: int, frames: int) -> None:
    """Print the switches of the linker on perfect detections of standard scenes, by their kind."""
    found: dict[str, Counter[str]] = {name: Counter() for name in linkers()}
    for (scene,) in samples(seed, scenes, "standard", noise=(False,), frames=frames):
        for total, assign in zip(found.values(), linkers().values(), strict=True):
            total.update(kinds(scene, assign(scene.frames)))
    for name, total in found.items():
        print(f"{name}: {total.total()}", *(f"{number:4d}  {kind}" for kind, number in total.most_common()), sep="\n")


def main() -> None:
    """Print a table for each difficulty, the switches on perfect detections, the speed and the memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=40, help="of each difficulty")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--stream", type=int, default=10_000, help="frames of the test of memory")
    parser.add_argument("--kinds", action="store_true", help="only count the switches of the linker by their kind")
    args = parser.parse_args()
    if args.kinds:
        print_kinds(args.seed, args.scenes, args.frames)
        return
    for difficulty in ("hard", "standard"):
        totals: dict[tuple[str, bool], IdentityCounts] = {}
        for drawn in samples(args.seed, args.scenes, difficulty, frames=args.frames):
            for sample, noisy in zip(drawn, (True, False), strict=True):
                for name, assign in methods().items():
                    counts = count(sample, assign(sample.frames))
                    totals[name, noisy] = totals.get((name, noisy), IdentityCounts()) + counts
        for noisy in (True, False):
            kind = "noisy" if noisy else "perfect"
            print(f"\n{args.scenes} {difficulty} scenes, {kind} detections\n")
            print("| method | HOTA | IDF1 | IDSW |\n|---|---|---|---|")
            for (name, own), counts in totals.items():
                if own == noisy:
                    row = counts.summary()
                    print(f"| {name} | {100 * row['HOTA']:.1f} | {100 * row['IDF1']:.1f} | {row['IDSW']} |", flush=True)
    print("\nmilliseconds a frame, 20 objects at 854x480:", {name: round(x, 2) for name, x in speed().items()})
    first, last = memory(args.stream)
    print(f"peak memory: {first:,} bytes after {args.stream // 10} frames, {last / first - 1:+.1%} after {args.stream}")


if __name__ == "__main__":
    main()
