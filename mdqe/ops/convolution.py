"""3×3 convolutions for inference on a CPU, with a compiled kernel."""

import torch
from torch import Tensor, nn

from mdqe.ops.kernels import has_conv3x3, in_forward_mode

INPUTS, OUTPUTS = 8, 16  # the kernel needs multiples of these


def can_convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether `conv3x3` takes these tensors here; otherwise they are convolved by PyTorch.

    It takes plain float32 tensors on a CPU, channels last, without derivatives, autocast, compilation or tracing. It
    has kernels for processors with AVX2 or AVX-512, up to 1.9 times as fast as PyTorch.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if in_forward_mode() or torch.is_autocast_enabled("cpu") or bias is None or x.dim() != 4 or not has_conv3x3():
        return False
    if any(type(tensor) not in (Tensor, nn.Parameter) for tensor in (x, weight, bias)):  # such as a FakeTensor
        return False
    if any(tensor.dtype != torch.float32 or tensor.device.type != "cpu" for tensor in (x, weight, bias)):
        return False
    outputs, inputs = weight.shape[:2]
    return not (outputs % OUTPUTS or inputs % INPUTS) and x.stride()[1:] == (1, x.shape[3] * inputs, inputs)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve with stride 1 and padding 1, in fewer multiplications (Winograd's F(2×2, 3×3)).

    Rounding differs from `F.conv2d`; for random numbers, the error is about half as large.

    Args:
        x: (B, C, H, W), for which `can_convolve` holds.
        weight: (O, C, 3, 3).
        bias: (O,).

    Returns:
        (B, O, H, W), channels last.
    """
    return torch.ops.mdqe.conv3x3(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
