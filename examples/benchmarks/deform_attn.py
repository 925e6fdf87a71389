"""Times deformable attention against its plain PyTorch reference, side by side in one run.

    python examples/benchmarks/deform_attn.py                 # two threads, all cases
    python examples/benchmarks/deform_attn.py --device cuda   # the same problems on a GPU

Every case alternates between the reference (`grid_sample` per level) and the kernels and keeps the best time of each.
"rays" are locations as the encoder makes them when training starts, with noise; "uniform" are anywhere in the image.
"""

import argparse
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mdqe.ops import deform_attn, deform_attn_fused, kernel_status
from mdqe.ops.kernels import limit_cpu
from mdqe.ops.reference import deform_attn_fused_reference, deform_attn_reference

SHAPES = ((48, 80), (24, 40), (12, 20), (6, 10))  # a frame of 384 x 640 at strides 8 to 64
STARTS = (0, 3840, 4800, 5040)
TOKENS, HEADS, POINTS = 5100, 8, 4


@dataclass
class Case:
    """Tensors of one problem, in both forms of the operator."""

    value: Tensor
    centers: Tensor
    offsets: Tensor
    logits: Tensor
    locations: Tensor
    weights: Tensor

    def kernel(self) -> Tensor:
        return deform_attn(self.value, SHAPES, self.locations, self.weights)

    def reference(self) -> Tensor:
        return deform_attn_reference(self.value, SHAPES, STARTS, self.locations, self.weights)

    def fused_kernel(self) -> Tensor:
        return deform_attn_fused(self.value, SHAPES, self.centers, self.offsets, self.logits)

    def fused_reference(self) -> Tensor:
        return deform_attn_fused_reference(self.value, SHAPES, STARTS, self.centers, self.offsets, self.logits)

    def flops(self) -> float:
        return 8.0 * self.weights.numel() * self.value.shape[3]  # four corners, a multiplication and an addition

    def bytes(self) -> float:
        output = self.weights.shape[0] * self.weights.shape[1] * self.value.shape[2] * self.value.shape[3]
        moved = (self.value, self.locations, self.weights)
        return sum(x.numel() * x.element_size() for x in moved) + output * self.value.element_size()


def grid_centers() -> Tensor:
    """The centre of every token, (1, N, 2)."""
    grids = [torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij") for h, w in SHAPES]
    return torch.cat([torch.stack((x, y), -1).flatten(0, 1) for y, x in grids])[None]


def make_case(kind: str, batch: int, queries: int, channels: int, device: str, dtype: torch.dtype) -> Case:
    torch.manual_seed(0)
    size = (batch, queries, HEADS, len(SHAPES), POINTS)
    centers = grid_centers()[:, :queries] if queries > 196 else torch.rand(1, queries, 2)
    angle = torch.arange(HEADS) * (2 * math.pi / HEADS)
    ray = torch.stack((angle.cos(), angle.sin()), -1)
    ray = (ray / ray.abs().amax(-1, keepdim=True))[:, None, None]  # (H, 1, 1, 2)
    reach = 0.05 * torch.arange(1, 5)[:, None] * torch.arange(1, POINTS + 1) / POINTS  # (L, P)
    offsets = 8 * ray * reach[..., None] + 0.05 * torch.randn(*size, 2)
    if kind == "uniform":
        offsets = 8 * (torch.rand(*size, 2) - centers[:, :, None, None, None])
    logits = torch.randn(size)
    tensors = [
        torch.randn(batch, TOKENS, HEADS, channels).to(dtype),
        centers,
        offsets.to(dtype),
        logits.to(dtype),
        centers[:, :, None, None, None] + offsets / 8,
        logits.flatten(-2).softmax(-1).view_as(logits),
    ]
    return Case(*(tensor.to(device) for tensor in tensors))


def seconds(call: Callable[[], object], device: str) -> float:
    if device == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def race(slow: Callable[[], object], fast: Callable[[], object], device: str, rounds: int) -> tuple[float, float]:
    """The best time of each; every round runs the slow one once and the fast one five times."""
    times = ([], [])
    slow(), fast()
    for _ in range(rounds):
        times[0].append(seconds(slow, device))
        times[1].extend(seconds(fast, device) for _ in range(5))
    return min(times[0]), min(times[1])


def with_backward(call: Callable[[], Tensor], case: Case, names: tuple[str, ...]) -> Callable[[], None]:
    inputs = [getattr(case, name).requires_grad_() for name in names]
    grad = torch.randn_like(call())

    def step() -> None:
        with torch.enable_grad():
            torch.autograd.grad(call(), inputs, grad)

    return step


def report(name: str, kind: str, case: Case, slow: float, fast: float) -> None:
    rates = f"{case.flops() / fast / 1e9:7.0f} {case.bytes() / fast / 1e9:6.1f}"
    print(f"| {name} | {kind} | {slow * 1e3:.2f} | {fast * 1e3:.3f} | {slow / fast:.1f} × | {rates.split()[0]} | "
          f"{rates.split()[1]} |", flush=True)  # fmt: skip


def table(device: str, rounds: int) -> None:
    rows = [
        ("encoder, B = 1", 1, TOKENS, 32, torch.float32, None),
        ("encoder, B = 4", 4, TOKENS, 32, torch.float32, None),
        ("decoder, Q = 196, B = 4", 4, 196, 32, torch.float32, None),
        ("encoder, B = 1, D = 24", 1, TOKENS, 24, torch.float32, None),
        ("encoder, B = 1, bfloat16", 1, TOKENS, 32, torch.bfloat16, None),
    ]
    if device == "cpu":
        rows += [
            ("encoder, B = 1, AVX2", 1, TOKENS, 32, torch.float32, "avx2"),
            ("encoder, B = 1, plain C++", 1, TOKENS, 32, torch.float32, "default"),
        ]
    print("| case | locations | reference ms | kernel ms | ratio | GFLOP/s | GB/s |\n|---|---|---|---|---|---|---|")
    for name, batch, queries, channels, dtype, limit in rows:
        for kind in ("rays", "uniform"):
            case = make_case(kind, batch, queries, channels, device, dtype)
            limit_cpu(limit)
            report(name, kind, case, *race(case.reference, case.kernel, device, rounds))
            report(f"{name}, fused", kind, case, *race(case.fused_reference, case.fused_kernel, device, rounds))
    limit_cpu(None)
    for kind in ("rays", "uniform"):
        case = make_case(kind, 1, TOKENS, 32, device, torch.float32)
        names = ("value", "locations", "weights")
        slow, fast = (with_backward(call, case, names) for call in (case.reference, case.kernel))
        report("encoder, B = 1, forward + backward", kind, case, *race(slow, fast, device, rounds))
        names = ("value", "offsets", "logits")
        slow, fast = (with_backward(call, case, names) for call in (case.fused_reference, case.fused_kernel))
        report("encoder, B = 1, forward + backward, fused", kind, case, *race(slow, fast, device, rounds))


def growth(device: str, rounds: int) -> None:
    """Times must grow with the number of queries and of frames, and no faster."""
    print("\n| queries (B = 1, fused) | µs per query |\n|---|---|")
    for queries in (638, 1275, 2550, 5100):
        case = make_case("rays", 1, queries, 32, device, torch.float32)
        best = min(seconds(case.fused_kernel, device) for _ in range(10 * rounds))
        print(f"| {queries} | {best / queries * 1e6:.3f} |", flush=True)
    print("\n| frames (encoder, fused) | ms per frame |\n|---|---|")
    for batch in (1, 2, 4, 8):
        case = make_case("rays", batch, TOKENS, 32, device, torch.float32)
        best = min(seconds(case.fused_kernel, device) for _ in range(5 * rounds))
        print(f"| {batch} | {best / batch * 1e3:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="more rounds, steadier times")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    where = (
        torch.cuda.get_device_name() if options.device == "cuda" else f"{platform.machine()}, {options.threads} threads"
    )
    print(f"torch {torch.__version__}; {where}; {kernel_status()}\n")
    with torch.no_grad():
        table(options.device, options.rounds)
        growth(options.device, options.rounds)


if __name__ == "__main__":
    main()
