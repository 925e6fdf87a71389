"""Random problems for deformable attention, their results in float64, and the error of a result."""

from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from mdqe.ops.reference import at_least_float32, deform_attn_fused_reference, deform_attn_reference

# Maximum error relative to the largest entry. Low-precision results are rounded once at the end: half a unit in the
# last place of 8 (bfloat16) or 11 (float16) bits.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}
ENCODER_SHAPES = ((12, 20), (6, 10), (3, 5), (2, 3))


@dataclass
class Problem:
    """The arguments of a call: with centers, offsets and logits, or with locations and weights."""

    value: Tensor
    shapes: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]
    position: Tensor  # locations or offsets
    score: Tensor  # weights or logits
    centers: Tensor | None

    def tensors(self) -> list[Tensor]:
        """The differentiable inputs."""
        return [x for x in (self.value, self.centers, self.position, self.score) if x is not None]

    def with_tensors(self, tensors: list[Tensor]) -> "Problem":
        if self.centers is None:
            value, position, score = tensors
            return replace(self, value=value, position=position, score=score)
        value, centers, position, score = tensors
        return replace(self, value=value, centers=centers, position=position, score=score)

    def to(self, *args: object) -> "Problem":
        return self.with_tensors([tensor.to(*args) for tensor in self.tensors()])

    def run(self) -> Tensor:
        """Call the public function."""
        from mdqe.ops.library import deform_attn, deform_attn_fused

        if self.centers is None:
            return deform_attn(self.value, self.shapes, self.position, self.score, self.starts)
        return deform_attn_fused(self.value, self.shapes, self.centers, self.position, self.score, self.starts)

    def run_reference(self) -> Tensor:
        if self.centers is None:
            return deform_attn_reference(self.value, self.shapes, self.starts, self.position, self.score)
        return deform_attn_fused_reference(
            self.value, self.shapes, self.starts, self.centers, self.position, self.score
        )

    def gradients(self, reference: bool = False, seed: int = 1) -> tuple[Tensor, list[Tensor]]:
        """The output, and the gradients of a random functional of it."""
        inputs = [tensor.detach().clone().requires_grad_() for tensor in self.tensors()]
        problem = self.with_tensors(inputs)
        output = problem.run_reference() if reference else problem.run()
        grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        grad = grad.bfloat16().to(output)  # the same numbers in every type
        output.backward(grad)
        return output.detach(), [tensor.grad for tensor in inputs]


def make_problem(
    batch: int,
    queries: int,
    heads: int,
    channels: int,
    points: int,
    shapes: tuple[tuple[int, int], ...],
    *,
    fused: bool,
    shared_centers: bool = False,
    starts: tuple[int, ...] | None = None,
    rows: int | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Problem:
    """Normal values; locations up to a third of the image outside, some on corners and borders, some far away."""
    random = torch.Generator().manual_seed(seed)
    if starts is None:
        ends = torch.tensor([h * w for h, w in shapes]).cumsum(0).tolist()
        starts, rows = (0, *ends[:-1]), ends[-1]
    value = torch.randn(batch, rows, heads, channels, generator=random).to(dtype)
    size = (batch, queries, heads, len(shapes), points)
    locations = torch.rand(*size, 2, generator=random) * 1.6 - 0.3
    special = torch.tensor([0.0, 1.0, -0.25, 1.25, 1e30, -3e38])
    chosen = special[torch.randint(len(special), (*size, 2), generator=random)]
    locations = torch.where(torch.rand(*size, 2, generator=random) < 0.15, chosen, locations)
    score = torch.randn(size, generator=random)
    if not fused:
        return Problem(
            value, shapes, starts, locations.to(at_least_float32(dtype)), score.to(at_least_float32(dtype)), None
        )
    centers = torch.rand(1 if shared_centers else batch, queries, 2, generator=random).to(at_least_float32(dtype))
    offsets = ((locations - 0.5) * 8).clamp(-1e30, 1e30)
    return Problem(value, shapes, starts, offsets.to(dtype), score.to(dtype), centers)


def shared_frames(fused: bool, dtype: torch.dtype, stride: int = 1) -> tuple[Problem, Problem]:
    """Four clips of three frames: with frames that clips share in memory, (4, 3, N, H, D), and with copies of them."""
    problem = make_problem(12, 7, 2, 8, 3, ((4, 6), (2, 3)), fused=fused, dtype=dtype)
    frames = problem.value[: 3 * stride + 3]
    value = frames.unfold(0, 3, stride).movedim(-1, 1)  # (4, 3, N, H, D)
    assert value.data_ptr() == frames.data_ptr()
    return replace(problem, value=value), replace(problem, value=value.flatten(0, 1).clone())


@st.composite
def problems(draw: st.DrawFn, dtype: torch.dtype) -> Problem:
    """Problems of small and odd sizes; levels of one pixel; levels that repeat, overlap and leave gaps."""
    batch, queries = draw(st.integers(0, 3)), draw(st.integers(0, 5))
    heads, channels = draw(st.integers(1, 4)), draw(st.sampled_from([1, 3, 8, 12, 24, 32, 33, 64, 70]))
    levels, points = draw(st.sampled_from([(1, 1), (2, 4), (3, 4), (4, 4), (3, 6), (1, 5), (6, 3), (9, 2), (1, 17)]))
    side = st.sampled_from([1, 1, 2, 3, 5, 8])
    shapes = tuple((draw(side), draw(side)) for _ in range(levels))
    starts, rows = None, None
    if draw(st.booleans()):
        rows = max(h * w for h, w in shapes) + draw(st.integers(0, 9))
        starts = tuple(draw(st.integers(0, rows - h * w)) for h, w in shapes)
    options = {
        "fused": draw(st.booleans()),
        "shared_centers": draw(st.booleans()),
        "seed": draw(st.integers(0, 10_000)),
    }
    sizes = batch, queries, heads, channels, points
    return make_problem(*sizes, shapes, starts=starts, rows=rows, dtype=dtype, **options)


def error(result: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected entry; 0 for empty tensors."""
    assert result.shape == expected.shape
    result, expected = result.detach(), expected.detach()
    if expected.numel() == 0:
        return 0.0
    largest = expected.double().abs().max().clamp_min(1e-6)  # if all points lie outside, all entries are 0
    return float((result.double().cpu() - expected.double()).abs().max() / largest)


def check(problem: Problem, dtype: torch.dtype, device: str = "cpu") -> None:
    """Compare the output and the gradients on a device with the reference in float64."""
    output, grads = problem.to(device).gradients()
    expected, expected_grads = problem.to(torch.float64).gradients(reference=True)
    assert (output.device.type, output.dtype) == (device, dtype)
    assert error(output, expected) <= TOLERANCE[dtype]
    for tensor, grad, expected_grad in zip(problem.tensors(), grads, expected_grads, strict=True):
        assert grad.dtype == tensor.dtype
        assert error(grad, expected_grad) <= TOLERANCE[tensor.dtype]
