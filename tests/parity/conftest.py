"""Every parity test runs on the core in `data/` and, where it is at hand, on the full reference file."""

from collections.abc import Callable

import golden
import pytest
import torch


@pytest.fixture(params=["core", "full"])
def reference(request: pytest.FixtureRequest) -> Callable[[str], dict[str, torch.Tensor]]:
    """Reference arrays of a file, by its name."""
    if request.param == "core":
        return golden.core
    shared = request.getfixturevalue("shared")
    return lambda name: golden.full(name, shared)
