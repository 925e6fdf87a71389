"""The type in which sums over pixels and clips are kept."""

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 where it comes so: half precision has too few digits for sums of thousands."""
    return x if x.dtype == torch.float64 else x.float()
