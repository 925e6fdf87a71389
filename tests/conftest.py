"""Fixtures that every test folder shares."""

import os
import tarfile
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of full reference data, kept beside the checkout or named by MDQE_SHARED; skips where it is absent."""
    folder = Path(os.environ.get("MDQE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"full reference data is not at {folder}; the small core under tests/parity/data still runs")
    return folder


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(autouse=True)
def away_from_the_checkout(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    """Interpreters that tests start import the package that is installed, not the sources that lie about."""
    monkeypatch.chdir(elsewhere)


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source package and the wheel of a release; built once for all tests."""
    from environments import build

    return build(tmp_path_factory.mktemp("distributions"))


@pytest.fixture(scope="session")
def wheel(distributions: tuple[Path, Path]) -> Path:
    """The wheel, with the CPU kernels."""
    return distributions[1]


@pytest.fixture(scope="session")
def unpacked(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source package, unpacked: a build in the checkout would leave files there."""
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(distributions[0]) as tar:
        tar.extractall(folder, filter="data")
    return next(folder.iterdir())
