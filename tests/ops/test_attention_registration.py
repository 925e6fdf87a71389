"""The operators in PyTorch: gradients, compilation, export, autocast."""

from collections.abc import Callable

import pytest
import torch
from attention_problems import ENCODER_SHAPES, TOLERANCE, Problem, error, make_problem
from torch import Tensor

from mdqe.ops import kernel_status, ms_deform_attn
from mdqe.ops.library import deform_attn, deform_attn_fused

pytestmark = pytest.mark.skipif("cpu" not in kernel_status().compiled, reason=f"no compiled kernels: {kernel_status()}")
SHAPES = ((3, 4), (2, 3))


def smooth_problem(fused: bool, shared_centers: bool = False) -> Problem:
    """A problem without samples near pixel centres, where the derivative jumps."""
    p = make_problem(2, 3, 2, 3, 2, SHAPES, fused=fused, shared_centers=shared_centers, dtype=torch.float64)
    size = torch.tensor([[w, h] for h, w in SHAPES], dtype=torch.float64)[:, None]  # (L, 1, 2)
    generator = torch.Generator().manual_seed(3)
    cell = torch.randint(-1, 4, p.position.shape, generator=generator)
    locations = (cell + 0.7 + 0.2 * torch.rand(cell.shape, generator=generator, dtype=torch.float64)) / size
    if fused:
        p.centers.fill_(0.5)
    p.position = (locations - 0.5) * 8 if fused else locations
    return p


def flat(problem: Problem) -> list[int]:
    return [n for (h, w), start in zip(problem.shapes, problem.starts, strict=True) for n in (h, w, start)]


def op_arguments(problem: Problem) -> tuple:
    value, *rest = [tensor.detach().requires_grad_() for tensor in problem.tensors()]
    return (value, flat(problem), *rest)


def table(problem: Problem) -> tuple[Tensor, Tensor]:
    return torch.tensor(problem.shapes), torch.tensor(problem.starts)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_gradcheck(fused: bool, shared: bool) -> None:
    problem = smooth_problem(fused, shared)
    inputs = [tensor.requires_grad_() for tensor in problem.tensors()]
    assert torch.autograd.gradcheck(lambda *tensors: problem.with_tensors(list(tensors)).run(), inputs)


@pytest.mark.parametrize("name", ["value", "locations", "weights", "centers", "offsets", "logits"])
@pytest.mark.parametrize("derivative", [torch.func.jacfwd, lambda f: lambda x: torch.func.jvp(f, (x,), (x,))[1]])
def test_forward_mode_is_an_error_instead_of_zeros(name: str, derivative: Callable) -> None:
    for names in (["value", "locations", "weights"], ["value", "centers", "offsets", "logits"]):
        if name not in names:
            continue
        place, problem = names.index(name), smooth_problem(len(names) == 4)

        def call(tensor: Tensor, place: int = place, problem: Problem = problem) -> Tensor:
            tensors = problem.tensors()
            tensors[place] = tensor
            return problem.with_tensors(tensors).run()

        for mode in (torch.enable_grad, torch.no_grad):
            with mode(), pytest.raises(NotImplementedError, match=f"{name} has a derivative in forward mode"):
                derivative(call)(problem.tensors()[place])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_opcheck(fused: bool, dtype: torch.dtype) -> None:
    problem = make_problem(2, 5, 3, 8, 2, SHAPES, fused=fused, dtype=dtype)
    op = torch.ops.mdqe.deform_attn_fused if fused else torch.ops.mdqe.deform_attn
    torch.library.opcheck(op.default, op_arguments(problem), rtol=1e-4, atol=1e-4)


def test_opcheck_of_the_table_form_and_the_gradients() -> None:
    problem = make_problem(2, 5, 3, 8, 2, SHAPES, fused=False)
    value, _, locations, weights = op_arguments(problem)
    torch.library.opcheck(torch.ops.mdqe.deform_attn_table.default, (value, *table(problem), locations, weights))
    grad = torch.randn(2, 5, 24)
    value, locations, weights = value.detach(), locations.detach(), weights.detach()
    torch.library.opcheck(torch.ops.mdqe.deform_attn_backward.default, (grad, value, flat(problem), locations, weights))
    torch.library.opcheck(
        torch.ops.mdqe.deform_attn_table_backward.default, (grad, value, *table(problem), locations, weights)
    )
    value, levels, *rest = op_arguments(make_problem(2, 5, 3, 8, 2, SHAPES, fused=True))
    tensors = [tensor.detach() for tensor in rest]
    torch.library.opcheck(torch.ops.mdqe.deform_attn_fused_backward.default, (grad, value.detach(), levels, *tensors))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(fused: bool, dynamic: bool) -> None:
    torch._dynamo.reset()

    def call(shapes: tuple, *tensors: Tensor) -> Tensor:
        function = deform_attn_fused if fused else deform_attn
        value, *rest = tensors
        return function(value * 2, shapes, *rest) + 1

    compiled = torch.compile(call, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for queries, shapes in ((5, SHAPES), (7, SHAPES), (6, ((5, 4), (3, 2)))):
        problem = make_problem(2, queries, 2, 8, 2, shapes, fused=fused)
        results = []
        for function in (call, compiled):
            inputs = [tensor.clone().requires_grad_() for tensor in problem.tensors()]
            output = function(problem.shapes, *inputs)
            output.square().sum().backward()
            results.append([output, *(tensor.grad for tensor in inputs)])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class Attention(torch.nn.Module):
    def __init__(self, fused: bool, plain: bool = False) -> None:
        super().__init__()
        self.call, self.plain = deform_attn_fused if fused else deform_attn, plain

    def forward(self, value: Tensor, *rest: Tensor) -> Tensor:
        return self.call(value, ENCODER_SHAPES, *rest, plain=self.plain)


@pytest.mark.parametrize("fused", [False, True])
def test_export(fused: bool) -> None:
    inputs = make_problem(2, 6, 2, 8, 2, ENCODER_SHAPES, fused=fused).tensors()
    batch, queries = torch.export.Dim("batch", min=2), torch.export.Dim("queries", min=2)
    sizes = ({0: batch}, tuple({0: batch, 1: queries} for _ in inputs[1:]))
    program = torch.export.export(Attention(fused), tuple(inputs), dynamic_shapes=sizes)
    other = make_problem(3, 9, 2, 8, 2, ENCODER_SHAPES, fused=fused)
    assert torch.equal(program.module()(*other.tensors()), other.run())
    assert "mdqe.deform_attn" in str(program.graph)


@pytest.mark.parametrize("fused", [False, True])
def test_plain_exports_standard_operators(fused: bool) -> None:
    problem = make_problem(2, 6, 2, 8, 2, ENCODER_SHAPES, fused=fused)
    inputs = tuple(problem.tensors())
    program = torch.export.export(Attention(fused, plain=True), inputs)
    torch.testing.assert_close(program.module()(*inputs), problem.run())
    assert "grid_sampler" in str(program.graph)
    assert "mdqe" not in str(program.graph)


@pytest.mark.parametrize("fused", [False, True])
def test_second_derivatives_raise(fused: bool) -> None:
    problem = make_problem(1, 3, 2, 4, 2, SHAPES, fused=fused)
    inputs = [tensor.requires_grad_() for tensor in problem.tensors()]
    output = problem.with_tensors(inputs).run()
    grads = torch.autograd.grad(output.square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        grads[0].sum().backward()


@pytest.mark.parametrize("value_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rest_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fused", [False, True])
def test_autocast(fused: bool, value_type: torch.dtype, rest_type: torch.dtype) -> None:
    problem = make_problem(2, 5, 3, 8, 2, SHAPES, fused=fused)
    value, *centers, position, score = problem.tensors()
    tensors = [value.to(value_type), *centers, position.to(rest_type), score.to(rest_type)]
    inputs = [tensor.clone().requires_grad_() for tensor in tensors]
    op = torch.ops.mdqe.deform_attn_fused if fused else torch.ops.mdqe.deform_attn
    expected = problem.with_tensors(tensors).to(torch.float64).run_reference()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = problem.with_tensors(inputs).run()
        direct = op(inputs[0], flat(problem), *inputs[1:])
    assert output.dtype == direct.dtype == value_type
    assert error(output, expected) <= TOLERANCE[value_type]
    assert error(direct, expected) <= TOLERANCE[value_type]
    (output.float() + direct.float()).sum().backward()
    assert all(tensor.grad is not None and tensor.grad.dtype == tensor.dtype for tensor in inputs)


def test_inference_mode_and_no_grad() -> None:
    problem = make_problem(2, 5, 3, 8, 2, SHAPES, fused=True)
    expected = problem.run()
    with torch.inference_mode():
        assert torch.equal(problem.run(), expected)
    problem.value.requires_grad_()
    with torch.no_grad():
        assert not problem.run().requires_grad


def test_drop_in() -> None:
    problem = make_problem(3, 5, 2, 8, 2, SHAPES, fused=False)
    inputs = [tensor.requires_grad_() for tensor in problem.tensors()]
    value, locations, weights = inputs
    output = ms_deform_attn(value, *table(problem), locations, weights, 64)
    assert torch.equal(output, problem.run())
    grads = torch.autograd.grad(output.sum(), inputs)
    expected = torch.autograd.grad(problem.run().sum(), inputs)
    assert all(torch.equal(a, b) for a, b in zip(grads, expected, strict=True))


def test_drop_in_compiles_in_one_graph() -> None:
    torch._dynamo.reset()
    problem = make_problem(3, 5, 2, 8, 2, SHAPES, fused=False)
    arguments = (problem.value, *table(problem), problem.position, problem.score)
    compiled = torch.compile(ms_deform_attn, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*arguments), problem.run())


def test_drop_in_checks_the_table() -> None:
    problem = make_problem(1, 5, 2, 8, 2, SHAPES, fused=False)
    shapes, starts = table(problem)
    arguments = (problem.value, shapes, starts + 1, problem.position, problem.score)
    with pytest.raises(ValueError, match="level 1 of starts and shapes covers rows 13 to 19, but value has N = 18"):
        ms_deform_attn(*arguments)
    with pytest.raises(RuntimeError, match="level 1 of levels, 2 x 3 from row 13, does not fit into value with N = 18"):
        torch.ops.mdqe.deform_attn_table(*arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, p, s: ([3, 4, 0, 2, 3, 13], v, p, s), "level 1 of levels, 2 x 3 from row 13, does not fit"),
        (lambda v, p, s: ([3, 4, 0, 2, 3, -1], v, p, s), "level 1"),
        (lambda v, p, s: ([3, 4, 0, 2**40, 2**40, 0], v, p, s), "level 1"),
        (lambda v, p, s: ([3, 4, 0, 0, 3, 12], v, p, s), "height and width of at least 1, got 0 x 3"),
        (lambda v, p, s: ([3, 4, 0, 2], v, p, s), "got 4 numbers"),
        (lambda v, p, s: ([3, 4, 0], v, p, s), r"locations must be .* = \(2, Q, 3, 1, P, 2\)"),
        (lambda v, p, s: (None, v[0], p, s), r"value must be \(B, N, H, D\) or .*, got \(18, 3, 8\)"),
        (lambda v, p, s: (None, v, p[:1], s), r"locations must be .*got \(1, 5, 3, 2, 2, 2\)"),
        (lambda v, p, s: (None, v, p, s[:, :4]), r"weights must be .*got \(2, 4, 3, 2, 2\)"),
        (lambda v, p, s: (None, v, p.double(), s), "locations must have the type of weights, float32, got float64"),
        (lambda v, p, s: (None, v, p, s.double()), "weights must be float32 for float32 value, got float64"),
        (lambda v, p, s: (None, v.half(), p, s), "value must be float64, float32 or bfloat16 on the CPU, got float16"),
        (lambda v, p, s: (None, v.int(), p, s), "value must be"),
    ],
)
def test_wrong_arguments_of_the_operator(change: object, message: str) -> None:
    problem = make_problem(2, 5, 3, 8, 2, SHAPES, fused=False)
    levels, *tensors = change(*problem.tensors())
    with pytest.raises(RuntimeError, match=message):
        torch.ops.mdqe.deform_attn(tensors[0], levels or flat(problem), *tensors[1:])


def test_centers_must_fit() -> None:
    problem = make_problem(2, 5, 3, 8, 2, SHAPES, fused=True)
    with pytest.raises(RuntimeError, match=r"centers must be .* = \(2 or 1, 5, 2\), got \(2, 4, 2\)"):
        torch.ops.mdqe.deform_attn_fused(
            problem.value, flat(problem), problem.centers[:, :4], problem.position, problem.score
        )
