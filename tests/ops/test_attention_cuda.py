"""The CUDA kernels against the reference in float64. Without a GPU, only loading the library is tested."""

import math

import pytest
import torch
from attention_problems import ENCODER_SHAPES, TOLERANCE, Problem, check, error, make_problem, problems
from hypothesis import given, settings

from mdqe.ops import kernel_status, ms_deform_attn

settings.register_profile("kernels", deadline=None, derandomize=True)
settings.load_profile("kernels")
status = kernel_status()
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or "cuda" not in status.compiled,
    reason=f"needs a GPU and the CUDA kernels (GPU: {torch.cuda.is_available()}; {status.cuda})",
)
TYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SHAPES = ((3, 4), (2, 3))


@pytest.mark.skipif("cuda" not in status.compiled, reason=status.cuda)
def test_operators_are_registered_for_cuda() -> None:
    for name in ("deform_attn", "deform_attn_fused", "deform_attn_table"):
        for suffix in ("", "_backward"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mdqe::{name}{suffix}", "CUDA")


@needs_gpu
@pytest.mark.parametrize("dtype", TYPES)
def test_random_problems(dtype: torch.dtype) -> None:
    @settings(max_examples=80)
    @given(problems(dtype))
    def run(problem: Problem) -> None:
        check(problem, dtype, "cuda")

    run()


@needs_gpu
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [8, 24, 32, 33, 256, 1100])
def test_many_queries_and_channels(dtype: torch.dtype, channels: int) -> None:
    for fused in (False, True):
        check(make_problem(2, 70, 3, channels, 2, ENCODER_SHAPES, fused=fused, dtype=dtype), dtype, "cuda")


@needs_gpu
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_locations_that_are_not_finite_add_nothing(fused: bool, bad: float) -> None:
    problem = make_problem(2, 40, 3, 8, 3, ((4, 5), (1, 1)), fused=fused)
    problem.position[torch.rand(problem.position.shape, generator=torch.Generator().manual_seed(2)) < 0.2] = bad
    check(problem, torch.float32, "cuda")


@needs_gpu
def test_more_levels_than_fit_a_launch() -> None:
    check(make_problem(2, 5, 2, 8, 2, tuple((1 + i % 3, 2) for i in range(90)), fused=True), torch.float32, "cuda")


@needs_gpu
@pytest.mark.parametrize("dtype", TYPES)
def test_forward_has_the_same_bits_every_time(dtype: torch.dtype) -> None:
    problem = make_problem(2, 300, 4, 32, 4, ENCODER_SHAPES, fused=True, dtype=dtype).to("cuda")
    first = problem.run()
    assert all(torch.equal(first, problem.run()) for _ in range(5))


@needs_gpu
def test_deterministic_algorithms_reject_the_backward_pass() -> None:
    problem = make_problem(2, 5, 2, 8, 2, SHAPES, fused=True).to("cuda")
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="no deterministic implementation"):
            problem.gradients()
    finally:
        torch.use_deterministic_algorithms(False)


@needs_gpu
def test_misaligned_values() -> None:
    problem = make_problem(2, 5, 2, 8, 2, SHAPES, fused=False)
    buffer = torch.zeros(problem.value.numel() + 1, device="cuda")
    problem = problem.to("cuda")
    buffer[1:] = problem.value.flatten()
    expected = problem.run()
    problem.value = buffer[1:].view_as(problem.value)
    assert torch.equal(problem.run(), expected)


@needs_gpu
def test_the_drop_in_function_reads_its_table_on_the_device() -> None:
    problem = make_problem(2, 5, 2, 8, 2, SHAPES, fused=False)
    expected, (grad, *_) = problem.gradients()
    problem = problem.to("cuda")
    shapes, starts = torch.tensor(SHAPES, device="cuda"), torch.tensor(problem.starts, device="cuda")
    value = problem.value.requires_grad_()
    torch.cuda.set_sync_debug_mode("error")
    try:
        output = ms_deform_attn(value, shapes, starts, problem.position, problem.score)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert error(output, expected) <= TOLERANCE[torch.float32]
    output.sum().backward()
    assert value.grad.isfinite().all() and grad.shape == value.grad.shape
    outside = ms_deform_attn(value, shapes, starts + 1000, problem.position, problem.score)
    assert not outside.any()


@needs_gpu
@pytest.mark.parametrize("fused", [False, True])
def test_gradcheck(fused: bool) -> None:
    problem = make_problem(2, 3, 2, 3, 2, SHAPES, fused=fused, dtype=torch.float64).to("cuda")
    problem.position = torch.rand_like(problem.position) * (0.2 if fused else 0.1) + 0.31
    inputs = [tensor.requires_grad_() for tensor in problem.tensors()]
    run = lambda *tensors: problem.with_tensors(list(tensors)).run()  # noqa: E731
    assert torch.autograd.gradcheck(run, inputs, nondet_tol=1e-10)


@needs_gpu
def test_a_stream_and_a_graph() -> None:
    problem = make_problem(2, 50, 2, 32, 4, ENCODER_SHAPES, fused=True).to("cuda")
    expected = problem.run()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        output = problem.run()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(output, expected)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype: torch.dtype) -> None:
    problem = make_problem(2, 5, 2, 8, 2, SHAPES, fused=True).to("cuda")
    problem.score = problem.score.to(dtype)
    with torch.autocast("cuda", dtype=dtype):
        output = problem.run()
    assert output.dtype == torch.float32
    assert error(output, problem.to("cpu").to(torch.float64).run_reference()) <= TOLERANCE[torch.float32]
