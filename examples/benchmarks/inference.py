"""How fast a video is segmented, against two simpler schedules, side by side in one run.

    python examples/benchmarks/inference.py            # ten minutes on two cores
    python examples/benchmarks/inference.py --frames 12 --clips 1

Each row is a process of its own, so that its peak resident memory is its own. ResNet-50, 384×640, the same weights
(made up, of the parity tests) and frames for all.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[2] / "tests" / "parity"))

SIZE = (384, 640)
WINDOW = 30
ROWS = {
    "a": ("released schedule: the window encoded anew for every clip", "grid_sample", torch.float32),
    "b": ("windows encoded once, nothing cached", "grid_sample", torch.float32),
    "c, grid_sample": ("this library", "grid_sample", torch.float32),
    "c": ("this library", "compiled", torch.float32),
    "c, bfloat16": ("this library", "compiled", torch.bfloat16),
}


def build(dtype: torch.dtype):
    """ResNet-50 at the preset's sizes, weights of the parity tests."""
    import golden

    from mdqe import MDQE, MDQEConfig
    from mdqe.checkpoint import convert_official

    config = MDQEConfig.preset("r50_ovis_360", test_shorter_edge=None, window_length=WINDOW)
    model = MDQE(config)
    model.load_state_dict(convert_official(golden.official_state("r50_ovis"), config))
    return model.to(dtype).eval()


def video(frames: int) -> torch.Tensor:
    """(frames, 384, 640, 3) uint8: the parity tests' scene, enlarged, forth and back."""
    import golden

    scene = golden.core("r50_ovis")["frames"].permute(0, 3, 1, 2)
    scene = F.interpolate(scene.float(), size=SIZE, mode="bilinear").round().byte().permute(0, 2, 3, 1)
    forth_and_back = list(range(len(scene))) + list(range(len(scene) - 2, 0, -1))
    return scene[[forth_and_back[i % len(forth_and_back)] for i in range(frames)]].contiguous()


def use_grid_sample() -> None:
    """Let the modules call the oracle instead of the library's own choice of operator."""
    import mdqe.decoder
    from mdqe.ops.reference import deform_attn_fused_reference

    def grid_sample(value, shapes, centers, offsets, logits, starts=None):
        rows = [sum(h * w for h, w in shapes[:i]) for i in range(len(shapes))]
        return deform_attn_fused_reference(value, list(shapes), list(starts or rows), centers, offsets, logits)

    sys.modules["mdqe.ops.attention"].deform_attn_fused = grid_sample
    mdqe.decoder.deform_attn_fused = grid_sample


def write_out(window) -> None:
    """The window's masks as run lengths."""
    from mdqe.inference.result import VideoInstances
    from mdqe.inference.windows import window_masks

    scores, labels = window.class_scores[window.track_ids].max(-1)
    masks = (m.numpy() for chunk in window_masks(window.mask_logits, SIZE, SIZE) for m in chunk)
    VideoInstances.from_masks(scores, labels, window.track_ids, masks, size=SIZE, frames=window.mask_logits.shape[1])


def run_simple(model, frames: torch.Tensor, again: bool, clips: int) -> tuple[float, str]:
    """Seconds for the video, encoding each window once or `again` for every clip, and how they were found."""
    from mdqe.inference.filtering import filter_clip
    from mdqe.inference.tracker import ClipTracker

    c = model.config
    tracker = ClipTracker(c.test_clip_length, c.clip_stride, c.window_length, c.score_threshold)
    starts = range(0, len(frames) - c.test_clip_length + 2)
    begin, tokens = time.perf_counter(), None
    for start in starts:
        first = start // WINDOW * WINDOW
        if start == first and start:
            write_out(tracker.take_window())
        if again or start == first:
            window = frames[first : first + WINDOW + c.test_clip_length - 1].permute(0, 3, 1, 2)
            tokens = [model.encode(part[None]) for part in window.split(4)]
            memory = torch.cat([t.memory for t in tokens], 1)
        shapes, mask = tokens[0].spatial_shapes, tokens[0].padding_mask
        clip = memory[:, start - first : start - first + c.test_clip_length]
        _, prediction = model.decode(
            model.query_init.select(clip, shapes), model.decoder.project_values(clip, mask), shapes
        )
        found = filter_clip(
            prediction.class_logits[0].sigmoid(),
            prediction.mask_coefficients[0],
            prediction.embeddings[0],
            model.mask_head(clip, shapes)[0],
            score_threshold=c.score_threshold,
            max_detections=10 * c.detections_per_image,
        )
        tracker.update(range(start, start + clip.shape[1]), *found)
        if again and start + 1 == clips:
            seconds = (time.perf_counter() - begin) * len(starts) / clips
            return seconds, f"extrapolated from {clips} of {len(starts)} clips"
    write_out(tracker.take_window(last=True))
    return time.perf_counter() - begin, "measured"


def run_row(name: str, frames: int, clips: int) -> None:
    """Measure one row in this process and print it as JSON."""
    torch.set_num_threads(2)
    _, operator, dtype = ROWS[name]
    model, clip = build(dtype), video(frames)
    if operator == "grid_sample":
        use_grid_sample()
    with torch.inference_mode():
        model.encode(clip[:1].permute(0, 3, 1, 2)[None])  # warm-up
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if name[0] == "c":
            begin = time.perf_counter()
            model.segment(clip)
            seconds, how = time.perf_counter() - begin, "measured"
        else:
            seconds, how = run_simple(model, clip, again=name[0] == "a", clips=clips)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "how": how, "peak_mib": peak / 1024, "model_mib": before / 1024}))


def main() -> None:
    """Run every row and print the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=60, help="length of the video (60)")
    parser.add_argument("--clips", type=int, default=2, help="clips measured of row a, the rest extrapolated (2)")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        return run_row(options.row, options.frames, options.clips)
    found = {}
    print(f"torch {torch.__version__}, 2 threads, {options.frames} frames of {SIZE[1]}×{SIZE[0]}, ResNet-50\n")
    print("| row | schedule | operator | type | s/frame | frames/s | peak MiB | seconds |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name, (schedule, operator, dtype) in ROWS.items():
        command = [sys.executable, __file__, "--row", name, f"--frames={options.frames}", f"--clips={options.clips}"]
        disable = "1" if operator != "compiled" else "0"
        output = subprocess.run(
            command, env={**os.environ, "MDQE_DISABLE_EXT": disable}, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        row = found[name] = json.loads(output.splitlines()[-1])
        per_frame = row["seconds"] / options.frames
        print(
            f"| {name} | {schedule} | {operator} | {str(dtype).removeprefix('torch.')} | {per_frame:.2f} "
            f"| {1 / per_frame:.2f} | {row['peak_mib']:.0f} | {row['seconds']:.1f} ({row['how']}) |",
            flush=True,
        )
    print()
    for slow, fast, wanted in (
        ("b", "c, grid_sample", 1.3),
        ("b", "c", 2.5),
        ("a", "c", 40),
        ("c", "c, bfloat16", 1.5),
    ):
        ratio = found[slow]["seconds"] / found[fast]["seconds"]
        print(f"{slow} / {fast}: {ratio:.2f} (wanted: {wanted})")


if __name__ == "__main__":
    main()
