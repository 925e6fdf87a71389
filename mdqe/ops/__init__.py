"""Multi-scale deformable attention, with compiled kernels where they are built and in plain PyTorch elsewhere."""

from mdqe import lazy_names

_HOME = {
    "KernelStatus": "mdqe.ops.kernels",
    "MultiScaleDeformableAttention": "mdqe.ops.attention",
    "deform_attn": "mdqe.ops.library",
    "deform_attn_fused": "mdqe.ops.library",
    "kernel_status": "mdqe.ops.kernels",
    "ms_deform_attn": "mdqe.ops.library",
}

__all__ = [*_HOME]
__getattr__, __dir__ = lazy_names(__name__, _HOME)
