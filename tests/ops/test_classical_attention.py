"""The one-thread-per-channel kernel of the benchmark computes the same as ours, so that they are comparable."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from attention_problems import TOLERANCE, Problem, error, problems
from hypothesis import assume, given, settings
from simulated_cuda import ROOT, build

pytestmark = pytest.mark.slow


def load_classical() -> ModuleType:
    path = ROOT / "examples" / "benchmarks" / "classical_attention.py"
    spec = importlib.util.spec_from_file_location("classical_attention", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


classical = load_classical()


@pytest.mark.skipif(classical.find_nvcc() is None, reason="needs nvcc")
def test_it_compiles(tmp_path: Path) -> None:
    assert classical.compile_library(tmp_path, ("80", "86", "90")).is_file()


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_forward_and_backward_on_the_cpu(tmp_path: Path) -> None:
    attention = classical.Classical(build(tmp_path, [classical.SOURCE]), stream=lambda: 0)

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(problems(torch.float32))
    def run(problem: Problem) -> None:
        assume(problem.centers is None)
        expected, expected_grads = problem.to(torch.float64).gradients(reference=True)
        inputs = [tensor.clone().requires_grad_() for tensor in problem.tensors()]
        output = attention(inputs[0], torch.tensor(problem.shapes), torch.tensor(problem.starts), *inputs[1:])
        assert error(output, expected) <= TOLERANCE[torch.float32]
        random = torch.Generator().manual_seed(1)
        grad = torch.randn(expected.shape, generator=random, dtype=torch.float64).bfloat16().float()
        output.backward(grad)
        for tensor, expected_grad in zip(inputs, expected_grads, strict=True):
            assert error(tensor.grad, expected_grad) <= TOLERANCE[torch.float32]

    run()
