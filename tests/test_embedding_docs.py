"""What the pages on cameras and on other models say, run as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

from mdqe.data.synthetic import draw_video

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return draw_video(3, frames=8, size=(96, 144)).frames


def blocks(page: str) -> list[str]:
    """The Python of a page."""
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)


def test_cameras(frames, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session, saving = blocks("streaming.md")
    shown: list[int] = []
    names = {"camera": frames, "show": lambda first_frame, *_: shown.append(first_frame)}
    exec(session, names)
    assert shown == list(range(6))
    names["session"] = names["model"].start()
    names["session"].push(frames[0])
    exec(saving, names)
    assert names["session"].num_frames == 1
    assert (tmp_path / "camera.session").exists()


def test_names_of_transformers(frames, tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "video.mp4").mkdir()  # a folder of images stands in for the file
    for t, frame in enumerate(frames):
        image.fromarray(frame).save(tmp_path / "video.mp4" / f"{t}.png")
    (code,) = blocks("other_models.md")
    names = {"frames": list(frames[:3])}
    exec(code, names)
    assert len(names["clip"]) == 3
    assert len(names["video"]) == 8
    assert names["video"][7]["segmentation"].shape == (96, 144)
