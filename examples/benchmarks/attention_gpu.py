"""Times deformable attention on a GPU against other kernels: `deform_attn.py --device cuda`.

The other kernels are the classical one with one thread per channel (`classical_attention.cu`, float32, needs nvcc) and,
if it is installed, deformops (`pip install deformops`, Python 3.12 or later) with its Triton and its CUDA kernels.

Times are medians over runs of 20 calls between two CUDA events, so they include launch overhead. The data are the same
in every call; what fits into the L2 cache stays there. Memory is the peak above the memory allocated before the call.
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

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]  # takes value, locations, weights
Results = dict[tuple[str, str, int], tuple[float, float]]  # seconds and bytes, by kernel, pass and number of frames
CALLS = 20
FRAMES = (1, 4, 30)
FLOOR = 10.5e-6  # seconds per frame in float32: 334 MB of rows through the L1 and L2 caches of an H200


class Kernel(NamedTuple):
    """A kernel and the types of value and weights that it takes. Locations are float32."""

    value: torch.dtype
    weights: torch.dtype
    attention: Attention


def available_kernels() -> dict[str, Kernel]:
    """Kernels that run on this machine, by name. Reports on stderr why another one does not run."""
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
        report_skipped("classical", error)
    try:
        from deformops.registry import Backend, msda
    except Exception as error:  # a SyntaxError if Python is too old for it
        report_skipped("deformops", error)
        return found
    for backend in (Backend.TRITON, Backend.CUDA):
        for dtype in (torch.float32, torch.bfloat16):

            def peer(value: Tensor, locations: Tensor, weights: Tensor, backend: object = backend) -> Tensor:
                return msda(value, shapes, starts, locations, weights, backend=backend)

            case = make_case("rays", 1, 200, 32, "cuda", dtype)
            try:
                peer(case.value, case.locations, case.weights.to(dtype))
            except Exception as error:  # not compiled, not supported, or no Triton
                report_skipped(f"deformops {backend.name}, {name(dtype)}", error)
            else:
                found[f"deformops {backend.name}, {name(dtype)}"] = Kernel(dtype, dtype, peer)
    return found


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def report_skipped(kernel: str, error: Exception) -> None:
    reason = (str(error) or type(error).__name__).strip().splitlines()[0]
    print(f"{kernel} is skipped: {type(error).__name__}: {reason}", file=sys.stderr)


def measure(call: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Seconds per call, and peak memory of a call in bytes."""
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
    """Seconds and bytes of each pass. The backward pass computes the gradients of all inputs."""
    with torch.no_grad():
        forward = measure(lambda: attention(*inputs), rounds)
    with torch.enable_grad():
        output = attention(*inputs)
        grad = torch.randn_like(output)
        backward = measure(lambda: torch.autograd.grad(output, inputs, grad, retain_graph=True), rounds)
    return {"forward": forward, "backward": backward}


def table(rounds: int) -> Results:
    """Print and return the results of every kernel."""
    results = {}
    print(
        "| kernel | pass | frames | µs | µs per frame | GFLOP/s | GB/s | peak MiB |\n|---|---|---|---|---|---|---|---|"
    )
    kernels = available_kernels()
    for frames in FRAMES:
        for kernel_name, kernel in kernels.items():
            case = make_case("rays", frames, TOKENS, 32, "cuda", kernel.value)
            case.weights = case.weights.to(kernel.weights)
            inputs = [tensor.requires_grad_() for tensor in (case.value, case.locations, case.weights)]
            for part, (time, peak) in passes(kernel.attention, inputs, rounds).items():
                results[kernel_name, part, frames] = time, peak
                work = 1 if part == "forward" else 2
                rates = f"{case.flops(work) / time / 1e9:.0f} | {case.bytes(work) / time / 1e9:.0f}"
                print(f"| {kernel_name} | {part} | {frames} | {time * 1e6:.1f} | {time / frames * 1e6:.2f} | {rates} | "
                      f"{peak / 2**20:.1f} |", flush=True)  # fmt: skip
    return results


def ratios(results: Results) -> None:
    """Print the ratios between kernels and their targets."""
    names = {key[0] for key in results}
    pairs = [
        ("ours, float32", "classical, float32", {"forward": "3 ×", "backward": "2 ×"}),
        ("ours, bfloat16", "ours, float32", {"forward": "1.5 ×"}),
        *[
            (f"ours, {w.split(', ')[1]}", w, {"forward": "1 ×", "backward": "1 ×"})
            for w in sorted(names)
            if w.startswith("deformops")
        ],
    ]
    print("\n| | against | pass | frames | ratio | target | peak memory, theirs / ours |")
    print("|---|---|---|---|---|---|---|")
    for ours, other, targets in pairs:
        if other not in names:
            continue
        for part, target in targets.items():
            for frames in FRAMES:
                (theirs, their_peak), (mine, my_peak) = results[other, part, frames], results[ours, part, frames]
                memory = f"{their_peak / my_peak:.2f} ×" if my_peak else ""
                print(f"| {ours} | {other} | {part} | {frames} | {theirs / mine:.2f} × | {target} | {memory} |")


def fused(rounds: int) -> None:
    """Compare the fused operator with PyTorch's softmax and sum followed by the operator."""
    print("\n| type | pass | frames | fused, µs per frame | separate steps, µs per frame | ratio |")
    print("|---|---|---|---|---|---|")
    for dtype, frames in itertools.product((torch.float32, torch.bfloat16), FRAMES[1:]):
        case = make_case("rays", frames, TOKENS, 32, "cuda", dtype)
        inputs = [tensor.requires_grad_() for tensor in (case.value, case.offsets, case.logits)]

        def steps(value: Tensor, offsets: Tensor, logits: Tensor, centers: Tensor = case.centers) -> Tensor:
            locations = centers[:, :, None, None, None] + offsets / 8
            weights = logits.flatten(-2).softmax(-1).view_as(logits)  # (B, Q, H, L, P)
            return deform_attn(value, SHAPES, locations, weights)

        def fused_operator(value: Tensor, offsets: Tensor, logits: Tensor, centers: Tensor = case.centers) -> Tensor:
            return deform_attn_fused(value, SHAPES, centers, offsets, logits)

        times = [passes(attention, inputs, rounds) for attention in (fused_operator, steps)]
        for part in times[0]:
            one, many = (time[part][0] / frames * 1e6 for time in times)
            print(f"| {name(dtype)} | {part} | {frames} | {one:.2f} | {many:.2f} | {many / one:.2f} × |", flush=True)


def growth(results: Results) -> None:
    """Print the time per added frame, and the forward pass relative to its floor."""
    steps = list(itertools.pairwise(FRAMES))
    print("\n| µs per added frame | pass | " + " | ".join(f"{few} to {many}" for few, many in steps) + " |")
    print("|---|---|" + "---|" * len(steps))
    for kernel_name, part in dict.fromkeys(key[:2] for key in results):
        time = {frames: results[kernel_name, part, frames][0] * 1e6 for frames in FRAMES}
        added = [f"{(time[many] - time[few]) / (many - few):.2f}" for few, many in steps]
        print(f"| {kernel_name} | {part} | " + " | ".join(added) + " |")
    most = max(FRAMES)
    time = results["ours, float32", "forward", most][0] / most
    print(f"\nforward in float32 at {most} frames: {time * 1e6:.1f} µs per frame, {time / FLOOR:.2f} times the "
          f"floor of {FLOOR * 1e6:.1f} µs (target: at most 2)")  # fmt: skip


def main(rounds: int) -> None:
    """Print all tables."""
    if not torch.cuda.is_available():
        raise SystemExit("--device cuda needs a GPU that torch supports")
    print(f"torch {torch.__version__}; {torch.cuda.get_device_name()}; {kernel_status()}\n")
    results = table(max(rounds, 3))
    ratios(results)
    growth(results)
    fused(max(rounds, 3))
