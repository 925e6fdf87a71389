"""The examples run, on sizes that take a moment."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_ablation_trains_scores_and_goes_on(tmp_path):
    command = [sys.executable, EXAMPLES / "ablation.py", "-o", tmp_path, "--steps", "2", "--videos", "1", "--only"]
    variants = ["full", "I2O", "tracker-by-IoU-alone"]
    first = subprocess.run([*command, *variants], capture_output=True, text=True, timeout=500)
    assert first.returncode == 0, first.stderr
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| full", "| I2O", "| tracker by IoU alone"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(before) == 4  # where each starts and ends; the tracker's variant has no training of its own
    again = subprocess.run([*command, *variants], capture_output=True, text=True, timeout=500)
    assert again.stdout == first.stdout
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before
