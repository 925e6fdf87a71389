"""Multi-scale deformable attention: compiled kernels where they were built, plain PyTorch everywhere else."""

from importlib.util import find_spec

from mdqe.ops import library
from mdqe.ops.library import deform_attn_fused, kernel_status

__all__ = ["deform_attn", "deform_attn_fused", "kernel_status"]

if find_spec("mdqe.ops.deform_attn"):
    from mdqe.ops.deform_attn import MultiScaleDeformableAttention

    __all__ += ["MultiScaleDeformableAttention"]

deform_attn = library.deform_attn  # bound last: importing the submodule binds it to the same name
