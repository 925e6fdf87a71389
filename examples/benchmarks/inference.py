"""Times the segmentation of a video and compares it with two simpler schedules in one run.

    python examples/benchmarks/inference.py            # ten minutes on two cores
    python examples/benchmarks/inference.py --frames 12 --clips 1

Each row runs in its own process, which gives its own peak memory. All rows use ResNet-50, frames of 384×640 and the
same weights (those of the parity tests, which are not trained). Rows differ in what is computed for each clip and in
the operator. All use the same code for filtering, tracking and writing masks.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[2] / "tests" / "parity"))

SIZE = (384, 640)
A = "released schedule: the window is encoded for every clip"
B = "windows encoded once, nothing cached"
C = "this library"
ROWS = {
    "a": (A, "grid_sample", torch.float32),
    "b, grid_sample": (B, "grid_sample", torch.float32),
    "c, grid_sample": (C, "grid_sample", torch.float32),
    "b, plain": (B, "plain", torch.float32),
    "c, plain": (C, "plain", torch.float32),
    "c": (C, "compiled", torch.float32),
    "c, bfloat16": (C, "compiled", torch.bfloat16),
}
RATIOS = (
    ("b, grid_sample", "c, grid_sample", 1.3),
    ("b, plain", "c, plain", 1.3),
    ("b, grid_sample", "c", 2.5),
    ("a", "c", 40),
    ("c", "c, bfloat16", 1.5),
)


def build(dtype: torch.dtype, window: int = 30):
    """ResNet-50 with the preset's sizes and the weights of the parity tests."""
    import golden

    from mdqe import MDQE, MDQEConfig
    from mdqe.checkpoint import convert_official

    config = MDQEConfig.preset("r50_ovis_360", test_shorter_edge=None, window_length=window)
    model = MDQE(config)
    model.load_state_dict(convert_official(golden.official_state("r50_ovis"), config))
    return model.to(dtype).eval()


def video(frames: int) -> torch.Tensor:
    """(frames, 384, 640, 3) uint8: the scene of the parity tests, scaled up, played forward and backward."""
    import golden

    scene = golden.core("r50_ovis")["frames"].permute(0, 3, 1, 2)
    scene = F.interpolate(scene.float(), size=SIZE, mode="bilinear").round().byte().permute(0, 2, 3, 1)
    order = list(range(len(scene))) + list(range(len(scene) - 2, 0, -1))
    return scene[[order[i % len(order)] for i in range(frames)]].contiguous()


def use_operator(name: str) -> None:
    """Select "grid_sample" (the definition), "plain" (the library without its kernels) or "compiled"."""
    from mdqe.ops import kernel_status, library
    from mdqe.ops.reference import deform_attn_reference

    if name == "compiled" and "cpu" not in kernel_status().compiled:
        raise SystemExit(f"a row with compiled kernels needs them; {kernel_status()}")
    if name != "compiled":
        library.compiled_for = lambda value: False
    if name == "grid_sample":
        library.deform_attn_gather = deform_attn_reference


class EnoughError(Exception):
    """The requested number of clips has been measured."""


class Schedule:
    """Replaces the session's frame buffer: stores tokens only, and computes everything else for every clip.

    Args:
        model: the model.
        video: all frames, to encode the window of each clip again; None to encode every frame once.
        clips: number of clips to return before `EnoughError`.
    """

    def __init__(self, model, video: torch.Tensor | None, clips: int) -> None:
        self.model, self.video, self.clips = model, video, clips
        self.tokens = {}  # by frame

    def encode(self, model, frames: torch.Tensor, first: int, graphs: None) -> int:
        """Replacement for `encode_frames`."""
        if self.video is None:
            for i in range(len(frames)):
                self.tokens[first + i] = model.encode(frames[None, i : i + 1])
        return first

    def append(self, first: int, start: int) -> None:
        """Forget the frames before `start`."""
        self.tokens = {frame: tokens for frame, tokens in self.tokens.items() if frame >= start}

    def clip(self, start: int, end: int):
        """The `EncodedFrames` [start, end)."""
        from mdqe.inference.frame_buffer import EncodedFrames

        if self.clips == 0:
            raise EnoughError
        self.clips -= 1
        if self.video is not None:
            length = self.model.config.window_length
            first = start // length * length
            window = self.video[first : first + length + end - start - 1].permute(0, 3, 1, 2)
            self.tokens = {first + i: self.model.encode(frame[None, None]) for i, frame in enumerate(window)}
        shapes, mask = self.tokens[start].spatial_shapes, self.tokens[start].padding_mask
        memory = torch.cat([self.tokens[frame].memory for frame in range(start, end)], 1)
        values = self.model.decoder.project_values(memory, mask)
        queries = self.model.query_init.select(memory, shapes)
        return EncodedFrames(start, SIZE, shapes, values, queries, self.model.mask_head(memory, shapes))


def measure(model, frames: torch.Tensor, schedule: str, clips: int) -> tuple[float, str]:
    """Seconds for the video, and whether they are measured or extrapolated."""
    from mdqe.inference import frame_buffer

    number = len(frames) - model.config.test_clip_length + 2
    if schedule != C:
        buffer = Schedule(model, frames if schedule == A else None, clips if schedule == A else number)
        frame_buffer.FrameBuffer, frame_buffer.encode_frames = lambda *sizes: buffer, buffer.encode
    begin = time.perf_counter()
    try:
        model.segment(frames)
    except EnoughError:
        seconds = (time.perf_counter() - begin) * number / clips
        return seconds, f"extrapolated from {clips} of {number} clips"
    return time.perf_counter() - begin, "measured"


def run_row(name: str, frames: int, clips: int, window: int) -> None:
    """Measure one row in this process and print it as JSON."""
    torch.set_num_threads(2)
    schedule, operator, dtype = ROWS[name]
    model, clip = build(dtype, window), video(frames)
    use_operator(operator)
    with torch.inference_mode():
        model.encode(clip[:1].permute(0, 3, 1, 2)[None])  # warm-up
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds, how = measure(model, clip, schedule, clips)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "how": how, "peak_mib": peak / 1024, "model_mib": before / 1024}))


def main() -> None:
    """Run every row and print the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=60, help="length of the video (60)")
    parser.add_argument("--clips", type=int, default=2, help="measured clips of row a; the rest is extrapolated (2)")
    parser.add_argument("--window", type=int, default=30, help="frames of a window (30)")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help="rows to run (all)")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        return run_row(options.row, options.frames, options.clips, options.window)
    found = {}
    print(
        f"torch {torch.__version__}, 2 threads, {options.frames} frames of {SIZE[1]}×{SIZE[0]}, ResNet-50, "
        f"windows of {options.window}\n"
    )
    print("| row | schedule | operator | type | s/frame | frames/s | peak MiB | seconds |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in options.rows:
        schedule, operator, dtype = ROWS[name]
        given = (f"--{option}={getattr(options, option)}" for option in ("frames", "clips", "window"))
        command = [sys.executable, __file__, "--row", name, *given]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        row = found[name] = json.loads(output.splitlines()[-1])
        per_frame = row["seconds"] / options.frames
        print(
            f"| {name} | {schedule} | {operator} | {str(dtype).removeprefix('torch.')} | {per_frame:.2f} "
            f"| {1 / per_frame:.2f} | {row['peak_mib']:.0f} | {row['seconds']:.1f} ({row['how']}) |",
            flush=True,
        )
    print()
    for slow, fast, target in RATIOS:
        if not {slow, fast} <= found.keys():
            continue
        ratio = found[slow]["seconds"] / found[fast]["seconds"]
        print(f"({slow}) / ({fast}): {ratio:.2f} (target: {target})")


if __name__ == "__main__":
    main()
