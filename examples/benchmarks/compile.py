"""Measures the effect of `MDQE.compile`: times of each part with and without compilation, in one run.

    python examples/benchmarks/compile.py                                  # the bundled model
    python examples/benchmarks/compile.py --preset r50_ovis_360 --size 192 320

A row has a part of the model, its time without and with compilation (medians of alternating runs, in milliseconds) and
their ratio. The last two rows time `encode_frames` and `decode` of the whole model after `compile()`. The time does not
depend on the weights; a preset has random weights. Compiling takes minutes and needs a C++ compiler.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable

import torch

from mdqe import MDQE, MDQEConfig
from mdqe.inference.frame_buffer import EncodedFrames, encode_frames
from mdqe.modeling.network import COMPILED_PARTS

ALL_PARTS = ("backbone", "encoder", "decoder", "mask_head")


def main() -> None:
    """Run the command line: a table on stdout."""
    parser = argparse.ArgumentParser(description="Times of the model's parts, with and without compilation.")
    parser.add_argument("--model", default="mdqe:tiny", help="a folder or a bundled model (default: %(default)s)")
    parser.add_argument("--preset", help="a published configuration with random weights, instead of --model")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), default=(128, 192), help="size of the frames")
    parser.add_argument("--runs", type=int, default=9, help="runs of each part (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = MDQE(MDQEConfig.preset(args.preset)).eval() if args.preset else MDQE.from_pretrained(args.model)
    model = model.to(args.device)
    single = copy.deepcopy(model)
    for name in ALL_PARTS:
        getattr(single, name).compile(dynamic=True, fullgraph=True)
    whole = copy.deepcopy(model)
    whole.compile()
    frames = torch.randint(0, 256, (1, 3, *args.size), dtype=torch.uint8)
    length = model.config.test_clip_length
    with torch.inference_mode():
        clip = encode_frames(model, frames.expand(length, -1, -1, -1), 0)
        rows = {
            **{
                name: (part_call(model, name, frames, clip), part_call(single, name, frames, clip))
                for name in ALL_PARTS
            },
            "encode a frame": tuple((lambda m=m: encode_frames(m, frames, 0)) for m in (model, whole)),
            "decode a clip": tuple(
                (lambda m=m: m.decode(clip.queries, clip.values, clip.spatial_shapes)) for m in (model, whole)
            ),
        }
        print(f"{args.preset or args.model}, {args.size[1]}x{args.size[0]}, {args.device}, {args.threads} threads")
        print(f"compile() compiles: {', '.join(COMPILED_PARTS)}")
        print(f"{'':16}{'plain':>10}{'compiled':>10}{'ratio':>8}")
        for name, calls in rows.items():
            print(f"compiling {name}", file=sys.stderr, flush=True)
            for call in calls:  # compile, and warm up
                call()
                call()
            plain, compiled = interleaved(calls, args.runs, args.device)
            print(f"{name:16}{plain:8.1f}ms{compiled:8.1f}ms{plain / compiled:8.2f}", flush=True)


def part_call(model: MDQE, name: str, frames: torch.Tensor, clip: EncodedFrames) -> Callable[[], object]:
    """A call of one part, with its inputs for these frames."""
    part, device = getattr(model, name), model.device
    height, width = clip.padded_size
    pixels = torch.randn(1, 3, height, width, device=device)
    if name == "backbone":
        return lambda: part(pixels)
    if name == "encoder":
        maps = model.backbone(pixels)
        return lambda: part(maps, 1, clip.padded_size, [clip.size])
    if name == "mask_head":
        memory = model.encode(frames[None].to(device)).memory
        return lambda: part(memory, clip.spatial_shapes)
    queries = model.associate(clip.queries, 2.5)
    return lambda: part(queries.content, queries.coords, clip.values, clip.spatial_shapes)


def interleaved(calls: tuple[Callable[[], object], ...], runs: int, device: str) -> list[float]:
    """Median milliseconds of each call. The calls alternate, so other load affects all of them equally."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(runs):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if device != "cpu":
                torch.cuda.synchronize()
            taken.append((time.perf_counter() - start) * 1000)
    return [statistics.median(taken) for taken in times]


if __name__ == "__main__":
    main()
