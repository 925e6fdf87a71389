"""Count operator calls and places where the host would wait for a GPU, from frames to run lengths.

A call that only makes a view of a tensor is not counted. The host waits where a value or a size comes back from the
device: for `cpu`, `tolist`, `item`, `nonzero`, `unique`, `masked_select`, `equal` and indexing with booleans. Both are
counted on a CPU, with small frames. Only on a CPU, MLPs process tokens in blocks; this is switched off here:

    python examples/benchmarks/calls.py
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mdqe import MDQE, MDQEConfig
from mdqe.inference.session import VideoSession

WAITING = {"_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "unique_consecutive", "masked_select", "equal"}
TRANSFERS = {Tensor.cpu, Tensor.tolist}


class Operators(TorchDispatchMode):
    """Counts operators by name: `calls` without views, and the `waits` among them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, returns = func._schema.name, func._schema.returns
        alias = returns[0].alias_info if returns else None
        self.calls[name] += alias is None or alias.is_write
        indices = args[1] if name.startswith("aten::index") and isinstance(args[1], list | tuple) else ()
        boolean = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices)
        self.waits[name] += boolean or name.removeprefix("aten::") in WAITING
        return func(*args, **(kwargs or {}))


class Transfers(TorchFunctionMode):
    """Counts transfers to the host as `waits` of a counter of operators."""

    def __init__(self, operators: Operators) -> None:
        super().__init__()
        self.operators = operators

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in TRANSFERS:
            self.operators.waits[func.__name__] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counted() -> Iterator[Operators]:
    """Count the operator calls of a block."""
    with Operators() as operators, Transfers(operators):
        yield operators


def count_segment(model: MDQE, frames: int, batch: int, size: tuple[int, int]) -> Operators:
    """Count the calls of segmenting random frames in batches, with every frame's run lengths."""
    video = torch.randint(0, 256, (frames, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    session = VideoSession(model, by_window=True, keep_all=True, encoder_batch_size=batch)
    with patch("mdqe.modeling.layers.MAX_HIDDEN_NUMBERS", 2**62), counted() as operators:
        list(session.run(video))
    return operators


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=32, help="frames of the video (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="frames encoded together (default: %(default)s)")
    parser.add_argument("--top", type=int, default=12, help="operators to list (default: %(default)s)")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = MDQE(MDQEConfig.preset("r50_ovis_360", test_shorter_edge=None)).eval()
    found = count_segment(model, args.frames, args.batch, (96, 160))
    calls, waits = found.calls.total() / args.frames, found.waits.total() / -(-args.frames // args.batch)
    print(f"{calls:.0f} operator calls a frame, {waits:.0f} waits a group")
    for title, counts in (("calls", found.calls), ("waits", found.waits)):
        print(title, ", ".join(f"{name} {number}" for name, number in counts.most_common(args.top) if number))


if __name__ == "__main__":
    main()
