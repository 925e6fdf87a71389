"""Segment a folder of videos with Ray Data, on this machine or on a cluster.

pip install "ray[data]" "mdqe[video]"
python examples/ray_videos.py clips -o results --model mdqe:tiny --workers 2

Writes results/NAME.json for each video. `VideoInstances.load` reads these files. A file is complete or does not exist,
so a run that was stopped continues with the remaining videos. A video that fails is tried again and then reported; the
others continue. On a cluster, with --address auto, both folders must be on a disk that all machines share.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray sends usage statistics by default
import ray

from mdqe import MDQE

ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".avi")


class Segmenter:
    """A worker that loads the model once and then segments one video after the other."""

    def __init__(self, model: str, output: Path, attempts: int) -> None:
        self.model = MDQE.from_pretrained(model, device="cuda" if ray.get_gpu_ids() else "cpu")
        self.output, self.attempts = output, attempts

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        path = Path(row["video"])
        for attempt in range(1, self.attempts + 1):
            try:
                result = self.model.segment(path)
                result.save(self.output / f"{path.name}.json", source=str(path))  # atomic
                return {"video": path.name, "attempts": attempt, "instances": len(result), "error": ""}
            except Exception as error:  # the other videos continue, whatever the error
                reason = f"{type(error).__name__}: {error}"
        return {"video": path.name, "attempts": self.attempts, "instances": 0, "error": reason}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, help="a folder of video files")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder for the results")
    parser.add_argument("--model", default="mdqe:tiny", help="a bundled model, a folder or a Hub id")
    parser.add_argument("--workers", type=int, default=2, help="number of models that run in parallel")
    parser.add_argument("--gpus", type=float, default=0, help="number of GPUs per worker")
    parser.add_argument("--attempts", type=int, default=2, help="attempts per video")
    parser.add_argument("--address", help='address of a cluster, such as "auto" (default: this machine only)')
    args = parser.parse_args()
    paths = sorted(path.resolve() for path in args.videos.glob("*") if path.suffix.lower() in ENDINGS)
    if not paths:
        parser.error(f"{args.videos} holds no videos ({', '.join(ENDINGS)})")
    args.output.mkdir(parents=True, exist_ok=True)
    remaining = [path for path in paths if not (args.output / f"{path.name}.json").exists()]
    rows: list[dict[str, Any]] = []
    if remaining:
        ray.init(args.address, num_cpus=None if args.address else args.workers, include_dashboard=False)
        arguments = {"model": args.model, "output": args.output.resolve(), "attempts": args.attempts}
        videos = ray.data.from_items([{"video": str(path)} for path in remaining], override_num_blocks=len(remaining))
        workers = ray.data.ActorPoolStrategy(size=min(args.workers, len(remaining)))
        rows = videos.map(
            Segmenter, fn_constructor_kwargs=arguments, compute=workers, num_cpus=1, num_gpus=args.gpus or None
        ).take_all()
    for row in sorted(rows, key=lambda row: row["video"]):
        outcome = f"failed: {row['error']}" if row["error"] else f"{row['instances']} instances"
        print(f"{row['video']}: {outcome}" + (f" (attempt {row['attempts']})" if row["attempts"] > 1 else ""))
    failed = sum(bool(row["error"]) for row in rows)
    print(f"{len(rows) - failed} segmented, {len(paths) - len(remaining)} done before, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
