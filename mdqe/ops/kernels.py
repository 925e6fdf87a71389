"""The compiled kernels: loading, registration with PyTorch, and status.

Two optional libraries lie in the folder of the package. `_C_cpu` contains the schemas of the operators and the CPU
kernels, `_C_cuda` the CUDA kernels. MDQE_DISABLE_EXT=1 disables both. ATEN_CPU_CAPABILITY (default, avx2, avx512)
limits the instruction set of the CPU kernels, as it does for PyTorch's own.
"""

import ctypes
import json
import multiprocessing
import os
import shlex
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import Library, register_autograd, register_fake

from mdqe.ops.reference import OFFSET_SCALE, at_least_float32

PACKAGE = Path(__file__).resolve().parents[1]
TYPES = {
    "cpu": (torch.float64, torch.float32, torch.bfloat16),
    "cuda": (torch.float64, torch.float32, torch.bfloat16, torch.float16),
}
FORWARD = ("deform_attn", "deform_attn_fused", "deform_attn_table")
MAX_ITEM_ELEMENTS = 2**31 - 1  # of one batch item of value: offsets in the CPU kernels have 32 bits


@dataclass(frozen=True)
class KernelStatus:
    """Descriptions of what runs the operator on CPU and CUDA, and the devices with compiled kernels."""

    cpu: str
    cuda: str
    compiled: tuple[str, ...]

    def __str__(self) -> str:
        return f"CPU: {self.cpu}; CUDA: {self.cuda}"


def find_library(name: str) -> Path | None:
    """Return the compiled library of a name in the folder of the package, or None."""
    return next(iter(sorted(PACKAGE.glob(f"{name}.*so")) + sorted(PACKAGE.glob(f"{name}.*pyd"))), None)


def why_not_built(device: str) -> str:
    """Return the reason that the build recorded."""
    try:
        return json.loads((PACKAGE / "_build.json").read_text())[device]
    except (OSError, ValueError, KeyError):
        return "no build on record"


def _load(device: str) -> tuple[bool, str]:
    """Load the library of a device; return whether that worked, and a description."""
    if os.environ.get("MDQE_DISABLE_EXT") == "1":
        return False, "plain PyTorch (MDQE_DISABLE_EXT=1)"
    path = find_library(f"_C_{device}")
    if path is None:
        return False, f"plain PyTorch (not compiled: {why_not_built(device)})"
    try:
        torch.ops.load_library(path)
    except (OSError, RuntimeError) as error:
        return False, f"plain PyTorch ({path.name} does not load: {error})"
    return True, f"compiled ({path.name})"


def _load_all() -> tuple[ctypes.CDLL | None, KernelStatus]:
    """Load both libraries; return a handle of the CPU library and the status."""
    cpu, cpu_text = _load("cpu")
    if not cpu:
        return None, KernelStatus(cpu_text, "plain PyTorch (the CPU library, which it builds on, is not loaded)", ())
    missing = [name for op in FORWARD for name in (op, f"{op}_backward") if not hasattr(torch.ops.mdqe, name)]
    path = find_library("_C_cpu")
    handle = ctypes.CDLL(str(path))
    if missing or not hasattr(handle, "mdqe_limit_cpu_kernels"):  # an editable install with newer sources
        text = f"plain PyTorch ({path and path.name} is of another version of this package: build it again)"
        return None, KernelStatus(text, text, ())
    handle.mdqe_limit_cpu_kernels.restype = ctypes.c_char_p
    cuda, cuda_text = (False, "plain PyTorch (this torch has no CUDA)") if torch.version.cuda is None else _load("cuda")
    return handle, KernelStatus("", cuda_text, ("cpu", "cuda") if cuda else ("cpu",))


def unexpected_fallback() -> str | None:
    """A warning if kernels are not used although a user may expect them: a library that does not load, or sources in
    which no build is on record. None if a user disabled them, or an installation without them reported why.
    """
    if "cpu" in _status.compiled or os.environ.get("MDQE_DISABLE_EXT") == "1":
        return None
    checkout = (PACKAGE.parent / "csrc").is_dir()
    if find_library("_C_cpu") is None and not (checkout and not (PACKAGE / "_build.json").exists()):
        return None
    remedy = f"build them with: pip install -e {shlex.quote(str(PACKAGE.parent))}" if checkout else "install mdqe again"
    return f"{PACKAGE} runs without compiled kernels, which is slow: {_status.cpu}; {remedy}"


def limit_cpu(capability: str | None) -> str:
    """Use the best instruction set of the processor up to `capability` (default, avx2, avx512; None: no limit).

    Returns:
        Its name; "" if the CPU library is not loaded.
    """
    if _handle is None:
        return ""
    return _handle.mdqe_limit_cpu_kernels(capability.encode() if capability else None).decode()


def kernel_status() -> KernelStatus:
    """Return what runs the operator on each device and, for plain PyTorch, the reason."""
    return _status


def has_operator(name: str) -> bool:
    """Return whether the CPU library is in use and has this operator; a library of another version may lack it."""
    return "cpu" in _status.compiled and hasattr(torch.ops.mdqe, name)


def has_conv3x3() -> bool:
    """Return whether the CPU library has a kernel of `mdqe.ops.convolution` for the instruction set in use."""
    return _HAS_CONV3X3 and bool(_handle.mdqe_has_conv3x3())  # type: ignore[union-attr]


def in_forward_mode() -> bool:
    """Return whether derivatives are computed in forward mode (`torch.func.jvp`), which compiled kernels would lose."""
    return forward_ad._current_level >= 0


def compiled_for(value: Tensor) -> bool:
    """Return whether a compiled kernel supports the device, type and size of this value (…, N, H, D)."""
    device = value.device.type
    if device not in _status.compiled or value.dtype not in TYPES[device] or torch.onnx.is_in_onnx_export():
        return False
    return device != "cpu" or value.shape[-3] * value.shape[-2] * value.shape[-1] <= MAX_ITEM_ELEMENTS


def _fake_forward(value: Tensor, *rest: Any) -> Tensor:
    return value.new_empty(*rest[-1].shape[:2], value.shape[-2] * value.shape[-1])


def _fake_backward(grad: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    dtype = at_least_float32(value.dtype)
    of_value, of_second, of_third = (value.new_empty(like.shape, dtype=dtype) for like in (value, *rest[-2:]))
    return of_value, of_second, of_third


def _alert_nondeterministic(value: Tensor) -> None:
    """Warn or raise if the user asked for deterministic algorithms: on CUDA, atomic additions sum in any order."""
    if value.device.type != "cuda" or not torch.are_deterministic_algorithms_enabled():
        return
    message = (
        "the backward pass of deformable attention on CUDA has no deterministic implementation, but you set "
        "torch.use_deterministic_algorithms(True); use warn_only=True, or run the backward pass on the CPU"
    )
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        raise RuntimeError(message)
    warnings.warn(message, stacklevel=2)


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    value, ctx.levels, *rest = inputs
    ctx.save_for_backward(value, *rest)


def _backward(ctx: Any, grad: Tensor) -> tuple:
    value, locations, weights = ctx.saved_tensors
    _alert_nondeterministic(value)
    grads = torch.ops.mdqe.deform_attn_backward(grad, value, ctx.levels, locations, weights)
    return grads[0].to(value.dtype), None, grads[1], grads[2]


def _save_table(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _table_backward(ctx: Any, grad: Tensor) -> tuple:
    value, *rest = ctx.saved_tensors
    _alert_nondeterministic(value)
    grads = torch.ops.mdqe.deform_attn_table_backward(grad, value, *rest)
    return grads[0].to(value.dtype), None, None, grads[1], grads[2]


def _fused_backward(ctx: Any, grad: Tensor) -> tuple:
    value, centers, offsets, logits = ctx.saved_tensors
    _alert_nondeterministic(value)
    dtype = centers.dtype
    grads = torch.ops.mdqe.deform_attn_fused_backward(
        grad, value, ctx.levels, centers, offsets.to(dtype), logits.to(dtype)
    )
    grad_centers = None
    if ctx.needs_input_grad[2]:
        grad_centers = grads[1].sum((2, 3, 4)) * OFFSET_SCALE  # (B, Q, 2)
        if centers.shape[0] != grad_centers.shape[0]:
            grad_centers = grad_centers.sum(0, keepdim=True)
    return grads[0].to(value.dtype), None, grad_centers, grads[1].to(offsets.dtype), grads[2].to(logits.dtype)


def _no_double_backward(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError("deformable attention is differentiable once; its gradient is not differentiable")


def _nothing_to_save(ctx: Any, inputs: tuple, output: Any) -> None:
    pass


def _autocast_rule(name: str, device: str) -> Any:
    """Return the operator under autocast: value keeps its type; coordinates and weights get the type of the sums."""
    operator = getattr(torch.ops.mdqe, name)

    def call(value: Tensor, *rest: Any) -> Tensor:
        dtype = at_least_float32(value.dtype)
        cast = [x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in rest]
        with torch.autocast(device, enabled=False):
            return operator(value, *cast)

    return call


def _register() -> Library:
    """Register fake kernels, gradients and autocast rules of the operators that the CPU library defines."""
    library = Library("mdqe", "IMPL")
    for name, backward, save in (
        ("deform_attn", _backward, _save),
        ("deform_attn_fused", _fused_backward, _save),
        ("deform_attn_table", _table_backward, _save_table),
    ):
        register_fake(f"mdqe::{name}", _fake_forward)
        register_fake(f"mdqe::{name}_backward", _fake_backward)
        register_autograd(f"mdqe::{name}", backward, setup_context=save)
        register_autograd(f"mdqe::{name}_backward", _no_double_backward, setup_context=_nothing_to_save)
        library.impl(name, _autocast_rule(name, "cpu"), "AutocastCPU")
        library.impl(name, _autocast_rule(name, "cuda"), "AutocastCUDA")
    return library


_handle, _status = _load_all()
_HAS_CONV3X3 = hasattr(_handle, "mdqe_has_conv3x3")  # a library of another version may lack it
if _handle is not None:
    _registrations = _register()  # must live as long as the module, or PyTorch drops the rules
    _name = limit_cpu(os.environ.get("ATEN_CPU_CAPABILITY"))
    _status = KernelStatus(f"{_name} kernels ({why_not_built('cpu')})", _status.cuda, _status.compiled)
if (_text := unexpected_fallback()) and multiprocessing.parent_process() is None:  # workers would repeat it
    warnings.warn_explicit(_text, UserWarning, "mdqe", 1)  # one line, because "mdqe" has no source to show
