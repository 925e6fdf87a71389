"""Files of the small set."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clips_to_show import FRAMES, SIZE, annotations, results


@pytest.fixture
def save(tmp_path) -> Callable[[str, Any], Path]:
    """save("name.json", document) -> its path."""

    def write(name: str, document: Any) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(document))
        return path

    return write


@pytest.fixture
def small_set(save) -> tuple[Path, Path]:
    """Annotations and results, as files."""
    return save("annotations.json", annotations()), save("results.json", results())


@pytest.fixture
def images(tmp_path) -> Path:
    """The frames of both videos, each of one grey, lighter with time."""
    from PIL import Image

    for folder in "ab":
        (tmp_path / "JPEGImages" / folder).mkdir(parents=True)
        for t in range(FRAMES):
            grey = Image.new("RGB", SIZE[::-1], (40 + 50 * t,) * 3)
            grey.save(tmp_path / "JPEGImages" / folder / f"{t:05}.png")
    return tmp_path / "JPEGImages"
