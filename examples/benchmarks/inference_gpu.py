"""How fast a video is segmented on a GPU, by type and operator, side by side in one run.

    python examples/benchmarks/inference_gpu.py

ResNet-50, 384×640, the weights (made up, of the parity tests) and frames of `inference.py`. float32 is PyTorch's
default on a GPU: convolutions in TF32, products in float32. Every row is the best of three runs after one that is not
counted. Masks are encoded on the CPU, as `model.segment` does for a user. "peak MiB" is what tensors took on the GPU.
"""

from __future__ import annotations

import argparse
import time

import torch
from inference import SIZE, build, use_operator, video

from mdqe.ops import kernel_status, library

ROWS = (
    ("grid_sample", torch.float32),
    ("compiled", torch.float32),
    ("compiled", torch.bfloat16),
    ("compiled", torch.float16),
)


def seconds(call) -> float:
    """Of a call, with what it left to do on the GPU."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def main() -> None:
    """Print the table and the ratios to the first row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=120, help="length of the video (120)")
    options = parser.parse_args()
    if not torch.cuda.is_available() or "cuda" not in kernel_status().compiled:
        raise SystemExit(f"needs a GPU and the CUDA kernels; {kernel_status()}")
    size = f"{options.frames} frames of {SIZE[1]}×{SIZE[0]}"
    print(f"torch {torch.__version__}; {torch.cuda.get_device_name()}; {size}\n")
    print("| operator | type | ms/frame | frames/s | faster than the first row by | peak MiB | instances |")
    print("|---|---|---|---|---|---|---|")
    clip, compiled_for, first = video(options.frames), library.compiled_for, None
    for operator, dtype in ROWS:
        library.compiled_for = compiled_for
        use_operator(operator)
        model = build(dtype).cuda()
        instances = len(model.segment(clip))
        torch.cuda.reset_peak_memory_stats()
        best = min(seconds(lambda: model.segment(clip)) for _ in range(3)) / options.frames  # noqa: B023
        peak = torch.cuda.max_memory_allocated() / 2**20
        first = first or best
        print(f"| {operator} | {str(dtype).removeprefix('torch.')} | {best * 1e3:.2f} | {1 / best:.1f} | "
              f"{first / best:.2f} × | {peak:.0f} | {instances} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
