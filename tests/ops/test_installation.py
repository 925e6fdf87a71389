"""Installation in fresh virtual environments: without kernels the package works and reports why. Takes minutes."""

import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from environments import Environment, run

pytestmark = pytest.mark.slow


@pytest.fixture
def source(unpacked: Path, tmp_path: Path) -> Path:
    """A copy per test: pip builds in the source folder, and leftovers would affect the next build."""
    return Path(shutil.copytree(unpacked, tmp_path / "source"))


def test_source_package_is_complete(source: Path) -> None:
    for name in ("setup.py", "csrc/ops.cpp", "csrc/cpu/vector_kernels.inl", "csrc/cuda/forward.cu", "mdqe/py.typed"):
        assert (source / name).is_file(), name
    assert not list(source.rglob("*.so"))


def test_with_torch(source: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "v")
    environment.install(source, MDQE_BUILD_EXT="cpu")
    report = environment.report()
    assert report["result"] == [1.0, 1.0]
    assert report["compiled"] == ["cpu"] and "kernels (built with torch" in report["cpu"]
    assert "MDQE_BUILD_EXT=cpu" in report["cuda"]
    assert Path(report["package"]).is_relative_to(tmp_path)
    disabled = environment.report(MDQE_DISABLE_EXT="1")
    assert disabled["result"] == [1.0, 1.0] and disabled["compiled"] == []


def test_without_torch_at_install_time(source: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "v", with_torch=False)
    environment.install(source)
    environment.lend()
    report = environment.report()
    assert report["result"] == [1.0, 1.0] and report["compiled"] == []
    assert "torch could not be imported" in report["cpu"] and "install torch first" in report["cpu"]


def test_without_a_compiler(source: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "v")
    missing = str(tmp_path / "no-such-compiler")
    environment.install(source, MDQE_BUILD_EXT="cpu", CC=missing, CXX=missing)
    report = environment.report()
    assert report["result"] == [1.0, 1.0] and report["compiled"] == []
    assert "the build failed" in report["cpu"]


def test_a_required_build_that_fails_stops_the_installation(source: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "v")
    missing = str(tmp_path / "no-such-compiler")
    with pytest.raises(AssertionError, match="Failed building wheel for mdqe"):
        environment.install(source, MDQE_BUILD_EXT="1", CC=missing, CXX=missing)


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch has no CUDA, so no CUDA build is tried")
def test_with_an_unsuitable_toolkit(source: Path, tmp_path: Path) -> None:
    """An nvcc that fails, one of another version, and a folder without libraries.

    They share the source, because later builds then take the CPU kernels of the first one.
    """
    major = torch.version.cuda.split(".")[0]
    environment = Environment(tmp_path / "v")
    for version, message in (
        (f"{major}.0", "the build failed"),
        ("9.9", "is CUDA 9, torch was built with"),
        (None, "no CUDA toolkit"),
    ):
        home = tmp_path / f"cuda-{version}"
        (home / "bin").mkdir(parents=True)
        nvcc = home / "bin" / "nvcc"
        answer = f'[ "$1" = --version ] && echo "release {version}, V{version}.1" && exit 0'
        nvcc.write_text(f"#!/bin/sh\n{answer}\nexit 1\n")
        nvcc.chmod(0o755)
        if version:
            (home / "lib64").mkdir()
            (home / "lib64" / "libcudart.so").touch()
        environment.install("--force-reinstall", source, CUDA_HOME=str(home))
        report = environment.report()
        assert report["result"] == [1.0, 1.0] and report["compiled"] == ["cpu"] and message in report["cuda"]


def test_wheel_is_for_every_python(wheel: Path) -> None:
    assert "-cp310-abi3-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert {"mdqe/_C_cpu.abi3.so", "mdqe/_C_rle.abi3.so"} <= set(names) and "mdqe/_build.json" in names


@pytest.mark.skipif(
    "MDQE_TEST_TORCH" not in os.environ, reason="names a torch to install, such as 2.11.0; downloads it"
)
def test_wheel_loads_under_another_torch(wheel: Path, tmp_path: Path) -> None:
    version = os.environ["MDQE_TEST_TORCH"]
    environment = Environment(tmp_path / "v", with_torch=False)
    run(environment.python, "-m", "pip", "install", "numpy", f"torch=={version}")
    environment.install(wheel)
    report = environment.report()
    assert report["torch"].startswith(version) and report["torch"] != torch.__version__
    assert report["result"] == [1.0, 1.0] and "cpu" in report["compiled"]
