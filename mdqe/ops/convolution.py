"""3×3 convolutions for inference on a CPU, with a compiled kernel."""

import torch
from torch import Tensor, nn

from mdqe.ops.kernels import has_conv3x3, in_forward_mode

INPUTS, OUTPUTS = 8, 16  # the kernel needs multiples of these


def is_plain_inference(*tensors: Tensor) -> bool:
    """Whether only numbers on a CPU are wanted: no derivatives, `vmap`, autocast, compilation or tracing.

    Nor does a dispatch mode see the operators, such as PyTorch's `FlopCounterMode`. The tensors are dense.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch._C._len_torch_dispatch_stack():
        return False
    transformed = torch._C._functorch.peek_interpreter_stack() is not None
    if transformed or in_forward_mode() or torch.is_autocast_enabled("cpu"):
        return False
    plain = all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)  # not a FakeTensor, for example
    return plain and all(tensor.device.type == "cpu" and tensor.layout == torch.strided for tensor in tensors)


def is_slow(dtype: torch.dtype) -> bool:
    """Whether PyTorch has only plain loops for bfloat16 or float16 on this CPU; False if it does not say."""
    if dtype not in (torch.bfloat16, torch.float16):
        return False
    name = "bf16" if dtype == torch.bfloat16 else "fp16"
    supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", None)  # the check that PyTorch itself uses
    return supported is not None and not supported()


def can_convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether `conv3x3` takes these tensors here; otherwise they are convolved by PyTorch.

    It takes float32 tensors, channels last, in plain inference on a CPU. It has kernels for processors with AVX2 or
    AVX-512, up to 1.8 times as fast as PyTorch.
    """
    if bias is None or x.dim() != 4 or not is_plain_inference(x, weight, bias) or not has_conv3x3():
        return False
    if any(tensor.dtype != torch.float32 for tensor in (x, weight, bias)):
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
