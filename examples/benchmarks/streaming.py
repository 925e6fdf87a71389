"""Measures streaming from a camera: frames until a result is final, time per frame, memory, size of a saved session.

    python examples/benchmarks/streaming.py                              # mdqe:tiny, half a minute
    python examples/benchmarks/streaming.py --size 720 1280 --edge 360   # a camera's frames, resized for the model
    python examples/benchmarks/streaming.py --preset r50_ovis_360 --size 360 640 --frames 40 --only frame

One run has two rows: results of each frame as soon as it is final, and of whole windows, as `model.stream` returns
them. The video is a synthetic scene that repeats. A preset has random weights, which find nothing, so its numbers are
the cost of the network without masks to write.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch


def build(preset: str | None, edge: int | None):
    """The bundled model, or a preset with random weights."""
    from mdqe import MDQE, MDQEConfig

    if preset is None:
        return MDQE.from_pretrained("mdqe:tiny", test_shorter_edge=edge)
    torch.manual_seed(0)
    return MDQE(MDQEConfig.preset(preset, test_shorter_edge=edge)).eval()


def resident_mib() -> float:
    """Current memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def run_row(options: argparse.Namespace) -> None:
    """Measure one row in this process and print it as JSON."""
    from mdqe.data import draw_video

    clock = {"wall": time.perf_counter, "cpu": time.process_time}[options.clock]
    torch.set_num_threads(options.threads)
    model = build(options.preset, options.edge)
    scene = draw_video(3, frames=12, size=tuple(options.size)).frames
    order = list(range(12)) + list(range(10, 0, -1))
    session = model.start(score_threshold=0.3, by_window=options.by_window)
    seconds, delays, memory, found = [], [], [], 0
    for t in range(options.frames):
        frame = scene[order[t % len(order)]]
        start = clock()
        results = session.push(frame)
        seconds.append(clock() - start)
        found += sum(len(result) for result in results)
        delays += [t - frame for r in results for frame in range(r.first_frame, r.first_frame + r.num_frames)]
        memory.append(resident_mib())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "session"
        start = clock()
        session.save(path)
        saved = clock() - start
        start = clock()
        model.resume(path)
        resumed = clock() - start
        size = path.stat().st_size / 2**20
    warm = np.array(seconds[model.config.test_clip_length + 2 :]) * 1000
    row = {
        "delay": [int(np.median(delays)), max(delays)],
        "ms": [float(np.median(warm)), float(np.quantile(warm, 0.99)), float(warm.max()), float(warm.mean())],
        "grown_mib": memory[-1] - memory[len(memory) // 2],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "session": [size, saved, resumed],
        "tracks": session.tracker.num_tracks,
        "found": found,
        "clip": [model.config.test_clip_length, model.config.window_length],
    }
    print(json.dumps(row))


def main() -> None:
    """Run both rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", help="a published configuration with random weights (mdqe:tiny)")
    parser.add_argument(
        "--size", type=int, nargs=2, default=[128, 192], metavar=("H", "W"), help="size of the frames (128 192)"
    )
    parser.add_argument("--edge", type=int, help="shorter edge to which frames are resized (default: not resized)")
    parser.add_argument("--frames", type=int, default=300, help="number of frames (300)")
    parser.add_argument("--threads", type=int, default=2, help="(2)")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: CPU time, for a busy machine")
    parser.add_argument("--only", choices=("frame", "window"), help="run only one of the two rows")
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--by-window", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        return run_row(options)
    print(
        f"{options.preset or 'mdqe:tiny'}, {options.frames} frames of {options.size[1]}×{options.size[0]}, "
        f"shorter edge {options.edge or 'unchanged'}, {options.threads} threads, {options.clock} time, "
        f"torch {torch.__version__}\n"
    )
    print("| results | frames until final, median and maximum | ms per push: median, 99 %, maximum | frames/s "
          "| peak MiB | MiB grown in the second half | saved session MiB | s to save | s to resume |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name, flags in (("frame by frame", []), ("by window", ["--by-window"])):
        if options.only and options.only not in name:
            continue
        command = [sys.executable, __file__, *sys.argv[1:], "--row", *flags]
        row = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        median, slow, most, mean = row["ms"]
        size, saved, resumed = row["session"]
        print(
            f"| {name} | {row['delay'][0]}, {row['delay'][1]} | {median:.0f}, {slow:.0f}, {most:.0f} "
            f"| {1000 / mean:.1f} | {row['peak_mib']:.0f} | {row['grown_mib']:+.1f} | {size:.1f} | {saved:.2f} "
            f"| {resumed:.2f} |",
            flush=True,
        )
    print(f"\n{row['tracks']} tracks; clips of {row['clip'][0]} frames, windows of {row['clip'][1]}")


if __name__ == "__main__":
    main()
