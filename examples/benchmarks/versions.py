"""Compares the time of whole videos between two versions of this library, or between settings of the process.

    git worktree add ../before COMMIT && (cd ../before && MDQE_BUILD_EXT=1 python setup.py build_ext --inplace)
    python examples/benchmarks/versions.py --before ../before
    python examples/benchmarks/versions.py --before ../before --model r50
    python examples/benchmarks/versions.py --settings      # of the process, also beside a busy process

Versions run alternately, each time in a new process, with frames in memory and all steps from frames to run lengths.
The table has the median and the best time of a frame. `r50` has the preset's sizes and the weights of the parity tests.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
SETTINGS: dict[str, dict[str, str] | None] = {
    "the commands": None,
    "none": {"MDQE_PLAIN": "1"},
    "GOMP_SPINCOUNT=3000": {"GOMP_SPINCOUNT": "3000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}


def measure(model: str, frames: int, repeats: int) -> None:
    """Print the milliseconds per frame of each repeat; runs in a process of its own."""
    try:
        from mdqe.cli.process import set_up_process  # which older versions do not have

        if "MDQE_PLAIN" not in os.environ:
            set_up_process()
    except ImportError:
        pass
    import torch

    from mdqe import MDQE
    from mdqe.data import draw_video

    if model == "tiny":
        network = MDQE.from_pretrained("mdqe:tiny").eval()
        video = draw_video(3, 2, frames=frames, size=(256, 384)).frames
    else:
        import inference

        network, video = inference.build(torch.float32 if model == "r50" else torch.bfloat16), inference.video(frames)
    network.segment(video[:4])
    for _ in range(repeats):
        begin = time.perf_counter()
        network.segment(video)
        print((time.perf_counter() - begin) / frames * 1000, flush=True)


def run(root: Path, args: argparse.Namespace, environment: dict[str, str]) -> list[float]:
    """Measure the version in a folder."""
    places = [root, HERE / "examples" / "benchmarks", HERE / "tests" / "parity", HERE / "tests"]
    environment = os.environ | environment | {"PYTHONPATH": os.pathsep.join(map(str, places))}
    command = [sys.executable, __file__, "--measure", f"--model={args.model}", f"--frames={args.frames}"]
    done = subprocess.run(
        [*command, f"--repeats={args.repeats}"], env=environment, cwd=root, check=True, stdout=subprocess.PIPE
    )
    return [float(line) for line in done.stdout.split()]


def compare(cases: dict[str, tuple[Path, dict[str, str]]], args: argparse.Namespace) -> None:
    """Print a row for each case."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(args.rounds):
        order = list(cases)
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            root, environment = cases[name]
            times[name] += run(root, args, environment)
            print(f"{name}: {times[name][-args.repeats :]}", file=sys.stderr, flush=True)
    medians = {name: statistics.median(values) for name, values in times.items()}
    first = next(iter(medians.values()))
    print("\n| | median, ms per frame | best | speed |\n|---|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.1f} | {min(times[name]):.1f} | {first / median:.2f} × |")


def main() -> None:
    """Compare versions or settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of another version, with its kernels built")
    parser.add_argument("--settings", action="store_true", help="compare settings of the process")
    parser.add_argument("--model", choices=("tiny", "r50", "r50-bfloat16"), default="tiny")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3, help="of the video in each process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(args.model, args.frames, args.repeats)
    cases: dict[str, tuple[Path, dict[str, str]]] = {}
    if args.before:
        if not (args.before / "mdqe" / "__init__.py").exists():  # another installed version would be measured instead
            parser.error(f"--before: {args.before} has no mdqe/__init__.py, expected a checkout")
        cases["before"] = (args.before.resolve(), {})
    cases["this version"] = (HERE, {})
    if args.settings:
        cases = {name: (HERE, environment or {}) for name, environment in SETTINGS.items()}
        print("idle:")
    compare(cases, args)
    if args.settings:
        print("\nbeside a process that uses one core:")
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            compare(cases, args)
        finally:
            busy.kill()


if __name__ == "__main__":
    main()
