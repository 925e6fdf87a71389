"""SIGTERM and SIGKILL: what a command leaves behind, and what becomes of its worker processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mdqe import VideoInstances
from mdqe.data.synthetic_files import write_set
from mdqe.training.run_state import load_state

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc"),
]
END_SECONDS = 30  # a process that hangs takes longer, one on a slow machine does not


def start(*arguments: object) -> subprocess.Popen[str]:
    code = "import sys; from mdqe.cli import main; sys.exit(main())"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def children(pid: int) -> set[int]:
    """The processes that a process has started."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for path in lists for child in path.read_text().split()}


def runs(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A set of videos with the categories of the model."""
    folder = tmp_path_factory.mktemp("sets") / "many"
    list(write_set(folder, videos=60, frames=8, size=(48, 64), difficulty="easy"))
    document = json.loads((folder / "annotations.json").read_text())
    document["categories"] = [{"id": 1 + i, "name": name} for i, name in enumerate(["cat", "dog", "a", "b", "c", "d"])]
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
def test_workers_of_evaluate_end_with_their_parent(tiny_model, many, tmp_path, stop):
    out = tmp_path / "out"
    options = ["evaluate", "--model", tiny_model, "--data", many, "-o", out, "--device", "cpu", "--workers", "2"]
    process = start(*options)
    done = lambda: [path for path in (out / "videos").glob("*.json") if "partial" not in path.name]  # noqa: E731
    assert wait_until(lambda: len(done()) >= 2)
    workers = children(process.pid)
    assert len(workers) >= 2
    process.send_signal(stop)
    assert wait_until(lambda: not any(map(runs, [process.pid, *workers])), END_SECONDS)
    _, stderr = process.communicate()
    assert process.returncode == (143 if stop == signal.SIGTERM else -signal.SIGKILL)
    if stop == signal.SIGTERM:
        assert stderr.splitlines()[-1] == "mdqe evaluate: terminated", stderr
        assert "Traceback" not in stderr
    assert 2 <= len(done()) < 60
    for path in done():
        json.loads(path.read_text())


def test_train_ends_and_continues(many, tmp_path):
    config = Path(__file__).parents[2] / "mdqe" / "models" / "tiny" / "config.json"
    out, batch = tmp_path / "run", ("--batch", "1", "--save-every", "1")
    process = start("train", "--config", config, "--data", "synthetic", "-o", out, "--steps", 1000, *batch)
    assert wait_until((out / "checkpoint.pt").exists)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 143 and "Traceback" not in stderr
    assert stderr.splitlines()[-1] == "mdqe train: terminated"
    done = load_state(out / "checkpoint.pt")["step"]
    resumed = start("train", "--resume", "-o", out, "--steps", done + 1)
    _, stderr = resumed.communicate(timeout=60)
    assert resumed.returncode == 0, stderr
    assert load_state(out / "checkpoint.pt")["step"] == done + 1


def test_segment_keeps_the_results_so_far(tiny_model, make_clip, tmp_path):
    clip, out = make_clip(frames=1500), tmp_path / "out"
    process = start("segment", clip, "-o", out, "--model", tiny_model, "--score-threshold", "0", "--device", "cpu")
    assert wait_until((out / "clip").is_dir)  # the model is loaded
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1 and "Traceback" not in stderr
    assert stderr.splitlines()[-1] == "mdqe segment: interrupted"
    assert 0 < VideoInstances.load(out / "clip" / "instances.partial.json").num_frames < 1500
