"""Linear layers for inference on a CPU, with bias and GELU in one pass of oneDNN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mdqe.ops.convolution import is_plain_inference, is_slow

MANY_TOKENS = 2**9  # from which the time that is saved is far above that of the checks


class TokenLinear(nn.Linear):
    """As `nn.Linear`, but faster for inference with many tokens on a CPU: up to twice as fast.

    PyTorch copies the bias to every row of the result before it multiplies. oneDNN adds it to the products.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(…, in_features) → (…, out_features)."""
        if can_fuse(input, self.weight, self.bias):
            return fused_linear(input, self.weight, self.bias)
        return super().forward(input)


def can_fuse(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether `fused_linear` takes these tensors here, and is faster: many tokens in plain inference on a CPU."""
    if bias is None or not is_plain_inference(x, weight, bias) or x.shape[:-1].numel() < MANY_TOKENS:
        return False
    types = {tensor.dtype for tensor in (x, weight, bias)}
    fast = types == {torch.float32} or (types == {torch.bfloat16} and not is_slow(torch.bfloat16))
    # A PyTorch that was built without oneDNN reports it as enabled.
    available = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    return (
        fast and bool(available) and x.shape[-1] == weight.shape[1] and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def fused_linear(x: Tensor, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> Tensor:
    """`F.linear`, and `F.gelu` of its result, without an intermediate result: (…, in) → (…, out)."""
    activation, algorithm = ("gelu", "none") if gelu else ("none", "")
    bias = bias.contiguous()  # oneDNN would ignore its stride
    fused: Tensor = torch.ops.mkldnn._linear_pointwise(
        x.contiguous(), weight.contiguous(), bias, activation, [], algorithm
    )
    return fused


def is_hooked(module: nn.Module) -> bool:
    """Whether something wants to know of the calls of a module."""
    own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(own) or nn.modules.module._has_any_global_hook()
