"""Multi-scale deformable attention in plain PyTorch: the reference, and a faster form for CPUs.

For every query and head, the operator sums `weight * bilinear(level, location)` over all levels and points. A location
is (x, y) in [0, 1]; the centre of pixel i lies at (i + 1/2) / size; the value outside a map is zero. A point whose
location is not finite lies outside every map: it adds nothing and gets no gradient.

These functions do not check their arguments; `mdqe.ops.deform_attn` and `mdqe.ops.deform_attn_fused` do.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

OFFSET_SCALE = 8.0
"""Sampling location = reference point + offset / OFFSET_SCALE: offsets are in eighths of the image."""


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the type of coordinates and sums for values of type `dtype`: float64 for float64, float32 for all others.

    Half precision is too coarse for both: coordinates would be off by up to 0.16 pixels, and sums over thousands of
    pixels would lose their last digits.
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def widen(x: Tensor) -> Tensor:
    """Convert `x` to its `at_least_float32` type."""
    return x.to(at_least_float32(x.dtype))


def bounded(locations: Tensor) -> Tensor:
    """Clamp points to finite locations. Points beyond [-1, 2] are equivalent: they lie outside a map of any size."""
    return locations.nan_to_num(nan=-1.0).clamp(-1.0, 2.0)


def locations_and_weights(
    centers: Tensor, offsets: Tensor, logits: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the locations and weights of the fused operator in `dtype`; see `deform_attn_fused_reference`."""
    locations = centers.to(dtype)[:, :, None, None, None] + offsets.to(dtype) / OFFSET_SCALE  # (B, Q, H, L, P, 2)
    weights = logits.to(dtype).flatten(-2).softmax(-1).view_as(logits)  # (B, Q, H, L, P)
    return locations, weights


def deform_attn_reference(
    value: Tensor, shapes: Sequence[tuple[int, int]], starts: Sequence[int], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum over levels and points with `grid_sample`, one level at a time.

    Args:
        value: (B, N, H, D), float64, float32, bfloat16 or float16.
        shapes: (height, width) of each of the L levels.
        starts: the first row of each level in `value`; levels may repeat or overlap.
        locations: (B, Q, H, L, P, 2), x before y.
        weights: (B, Q, H, L, P).

    Returns:
        (B, Q, H * D) in the type of `value`, computed in `at_least_float32` and rounded once.
    """
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    if batch == 0 or queries == 0:
        return value.new_zeros(batch, queries, heads * channels) + 0 * (value.sum() + locations.sum() + weights.sum())
    dtype = at_least_float32(value.dtype)
    grid = bounded(locations.to(dtype)) * 2 - 1
    grid = grid.transpose(1, 2).flatten(0, 1)  # (B*H, Q, L, P, 2)
    mix = weights.to(dtype).transpose(1, 2).reshape(batch * heads, 1, queries, -1, points)  # (B*H, 1, Q, L, P)
    total: Tensor | None = None
    for level, ((height, width), start) in enumerate(zip(shapes, starts, strict=True)):
        rows = value[:, start : start + height * width].to(dtype)
        image = rows.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)  # (B*H, D, h, w)
        sampled = F.grid_sample(image, grid[:, :, level], align_corners=False)  # (B*H, D, Q, P)
        part = (sampled * mix[:, :, :, level]).sum(-1)  # (B*H, D, Q)
        total = part if total is None else total + part
    assert total is not None  # there is at least one level
    return total.view(batch, heads * channels, queries).transpose(1, 2).contiguous().to(value.dtype)  # (B, Q, H*D)


def deform_attn_fused_reference(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    starts: Sequence[int],
    centers: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> Tensor:
    """`deform_attn_reference` at `centers + offsets / 8`, with the softmax of logits over levels and points as weights.

    Args:
        value: (B, N, H, D).
        shapes: (height, width) of each level.
        starts: the first row of each level in `value`.
        centers: (B or 1, Q, 2), x before y, in [0, 1].
        offsets: (B, Q, H, L, P, 2).
        logits: (B, Q, H, L, P).

    Returns:
        (B, Q, H * D) in the type of `value`.
    """
    locations, weights = locations_and_weights(centers, offsets, logits, at_least_float32(value.dtype))
    return deform_attn_reference(value, shapes, starts, locations, weights)


def deform_attn_gather(
    value: Tensor, shapes: Sequence[tuple[int, int]], starts: Sequence[int], locations: Tensor, weights: Tensor
) -> Tensor:
    """Compute `deform_attn_reference` on a CPU about three times as fast in float32; arguments and result as there.

    `embedding_bag` reads the channels of a pixel, which are adjacent in memory. `grid_sample` reads a map per channel.
    """
    batch, tokens, heads, channels = value.shape
    queries = locations.shape[1]
    dtype, device = at_least_float32(value.dtype), value.device
    size = torch.tensor([(w, h) for h, w in shapes], dtype=torch.int32, device=device)[:, None]  # (L, 1, 2)
    first_row = torch.tensor(list(starts), dtype=torch.int32, device=device)[:, None]  # (L, 1)

    # Along each axis a point lies between two pixels. A pixel outside the map has no share.
    position = bounded(locations.to(dtype)) * size - 0.5  # (B, Q, H, L, P, 2)
    low = position.detach().floor()
    share = position - low
    low = low.to(torch.int32)
    shares = ((1 - share) * ((low >= 0) & (low < size)), share * ((low >= -1) & (low < size - 1)))
    pixels = (low.clamp(min=0).minimum(size - 1), (low + 1).clamp(min=0).minimum(size - 1))

    corners = [(below, right) for below in (0, 1) for right in (0, 1)]
    rows = [pixels[j][..., 1] * size[..., 0] + first_row + pixels[i][..., 0] for j, i in corners]
    parts = [shares[j][..., 1] * weights.to(dtype) * shares[i][..., 0] for j, i in corners]
    # `value` is a table (B·N·H, D) with a row for every head of every token.
    item = torch.arange(batch, dtype=torch.int32, device=device)[:, None, None, None] * (tokens * heads)
    head = torch.arange(heads, dtype=torch.int32, device=device)[:, None]
    table_rows = torch.stack(rows, -1).flatten(3) * heads + (item + head)  # (B, Q, H, L·P·4)
    bags = batch * queries * heads
    summed = F.embedding_bag(
        table_rows.reshape(bags, -1),
        value.to(dtype).reshape(-1, channels),
        mode="sum",
        per_sample_weights=torch.stack(parts, -1).reshape(bags, -1),
    )  # (B·Q·H, D)
    return summed.view(batch, queries, heads * channels).to(value.dtype)
