"""Times `ClipTracker` alone: milliseconds per clip, by the number of objects.

    python examples/benchmarks/tracker.py            # one thread
    python examples/benchmarks/tracker.py --device cuda

The objects are rectangles that move, with embeddings of their own and noise. Clips of 4 frames start at every frame, at
the mask size of frames of 384×640. On a CPU, times are processor times of this process. The minimum is that of the
fastest clip, without any work for windows. The ratio compares the mean of each row with that of the row before it.
"""

from __future__ import annotations

import argparse
import time

import torch

from mdqe import ClipTracker

MASK_SIZE = (96, 160)
CLIP_LENGTH, CHANNELS, CATEGORIES = 4, 256, 25


def detections(objects: int, start: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Class scores (D, K), mask logits (D, T, h, w) and embeddings (D, C) of the clip that starts at a frame."""
    generator = torch.Generator().manual_seed(start)
    logits = torch.full((objects, CLIP_LENGTH, *MASK_SIZE), -4.0)
    for n in range(objects):
        for t in range(CLIP_LENGTH):
            y, x = (7 * n) % (MASK_SIZE[0] - 12), (13 * n + start + t) % (MASK_SIZE[1] - 16)
            logits[n, t, y : y + 12, x : x + 16] = 4
    own = torch.randn(objects, CHANNELS, generator=torch.Generator().manual_seed(0))
    embeddings = own + 0.1 * torch.randn(objects, CHANNELS, generator=generator)
    scores = torch.full((objects, CATEGORIES), 0.02)
    scores[torch.arange(objects), torch.arange(objects) % CATEGORIES] = 0.8
    return scores.to(device), logits.to(device), embeddings.to(device)


def seconds_per_clip(objects: int, clips: int, device: torch.device) -> tuple[list[float], int]:
    """Time of each clip, including the end of windows but not making the detections; and the number of tracks."""
    tracker = ClipTracker(CLIP_LENGTH)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds = []
    with torch.inference_mode():
        for start in range(clips):
            given = detections(objects, start, device)
            if device.type == "cuda":
                torch.cuda.synchronize()
            began = clock()
            if start and start % tracker.window_length == 0:
                tracker.take_window()
            tracker.update(range(start, start + CLIP_LENGTH), *given)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(clock() - began)
    return seconds[5:], tracker.num_tracks  # the first clips warm up


def main() -> None:
    """Print a row per number of objects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=95)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| objects | ms per clip | minimum | ratio | tracks |\n|---|---|---|---|---|")
    before = None
    for objects in (5, 20, 80):
        seconds, tracks = seconds_per_clip(objects, options.clips, options.device)
        mean = sum(seconds) / len(seconds)
        ratio = "" if before is None else f"{mean / before:.1f}"
        print(f"| {objects} | {1e3 * mean:.2f} | {1e3 * min(seconds):.2f} | {ratio} | {tracks} |", flush=True)
        before = mean


if __name__ == "__main__":
    main()
