"""The reference in plain PyTorch against loops over numbers, and the form for CPUs against the reference."""

import math

import pytest
import torch
from attention_problems import ENCODER_SHAPES, TOLERANCE, Problem, make_problem
from torch import Tensor

from mdqe.ops.reference import at_least_float32, deform_attn_gather, deform_attn_reference


def pixel(value: Tensor, b: int, h: int, start: int, size: tuple[int, int], y: int, x: int) -> Tensor:
    if 0 <= y < size[0] and 0 <= x < size[1]:
        return value[b, start + y * size[1] + x, h]
    return torch.zeros(value.shape[3], dtype=value.dtype)


def by_definition(p: Problem) -> Tensor:
    batch, queries, heads, levels, points = p.score.shape
    out = torch.zeros(batch, queries, heads, p.value.shape[3], dtype=torch.float64)
    for b, q, h in torch.cartesian_prod(*map(torch.arange, (batch, queries, heads))).tolist():
        weights = p.score[b, q, h]
        if p.centers is not None:
            weights = weights.exp() / weights.exp().sum()
        for level in range(levels):
            for k in range(points):
                u, v = p.position[b, q, h, level, k].tolist()
                if p.centers is not None:
                    center = p.centers[b if p.centers.shape[0] > 1 else 0, q].tolist()
                    u, v = center[0] + u / 8, center[1] + v / 8
                if not (abs(u) < 1e6 and abs(v) < 1e6):
                    continue
                size, start = p.shapes[level], p.starts[level]
                x, y = u * size[1] - 0.5, v * size[0] - 0.5
                x0, y0 = math.floor(x), math.floor(y)
                for yi, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
                    for xi, wx in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
                        corner = pixel(p.value, b, h, start, size, yi, xi)
                        out[b, q, h] += weights[level, k] * wy * wx * corner
    return out.flatten(2)


@pytest.mark.parametrize("fused", [False, True])
def test_reference_is_the_definition(fused: bool) -> None:
    for seed in range(5):
        shapes = ((3, 4), (2, 2), (1, 1))
        options = {"fused": fused, "dtype": torch.float64, "shared_centers": seed % 2, "seed": seed}
        problem = make_problem(2, 3, 2, 3, 2, shapes, **options)
        problem.position[0, 0, 0, 0, 0, 0] = math.nan
        problem.position[1, 2, 1, 2, 1, 1] = -math.inf
        torch.testing.assert_close(problem.run_reference(), by_definition(problem), rtol=1e-12, atol=1e-12)


def test_levels_may_repeat_and_overlap() -> None:
    problem = make_problem(
        1, 4, 2, 3, 2, ((2, 3), (2, 3), (1, 4)), fused=False, dtype=torch.float64, starts=(1, 1, 3), rows=9
    )
    torch.testing.assert_close(problem.run_reference(), by_definition(problem), rtol=1e-12, atol=1e-12)


def gradients(operator: object, p: Problem) -> tuple[Tensor, ...]:
    """The output, and the gradients of a random functional of it."""
    inputs = value, locations, weights = [x.detach().clone().requires_grad_() for x in p.tensors()]
    output = operator(value, p.shapes, p.starts, locations, weights)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    return output.detach(), *torch.autograd.grad((output * direction).sum(), inputs)


ODD_LEVELS = {"starts": (2, 20, 30, 0), "rows": 60}  # they repeat, overlap and leave gaps


@pytest.mark.parametrize(
    ("problem", "dtype"),
    [(make_problem(2, 50, 4, 8, 4, ENCODER_SHAPES, fused=False), dtype)
     for dtype in (torch.float64, torch.float32, torch.bfloat16)]
    + [(make_problem(3, 9, 2, 5, 3, ((5, 7), (5, 7), (3, 4), (1, 1)), fused=False, **ODD_LEVELS), torch.float64)],
)  # fmt: skip
def test_gather_equals_the_reference(problem: Problem, dtype: torch.dtype) -> None:
    problem = problem.to(dtype)
    problem.position[0, 0, 0, 0, 0, 0] = math.nan
    problem.position[-1, -1, -1, -1, -1, 1] = -math.inf
    problem.position[0, 0, 0, 0, -1] = 1e30
    results, references = (gradients(f, problem) for f in (deform_attn_gather, deform_attn_reference))
    assert results[0].dtype == dtype
    for a, b in zip(results, references, strict=True):
        assert torch.isfinite(a).all() and (b != 0).any()
        # Gradients sum hundreds of terms in another order.
        assert (a - b).abs().max() <= 10 * TOLERANCE[dtype] * b.abs().max()


def test_coordinates_are_never_in_half_precision() -> None:
    types = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    assert [at_least_float32(dtype) for dtype in types] == [torch.float64] + [torch.float32] * 3
