"""Installs in fresh virtual environments: whatever is missing, the package works and says why. Takes minutes."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
SITE = sysconfig.get_path("purelib")
REPORT = """
import json, torch, mdqe, mdqe.ops.kernels as kernels
from mdqe.ops import deform_attn, kernel_status
out = deform_attn(torch.ones(1, 4, 1, 2), ((2, 2),), torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1))
print(json.dumps({"result": out.flatten().tolist(), "cpu": kernel_status().cpu, "cuda": kernel_status().cuda,
                  "compiled": kernel_status().compiled, "package": str(kernels.PACKAGE), "torch": torch.__version__}))
"""


def run(*command: object, **environment: str) -> str:
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CUDA_HOME")} | environment
    done = subprocess.run([*map(str, command)], env=variables, capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


class Environment:
    """A virtual environment; with_torch lends it the packages of the one that runs the tests."""

    def __init__(self, folder: Path, with_torch: bool = True) -> None:
        run(sys.executable, "-m", "venv", folder)
        self.python = folder / "bin" / "python"
        self.site = Path(run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        if with_torch:
            self.lend()

    def lend(self) -> None:
        """All that is installed there but this package, which would be found before an editable install."""
        lent = self.site.parent / "lent"
        lent.mkdir()
        for entry in Path(SITE).iterdir():
            if "mdqe" not in entry.name:
                (lent / entry.name).symlink_to(entry)
        (self.site / "lent.pth").write_text(f"{lent}\n")

    def install(self, *arguments: object, **environment: str) -> str:
        return run(self.python, "-m", "pip", "install", "-v", "--no-deps", *arguments, **environment)

    def report(self, **environment: str) -> dict:
        return json.loads(run(self.python, "-c", REPORT, **environment).splitlines()[-1])


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source package, unpacked: a build in the checkout would leave files there."""
    folder = tmp_path_factory.mktemp("sdist")
    code = "import setuptools.build_meta as b, sys; print(b.build_sdist(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    archive = folder / done.stdout.splitlines()[-1]
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "source", filter="data")
    return next((folder / "source").iterdir())


@pytest.fixture
def source(unpacked: Path, tmp_path: Path) -> Path:
    """A copy for each test: pip builds where the source is, and the next build would find what is left."""
    return Path(shutil.copytree(unpacked, tmp_path / "source"))


def test_source_package_is_whole(source: Path) -> None:
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


def test_a_failure_stops_the_install_when_asked_to(source: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "v")
    missing = str(tmp_path / "no-such-compiler")
    with pytest.raises(AssertionError, match="Failed building wheel for mdqe"):
        environment.install(source, MDQE_BUILD_EXT="1", CC=missing, CXX=missing)


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch has no CUDA, so no CUDA build is tried")
def test_with_a_broken_nvcc(source: Path, tmp_path: Path) -> None:
    home = tmp_path / "cuda"
    (home / "bin").mkdir(parents=True)
    (home / "lib64").mkdir()
    (home / "lib64" / "libcudart.so").touch()
    nvcc = home / "bin" / "nvcc"
    major = torch.version.cuda.split(".")[0]
    nvcc.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "release {major}.0, V{major}.0.1" && exit 0\nexit 1\n')
    nvcc.chmod(0o755)
    environment = Environment(tmp_path / "v")
    environment.install(source, CUDA_HOME=str(home))
    report = environment.report()
    assert report["result"] == [1.0, 1.0] and report["compiled"] == ["cpu"]
    assert "the build failed" in report["cuda"]


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch has no CUDA, so no CUDA build is tried")
@pytest.mark.parametrize(
    ("version", "message"), [("9.9", "is CUDA 9, torch was built with"), (None, "no CUDA toolkit")]
)
def test_with_a_toolkit_that_does_not_fit(source: Path, tmp_path: Path, version: str | None, message: str) -> None:
    home = tmp_path / "cuda"
    (home / "bin").mkdir(parents=True)
    nvcc = home / "bin" / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho 'release {version}, V{version}.0'\n")
    nvcc.chmod(0o755)
    if version:
        (home / "lib64").mkdir()
        (home / "lib64" / "libcudart.so").touch()
    environment = Environment(tmp_path / "v")
    environment.install(source, CUDA_HOME=str(home))
    report = environment.report()
    assert report["compiled"] == ["cpu"] and message in report["cuda"]


def test_editable(source: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "v")
    environment.install("-e", source, MDQE_BUILD_EXT="cpu")
    report = environment.report()
    assert report["result"] == [1.0, 1.0] and report["compiled"] == ["cpu"]
    assert Path(report["package"]) == source / "mdqe"


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(unpacked, folder / "source")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, source, MDQE_BUILD_EXT="cpu")
    return next(folder.glob("*.whl"))


def test_wheel_serves_every_python(wheel: Path) -> None:
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
