"""The public functions of the operator: check the arguments, then call the compiled kernels or plain PyTorch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.autograd import forward_ad

from mdqe.ops.kernels import compiled_for, in_forward_mode
from mdqe.ops.reference import at_least_float32, deform_attn_gather, deform_attn_reference, locations_and_weights

Shapes = Sequence[tuple[int, int]]

VALUE_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_SEQUENCES, _INTEGERS = (tuple, list, Sequence, np.ndarray), (int, torch.SymInt, np.integer)
INDEX_TYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def deform_attn(
    value: Tensor,
    shapes: Shapes,
    locations: Tensor,
    weights: Tensor,
    starts: Sequence[int] | None = None,
    *,
    plain: bool = False,
) -> Tensor:
    """Multi-scale deformable attention: per query and head, the weighted sum of bilinear samples of `value`.

    A sample at (x, y) of a level of w x h pixels is the bilinear interpolation at (x * w - 1/2, y * h - 1/2), zero
    outside the map. A point whose location is not finite adds nothing. The function is differentiable, once, with
    respect to `value`, `locations` and `weights`, in reverse mode.

    Args:
        value: (B, N, H, D), float64, float32, bfloat16 or float16: the pixels of the levels, row by row. Or
            (clips, frames, N, H, D) with B = clips * frames. Kernels read batch axes of any stride in place, so clips
            can share frames (`Tensor.unfold`).
        shapes: (height, width) of each of the L levels.
        locations: (B, Q, H, L, P, 2), x before y, in [0, 1] of each level.
        weights: (B, Q, H, L, P).
        starts: the first row of each level in `value`; then levels may repeat, overlap and leave gaps. By default the
            levels follow one another and fill the N rows.
        plain: use `grid_sample`, which all PyTorch and ONNX backends have, instead of compiled kernels.

    Returns:
        (B, Q, H * D) in the type of `value`. Coordinates and sums are float32 (float64 for float64 values).

    Raises:
        TypeError: an argument is not a tensor, or `shapes` or `starts` do not hold integers; names it.
        ValueError: shapes, types or devices do not fit together, or a level exceeds the N rows; names the argument.
        NotImplementedError: an argument has a derivative in forward mode; names it.
    """
    _check_kinds(value=value, locations=locations, weights=weights)
    table, rows = _check_levels(value, shapes, starts)
    _check_points(value, len(table), locations=locations, weights=weights)
    dtype = at_least_float32(value.dtype)
    locations, weights = locations.to(dtype), weights.to(dtype)
    if not plain and compiled_for(value):
        return torch.ops.mdqe.deform_attn(value, _flat(table, rows), locations, weights)
    return _deform_attn_plain(value, table, rows, locations, weights, plain)


def deform_attn_fused(
    value: Tensor,
    shapes: Shapes,
    centers: Tensor,
    offsets: Tensor,
    logits: Tensor,
    starts: Sequence[int] | None = None,
    *,
    plain: bool = False,
) -> Tensor:
    """`deform_attn` at `centers + offsets / 8`, with the softmax of `logits` as weights, both computed in the kernel.

    Args:
        value: (B, N, H, D) or (clips, frames, N, H, D), as in `deform_attn`.
        shapes: (height, width) of each of the L levels.
        centers: (B, Q, 2), or (1, Q, 2) for all items of the batch; x before y, in [0, 1].
        offsets: (B, Q, H, L, P, 2), in eighths of the image.
        logits: (B, Q, H, L, P); the softmax is over levels and points together.
        starts, plain: as in `deform_attn`.

    Returns:
        (B, Q, H * D) in the type of `value`.

    Raises:
        TypeError, ValueError, NotImplementedError: as in `deform_attn`.
    """
    _check_kinds(value=value, centers=centers, offsets=offsets, logits=logits)
    table, rows = _check_levels(value, shapes, starts)
    _check_points(value, len(table), centers=centers, offsets=offsets, logits=logits)
    batch, queries = offsets.shape[:2]
    if centers.dim() != 3 or centers.shape[0] not in (1, batch) or centers.shape[1:] != (queries, 2):
        raise ValueError(f"centers must be (B or 1, Q, 2) = ({batch} or 1, {queries}, 2), got {_size(centers)}")
    dtype = at_least_float32(value.dtype)
    if plain or not compiled_for(value):
        points = locations_and_weights(centers, offsets, logits, dtype)
        return _deform_attn_plain(value, table, rows, *points, plain)
    if not offsets.dtype == logits.dtype == value.dtype:  # in the type of value, the kernel reads both directly
        offsets, logits = offsets.to(dtype), logits.to(dtype)
    return torch.ops.mdqe.deform_attn_fused(value, _flat(table, rows), centers.to(dtype), offsets, logits)


def ms_deform_attn(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int = 64,
) -> Tensor:
    """`deform_attn` with the arguments of `MSDeformAttnFunction.apply`, in their order.

    Compiled kernels read the level table on the device, without waiting for it. On a GPU, and in compiled programs, a
    level that exceeds `value` is therefore not a ValueError: CUDA kernels treat it as lying outside the map, and CPU
    kernels raise a RuntimeError.

    Args:
        value: (B, N, H, D) or (clips, frames, N, H, D), as in `deform_attn`.
        value_spatial_shapes: (L, 2) integers, height and width of each level.
        value_level_start_index: (L) integers, the first row of each level in `value`.
        sampling_locations: (B, Q, H, L, P, 2), x before y, in [0, 1].
        attention_weights: (B, Q, H, L, P).
        im2col_step: ignored; a batch of any size is one call.

    Returns:
        (B, Q, H * D).

    Raises:
        TypeError, ValueError, NotImplementedError: as in `deform_attn`.
    """
    del im2col_step
    points = {"sampling_locations": sampling_locations, "attention_weights": attention_weights}
    table = {"value_spatial_shapes": value_spatial_shapes, "value_level_start_index": value_level_start_index}
    _check_kinds(value=value, **table, **points)
    _check_table(**table)
    _check_points(value, len(value_spatial_shapes), **points)
    if compiled_for(value):
        if value.is_cpu and not (torch.compiler.is_compiling() or isinstance(value_spatial_shapes, FakeTensor)):
            _check_levels(value, value_spatial_shapes.tolist(), value_level_start_index.tolist())
        dtype = at_least_float32(value.dtype)
        levels = (x.to(value.device, torch.int64) for x in table.values())
        return torch.ops.mdqe.deform_attn_table(value, *levels, *(x.to(dtype) for x in points.values()))
    pairs = [(height, width) for height, width in value_spatial_shapes.tolist()]
    return deform_attn(value, pairs, sampling_locations, attention_weights, value_level_start_index.tolist())


def _deform_attn_plain(
    value: Tensor, table: list[tuple[int, int]], rows: list[int], locations: Tensor, weights: Tensor, everywhere: bool
) -> Tensor:
    """Compute without a kernel: by gathering on a CPU, and otherwise, and `everywhere` in exports, by `grid_sample`."""
    gather = value.device.type == "cpu" and locations.numel() and not (everywhere or torch.onnx.is_in_onnx_export())
    function = deform_attn_gather if gather else deform_attn_reference
    return function(value.flatten(0, -4), table, rows, locations, weights)


def _flat(table: list[tuple[int, int]], rows: list[int]) -> list[int]:
    """Flatten the level table for the operators: height, width and first row of each level."""
    return [number for (height, width), row in zip(table, rows, strict=True) for number in (height, width, row)]


def _size(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _check_kinds(**arguments: Tensor) -> None:
    """Check that all arguments are dense tensors, not differentiated in forward mode, and the axes of `value`."""
    for name, tensor in arguments.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if tensor.layout != torch.strided or tensor.is_nested:
            kind = "a nested tensor" if tensor.is_nested else str(tensor.layout)
            raise ValueError(f"{name} must be a dense tensor, got {kind}")
        if in_forward_mode() and forward_ad.unpack_dual(tensor).tangent is not None:  # PyTorch would lose it silently
            raise NotImplementedError(
                f"{name} has a derivative in forward mode (torch.func.jvp, jacfwd), which this operator does not "
                "support; use reverse mode: torch.autograd, or torch.func.vjp with plain=True"
            )
    if arguments["value"].dim() not in (4, 5):
        raise ValueError(f"value must be (B, N, H, D) or (clips, frames, N, H, D), got {_size(arguments['value'])}")


def _check_points(value: Tensor, levels: int, **tensors: Tensor) -> None:
    """Check value against the tensors with an entry per point: the last two, pairs and scalars."""
    batch = value.shape[0] if value.dim() == 4 else value.shape[0] * value.shape[1]
    heads, channels = value.shape[-2:]
    if value.dtype not in VALUE_TYPES:
        raise ValueError(f"value must be float64, float32, bfloat16 or float16, got {value.dtype}")
    if heads < 1 or channels < 1:
        raise ValueError(f"value must have at least one head and one channel, got (B, N, H, D) = {_size(value)}")
    (pair_name, pairs), (scalar_name, scalars) = list(tensors.items())[-2:]
    expected = f"(B, Q, H, L, P, 2) = ({batch}, Q, {heads}, {levels}, P, 2)"
    if pairs.dim() != 6 or pairs.shape[-1] != 2 or pairs.shape[4] < 1:
        raise ValueError(f"{pair_name} must be {expected} with P at least 1, got {_size(pairs)}")
    if pairs.shape[0] != batch or pairs.shape[2] != heads or pairs.shape[3] != levels:
        raise ValueError(f"{pair_name} must be {expected} to fit value {_size(value)}, got {_size(pairs)}")
    if scalars.shape != pairs.shape[:-1]:
        raise ValueError(f"{scalar_name} must be {tuple(pairs.shape[:-1])} to fit {pair_name}, got {_size(scalars)}")
    for name, tensor in tensors.items():
        if tensor.device != value.device:
            raise ValueError(f"{name} must be on the device of value, {value.device}, got {tensor.device}")
        # float64 values need float64 tensors; lower types may mix, and coordinates and weights become float32.
        if not tensor.is_floating_point() or (tensor.dtype == torch.float64) != (value.dtype == torch.float64):
            raise ValueError(f"{name} must have a floating-point type that goes with {value.dtype}, got {tensor.dtype}")


def _check_table(value_spatial_shapes: Tensor, value_level_start_index: Tensor) -> None:
    """Check the types and sizes of a level table in tensors. Its numbers stay on their device."""
    for name, tensor in (
        ("value_spatial_shapes", value_spatial_shapes),
        ("value_level_start_index", value_level_start_index),
    ):
        if tensor.dtype not in INDEX_TYPES:
            raise TypeError(f"{name} must hold integers, got {tensor.dtype}")
        if tensor.device.type == "meta":
            raise ValueError(f"{name} must hold numbers, got a tensor on the meta device")
    levels = value_spatial_shapes.shape[0] if value_spatial_shapes.dim() == 2 else 0
    if levels < 1 or value_spatial_shapes.shape[1] != 2:
        raise ValueError(
            f"value_spatial_shapes must be (L, 2) with at least one level, got {_size(value_spatial_shapes)}"
        )
    if value_level_start_index.dim() != 1 or value_level_start_index.shape[0] != levels:
        raise ValueError(
            f"value_level_start_index must be (L) = ({levels},) to fit value_spatial_shapes, "
            f"got {_size(value_level_start_index)}"
        )


def _integers(name: str, expected: str, values: Any) -> list[int]:
    """The integers in a sequence, NumPy's as Python's."""
    if not isinstance(values, _SEQUENCES) or isinstance(values, str):
        raise TypeError(f"{name} must be {expected}, got {type(values).__name__}")
    integers: list[Any] = []
    for one in values:
        if not isinstance(one, _INTEGERS):
            raise TypeError(f"{name} must be {expected}, got {type(one).__name__} {str(one)[:40]}")
        integers.append(int(one) if isinstance(one, np.integer) else one)
    return integers


def _check_levels(
    value: Tensor, shapes: Shapes, starts: Sequence[int] | None
) -> tuple[list[tuple[int, int]], list[int]]:
    """Check the level table against the rows of `value`, and return it as lists."""
    if isinstance(shapes, Tensor) or isinstance(starts, Tensor):
        raise TypeError("shapes and starts must be integers, not tensors; ms_deform_attn takes tensors")
    if not isinstance(shapes, _SEQUENCES):
        raise TypeError(f"shapes must be pairs of integers, (height, width), got {type(shapes).__name__}")
    pairs = [_integers("shapes", "pairs of integers, (height, width)", pair) for pair in shapes]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"shapes must be pairs of integers, (height, width), got {pairs}")
    table = [(height, width) for height, width in pairs]
    if not table:
        raise ValueError("shapes must name at least one level, got none")
    if any(height < 1 or width < 1 for height, width in table):
        raise ValueError(f"shapes must hold heights and widths of at least 1, got {table}")
    rows = value.shape[-3]
    if starts is None:
        begins, total = [], 0
        for height, width in table:
            begins.append(total)
            total += height * width
        if total != rows:
            raise ValueError(f"shapes {table} add up to {total} rows, but value has N = {rows}")
        return table, begins
    begins = _integers("starts", "integers", starts)
    if len(begins) != len(table):
        raise ValueError(f"starts must have one entry per level: {len(table)} levels, {len(begins)} starts")
    for level, ((height, width), begin) in enumerate(zip(table, begins, strict=True)):
        if begin < 0 or begin + height * width > rows:
            raise ValueError(
                f"level {level} of starts and shapes covers rows {begin} to {begin + height * width}, "
                f"but value has N = {rows}"
            )
    return table, begins
