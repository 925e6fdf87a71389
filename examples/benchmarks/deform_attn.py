"""Times deformable attention against its plain PyTorch reference, side by side in one run.

    python examples/benchmarks/deform_attn.py                 # two threads, all cases
    python examples/benchmarks/deform_attn.py --device cuda   # on a GPU, against other kernels

On the CPU, every case runs the reference (`grid_sample` per level) and the kernels alternately and reports the best
time of each. "floor" is the time that two cores need for the arithmetic at 102 GFLOP/s or for the bytes at 29 GB/s,
whichever is longer. A time can be below the floor if values are already in the cache.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from attention_cases import PASSES, TOKENS, Case, make_case
from torch import Tensor

from mdqe.ops import kernel_status
from mdqe.ops.kernels import limit_cpu

FLOOR_FLOPS, FLOOR_BYTES = 102e9, 29e9  # per second, for two cores of a server


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def race(slow: Callable[[], object], fast: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Best time of each. Every round runs the slow call once and the fast call five times."""
    times = ([], [])
    slow(), fast()
    for _ in range(rounds):
        times[0].append(seconds(slow))
        times[1].extend(seconds(fast) for _ in range(5))
    return min(times[0]), min(times[1])


def with_backward(call: Callable[[], Tensor], case: Case, names: tuple[str, ...]) -> Callable[[], None]:
    inputs = [getattr(case, name).requires_grad_() for name in names]
    grad = torch.randn_like(call())

    def step() -> None:
        with torch.enable_grad():
            torch.autograd.grad(call(), inputs, grad)

    return step


def report(name: str, kind: str, case: Case, times: tuple[float, float], passes: int = 1) -> None:
    slow, fast = times
    flops, size = case.flops(passes), case.bytes(passes)
    floor = max(flops / FLOOR_FLOPS, size / FLOOR_BYTES)
    print(f"| {name} | {kind} | {slow * 1e3:.2f} | {fast * 1e3:.3f} | {floor * 1e3:.2f} | {slow / fast:.1f} × | "
          f"{flops / fast / 1e9:.0f} | {size / fast / 1e9:.1f} |", flush=True)  # fmt: skip


def table(rounds: int) -> None:
    rows = [
        ("encoder, B = 1", 1, TOKENS, 32, torch.float32, None),
        ("encoder, B = 4", 4, TOKENS, 32, torch.float32, None),
        ("decoder, Q = 196, B = 4", 4, 196, 32, torch.float32, None),
        ("encoder, B = 1, D = 24", 1, TOKENS, 24, torch.float32, None),
        ("encoder, B = 1, bfloat16", 1, TOKENS, 32, torch.bfloat16, None),
        ("encoder, B = 1, AVX2", 1, TOKENS, 32, torch.float32, "avx2"),
        ("encoder, B = 1, plain C++", 1, TOKENS, 32, torch.float32, "default"),
    ]
    print("| case | locations | reference ms | kernel ms | floor ms | ratio | GFLOP/s | GB/s |")
    print("|---|---|---|---|---|---|---|---|")
    for name, batch, queries, channels, dtype, limit in rows:
        for kind in ("rays", "uniform"):
            case = make_case(kind, batch, queries, channels, "cpu", dtype)
            limit_cpu(limit)
            report(name, kind, case, race(case.reference, case.kernel, rounds))
            report(f"{name}, fused", kind, case, race(case.fused_reference, case.fused_kernel, rounds))
    limit_cpu(None)
    name, passes = "encoder, B = 1, forward + backward", PASSES["forward + backward"]
    for kind in ("rays", "uniform"):
        case = make_case(kind, 1, TOKENS, 32, "cpu", torch.float32)
        inputs = ("value", "locations", "weights")
        slow, fast = (with_backward(call, case, inputs) for call in (case.reference, case.kernel))
        report(name, kind, case, race(slow, fast, rounds), passes)
        inputs = ("value", "offsets", "logits")
        slow, fast = (with_backward(call, case, inputs) for call in (case.fused_reference, case.fused_kernel))
        report(f"{name}, fused", kind, case, race(slow, fast, rounds), passes)


def page_faults() -> int:
    """Page faults of this process so far; 0 if the system does not count them."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def growth(rounds: int) -> None:
    """Print how times grow with the number of queries and of frames."""
    for title, of, sizes, unit, scale in (
        ("queries (B = 1, fused)", "query", [(1, queries) for queries in (638, 1275, 2550, TOKENS)], "µs", 1e6),
        ("frames (encoder, fused)", "frame", [(batch, TOKENS) for batch in (1, 2, 4, 6, 8)], "ms", 1e3),
    ):
        print(f"\n| {title} | {unit} per {of} | {unit} per added {of} | page faults per call |\n|---|---|---|---|")
        before = None
        for batch, queries in sizes:
            case = make_case("rays", batch, queries, 32, "cpu", torch.float32)
            count, calls = (queries if of == "query" else batch), 10 * rounds
            case.fused_kernel(), case.fused_kernel()
            faults = page_faults()
            best = min(seconds(case.fused_kernel) for _ in range(calls))
            faults = (page_faults() - faults) / calls
            added = f"{(best - before[1]) / (count - before[0]) * scale:.3f}" if before else ""
            print(f"| {count} | {best / count * scale:.3f} | {added} | {faults:.0f} |", flush=True)
            before = count, best


def processor() -> str:
    """The processor's name and, on x86, its family and model numbers."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown processor"
    facts = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    return (
        f"{facts.get('model name', 'unknown processor')} (family {facts.get('cpu family')}, model {facts.get('model')})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="more rounds give more stable times")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.device == "cuda":
        import attention_gpu

        return attention_gpu.main(options.rounds)
    print(f"torch {torch.__version__}; {processor()}, {options.threads} threads; {kernel_status()}\n")
    with torch.no_grad():
        table(options.rounds)
        growth(options.rounds)


if __name__ == "__main__":
    main()
