"""Segment a folder of videos with Ray Data, on this machine or on a cluster.

pip install "ray[data]" "mdqe[video]"
python examples/ray_videos.py clips -o results --model mdqe:tiny --workers 2

Writes results/NAME.json for each video, which `VideoInstances.load` reads. A file is whole or not there, so a run that
was stopped goes on where it was. A video that fails is tried again, then reported; the others go on. On a cluster, with
--address auto, both folders lie on a disk that all machines share.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use unless told otherwise
import ray

from mdqe import MDQE

ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".avi")


class Segmenter:
    """A worker: it loads the model once, then takes one video after the other."""

    def __init__(self, model: str, output: Path, attempts: int) -> None:
        self.model = MDQE.from_pretrained(model, device="cuda" if ray.get_gpu_ids() else "cpu")
        self.output, self.attempts = output, attempts

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        path = Path(row["video"])
        for attempt in range(1, self.attempts + 1):
            try:
                result = self.model.segment(path)
                result.save(self.output / f"{path.name}.json", source=str(path))  # whole or not there
                return {"video": path.name, "attempts": attempt, "instances": len(result), "error": ""}
            except Exception as error:  # whatever is wrong with a video, the others go on
                reason = f"{type(error).__name__}: {error}"
        return {"video": path.name, "attempts": self.attempts, "instances": 0, "error": reason}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, help="a folder of video files")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder for the results")
    parser.add_argument("--model", default="mdqe:tiny", help="a bundled model, a folder or a Hub id")
    parser.add_argument("--workers", type=int, default=2, help="how many models work at a time")
    parser.add_argument("--gpus", type=float, default=0, help="of each worker")
    parser.add_argument("--attempts", type=int, default=2, help="at a video, before it is given up")
    parser.add_argument("--address", help='of a cluster, such as "auto" (default: a cluster of this machine alone)')
    args = parser.parse_args()
    paths = sorted(path.resolve() for path in args.videos.glob("*") if path.suffix.lower() in ENDINGS)
    if not paths:
        parser.error(f"{args.videos} holds no videos ({', '.join(ENDINGS)})")
    args.output.mkdir(parents=True, exist_ok=True)
    left = [path for path in paths if not (args.output / f"{path.name}.json").exists()]
    rows: list[dict[str, Any]] = []
    if left:
        ray.init(args.address, num_cpus=None if args.address else args.workers, include_dashboard=False)
        given = {"model": args.model, "output": args.output.resolve(), "attempts": args.attempts}
        videos = ray.data.from_items([{"video": str(path)} for path in left], override_num_blocks=len(left))
        workers = ray.data.ActorPoolStrategy(size=min(args.workers, len(left)))
        rows = videos.map(
            Segmenter, fn_constructor_kwargs=given, compute=workers, num_cpus=1, num_gpus=args.gpus or None
        ).take_all()
    for row in sorted(rows, key=lambda row: row["video"]):
        outcome = f"failed: {row['error']}" if row["error"] else f"{row['instances']} instances"
        print(f"{row['video']}: {outcome}" + (f" (attempt {row['attempts']})" if row["attempts"] > 1 else ""))
    failed = sum(bool(row["error"]) for row in rows)
    print(f"{len(rows) - failed} segmented, {len(paths) - len(left)} done before, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
