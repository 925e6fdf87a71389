"""The packages of a release are complete, contain nothing else, and work without the repository (docs/release.md)."""

import json
import re
import shutil
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from environments import ROOT, Environment, run

import mdqe

pytestmark = pytest.mark.slow
MEGABYTE = 1_000_000
MODEL = 16 * MEGABYTE  # the bundled model, which does not compress


@pytest.fixture(scope="module")
def sdist(distributions) -> Path:
    return distributions[0]


@pytest.fixture(scope="module")
def in_wheel(wheel) -> list[str]:
    return zipfile.ZipFile(wheel).namelist()


@pytest.fixture(scope="module")
def in_sdist(sdist) -> set[str]:
    with tarfile.open(sdist) as tar:
        return {member.name.partition("/")[2] for member in tar.getmembers() if member.isfile()}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Environment:
    """An environment with the wheel."""
    environment = Environment(tmp_path_factory.mktemp("wheel") / "v")
    environment.install(wheel)
    return environment


def test_descriptions_render(distributions):
    pytest.importorskip("twine")
    assert run(sys.executable, "-m", "twine", "check", "--strict", *distributions).count("PASSED") == 2


def test_version_is_in_one_place(wheel, sdist, in_wheel):
    (metadata,) = (name for name in in_wheel if name.endswith(".dist-info/METADATA"))
    version = message_from_bytes(zipfile.ZipFile(wheel).read(metadata))["Version"]
    assert version == mdqe.__version__
    assert sdist.name == f"mdqe-{version}.tar.gz" and wheel.name.startswith(f"mdqe-{version}-cp310-abi3-")
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
    statement = r"^\s*(?:__version__|version|release)\b\s*[=:]\s*['\"]?\d"
    written = [
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.toml", "*.py", "*.cff", "mdqe/**/*.py", "docs/*.py")
        for path in ROOT.glob(pattern)
        if re.search(statement, path.read_text(), re.MULTILINE)
    ]
    assert written == ["mdqe/__init__.py"]


def test_source_package_has_what_building_needs(in_sdist):
    needed = {"setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "mdqe/py.typed"}
    csrc = {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mdqe").rglob("*.py")}
    assert len(csrc) > 5
    assert needed | csrc | code <= in_sdist
    unwanted = r"\.(so|pyd|pyc|pth|mp4)$|(^|/)(\.hypothesis|[._][a-z]+_cache|__pycache__|\.venv|build|dist|_build)/"
    assert not [name for name in in_sdist if re.search(unwanted, name)]


def test_wheel_has_nothing_else(in_wheel, in_sdist):
    tops = {name.split("/")[0] for name in in_wheel}
    assert tops == {"mdqe", f"mdqe-{mdqe.__version__}.dist-info"}
    modules = {name for name in in_wheel if name.endswith(".py")}
    assert modules == {name for name in in_sdist if name.startswith("mdqe/") and name.endswith(".py")}
    others = {Path(name).suffix for name in in_wheel if name.startswith("mdqe/")} - {".py"}
    assert others <= {".so", ".json", ".typed", ".md", ".safetensors", ".html", ".css", ".js"}


def test_sizes(wheel, sdist):
    assert MODEL / 2 < wheel.stat().st_size < MODEL + 2 * MEGABYTE
    assert sdist.stat().st_size < MODEL + 8 * MEGABYTE


def test_wheel_segments_without_the_repository(installed, tmp_path):
    report = installed.report()
    assert report["result"] == [1.0, 1.0] and "cpu" in report["compiled"]
    assert Path(report["package"]).is_relative_to(installed.site)
    said = run(installed.programs / "mdqe", "demo", cwd=tmp_path)
    assert "instances: " in said and "AP" in said
    options = ["--end", "0.5", "--no-video"]
    run(installed.programs / "mdqe", "segment", "mdqe-demo/clip.mp4", "-o", "results", *options, cwd=tmp_path)
    assert json.loads((tmp_path / "results" / "clip" / "instances.json").read_text())
    assert f"{mdqe.__version__}" in run(installed.programs / "mdqe", "info", cwd=tmp_path)


def test_source_package_installs_from_its_archive(sdist, tmp_path):
    environment = Environment(tmp_path / "v")
    environment.install(sdist, MDQE_BUILD_EXT="0")  # with kernels: tests/ops/test_installation.py
    assert environment.report()["result"] == [1.0, 1.0]


@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not installed")
def test_uv_sees_torch_without_build_isolation(unpacked, tmp_path):
    environment = Environment(tmp_path / "v")
    run(environment.python, "-m", "pip", "uninstall", "-qy", "setuptools")  # some Pythons start with an old one
    missing = str(tmp_path / "no-such-compiler")  # tests only whether a build is tried
    options = ["--python", environment.python, "--no-deps", "--no-build-isolation", "--offline"]
    run("uv", "pip", "install", *options, unpacked, MDQE_BUILD_EXT="cpu", CXX=missing, CC=missing)
    assert "the build failed" in environment.report()["cpu"]
