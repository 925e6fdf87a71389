"""The classical CUDA kernel for deformable attention, for comparison: one thread per channel, float32."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_suffix(".cu")


def find_nvcc() -> str | None:
    """Find nvcc in CUDA_HOME, in /usr/local/cuda or on the PATH. Returns None if there is none."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("nvcc", path=f"{home}/bin") or shutil.which("nvcc")


def compile_library(folder: Path, architectures: tuple[str, ...]) -> Path:
    """Compile the shared library for compute capabilities such as "90".

    Raises:
        FileNotFoundError: there is no nvcc.
        subprocess.CalledProcessError: nvcc failed; its warnings are errors.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise FileNotFoundError("no nvcc in CUDA_HOME or on the PATH: the classical kernel needs a CUDA toolkit")
    library = folder / "classical_attention.so"
    codes = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in architectures]
    command = [nvcc, "-O3", "--Werror=all-warnings", "-shared", "-Xcompiler", "-fPIC", *codes]
    subprocess.run([*command, str(SOURCE), "-o", str(library)], check=True, capture_output=True, text=True)
    return library


class Classical:
    """Differentiable deformable attention with the kernels of `classical_attention.cu`, in float32.

    Args:
        library: the compiled library.
        stream: returns the CUDA stream to launch on, as a number.
    """

    def __init__(self, library: Path, stream: Callable[[], int]) -> None:
        self.library, self.stream = ctypes.CDLL(str(library)), stream

    def __call__(self, value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        """value (B, N, H, D), shapes (L, 2), starts (L), locations (B, Q, H, L, P, 2), weights → (B, Q, H * D)."""
        return _Attention.apply(self, value, shapes, starts, locations, weights)

    def launch(self, name: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
        value, _, _, locations, _ = inputs[-5:]
        batch, rows, heads, channels = value.shape
        _, queries, _, levels, points, _ = locations.shape
        sizes = (ctypes.c_int * 7)(batch, rows, heads, channels, queries, levels, points)
        pointers = [[ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors] for tensors in (inputs, outputs)]
        code = getattr(self.library, name)(*pointers[0], sizes, *pointers[1], ctypes.c_void_p(self.stream()))
        if code:
            raise RuntimeError(f"{name} failed with CUDA error {code}")


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kernels: Classical, *inputs: Tensor) -> Tensor:
        inputs = tuple(tensor.contiguous() for tensor in inputs)
        value, _, _, locations, _ = inputs
        output = value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
        kernels.launch("classical_forward", inputs, (output,))
        ctx.kernels = kernels
        ctx.save_for_backward(*inputs)
        return output

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        value, _, _, locations, weights = ctx.saved_tensors
        grads = (torch.zeros_like(value), torch.empty_like(locations), torch.empty_like(weights))
        ctx.kernels.launch("classical_backward", (grad.contiguous(), *ctx.saved_tensors), grads)
        return None, grads[0], None, None, grads[1], grads[2]
