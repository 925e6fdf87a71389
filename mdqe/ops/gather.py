"""Deformable attention on a CPU without the compiled kernels: the rows that a query reads, weighted and summed.

The same sum as `mdqe.ops.reference`, in float32 about three times as fast: `embedding_bag` reads the channels of a
pixel, which lie side by side, where `grid_sample` goes through a map once per channel.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mdqe.ops.reference import at_least_float32, bounded


def deform_attn_gather(
    value: Tensor, shapes: Sequence[tuple[int, int]], starts: Sequence[int], locations: Tensor, weights: Tensor
) -> Tensor:
    """`mdqe.ops.reference.deform_attn_reference` by another way; arguments and result are the same."""
    batch, tokens, heads, channels = value.shape
    queries = locations.shape[1]
    dtype, device = at_least_float32(value.dtype), value.device
    size = torch.tensor([(w, h) for h, w in shapes], dtype=torch.int32, device=device)[:, None]  # (L, 1, 2)
    first_row = torch.tensor(list(starts), dtype=torch.int32, device=device)[:, None]  # (L, 1)

    # Along either axis a point lies between two pixels; one that is outside the map counts nothing.
    position = bounded(locations.to(dtype)) * size - 0.5  # (B, Q, H, L, P, 2)
    low = position.detach().floor()
    share = position - low
    low = low.to(torch.int32)
    shares = ((1 - share) * ((low >= 0) & (low < size)), share * ((low >= -1) & (low < size - 1)))
    pixels = (low.clamp(min=0).minimum(size - 1), (low + 1).clamp(min=0).minimum(size - 1))

    corners = [(below, right) for below in (0, 1) for right in (0, 1)]
    rows = [pixels[j][..., 1] * size[..., 0] + first_row + pixels[i][..., 0] for j, i in corners]
    parts = [shares[j][..., 1] * weights.to(dtype) * shares[i][..., 0] for j, i in corners]
    # Rows of `value` as a table (B·N·H, D): every head of every token is one.
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
