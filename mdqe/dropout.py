"""Dropout whose masks cost little on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_STEPS = 1 << 16  # rates are whole multiples of 1 / _STEPS


class Dropout(nn.Module):
    """As `nn.Dropout`; on a CPU an element takes 16 random bits, four of them from each number that is drawn.

    PyTorch draws a number of its own for every element there, one after the other, which in training takes longer than
    all activation functions. The rate is rounded to a multiple of 2⁻¹⁶ and what is kept is scaled by the rounded one,
    so the expectation is exact. Like `nn.Dropout` it draws from PyTorch's default generator.

    Args:
        p: share of the elements that become zero, in 0 … 1.

    Raises:
        ValueError: p out of range.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p is {p!r}, expected 0 to 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape in, the same out; in training some elements zero, the others scaled so that the mean stays."""
        if not self.training or self.p == 0:
            return x
        dropped = round(self.p * _STEPS)
        if x.device.type != "cpu" or dropped == _STEPS or torch.compiler.is_compiling():
            return F.dropout(x, self.p)
        return x * _mask(x, dropped)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"p={self.p}"


def _mask(like: Tensor, dropped: int) -> Tensor:
    """Zeros, on average `dropped` of _STEPS, among numbers by which the mean becomes 1; shape and type of `like`."""
    count = like.numel()
    numbers = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
    bits = numbers.view(torch.int16)[:count].view(like.shape)
    mask = torch.ge(bits, dropped - _STEPS // 2, out=torch.empty(like.shape, dtype=like.dtype))
    return mask.mul_(_STEPS / (_STEPS - dropped))
