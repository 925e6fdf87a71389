"""Parity tests run on the subset in `data/` and, where it is available, on the full reference data."""

from collections.abc import Callable

import golden
import pytest
import torch


@pytest.fixture(params=["core", "full"])
def reference(request: pytest.FixtureRequest) -> Callable[[str], dict[str, torch.Tensor]]:
    """A function that returns the reference arrays of a file by its name."""
    if request.param == "core":
        return golden.core
    shared = request.getfixturevalue("shared")
    return lambda name: golden.full(name, shared)
