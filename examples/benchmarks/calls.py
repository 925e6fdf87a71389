"""Count operator calls and places where the host would wait for a GPU: from frames to run lengths, and of the losses.

A call that only makes a view of a tensor is not counted. The host waits where a value or a size comes back from the
device: for `cpu`, `tolist`, `item`, `nonzero`, `unique`, `masked_select`, `equal` and indexing with booleans. Both are
counted on a CPU, for the video with small frames. What only a CPU does is switched off here: MLPs process tokens in
blocks, the tracker has a kernel of its own and reads without a transfer, and the losses process pixels in small blocks
and take few logarithms. The losses include the matching and their backward pass; the network is replaced by random
outputs:

    python examples/benchmarks/calls.py
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from training_step import FRAMES, HEIGHT, WIDTH, make_targets

from mdqe import MDQE, MDQEConfig
from mdqe.inference.session import VideoSession
from mdqe.losses import Criterion
from mdqe.modeling.network import ClipOutput, ClipPrediction
from mdqe.modeling.preprocess import padded_size
from mdqe.modeling.query_init import FrameQueries

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
    accelerator = {
        "mdqe.modeling.layers.MAX_HIDDEN_NUMBERS": 2**62,
        "mdqe.inference.association.reads_in_place": lambda _: False,
        "mdqe.inference.mask_iou._COMPILED": False,
        "mdqe.ops.kernels._HAS_CONV3X3": False,
    }
    with ExitStack() as stack:
        for name, value in accelerator.items():
            stack.enter_context(patch(name, value))
        operators = stack.enter_context(counted())
        list(session.run(video))
    return operators


def random_output(config: MDQEConfig, clips: int) -> ClipOutput:
    """Random outputs of the network in training, with a gradient, for clips of the size in `training_step.py`."""
    c, g = config, torch.Generator().manual_seed(0)
    queries, (height, width) = c.grid_size**2, padded_size((HEIGHT, WIDTH))

    def rand(*shape: int, scale: float = 1) -> Tensor:
        return (scale * torch.rand(clips, *shape, generator=g)).requires_grad_()

    layers = [
        ClipPrediction(rand(queries, c.num_classes), rand(queries, c.mask_dim), rand(FRAMES, queries, 4), rand(queries))
        for _ in range(c.decoder_layers + 1)
    ]
    maps = rand(FRAMES, c.num_classes, height // 8, width // 8)
    frame_queries = FrameQueries(rand(1), rand(FRAMES, queries, 2), rand(FRAMES, queries, c.embed_dim, scale=0.1), maps)
    return ClipOutput(layers, rand(c.mask_dim, FRAMES, height // 4, width // 4), frame_queries)


def count_losses(config: MDQEConfig, clips: int, objects: int) -> Operators:
    """Count the calls of matching, losses and their backward pass in a training step."""
    output, targets = random_output(config, clips), [make_targets(objects, seed) for seed in range(clips)]
    accelerator = {"block_elements": lambda _: 1 << 25, "counts_logarithms": lambda _: False}
    with patch.multiple("mdqe.losses.mask", **accelerator), counted() as operators:
        losses = Criterion()(output, targets)
        sum(losses.values()).backward()
    return operators


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=32, help="frames of the video (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="frames encoded together (default: %(default)s)")
    parser.add_argument("--top", type=int, default=12, help="operators to list (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=4, help="clips of a training step (default: %(default)s)")
    parser.add_argument("--objects", type=int, default=20, help="objects in a clip (default: %(default)s)")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = MDQE(MDQEConfig.preset("r50_ovis_360", test_shorter_edge=None)).eval()
    found = count_segment(model, args.frames, args.batch, (96, 160))
    calls, waits = found.calls.total() / args.frames, found.waits.total() / -(-args.frames // args.batch)
    print(f"a video: {calls:.0f} operator calls a frame, {waits:.0f} waits a group")
    show(found, args.top)
    found = count_losses(model.config, args.clips, args.objects)
    print(f"losses of a training step: {found.calls.total()} operator calls, {found.waits.total()} waits")
    show(found, args.top)


def show(found: Operators, top: int) -> None:
    """Print the most frequent operators."""
    for title, counts in (("calls", found.calls), ("waits", found.waits)):
        print(title, ", ".join(f"{name} {number}" for name, number in counts.most_common(top) if number))


if __name__ == "__main__":
    main()
