"""Multi-scale deformable attention: compiled kernels where they were built, plain PyTorch everywhere else."""

from mdqe.ops import library
from mdqe.ops.deform_attn import MultiScaleDeformableAttention
from mdqe.ops.dropin import ms_deform_attn
from mdqe.ops.kernels import KernelStatus, kernel_status
from mdqe.ops.library import deform_attn_fused

deform_attn = library.deform_attn  # bound last: importing the submodule binds it to the same name

__all__ = [
    "KernelStatus",
    "MultiScaleDeformableAttention",
    "deform_attn",
    "deform_attn_fused",
    "kernel_status",
    "ms_deform_attn",
]
