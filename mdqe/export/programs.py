"""A model as two modules of plain tensors, a frame encoder and a clip decoder (paper Fig. 1), and their tracing.

Both modules return dicts; their keys are the names of the outputs of an exported program. In the encoder's outputs the
frames are the first axis, so that a clip is a slice of consecutive rows. The decoder takes them under the same names:

- values (T, V, N, C): the value projections of each decoder layer, for its frame attention and, if the model has
  temporal cross-attention, for its clip attention
- content (T, Q, C): the queries of each frame
- coords (T, Q, 2): their positions, xy in [0, 1] of the padded image
- mask_features (T, M, h, w): at stride 4 of the padded image
- association (T, Q, E): embeddings for the inter-frame query association; absent if the model does not use it

The decoder returns for a clip:

- class_scores (Q, K): probabilities
- mask_coefficients (Q, M): their product with the mask features of a frame gives the mask logits
- embeddings (Q, C): for tracking
- boxes (T, Q, 4): cxcywh in [0, 1] of the padded image
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mdqe.inference.frame_buffer import encode_frames
from mdqe.model import MDQE
from mdqe.modeling.decoder import LayerValues
from mdqe.modeling.encoder import SpatialShapes
from mdqe.modeling.query_init import FrameQueries, QueryInitializer
from mdqe.ops.attention import MultiScaleDeformableAttention

EXAMPLE = (3, 3, 80, 136)  # frames, channels, height, width; all padded sizes differ, so that no two axes are confused
AXES = {
    "frames": ("frames", 3, "height", "width"),
    "values": ("frames", None, "tokens", None),
    "content": ("frames", None, None),
    "coords": ("frames", None, None),
    "mask_features": ("frames", None, "rows", "columns"),
    "association": ("frames", None, None),
    "boxes": ("frames", None, None),
}
"""Names of the dynamic axes. Axes with None or a number are fixed."""


class Port(NamedTuple):
    """An input or output of a program.

    Attributes:
        name: its name.
        type: its dtype, such as "float32".
        shape: numbers, and names of dynamic axes.
    """

    name: str
    type: str
    shape: tuple[str | int, ...]


class Traced(NamedTuple):
    """A traced program with its description.

    Attributes:
        name: "encoder" or "decoder".
        program: the program.
        module: the module that was traced.
        example: the inputs of the trace.
        inputs, outputs: their descriptions.
        least_size: minimum height and width of the encoder's frames; None for the decoder.
    """

    name: str
    program: ExportedProgram
    module: nn.Module
    example: dict[str, Tensor]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    least_size: tuple[int, int] | None


class FrameEncoder(nn.Module):
    """Backbone, encoder, mask features and the queries of each frame.

    Args:
        model: its weights are shared, not copied.
    """

    def __init__(self, model: MDQE) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Encode resized frames (T, 3, H, W) uint8 RGB, which are normalised and padded here."""
        encoded = encode_frames(self.model, frames, 0)
        values = [x[0].flatten(2) for layer in encoded.values for x in layer if x is not None]  # (T, N, C) each
        encoding = {
            "values": torch.stack(values, 1),
            "content": encoded.queries.content[0],
            "coords": encoded.queries.coords[0],
            "mask_features": encoded.mask_features[0].transpose(0, 1),  # (M, T, h, w) → (T, M, h, w)
        }
        embeddings = encoded.queries.embeddings
        if associates(self.model) and embeddings is not None:
            encoding["association"] = embeddings[0]
        return encoding


class ClipDecoder(nn.Module):
    """Association, decoder and heads for one clip.

    Args:
        model: its weights are shared, not copied.
    """

    def __init__(self, model: MDQE) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        values: Tensor,
        content: Tensor,
        coords: Tensor,
        mask_features: Tensor,
        association: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Decode the encodings of a clip of any length T ≥ 1."""
        model = self.model
        shapes = self.level_shapes(mask_features)
        torch._check(values.shape[2] == sum(h * w for h, w in shapes), lambda: "values do not fit mask_features")
        queries = FrameQueries(content[None], coords[None], None if association is None else association[None], None)
        _, found = model.decode(queries, self.layer_values(values), shapes)
        return {
            "class_scores": found.class_logits[0].sigmoid(),
            "mask_coefficients": found.mask_coefficients[0],
            "embeddings": found.embeddings[0],
            "boxes": found.boxes[0],
        }

    def level_shapes(self, mask_features: Tensor) -> SpatialShapes:
        """(h, w) of each level, where mask features have stride 4. Each level halves the one before, rounded up."""
        h, w = mask_features.shape[-2:]
        shapes = []
        for _ in range(self.model.config.num_levels):
            h, w = (h + 1) // 2, (w + 1) // 2
            shapes.append((h, w))
        return tuple(shapes)

    def layer_values(self, values: Tensor) -> tuple[LayerValues, ...]:
        """Split values (T, V, N, C) by layer. Temporal cross-attention gets the frames that it samples."""
        layers: list[Any] = list(self.model.decoder.layers)
        values = values.unflatten(-1, (self.model.config.num_heads, -1)).unflatten(1, (len(layers), -1))
        parts = []
        for i, layer in enumerate(layers):
            spatial, tca = values[:, i, 0], layer.clip.cross_attn  # (T, N, H, C / H)
            temporal = None
            if tca is not None:
                temporal = values[tca.frame_index(values.shape[0], values.device), i, 1][None]
            parts.append(LayerValues(spatial[None], temporal))
        return tuple(parts)


def associates(model: MDQE) -> bool:
    """Whether the decoder associates queries between frames, for which it needs their embeddings."""
    return model.config.query_initialization and model.config.query_association


def portable(model: MDQE) -> MDQE:
    """A copy of a model for export: on the CPU, in float32, with standard operators only."""
    copied = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    for module in copied.modules():
        if isinstance(module, MultiScaleDeformableAttention | QueryInitializer):
            module.plain_operator = True
    return copied


def trace(model: MDQE) -> Iterator[Traced]:
    """Trace the frame encoder, then the clip decoder, with dynamic frames, heights and widths."""
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
    dynamic = {
        key: {i: clip if axis == "frames" else Dim.DYNAMIC for i, axis in enumerate(AXES[key]) if isinstance(axis, str)}
        for key in example
    }
    # The number of tokens depends on the rows and columns, which only the program itself can check.
    options: dict[str, Any] = {"dynamic_shapes": dynamic, "prefer_deferred_runtime_asserts_over_guards": True}
    program = torch.export.export(module.eval(), (), example, **options)
    least = None
    if name == "encoder":
        height, width = (program.range_constraints[edge.node.expr].lower for edge in _shape(program)[2:])
        least = int(height), int(width)
    outputs = module(**example)
    return Traced(name, program, module, example, _ports(example), _ports(outputs), least)


def _shape(program: ExportedProgram) -> tuple[Any, ...]:
    """Shape of the only input of the program, with symbols for dynamic axes."""
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
