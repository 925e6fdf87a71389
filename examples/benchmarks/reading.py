"""Measures the seconds and the memory for reading an annotation file for training.

    python examples/benchmarks/reading.py                       # a generated file of the size of the OVIS training set
    python examples/benchmarks/reading.py --videos 50 --folder generated

The set has 607 videos of 60 frames of 640×360 with 9 objects each. Its masks are like those of `evaluation.py`, as
compressed and as plain run lengths. A row is the median of several processes. Each reads its file once as for training,
which checks and packs every mask. The time and memory of `json.loads` are reported for comparison. Reading uses one
thread. --cpu-seconds measures its CPU time, for a busy machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from evaluation import CATEGORIES, HEIGHT, WIDTH, blobs, peak_mebibytes

FRAMES, OBJECTS = 60, 9


def generate(folder: Path, videos: int) -> None:
    """Write compressed.json and plain.json, one annotation at a time."""
    from mdqe.results import rle

    random = np.random.default_rng(0)
    size = {"height": HEIGHT, "width": WIDTH, "length": FRAMES}
    names = [f"{t:05}.jpg" for t in range(FRAMES)]
    head = {
        "videos": [{"id": i, **size, "file_names": [f"{i}/{name}" for name in names]} for i in range(1, videos + 1)],
        "categories": [{"id": i, "name": f"category {i}"} for i in range(1, CATEGORIES + 1)],
    }
    with (folder / "plain.json").open("w") as plain, (folder / "compressed.json").open("w") as compressed:
        for file in (plain, compressed):
            file.write(json.dumps(head)[:-1] + ', "annotations": [')
        for number in range(videos * OBJECTS):
            low, high = [80, 60, 40, 30], [560, 300, 110, 80]
            masks = blobs(random, random.uniform(low, high), random.uniform(-1, 1, 2), FRAMES)
            lengths, runs = rle.run_lengths([mask["counts"] for mask in masks], (HEIGHT, WIDTH))
            counts = np.split(lengths, np.cumsum(runs)[:-1])
            annotation = {
                "id": number + 1,
                "video_id": number // OBJECTS + 1,
                "category_id": int(random.integers(1, CATEGORIES + 1)),
                "iscrowd": 0,
            }
            lists = [{**mask, "counts": one.tolist()} for mask, one in zip(masks, counts, strict=True)]
            for file, segmentations in ((plain, lists), (compressed, masks)):
                file.write(", " * (number > 0) + json.dumps({**annotation, "segmentations": segmentations}))
        for file in (plain, compressed):
            file.write("]}")


def run_row(path: Path, way: str, now: Callable[[], float]) -> None:
    """Read the file in this process and print its time and memory."""
    from mdqe.annotations.reader import read_annotations
    from mdqe.data.annotated import PackedObjects

    before = peak_mebibytes()
    begin = now()
    if way == "json":
        json.loads(path.read_bytes())
    else:
        annotations = read_annotations(path, strict=False)
        objects = PackedObjects.pack(annotations, {category: i for i, category in enumerate(annotations.categories)})
        annotations.problems.report(str(path))
        assert objects.labels.size
    print(json.dumps([now() - begin, peak_mebibytes() - before]))


def main() -> None:
    """Generate the files, read each in its own processes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=607, help="number of videos of the set (607)")
    parser.add_argument("--repeat", type=int, default=3, help="processes per row (3)")
    parser.add_argument("--folder", type=Path, help="folder of the files, generated if missing (default: temporary)")
    parser.add_argument("--cpu-seconds", action="store_true", help="measure CPU time instead of wall time")
    parser.add_argument("--row", nargs=2, metavar=("FILE", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        now = time.process_time if options.cpu_seconds else time.perf_counter
        return run_row(Path(options.row[0]), options.row[1], now)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "plain.json").exists():
            generate(folder, options.videos)
        measure(folder, options.repeat, ["--cpu-seconds"] * options.cpu_seconds)


def measure(folder: Path, repeat: int, options: list[str]) -> None:
    """Read both files in both ways, and print the table."""
    print("| run lengths | file, MiB | read for training, s | memory added, MiB | json.loads, s | memory added, MiB |")
    print("|---|---|---|---|---|---|", flush=True)
    for form in ("compressed", "plain"):
        path, cells = folder / f"{form}.json", []
        for way in ("read", "json"):
            command = [sys.executable, __file__, "--row", str(path), way, *options]
            outputs = [
                subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout for _ in range(repeat)
            ]
            seconds, memory = zip(*map(json.loads, outputs), strict=True)
            cells += [f"{statistics.median(seconds):.1f}", f"{max(memory):.0f}"]
        print(f"| {form} | {path.stat().st_size / 2**20:.0f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
