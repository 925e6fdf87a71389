"""The source of the CUDA kernels, run thread by thread on the CPU: arithmetic and indexing without a GPU."""

import math
import shutil

import pytest
import torch
from attention_problems import ENCODER_SHAPES, TOLERANCE, Problem, error, make_problem, problems, shared_frames
from hypothesis import given, settings
from simulated_cuda import HERE, ROOT, build

from mdqe.ops.reference import at_least_float32

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")]
CUDA = ROOT / "csrc" / "cuda"
TYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> object:
    sources = [CUDA / "forward.cu", CUDA / "backward.cu"]
    torch.ops.load_library(build(tmp_path_factory.mktemp("cuda_on_cpu"), sources, HERE / "operators.cpp"))
    return torch.ops.mdqe_simulated


def check(kernels: object, problem: Problem, dtype: torch.dtype) -> None:
    levels = [n for (h, w), start in zip(problem.shapes, problem.starts, strict=True) for n in (h, w, start)]
    expected, gradients = problem.to(torch.float64).gradients(reference=True)
    expected_grads = [gradients[0], *gradients[-2:]]
    random = torch.Generator().manual_seed(1)
    grad = torch.randn(expected.shape, generator=random, dtype=torch.float64).bfloat16().to(dtype)
    wide = at_least_float32(dtype)
    for on_device in (False, True):
        output = kernels.forward(problem.value, levels, problem.centers, problem.position, problem.score, on_device)
        assert error(output, expected) <= TOLERANCE[dtype]
        position, score = problem.position.to(wide), problem.score.to(wide)
        grads = kernels.backward(grad, problem.value, levels, problem.centers, position, score, on_device)
        for result, expected_grad in zip(grads, expected_grads, strict=True):
            assert error(result, expected_grad) <= TOLERANCE[wide]


@pytest.mark.parametrize("dtype", TYPES)
def test_random_problems(kernels: object, dtype: torch.dtype) -> None:
    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(problems(dtype))
    def run(problem: Problem) -> None:
        check(kernels, problem, dtype)

    run()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [8, 24, 32, 33, 256, 1100])
def test_channels(kernels: object, dtype: torch.dtype, channels: int) -> None:
    for fused in (False, True):
        check(kernels, make_problem(2, 9, 3, channels, 2, ENCODER_SHAPES, fused=fused, dtype=dtype), dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("fused", [False, True])
def test_clips_that_share_frames(kernels: object, dtype: torch.dtype, fused: bool) -> None:
    shared, copied = shared_frames(fused, dtype)
    check(kernels, copied, dtype)
    levels = [n for (h, w), start in zip(shared.shapes, shared.starts, strict=True) for n in (h, w, start)]
    wide = at_least_float32(dtype)
    points = shared.centers, shared.position.to(wide), shared.score.to(wide), False
    assert torch.equal(*(kernels.forward(x.value, levels, *points) for x in (shared, copied)))
    grad = torch.randn(12, 7, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    grads, expected = (kernels.backward(grad, x.value, levels, *points) for x in (shared, copied))
    assert grads[0].shape == shared.value.shape
    for result, expected_grad in zip(grads, expected, strict=True):
        assert error(result.reshape(expected_grad.shape), expected_grad) <= TOLERANCE[wide]  # atomic additions


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_locations_that_are_not_finite_add_nothing(kernels: object, bad: float) -> None:
    for fused in (False, True):
        problem = make_problem(2, 40, 3, 8, 3, ((4, 5), (1, 1)), fused=fused)
        problem.position[torch.rand(problem.position.shape) < 0.2] = bad
        check(kernels, problem, torch.float32)
