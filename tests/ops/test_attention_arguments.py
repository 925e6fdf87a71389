"""The public functions: checks of their arguments, and their results without compiled kernels."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attention_problems import error, make_problem

from mdqe.ops import deform_attn, deform_attn_fused, kernel_status, kernels, ms_deform_attn
from mdqe.ops.reference import deform_attn_reference

SHAPES = ((3, 4), (2, 3))
ROOT = kernels.PACKAGE.parent  # of the package under test, which may be an installed one


def plain_arguments() -> dict:
    p = make_problem(2, 5, 3, 8, 2, SHAPES, fused=False)
    return {"value": p.value, "shapes": SHAPES, "locations": p.position, "weights": p.score}


def fused_arguments() -> dict:
    p = make_problem(2, 5, 3, 8, 2, SHAPES, fused=True)
    return {"value": p.value, "shapes": SHAPES, "centers": p.centers, "offsets": p.position, "logits": p.score}


@pytest.mark.parametrize(
    ("change", "error_type", "message"),
    [
        ({"shapes": ((3, 4), (2, 4))}, ValueError, r"shapes .* add up to 20 rows, but value has N = 18"),
        ({"shapes": ()}, ValueError, "at least one level"),
        ({"shapes": ((3, 4), (2, 0))}, ValueError, "at least 1"),
        ({"shapes": torch.tensor(SHAPES)}, TypeError, "not tensors; ms_deform_attn takes tensors"),
        ({"starts": (0,)}, ValueError, "2 levels, 1 starts"),
        ({"starts": (0, 13)}, ValueError, "level 1 .* covers rows 13 to 19, but value has N = 18"),
        ({"starts": (-1, 12)}, ValueError, "level 0 .* covers rows -1 to 11"),
        ({"value": None}, TypeError, "value must be a tensor, got NoneType"),
        ({"value": torch.zeros(18, 3, 8)}, ValueError, r"value must be \(B, N, H, D\) or .*, got \(18, 3, 8\)"),
        ({"value": torch.zeros(2, 18, 3, 8).int()}, ValueError, "value must be float64, .*, got torch.int32"),
        ({"value": torch.zeros(2, 18, 0, 8)}, ValueError, "at least one head"),
        ({"value": torch.zeros(2, 18, 3, 8).double()}, ValueError, "locations must have a floating-point type"),
        ({"value": torch.zeros(2, 18, 3, 8, device="meta")}, ValueError, "locations must be on the device of value"),
        ({"value": torch.zeros(1, 18, 3, 8)}, ValueError, r"locations must be .*\(1, Q, 3, 2, P, 2\)"),
        ({"locations": torch.zeros(2, 5, 3, 2, 2)}, ValueError, "locations must be"),
        ({"locations": torch.zeros(2, 5, 3, 2, 0, 2)}, ValueError, "P at least 1"),
        (
            {"weights": torch.zeros(2, 5, 3, 2, 3)},
            ValueError,
            r"weights must be \(2, 5, 3, 2, 2\) .*got \(2, 5, 3, 2, 3",
        ),
        ({"weights": torch.zeros(2, 5, 3, 2, 2).long()}, ValueError, "weights must have a floating-point type"),
    ],
)
def test_wrong_arguments(change: dict, error_type: type, message: str) -> None:
    with pytest.raises(error_type, match=message):
        deform_attn(**(plain_arguments() | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"centers": torch.zeros(2, 4, 2)}, r"centers must be .*\(2 or 1, 5, 2\), got \(2, 4, 2\)"),
        ({"centers": torch.zeros(2, 5, 4)}, "centers must be"),
        ({"offsets": torch.zeros(2, 5, 3, 1, 2, 2)}, "offsets must be"),
        ({"logits": torch.zeros(2, 5, 3, 4)}, "logits must be"),
    ],
)
def test_wrong_arguments_of_the_fused_form(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deform_attn_fused(**(fused_arguments() | change))


def test_float16_on_the_cpu() -> None:
    p = make_problem(2, 5, 3, 8, 2, SHAPES, fused=False, dtype=torch.float16)
    output, grads = p.gradients()
    expected, expected_grads = p.to(torch.float64).gradients(reference=True)
    assert output.dtype == torch.float16 and error(output, expected) < 2**-11
    assert all(error(a, b) < 2**-11 for a, b in zip(grads, expected_grads, strict=True))


def test_results_of_the_drop_in_function() -> None:
    p = make_problem(2, 5, 3, 8, 2, SHAPES, fused=False)
    starts = torch.tensor(p.starts, dtype=torch.int32)  # some code has a 32-bit table
    output = ms_deform_attn(p.value, torch.tensor(SHAPES, dtype=torch.int32), starts, p.position, p.score)
    assert error(output, deform_attn_reference(p.value, SHAPES, p.starts, p.position, p.score)) < 1e-5


def in_fresh_interpreter(code: str, **environment: str) -> dict:
    """The dictionary `out` after `code` has run in a fresh interpreter."""
    script = f"import json\nout = {{}}\n{code}\nprint(json.dumps(out))"
    inherited = {name: x for name, x in os.environ.items() if name not in ("MDQE_DISABLE_EXT", "ATEN_CPU_CAPABILITY")}
    variables = inherited | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_disabled_kernels_fall_back_to_the_reference() -> None:
    code = """
import torch
from mdqe.ops import deform_attn, kernel_status
value = torch.ones(1, 4, 1, 2, requires_grad=True)
result = deform_attn(value, ((2, 2),), torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1))
result.sum().backward()
out |= {"result": result.flatten().tolist(), "grad": value.grad.sum().item(), "status": str(kernel_status()),
        "compiled": kernel_status().compiled, "defined": hasattr(torch.ops.mdqe, "deform_attn")}
"""
    out = in_fresh_interpreter(code, MDQE_DISABLE_EXT="1")
    assert out["result"] == [1.0, 1.0] and out["grad"] == 2.0
    assert out["compiled"] == [] and not out["defined"]
    assert out["status"].startswith("CPU: plain PyTorch (MDQE_DISABLE_EXT=1); CUDA: ")


def status_of(folder: Path) -> dict:
    """The status after loading the libraries of a folder."""
    code = f"""
import mdqe.ops.kernels as kernels
from pathlib import Path
kernels.PACKAGE = Path({str(folder)!r})
handle, status = kernels._load_all()
out |= {{"loaded": handle is not None, "cpu": status.cpu, "cuda": status.cuda, "compiled": status.compiled}}
"""
    out = in_fresh_interpreter(code)
    assert not out["loaded"] and out["compiled"] == []
    return out


def test_a_library_that_does_not_load_is_reported(tmp_path: Path) -> None:
    (tmp_path / "_C_cpu.abi3.so").write_bytes(b"not a library")
    status = status_of(tmp_path)
    assert status["cpu"].startswith("plain PyTorch (_C_cpu.abi3.so does not load: ")
    assert "CPU library" in status["cuda"]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_library_of_another_version_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "empty.c").write_text("int nothing;")
    command = ["gcc", "-shared", "-fPIC", "-o", tmp_path / "_C_cpu.abi3.so", tmp_path / "empty.c"]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert "_C_cpu.abi3.so is of another version of this package: build it again" in status_of(tmp_path)["cpu"]


def test_the_recorded_reason_is_reported(tmp_path: Path) -> None:
    (tmp_path / "_build.json").write_text(json.dumps({"cpu": "no compiler was found"}))
    assert status_of(tmp_path)["cpu"] == "plain PyTorch (not compiled: no compiler was found)"


@pytest.mark.skipif("cpu" not in kernel_status().compiled, reason="no compiled kernels")
@pytest.mark.parametrize(("limit", "name"), [("default", "plain C++"), ("avx2", "AVX2")])
def test_the_instruction_set_can_be_limited(limit: str, name: str) -> None:
    code = "from mdqe.ops import kernel_status\nout['cpu'] = kernel_status().cpu"
    cpu = in_fresh_interpreter(code, ATEN_CPU_CAPABILITY=limit)["cpu"]
    assert cpu.startswith(f"{name} kernels") or (limit == "avx2" and cpu.startswith("plain C++"))
