"""What the pages on cameras and on other models say, run as it stands there."""

import numpy as np
import pytest
from doc_pages import ROOT, blocks, run_python

from mdqe.data.synthetic import draw_video

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return draw_video(3, frames=8, size=(96, 144)).frames


def test_cameras(frames, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session, saving = (block for block in blocks(DOCS / "streaming.md") if block.language == "python")
    shown: list[int] = []
    names = {"camera": frames, "show": lambda first_frame, *_: shown.append(first_frame)}
    run_python(session._replace(before=""), names)  # with frames and a `show` that are looked at below
    assert shown == list(range(6))
    names["session"] = names["model"].start()
    names["session"].push(frames[0])
    run_python(saving._replace(before=""), names)
    assert names["session"].num_frames == 1
    assert (tmp_path / "camera.session").exists()


def test_names_of_transformers(frames, tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "video.mp4").mkdir()  # a folder of images stands in for the file
    for t, frame in enumerate(frames):
        image.fromarray(frame).save(tmp_path / "video.mp4" / f"{t}.png")
    (code,) = (block for block in blocks(DOCS / "other_models.md") if "MDQEImageProcessor" in block.code)
    names = {"frames": list(frames[:3])}
    run_python(code._replace(before=""), names)
    assert len(names["clip"]) == 3
    assert len(names["video"]) == 8
    assert names["video"][7]["segmentation"].shape == (96, 144)
