"""Times the evaluation of results, compared with one pair of masks at a time by pycocotools.

    python examples/benchmarks/evaluation.py             # a generated set of the size of the OVIS validation set
    python examples/benchmarks/evaluation.py --videos 14 --part 14

The set has videos of 70 frames of 640×360 with 6 objects and 30 results each. The objects of a video have one or two of
25 categories. A result follows an object, shifted and scaled by a few percent, and has its category in four of five
cases. Masks are blobs with a ragged edge, about 130 columns wide: 270 characters of run lengths on average.

Each row runs in its own process, which gives its own peak memory. All rows read the same files and give the same AP.
The pycocotools row computes the areas of the intersection and the union of each pair of masks of the same video and
category, and uses this library for the curves. It is measured on part of the videos and extrapolated.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HEIGHT, WIDTH, FRAMES, OBJECTS, RESULTS, CATEGORIES = 360, 640, 70, 6, 30, 25


def blobs(
    random: np.random.Generator, shape: np.ndarray, speed: np.ndarray, frames: int = FRAMES
) -> list[dict[str, Any]]:
    """A track of ragged ellipses. `shape` has the centre (x, y) and the radii (x, y)."""
    from mdqe.results import rle_strings

    lengths, number = [], []
    for t in range(frames):
        x, y, across, along = shape + np.array([*(speed * t), 0, 0])
        columns = np.arange(max(int(x - across) + 1, 0), min(int(x + across), WIDTH - 1))
        half = along * np.sqrt(1 - ((columns - x) / across) ** 2)
        ragged = 0.1 * along * np.sin(columns / 9 + t) + random.normal(0, 1, len(columns))
        top = np.clip(np.round(y - half + ragged), 0, HEIGHT - 1).astype(int)
        bottom = np.maximum(np.clip(np.round(y + half + ragged), 1, HEIGHT).astype(int), top + 1)
        edges = np.stack([columns * HEIGHT + top, columns * HEIGHT + bottom], axis=1).ravel()
        counts = np.diff(edges, prepend=0, append=HEIGHT * WIDTH)
        lengths.append(counts)
        number.append(len(counts))
    texts = rle_strings.to_strings(np.concatenate(lengths), np.array(number))
    return [{"size": [HEIGHT, WIDTH], "counts": text} for text in texts]


def generate(folder: Path, videos: int) -> None:
    """Write annotations.json and results.json."""
    from mdqe.results import rle

    random = np.random.default_rng(0)
    document: dict[str, Any] = {
        "videos": [{"id": i, "height": HEIGHT, "width": WIDTH, "length": FRAMES} for i in range(1, videos + 1)],
        "categories": [{"id": i, "name": f"category {i}"} for i in range(1, CATEGORIES + 1)],
        "annotations": [],
    }
    results = []
    for video in range(1, videos + 1):
        kinds = random.choice(CATEGORIES, random.integers(1, 3), replace=False) + 1
        tracks = []
        for _ in range(OBJECTS):
            shape = np.array([random.uniform(80, 560), random.uniform(60, 300), random.uniform(40, 110), 0])
            shape[3] = random.uniform(30, 80)
            speed, category = random.uniform(-1, 1, 2), int(random.choice(kinds))
            tracks.append((shape, speed, category))
            masks = blobs(random, shape, speed)
            areas = rle.area([mask["counts"] for mask in masks], (HEIGHT, WIDTH)).tolist()
            head = {"id": len(document["annotations"]) + 1, "video_id": video, "category_id": category, "iscrowd": 0}
            document["annotations"].append({**head, "areas": areas, "segmentations": masks})
        for i in range(RESULTS):
            shape, speed, category = tracks[i % OBJECTS]
            if random.random() > 0.8:
                category = int(random.integers(1, CATEGORIES + 1))
            masks = blobs(random, shape * (1 + random.normal(0, 0.05, 4)), speed)
            head = {"video_id": video, "category_id": category, "score": round(float(random.random()), 3)}
            results.append({**head, "track_id": i, "segmentations": masks})
    (folder / "annotations.json").write_text(json.dumps(document))
    (folder / "results.json").write_text(json.dumps(results))


def plain_overlap(results: Any, objects: Any, size: tuple[int, int], frames: int) -> Any:
    """`mdqe.evaluation.overlap.overlap`, with two calls of `merge` and of `area` for each pair of masks."""
    from pycocotools import mask as coco

    from mdqe.annotations.masks import to_rle
    from mdqe.evaluation.overlap import Overlap

    tracks = [*results[1], *objects[1]]
    masks = [[{"size": list(size), "counts": to_rle(mask, size)} for mask in track.masks] for track in tracks]
    areas = np.array([[coco.area(mask) for mask in row] for row in masks], np.int64)
    number = len(results[1])
    shared = np.zeros((number, len(tracks) - number, frames), np.int64)
    for d, g, t in np.ndindex(shared.shape):
        pair = [masks[d][t], masks[number + g][t]]
        shared[d, g, t] = coco.area(coco.merge(pair, intersect=True))
        assert areas[d, t] + areas[number + g, t] - shared[d, g, t] == coco.area(coco.merge(pair))
    return Overlap(areas[:number], areas[number:], shared)


def run_row(row: str, folder: Path, part: int) -> None:
    """Measure one row in this process and print it as JSON."""
    from mdqe.evaluation import evaluate, overlap, tubes

    if row == "plain":
        tubes.overlap = plain_overlap
    elif row == "numpy":
        overlap.compiled_library = lambda: None
    elif overlap.compiled_library() is None:
        raise SystemExit("the compiled library _C_rle is missing: install with a C++ compiler")
    begin = time.perf_counter()
    annotations, results = (json.loads((folder / f"{name}.json").read_bytes()) for name in ("annotations", "results"))
    read = time.perf_counter() - begin
    if row == "plain":  # only the first videos
        annotations["videos"] = annotations["videos"][:part]
        annotations["annotations"] = [one for one in annotations["annotations"] if one["video_id"] <= part]
        results = [one for one in results if one["video_id"] <= part]
    begin = time.perf_counter()
    numbers = evaluate(annotations, results, identity=row == "identity")
    seconds = time.perf_counter() - begin
    print(json.dumps({"read": read, "compare": seconds, "peak": peak_mebibytes(), "AP": numbers["AP"]}))


def peak_mebibytes() -> float:
    """Peak resident memory of this process. A child inherits ru_maxrss from its parent, so it is not used."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


ROWS = {
    "plain": "one pair at a time, pycocotools",
    "compiled": "this library",
    "numpy": "this library, not compiled",
    "identity": "this library, with HOTA, IDF1 and switches",
}


def main() -> None:
    """Generate the set, run every row and print the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=140, help="number of videos of the set (140)")
    parser.add_argument("--part", type=int, default=28, help="number of videos for the pycocotools row (28)")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="folder of the set, generated if missing (default: temporary)")
    options = parser.parse_args()
    if options.row:
        return run_row(options.row, options.folder, options.part)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "results.json").exists():
            generate(folder, options.videos)
        measure(folder, options.videos, min(options.part, options.videos))


def measure(folder: Path, videos: int, part: int) -> None:
    """Run every row on the set in the folder, and print the table."""
    size = sum((folder / f"{name}.json").stat().st_size for name in ("annotations", "results")) / 2**20
    print(
        f"{videos} videos, {videos * RESULTS} results, {videos * (RESULTS + OBJECTS) * FRAMES} masks, {size:.0f} MiB\n"
    )
    print("| | read JSON, s | compare, s | together, s | peak MiB |\n|---|---|---|---|---|", flush=True)
    found = {}
    for row, what in ROWS.items():
        command = [sys.executable, __file__, "--row", row, "--folder", str(folder), "--part", str(part)]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        one = found[row] = json.loads(output)
        note = ""
        if row == "plain" and part < videos:
            note = f" ({one['compare']:.1f} s for {part} videos, × {videos / part:g})"
            one["compare"] *= videos / part
        together = one["read"] + one["compare"]
        print(
            f"| {what} | {one['read']:.2f} | {one['compare']:.2f}{note} | {together:.2f} | {one['peak']:.0f} |",
            flush=True,
        )
    print()
    plain = found["plain"]
    if part == videos:
        assert abs(plain["AP"] - found["compiled"]["AP"]) < 1e-12 and abs(plain["AP"] - found["numpy"]["AP"]) < 1e-12
        print(f"all give AP {plain['AP']:.6f}")
    for row in ("compiled", "numpy"):
        alone = plain["compare"] / found[row]["compare"]
        together = (plain["read"] + plain["compare"]) / (found[row]["read"] + found[row]["compare"])
        print(f"plain / {ROWS[row]}: {alone:.1f} comparing (target: 10), {together:.1f} including reading the files")


if __name__ == "__main__":
    main()
