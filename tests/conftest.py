"""Fixtures that every test folder shares."""

import os
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
