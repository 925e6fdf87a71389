"""Times the evaluation of LV-VIS: a generated set of the size of its validation set.

    python examples/benchmarks/lvvis.py                          # 837 videos, 1,196 categories, 50,000 results
    python examples/benchmarks/lvvis.py --official LVVIS --part 20   # and the official code, on 20 of the videos

The set has videos of 20 frames of 640×360 with 5 objects of different categories and 60 results each. A result follows
an object, with its category in half of the cases. Each row runs in a process of its own, which gives its peak memory.
`--official` names a copy of https://github.com/haochenheheda/LVVIS; it needs pycocotools. Both rows then read the same
part of the set, and must give the same AP.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from evaluation import HEIGHT, WIDTH, blobs, peak_mebibytes

FRAMES, OBJECTS, VARIANTS, CATEGORIES = 20, 5, 4, 1196


def generate(folder: Path, videos: int, results: int) -> None:
    """Write annotations.json and results.json."""
    from mdqe.results import rle

    random = np.random.default_rng(0)
    categories = [{"id": i, "name": f"category {i}", "partition": i % 4} for i in range(1, CATEGORIES + 1)]
    size = {"height": HEIGHT, "width": WIDTH, "length": FRAMES}
    document: dict[str, Any] = {"videos": [], "categories": categories, "annotations": []}
    with (folder / "results.json").open("w") as file:
        for video in range(1, videos + 1):
            document["videos"].append({"id": video, **size, "file_names": [f"{video}/{t}.jpg" for t in range(FRAMES)]})
            tracks = []
            for category in random.choice(CATEGORIES, OBJECTS, replace=False) + 1:
                shape = np.array([random.uniform(80, 560), random.uniform(60, 300), random.uniform(30, 90), 0])
                shape[3] = random.uniform(20, 70)
                speed = random.uniform(-2, 2, 2)
                masks = blobs(random, shape, speed, FRAMES)
                areas = rle.area([mask["counts"] for mask in masks], (HEIGHT, WIDTH)).tolist()
                head = {"id": len(document["annotations"]) + 1, "video_id": video, "category_id": int(category)}
                document["annotations"].append(head | {"iscrowd": 0, **size, "areas": areas, "segmentations": masks})
                shapes = (shape * (1 + random.normal(0, 0.08, 4)) for _ in range(VARIANTS))
                tracks.append((int(category), [blobs(random, one, speed, FRAMES) for one in shapes]))
            for i in range(results * (video - 1) // videos, results * video // videos):
                category, variants = tracks[random.integers(OBJECTS)]
                if random.random() < 0.5:
                    category = int(random.integers(1, CATEGORIES + 1))
                head = {"video_id": video, "category_id": category, "score": round(float(random.random()), 4)}
                row = json.dumps(head | {"segmentations": variants[random.integers(VARIANTS)]})
                file.write(f"{',' if i else '['}\n{row}")
        file.write("]\n")
    (folder / "annotations.json").write_text(json.dumps(document))


def part_of(folder: Path, videos: int) -> Path:
    """A folder with the first videos of the set."""
    part = folder / f"part_{videos}"
    part.mkdir(exist_ok=True)
    document, results = (json.loads((folder / f"{name}.json").read_bytes()) for name in ("annotations", "results"))
    document["videos"] = document["videos"][:videos]
    document["annotations"] = [one for one in document["annotations"] if one["video_id"] <= videos]
    (part / "annotations.json").write_text(json.dumps(document))
    (part / "results.json").write_text(json.dumps([one for one in results if one["video_id"] <= videos]))
    return part


def run_row(row: str, folder: Path, official: Path | None) -> None:
    """Measure one row in this process and print it as JSON."""
    files = folder / "annotations.json", folder / "results.json"
    begin, cpu = time.perf_counter(), time.process_time()
    if row == "official":
        precision = official_precision(official or Path(), *map(str, files))
    else:
        from mdqe.evaluation import evaluate

        precision = evaluate(*files, identity=row == "identity")["official"]["all"]["AP"]
    found = {"seconds": time.perf_counter() - begin, "cpu": time.process_time() - cpu}
    print(json.dumps({**found, "peak": peak_mebibytes(), "AP": precision}))


def official_precision(checkout: Path, annotations: str, results: str) -> float:
    """AP by the official code."""
    sys.path.insert(0, str(checkout))
    np.float, np.int = float, int  # names that NumPy has removed and the code uses
    from evaluate.lvvis import LVVIS
    from evaluate.lvviseval import LVVISeval

    with redirect_stdout(io.StringIO()):
        truth = LVVIS(annotations)
        compared = LVVISeval(truth, truth.loadRes(results), "segm")
        compared.evaluate()
        compared.accumulate()
        compared.summarize()
    return float(compared.stats[0])


def main() -> None:
    """Generate the set, run every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=837, help="number of videos (837)")
    parser.add_argument("--results", type=int, default=50_000, help="number of results (50000)")
    parser.add_argument("--official", type=Path, help="a copy of the official code")
    parser.add_argument("--part", type=int, default=20, help="number of videos for the official code (20)")
    parser.add_argument("--folder", type=Path, help="folder of the set, generated if missing (default: temporary)")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        return run_row(options.row, options.folder, options.official)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "annotations.json").exists():
            generate(folder, options.videos, options.results)
        size = sum((folder / f"{name}.json").stat().st_size for name in ("annotations", "results")) / 2**20
        print(f"{options.videos} videos, {CATEGORIES} categories, {options.results} results, {size:.0f} MiB\n")
        print("| | seconds | of the processor | peak MiB |\n|---|---|---|---|")
        measure("plain", "this library", folder)
        measure("identity", "this library, with HOTA, IDF1 and switches", folder)
        if options.official:
            part = part_of(folder, options.part)
            ours = measure("plain", f"this library, {options.part} videos", part)
            theirs = measure("official", f"official code, {options.part} videos", part, options.official)
            assert abs(ours["AP"] - theirs["AP"]) < 1e-9
            print(f"\nofficial / this library: {theirs['cpu'] / ours['cpu']:.1f}, equal AP {ours['AP']:.6f}")


def measure(row: str, what: str, folder: Path, official: Path | None = None) -> dict[str, float]:
    """Run a row in its own process and print it."""
    command = [sys.executable, __file__, "--row", row, "--folder", str(folder)]
    command += ["--official", str(official)] if official else []
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, float] = json.loads(output)
    print(f"| {what} | {found['seconds']:.1f} | {found['cpu']:.1f} | {found['peak']:.0f} |", flush=True)
    return found


if __name__ == "__main__":
    main()
