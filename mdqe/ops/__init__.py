"""Multi-scale deformable attention: compiled kernels where they were built, plain PyTorch everywhere else."""

from importlib import import_module
from typing import Any

_HOME = {
    "KernelStatus": "mdqe.ops.kernels",
    "MultiScaleDeformableAttention": "mdqe.ops.attention",
    "deform_attn": "mdqe.ops.library",
    "deform_attn_fused": "mdqe.ops.library",
    "kernel_status": "mdqe.ops.kernels",
    "ms_deform_attn": "mdqe.ops.library",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mdqe.ops' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
