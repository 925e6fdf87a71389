"""Fixtures of the video tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
from media import write_video


@pytest.fixture
def make_video(tmp_path) -> Callable[..., Path]:
    """make_video("name.mp4", codec=…, frames=…, size=…, …) -> the path of a new file of `picture`s."""
    return lambda name, **choices: write_video(tmp_path / name, **choices)
