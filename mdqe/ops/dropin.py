"""The operator for code that was written against Deformable DETR's `MSDeformAttnFunction`."""

import torch
from torch import Tensor

from mdqe.ops.kernels import compiled_for
from mdqe.ops.library import deform_attn
from mdqe.ops.reference import compute_dtype


def ms_deform_attn(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int = 64,
) -> Tensor:
    """`deform_attn` with the arguments, in the order, of `MSDeformAttnFunction.apply`.

    Where compiled kernels run, the level table goes to them as it is: a table on the GPU is read there, without waiting
    for the device. (There a level that does not fit into value counts as lying outside; elsewhere it is an error.)

    Args:
        value: (B, N, H, D).
        value_spatial_shapes: (L, 2) int64, height and width of each level.
        value_level_start_index: (L) int64, each level's first row in `value`.
        sampling_locations: (B, Q, H, L, P, 2), x before y, in [0, 1].
        attention_weights: (B, Q, H, L, P).
        im2col_step: accepted and not needed; batches of any size go through at once.

    Returns:
        (B, Q, H * D).

    Raises:
        TypeError, ValueError, RuntimeError: as in `deform_attn`.
    """
    del im2col_step
    dtype = compute_dtype(value.dtype)
    if compiled_for(value) and sampling_locations.is_floating_point() and attention_weights.is_floating_point():
        shapes, starts = value_spatial_shapes, value_level_start_index
        if value.device.type == "cpu":
            shapes, starts = shapes.cpu(), starts.cpu()
        return torch.ops.mdqe.deform_attn_table(
            value, shapes.long(), starts.long(), sampling_locations.to(dtype), attention_weights.to(dtype)
        )
    pairs = [(height, width) for height, width in value_spatial_shapes.tolist()]
    return deform_attn(value, pairs, sampling_locations, attention_weights, value_level_start_index.tolist())
