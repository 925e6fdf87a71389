"""What several parts of the network share: MLP, convolution, dropout, and a warning about slow bfloat16."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdqe.ops.convolution import can_convolve, conv3x3, is_slow
from mdqe.ops.linear import can_fuse, fused_linear, is_hooked

_STEPS = 1 << 16  # dropout rates are multiples of 1 / _STEPS
# A CPU computes at most this many numbers of a hidden layer per thread, for at most this many threads, in one part.
# The memory of larger layers returns to the system after every MLP; allocating it again takes as long as filling it.
MAX_HIDDEN_NUMBERS, MAX_THREADS = 2**19, 4


class MLP(nn.Module):
    """Linear layers with GELU between them: (…, in_dim) → (…, out_dim)."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        widths = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.dropout = Dropout(dropout)

    @property
    def last(self) -> nn.Linear:
        """The output layer."""
        return cast(nn.Linear, self.layers[-1])

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_dim) → (…, out_dim)."""
        if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._forward(x)  # a gradient needs the whole hidden layer
        forward = self._fused if self._is_plain() else self._forward
        hidden_dim = cast(nn.Linear, self.layers[0]).out_features
        rows = max(1, MAX_HIDDEN_NUMBERS * min(torch.get_num_threads(), MAX_THREADS) // hidden_dim)
        if x.shape[:-1].numel() <= rows:
            return forward(x)
        parts = [forward(part) for part in x.flatten(0, -2).split(rows)]  # (rows or fewer, in_dim) each
        return torch.cat(parts).unflatten(0, x.shape[:-1])  # (…, out_dim)

    def _forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.dropout(F.gelu(layer(x)))
        return self.layers[-1](x)

    def _fused(self, x: Tensor) -> Tensor:
        """As `_forward`, with each layer and its GELU in one pass where that is faster."""
        for layer in cast(list[nn.Linear], self.layers):
            gelu = layer is not self.last
            if can_fuse(x, layer.weight, layer.bias):
                x = fused_linear(x, layer.weight, layer.bias, gelu=gelu)
            else:
                x = F.gelu(layer(x)) if gelu else layer(x)
        return x

    def _is_plain(self) -> bool:
        """Whether the layers need not be called: none was replaced, none has hooks, and nothing is dropped."""
        if type(self.dropout) is not Dropout or (self.dropout.training and self.dropout.p):
            return False
        modules = [self.dropout, *self.layers]
        return not any(map(is_hooked, modules)) and all(type(layer) is nn.Linear for layer in self.layers)


class Conv2d(nn.Conv2d):
    """As `nn.Conv2d`, but faster for inference where `mdqe.ops.convolution` has a kernel: 3×3, stride 1, padding 1."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        shape = self.kernel_size, self.stride, self.padding, self.dilation, self.groups, self.padding_mode
        if shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros") and can_convolve(input, weight, bias):
            return conv3x3(input, weight, cast(Tensor, bias))
        return super()._conv_forward(input, weight, bias)


class Dropout(nn.Module):
    """As `nn.Dropout`, but faster on a CPU, where each random number decides about four elements.

    In training on a CPU, `nn.Dropout` takes longer than all activation functions, because it draws a number for every
    element. Here an element uses 16 random bits. The rate is rounded to a multiple of 2⁻¹⁶ and the scale follows the
    rounded rate, so the expectation is exact. Random numbers come from PyTorch's default generator.

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
        """Set random elements of a tensor of any shape to zero and scale the others, in training."""
        if not self.training or self.p == 0:
            return x
        dropped = round(self.p * _STEPS)
        if x.device.type != "cpu" or dropped == _STEPS or torch.compiler.is_compiling():
            return F.dropout(x, self.p)
        return x * _mask(x, dropped)

    def extra_repr(self) -> str:
        """Show the rate in `repr`."""
        return f"p={self.p}"


def _mask(like: Tensor, dropped: int) -> Tensor:
    """A random mask shaped and typed as `like`: zero with probability `dropped` / _STEPS, else a constant; mean 1."""
    count = like.numel()
    numbers = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
    bits = numbers.view(torch.int16)[:count].view(like.shape)
    mask = torch.ge(bits, dropped - _STEPS // 2, out=torch.empty(like.shape, dtype=like.dtype))
    return mask.mul_(_STEPS / (_STEPS - dropped))


def warn_if_type_is_slow(device: torch.device, dtype: torch.dtype) -> None:
    """Warn if a type of 16 bits is used on a CPU for which PyTorch has only plain loops in this type.

    On a CPU with AVX2 only, a training step of a small model took 25 s with bfloat16 autocast and 2.6 s in float32;
    with float16 autocast it took 70 s on one with AVX-512 where bfloat16 took 2 s.
    There is no warning if PyTorch does not say what it supports.
    """
    if device.type != "cpu" or not is_slow(dtype):
        return
    name, needed = ("bfloat16", "AVX-512 or AMX") if dtype == torch.bfloat16 else ("float16", "AVX512-FP16 or AMX-FP16")
    message = (
        f"{name} is several times slower than float32 on this CPU, which lacks vector instructions for it "
        f"(on x86: {needed}); use float32"
    )
    warnings.warn_explicit(message, UserWarning, "mdqe", 1)  # one line, because "mdqe" has no source to show
