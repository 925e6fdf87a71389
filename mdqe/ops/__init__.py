"""Multi-scale deformable attention: compiled kernels where they were built, plain PyTorch everywhere else."""

from mdqe.ops.attention import MultiScaleDeformableAttention
from mdqe.ops.dropin import ms_deform_attn
from mdqe.ops.kernels import KernelStatus, kernel_status
from mdqe.ops.library import deform_attn, deform_attn_fused

__all__ = [
    "KernelStatus",
    "MultiScaleDeformableAttention",
    "deform_attn",
    "deform_attn_fused",
    "kernel_status",
    "ms_deform_attn",
]
