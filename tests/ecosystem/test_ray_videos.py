"""`examples/ray_videos.py` on a local cluster of two workers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'ray[data]'")

from mdqe import MDQE
from mdqe.data.synthetic import draw_video
from mdqe.results.instances import VideoInstances
from mdqe.video.write import VideoWriter

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_videos.py"
# The example with a model that fails on its first attempt at b.mp4.
PROGRAM = """
import runpy, sys
from pathlib import Path
example = runpy.run_path(sys.argv[1], run_name="example")
class Flaky(example["Segmenter"]):
    def __init__(self, model, output, attempts):
        example["Segmenter"].__init__(self, model, output, attempts)
        segment = self.model.segment
        def flaky(path):
            seen = path.with_suffix(".seen")
            if path.name == "b.mp4" and not seen.exists():
                seen.touch()
                raise RuntimeError("not this time")
            return segment(path)
        self.model.segment = flaky
example["main"].__globals__["Segmenter"] = Flaky
sys.argv = sys.argv[1:]
sys.exit(example["main"]())
"""


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", PROGRAM, EXAMPLE, *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=550)


def test_a_folder_of_videos(tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    out.mkdir()
    for name in ("a.mp4", "b.mp4", "done.mp4"):
        with VideoWriter(videos / name, 10) as writer:
            for image in draw_video(3, frames=4, size=(96, 128)).frames:
                writer.write(image)
    (videos / "broken.mp4").write_text("no video")
    (videos / "notes.txt").write_text("not a video")
    (out / "done.mp4.json").write_text("kept")
    (out / "a.mp4.partial.json").write_text("of a run that was stopped")

    done = run(videos, "-o", out)
    assert done.returncode == 1, done.stderr
    a, b, broken, summary = done.stdout.splitlines()
    assert (a.endswith(" instances"), b.endswith(" instances (attempt 2)")) == (True, True)
    assert broken.startswith("broken.mp4: failed: VideoError: ") and broken.endswith("(attempt 2)")
    assert summary == "2 segmented, 1 done before, 1 failed"
    assert sorted(os.listdir(out)) == ["a.mp4.json", "b.mp4.json", "done.mp4.json"]
    assert (out / "done.mp4.json").read_text() == "kept"
    expected = MDQE.from_pretrained("mdqe:tiny").segment(videos / "a.mp4")
    for name in ("a", "b"):
        found = VideoInstances.load(out / f"{name}.mp4.json")
        assert len(found) == len(expected) > 0
        assert np.abs(found.scores - expected.scores).max() < 1e-3  # sums with another number of threads
        assert json.loads((out / f"{name}.mp4.json").read_text())["source"] == str(videos / f"{name}.mp4")

    (videos / "broken.mp4").unlink()
    again = run(videos, "-o", out)
    assert (again.returncode, again.stdout) == (0, "0 segmented, 3 done before, 0 failed\n"), again.stderr


def test_an_empty_folder_is_one_line(tmp_path):
    done = run(tmp_path, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(f"error: {tmp_path} holds no videos (.mp4, .mov, .mkv, .webm, .avi)")
    assert not (tmp_path / "out").exists()
