"""The plain form for CPUs against the reference, forward and backward."""

import math

import pytest
import torch
from attention_problems import ENCODER_SHAPES, TOLERANCE, Problem, make_problem
from torch import Tensor

from mdqe.ops.gather import deform_attn_gather
from mdqe.ops.reference import deform_attn_reference


def gradients(operator, p: Problem) -> tuple[Tensor, tuple[Tensor, ...]]:
    inputs = [x.detach().clone().requires_grad_() for x in (p.value, p.position, p.score)]
    value, locations, weights = inputs
    output = operator(value, p.shapes, p.starts, locations, weights)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    return output.detach(), torch.autograd.grad((output * direction).sum(), inputs)


def check(p: Problem, dtype: torch.dtype) -> None:
    p = p.to(dtype)
    p.position[0, 0, 0, 0, 0, 0] = math.nan
    p.position[-1, -1, -1, -1, -1, 1] = -math.inf
    p.position[0, 0, 0, 0, -1] = 1e30
    (output, found), (expected, wanted) = (gradients(f, p) for f in (deform_attn_gather, deform_attn_reference))
    assert output.dtype == dtype
    for a, b in zip((output, *found), (expected, *wanted), strict=True):
        assert torch.isfinite(a).all() and (b != 0).any()
        # Gradients add up hundreds of terms in another order.
        assert (a - b).abs().max() <= 10 * TOLERANCE[dtype] * b.abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gather_equals_the_reference(dtype):
    check(make_problem(2, 50, 4, 8, 4, ENCODER_SHAPES, fused=False), dtype)


def test_levels_may_repeat_overlap_and_leave_gaps():
    shapes, starts = ((5, 7), (5, 7), (3, 4), (1, 1)), (2, 20, 30, 0)
    check(make_problem(3, 9, 2, 5, 3, shapes, fused=False, starts=starts, rows=60), torch.float64)
