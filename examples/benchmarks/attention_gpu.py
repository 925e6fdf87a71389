"""Times deformable attention on a GPU against other kernels for it: `deform_attn.py --device cuda`.

The others: the classical mapping of one thread per channel (`classical_attention.cu`, float32, needs nvcc) and, where
it can be imported, deformops (`pip install deformops`, Python 3.12 or later), by its Triton and its CUDA kernels.

Times are medians over runs of 20 calls between two CUDA events, so they hold launching; the data are the same in every
call, and what fits into the L2 cache stays there. Memory is the peak above what was allocated before the call.
"""

import itertools
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from attention_cases import SHAPES, STARTS, TOKENS, make_case
from classical_attention import Classical, compile_library
from torch import Tensor

from mdqe.ops import deform_attn, deform_attn_fused, kernel_status

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]  # of value, locations, weights
Results = dict[tuple[str, str, int], tuple[float, float]]  # seconds and bytes by kernel, pass and number of frames
CALLS = 20
FRAMES = (1, 4, 30)
FLOOR = 10.5e-6  # seconds a frame in float32: 334 MB of corners' rows through the L1 and L2 caches of an H200


class Kernel(NamedTuple):
    """A kernel with the types of value and weights that it takes; locations are float32."""

    value: torch.dtype
    weights: torch.dtype
    attention: Attention


def contestants() -> dict[str, Kernel]:
    """What can run here, by name; on stderr, a line for each that cannot and why."""
    shapes, starts = torch.tensor(SHAPES, device="cuda"), torch.tensor(STARTS, device="cuda")

    def ours(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return deform_attn(value, SHAPES, locations, weights)

    found = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        found[f"ours, {name(dtype)}"] = Kernel(dtype, torch.float32, ours)
    try:
        major, minor = torch.cuda.get_device_capability()
        library = compile_library(Path(tempfile.mkdtemp()), (f"{major}{minor}",))
        classical = Classical(library, lambda: torch.cuda.current_stream().cuda_stream)
        found["classical, float32"] = Kernel(
            torch.float32, torch.float32, lambda v, loc, w: classical(v, shapes, starts, loc, w)
        )
    except Exception as error:
        left_out("classical", error)
    try:
        from deformops.registry import Backend, msda
    except Exception as error:  # a SyntaxError under a Python that is too old for it
        left_out("deformops", error)
        return found
    for backend in (Backend.TRITON, Backend.CUDA):
        for dtype in (torch.float32, torch.bfloat16):

            def peer(value: Tensor, locations: Tensor, weights: Tensor, backend: object = backend) -> Tensor:
                return msda(value, shapes, starts, locations, weights, backend=backend)

            case = make_case("rays", 1, 200, 32, "cuda", dtype)
            try:
                peer(case.value, case.locations, case.weights.to(dtype))
            except Exception as error:  # of any of its layers: not compiled, not supported, no Triton
                left_out(f"deformops {backend.name}, {name(dtype)}", error)
            else:
                found[f"deformops {backend.name}, {name(dtype)}"] = Kernel(dtype, dtype, peer)
    return found


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def left_out(who: str, error: Exception) -> None:
    reason = (str(error) or type(error).__name__).strip().splitlines()[0]
    print(f"{who} is left out: {type(error).__name__}: {reason}", file=sys.stderr)


def measure(call: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Seconds a call, and the most bytes that a call holds at once."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    times = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(CALLS):
            call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / CALLS)
    return statistics.median(times), peak


def passes(attention: Attention, inputs: list[Tensor], rounds: int) -> dict[str, tuple[float, float]]:
    """Seconds and bytes of each pass; the backward pass gives the gradients of all inputs."""
    with torch.no_grad():
        forward = measure(lambda: attention(*inputs), rounds)
    with torch.enable_grad():
        output = attention(*inputs)
        grad = torch.randn_like(output)
        backward = measure(lambda: torch.autograd.grad(output, inputs, grad, retain_graph=True), rounds)
    return {"forward": forward, "backward": backward}


def table(rounds: int) -> Results:
    """Print and return what every kernel took."""
    results = {}
    print(
        "| kernel | pass | frames | µs | µs per frame | GFLOP/s | GB/s | peak MiB |\n|---|---|---|---|---|---|---|---|"
    )
    everyone = contestants()
    for frames in FRAMES:
        for who, kernel in everyone.items():
            case = make_case("rays", frames, TOKENS, 32, "cuda", kernel.value)
            case.weights = case.weights.to(kernel.weights)
            inputs = [tensor.requires_grad_() for tensor in (case.value, case.locations, case.weights)]
            for part, (time, peak) in passes(kernel.attention, inputs, rounds).items():
                results[who, part, frames] = time, peak
                work = 1 if part == "forward" else 2
                rates = f"{case.flops(work) / time / 1e9:.0f} | {case.bytes(work) / time / 1e9:.0f}"
                print(f"| {who} | {part} | {frames} | {time * 1e6:.1f} | {time / frames * 1e6:.2f} | {rates} | "
                      f"{peak / 2**20:.1f} |", flush=True)  # fmt: skip
    return results


def ratios(results: Results) -> None:
    """What is asked of the kernels, beside what was reached."""
    who = {key[0] for key in results}
    pairs = [
        ("ours, float32", "classical, float32", {"forward": "3 ×", "backward": "2 ×"}),
        ("ours, bfloat16", "ours, float32", {"forward": "1.5 ×"}),
        *[
            (f"ours, {w.split(', ')[1]}", w, {"forward": "1 ×", "backward": "1 ×"})
            for w in sorted(who)
            if w.startswith("deformops")
        ],
    ]
    print("\n| | against | pass | frames | faster by | asked | peak memory, theirs / ours |")
    print("|---|---|---|---|---|---|---|")
    for ours, other, asks in pairs:
        if other not in who:
            continue
        for part, asked in asks.items():
            for frames in FRAMES:
                (theirs, their_peak), (mine, my_peak) = results[other, part, frames], results[ours, part, frames]
                memory = f"{their_peak / my_peak:.2f} ×" if my_peak else ""
                print(f"| {ours} | {other} | {part} | {frames} | {theirs / mine:.2f} × | {asked} | {memory} |")


def fused(rounds: int) -> None:
    """The fused operator beside softmax and locations by PyTorch and then the operator."""
    print("\n| type | pass | frames | fused, µs per frame | in steps, µs per frame | faster by |")
    print("|---|---|---|---|---|---|")
    for dtype, frames in itertools.product((torch.float32, torch.bfloat16), FRAMES[1:]):
        case = make_case("rays", frames, TOKENS, 32, "cuda", dtype)
        inputs = [tensor.requires_grad_() for tensor in (case.value, case.offsets, case.logits)]

        def steps(value: Tensor, offsets: Tensor, logits: Tensor, centers: Tensor = case.centers) -> Tensor:
            locations = centers[:, :, None, None, None] + offsets / 8
            weights = logits.flatten(-2).softmax(-1).view_as(logits)  # (B, Q, H, L, P)
            return deform_attn(value, SHAPES, locations, weights)

        def at_once(value: Tensor, offsets: Tensor, logits: Tensor, centers: Tensor = case.centers) -> Tensor:
            return deform_attn_fused(value, SHAPES, centers, offsets, logits)

        times = [passes(attention, inputs, rounds) for attention in (at_once, steps)]
        for part in times[0]:
            one, many = (time[part][0] / frames * 1e6 for time in times)
            print(f"| {name(dtype)} | {part} | {frames} | {one:.2f} | {many:.2f} | {many / one:.2f} × |", flush=True)


def growth(results: Results) -> None:
    """Time per added frame, and the forward pass beside its floor."""
    steps = list(itertools.pairwise(FRAMES))
    print("\n| µs per added frame | pass | " + " | ".join(f"{few} to {many}" for few, many in steps) + " |")
    print("|---|---|" + "---|" * len(steps))
    for who, part in dict.fromkeys(key[:2] for key in results):
        time = {frames: results[who, part, frames][0] * 1e6 for frames in FRAMES}
        added = [f"{(time[many] - time[few]) / (many - few):.2f}" for few, many in steps]
        print(f"| {who} | {part} | " + " | ".join(added) + " |")
    most = max(FRAMES)
    time = results["ours, float32", "forward", most][0] / most
    print(f"\nforward in float32 at {most} frames: {time * 1e6:.1f} µs a frame, {time / FLOOR:.2f} times the floor of "
          f"{FLOOR * 1e6:.1f} µs (asked: at most 2)")  # fmt: skip


def main(rounds: int) -> None:
    """Print all of it."""
    if not torch.cuda.is_available():
        raise SystemExit("--device cuda needs a GPU that torch can use")
    print(f"torch {torch.__version__}; {torch.cuda.get_device_name()}; {kernel_status()}\n")
    results = table(max(rounds, 3))
    ratios(results)
    growth(results)
    fused(max(rounds, 3))
