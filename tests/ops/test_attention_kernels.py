"""The compiled CPU kernels, with every instruction set of this machine, against the reference in float64."""

import math
from collections.abc import Iterator

import pytest
import torch
from attention_problems import ENCODER_SHAPES, TOLERANCE, Problem, check, error, make_problem, problems, shared_frames
from hypothesis import HealthCheck, given, settings

from mdqe.ops.kernels import compiled_for, kernel_status, limit_cpu
from mdqe.ops.library import deform_attn, deform_attn_fused

pytestmark = pytest.mark.skipif("cpu" not in kernel_status().compiled, reason=f"no compiled kernels: {kernel_status()}")
settings.register_profile(
    "kernels", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("kernels")

NAMES = {"default": "plain C++", "avx2": "AVX2", "avx512": "AVX-512"}
TYPES = [torch.float32, torch.bfloat16, torch.float64]
B, Q, H, D, P = 2, 900, 4, 8, 2  # enough queries for tiles and several threads


@pytest.fixture(params=list(NAMES), autouse=True)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    name = limit_cpu(request.param)
    if name != NAMES[request.param]:
        limit_cpu(None)
        pytest.skip(f"this processor has no {NAMES[request.param]}")
    yield name
    limit_cpu(None)


@pytest.mark.parametrize("dtype", TYPES)
def test_random_problems(dtype: torch.dtype) -> None:
    @settings(max_examples=60)
    @given(problems(dtype))
    def run(problem: Problem) -> None:
        check(problem, dtype)

    run()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_many_queries(fused: bool, shared: bool) -> None:
    check(make_problem(B, Q, H, D, P, ENCODER_SHAPES, fused=fused, shared_centers=shared), torch.float32)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_locations_that_are_not_finite_add_nothing(fused: bool, dtype: torch.dtype, bad: float) -> None:
    problem = make_problem(2, 700, 3, 5, 3, ((4, 5), (1, 1)), fused=fused, dtype=dtype)
    random = torch.rand(problem.position.shape, generator=torch.Generator().manual_seed(2))
    problem.position[random < 0.2] = bad
    check(problem, dtype)
    problem.position.fill_(bad)
    output, grads = problem.gradients()
    assert not output.any()
    assert not any(grad.any() for grad in grads)


def test_centers_that_are_not_finite_add_nothing() -> None:
    problem = make_problem(2, 700, 3, 5, 3, ((4, 5), (1, 1)), fused=True)
    problem.centers[0, ::3] = math.nan
    problem.centers[1, 1::3, 0] = math.inf
    check(problem, torch.float32)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_give_nan(bad: float) -> None:
    problem = make_problem(1, 2, 1, 4, 4, ((4, 5),), fused=True)
    problem.score[0, 1, 0, 0, 2] = bad
    output = problem.run()
    assert output[0, 1].isnan().all() and output[0, 0].isfinite().all()


@pytest.mark.parametrize("change", [lambda x: x[..., 1].fill_(-math.inf), lambda x: x.mul_(300).add_(5000)])
def test_masked_and_large_logits(change: object) -> None:
    problem = make_problem(1, 3, 2, 4, 5, ((4, 5), (2, 2)), fused=True)
    change(problem.score)
    assert error(problem.run(), problem.to(torch.float64).run_reference()) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("fused", [False, True])
def test_exactly_on_corners_and_borders(fused: bool) -> None:
    # Sizes are powers of two, so every location and the choice of pixels are exact.
    steps = torch.arange(-4, 21) / 16
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).view(1, -1, 1, 1, 1, 2)
    problem = make_problem(1, grid.shape[1], 1, 3, 1, ((4, 8),), fused=fused)
    problem.position.copy_((grid - 0.5) * 8 if fused else grid)
    if fused:
        problem.centers.fill_(0.5)
    check(problem, torch.float32)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_any_strides(fused: bool, dtype: torch.dtype) -> None:
    plain = make_problem(3, 6, 2, 8, 4, ((4, 5), (2, 2)), fused=fused, dtype=dtype)
    plain.position = plain.position[:1].expand_as(plain.position)
    plain.score = plain.score[:, :, :1].expand_as(plain.score)
    strided = Problem(
        torch.stack([plain.value, plain.value], -1)[..., 0],
        plain.shapes,
        plain.starts,
        plain.position.flip(-1).contiguous().flip(-1).transpose(1, 2).contiguous().transpose(1, 2),
        torch.cat([plain.score, plain.score], 1)[:, : plain.score.shape[1]],
        None if plain.centers is None else plain.centers.transpose(1, 2).contiguous().transpose(1, 2),
    )
    assert not strided.value.is_contiguous() and not strided.position.is_contiguous()
    assert torch.equal(plain.run(), strided.run())
    check(plain, dtype)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("stride", [1, 2])
def test_clips_that_share_frames_are_read_in_place(fused: bool, dtype: torch.dtype, stride: int) -> None:
    shared, copied = shared_frames(fused, dtype, stride)
    assert torch.equal(shared.run(), copied.run())
    output, grads = shared.gradients()
    expected, expected_grads = copied.gradients()
    assert torch.equal(output, expected)
    assert grads[0].shape == shared.value.shape
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert torch.equal(grad.reshape(expected_grad.shape), expected_grad)


def test_shared_frames_are_not_copied() -> None:
    """A batch of 1,000 clips of the same frame needs no memory of 1,000 frames."""
    value = torch.randn(1, 64 * 64, 8, 32).expand(1000, -1, -1, -1)
    locations, weights = torch.rand(1000, 1, 8, 1, 1, 2), torch.rand(1000, 1, 8, 1, 1)
    with torch.profiler.profile(profile_memory=True) as profile:
        output = deform_attn(value, ((64, 64),), locations, weights)
    assert output.shape == (1000, 1, 256)
    allocated = sum(max(event.cpu_memory_usage, 0) for event in profile.events() if event.cpu_parent is None)
    assert allocated < 2**24  # a copy would be 4 GiB


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_same_bits_for_any_number_of_threads(fused: bool, dtype: torch.dtype) -> None:
    problem = make_problem(B, Q, H, D, P, ENCODER_SHAPES, fused=fused, dtype=dtype)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            output, grads = problem.gradients()
            results.append([output, *grads])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))


def test_attention_over_time_is_one_call() -> None:
    # Three of five frames and two scales, with the same offsets and logits at both scales: the mean over the scales.
    frames, scales, rows = (1, 3, 4), ((4, 5), (2, 3)), 26
    p = make_problem(1, 7, 2, 8, 4, ((4, 5),) * 3, fused=True)  # a level per frame
    window = torch.randn(5, rows, 2, 8).flatten(0, 1)[None]  # (1, 5 * rows, H, D)
    shapes = tuple(size for _ in frames for size in scales)
    starts = tuple(frame * rows + first for frame in frames for first in (0, 20))
    offsets, logits = p.position.repeat_interleave(2, 3), p.score.repeat_interleave(2, 3)
    together = deform_attn_fused(window, shapes, p.centers, offsets, logits, starts)
    apart = [
        deform_attn_fused(window, (size,) * 3, p.centers, p.position, p.score, tuple(f * rows + first for f in frames))
        for size, first in zip(scales, (0, 20), strict=True)
    ]
    assert error(together, torch.stack(apart).mean(0)) <= TOLERANCE[torch.float32]


def test_values_too_large_for_the_kernels_go_to_the_reference() -> None:
    assert compiled_for(torch.zeros(1).expand(2, 2**20, 32, 63))
    assert not compiled_for(torch.zeros(1).expand(2, 2**20, 32, 64))


def test_positions_and_scores_of_other_types() -> None:
    half = make_problem(2, 5, 3, 24, 4, ((4, 5), (2, 2)), fused=True, dtype=torch.bfloat16)
    half.position, half.score = half.position.float(), half.score.float() + 1e-3
    check(half, torch.bfloat16)
    single = make_problem(2, 5, 3, 24, 4, ((4, 5), (2, 2)), fused=True)
    single.score = single.score.bfloat16()
    check(single, torch.float32)
