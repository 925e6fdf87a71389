"""Tracing: a model's two halves as `torch.export` programs whose frames, heights and widths stay open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mdqe.export.programs import ClipDecoder, FrameEncoder, portable
from mdqe.model import MDQE

EXAMPLE = (3, 3, 80, 136)  # frames, channels, height, width; edges of the padded image differ, so no axis is another's
AXES = {
    "frames": ("frames", 3, "height", "width"),
    "values": ("frames", None, "tokens", None),
    "content": ("frames", None, None),
    "coords": ("frames", None, None),
    "mask_features": ("frames", None, "rows", "columns"),
    "association": ("frames", None, None),
    "boxes": ("frames", None, None),
}
"""Names of the axes that stay open; None and numbers are fixed."""


class Port(NamedTuple):
    """A tensor that goes in or out."""

    name: str
    type: str
    """Such as "float32"."""
    shape: tuple[str | int, ...]
    """Numbers, and names of what stays open."""


class Traced(NamedTuple):
    """A program and what is known of it."""

    name: str
    """ "encoder" or "decoder"."""
    program: ExportedProgram
    module: nn.Module
    """What was traced."""
    example: dict[str, Tensor]
    """Its inputs when it was traced."""
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    least_size: tuple[int, int] | None
    """Least height and width of the encoder's frames."""


def trace(model: MDQE) -> Iterator[Traced]:
    """The frame encoder, then the clip decoder."""
    copied = portable(model)
    frames = torch.randint(0, 256, EXAMPLE, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    encoder = FrameEncoder(copied)
    yield _trace("encoder", encoder, {"frames": frames})
    with torch.no_grad():
        encoding = encoder(frames)
    yield _trace("decoder", ClipDecoder(copied), encoding)


@torch.no_grad()
def _trace(name: str, module: nn.Module, example: dict[str, Tensor]) -> Traced:
    clip = Dim("frames", min=1)
    open_axes = {
        key: {i: clip if axis == "frames" else Dim.DYNAMIC for i, axis in enumerate(AXES[key]) if isinstance(axis, str)}
        for key in example
    }
    # The decoder's tokens follow from its rows and columns, which only the program itself can check.
    options: dict[str, Any] = {"dynamic_shapes": open_axes, "prefer_deferred_runtime_asserts_over_guards": True}
    program = torch.export.export(module.eval(), (), example, **options)
    least = None
    if name == "encoder":
        height, width = (program.range_constraints[edge.node.expr].lower for edge in _shape(program)[2:])
        least = int(height), int(width)
    outputs = module(**example)
    return Traced(name, program, module, example, _ports(example), _ports(outputs), least)


def _shape(program: ExportedProgram) -> tuple[Any, ...]:
    """Shape of the program's only input, open axes as symbols."""
    (name,) = program.graph_signature.user_inputs
    return next(tuple(node.meta["val"].shape) for node in program.graph.nodes if node.name == name)


def _ports(tensors: dict[str, Tensor]) -> tuple[Port, ...]:
    return tuple(
        Port(
            name,
            str(x.dtype).removeprefix("torch."),
            tuple(
                axis if isinstance(axis, str) else size
                for axis, size in zip(AXES.get(name, (None,) * x.dim()), x.shape, strict=True)
            ),
        )
        for name, x in tensors.items()
    )
