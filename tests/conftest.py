"""Fixtures of all test folders."""

import os
import tarfile
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of the full reference data: beside the checkout, or MDQE_SHARED. Skips the test if it is absent."""
    folder = Path(os.environ.get("MDQE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"full reference data is not at {folder}; the tests on tests/parity/data still run")
    return folder


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed every test."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(autouse=True)
def away_from_the_checkout(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    """Interpreters started by tests import the installed package, not the sources in the current folder."""
    monkeypatch.chdir(elsewhere)


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source package and the wheel of a release, built once for all tests."""
    from environments import build

    return build(tmp_path_factory.mktemp("distributions"))


@pytest.fixture(scope="session")
def wheel(distributions: tuple[Path, Path]) -> Path:
    """The wheel, with the CPU kernels."""
    return distributions[1]


@pytest.fixture(scope="session")
def unpacked(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source package, because a build in the checkout would leave files there."""
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(distributions[0]) as tar:
        tar.extractall(folder, filter="data")
    return next(folder.iterdir())
