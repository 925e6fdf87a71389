"""A checkout whose kernels are not built says so in one line."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from environments import Environment

from mdqe.ops import kernels

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The sources of the package without a build."""
    folder = tmp_path / "a checkout"
    compiled = shutil.ignore_patterns("*.so", "*.pyd", "_build.json", "__pycache__", "models")
    shutil.copytree(kernels.PACKAGE, folder / "mdqe", ignore=compiled)
    (folder / "csrc").mkdir()
    return folder


def stderr_of(checkout: Path, *arguments: str, **variables: str) -> list[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("MDQE_DISABLE_EXT", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=checkout, env=environment | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


@pytest.mark.parametrize("arguments", [("-c", "import mdqe.ops.kernels"), ("-m", "mdqe", "info")])
def test_a_checkout_without_kernels_says_so_once(checkout, arguments):
    (line,) = stderr_of(checkout, *arguments)
    assert f"{checkout / 'mdqe'} runs without compiled kernels" in line and "no build on record" in line
    assert line.endswith(f"; build them with: pip install -e '{checkout}'")
    assert stderr_of(checkout, *arguments, MDQE_DISABLE_EXT="1") == []


def test_a_recorded_build_is_no_surprise(checkout):
    (checkout / "mdqe" / "_build.json").write_text('{"cpu": "the build failed: no compiler"}')
    assert stderr_of(checkout, "-c", "import mdqe.ops.kernels") == []


@pytest.mark.parametrize(
    ("sources", "remedy"), [(True, "build them with: pip install -e "), (False, "install mdqe again")]
)
def test_a_library_that_does_not_load(checkout, sources, remedy):
    (checkout / "mdqe" / "_C_cpu.abi3.so").write_bytes(b"no library")
    (checkout / "mdqe" / "_build.json").write_text("{}")
    if not sources:
        (checkout / "csrc").rmdir()
    (line,) = stderr_of(checkout, "-c", "import mdqe.ops.kernels")
    assert "_C_cpu.abi3.so does not load" in line and remedy in line


def test_compiled_kernels_need_no_word():
    if "cpu" not in kernels.kernel_status().compiled:
        pytest.skip("this installation has no compiled kernels")
    assert kernels.unexpected_fallback() is None


@pytest.mark.slow
def test_the_command_of_the_message_builds_the_kernels(unpacked, tmp_path):
    """It is an editable installation."""
    source = Path(shutil.copytree(unpacked, tmp_path / "source"))
    environment = Environment(tmp_path / "v")
    command = [environment.python, "-c", "import mdqe.ops.kernels"]
    variables = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=source, env=variables, capture_output=True, text=True)
    found = re.search(r"build them with: pip install (-e) (\S+)$", done.stderr.strip())
    assert found, done.stderr
    environment.install(*found.groups(), MDQE_BUILD_EXT="cpu")
    done = subprocess.run(command, cwd=source, env=variables, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    report = environment.report()
    assert report["result"] == [1.0, 1.0] and report["compiled"] == ["cpu"]
    assert Path(report["package"]) == source / "mdqe"
