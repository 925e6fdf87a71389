"""The examples run, on sizes that take a moment."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mdqe.data import draw_video

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLES / script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_ablation_trains_scores_and_goes_on(tmp_path):
    rows = ["full", "tracker-by-IoU-alone", "clips-of-1-frame"]
    small = ["--steps", 2, "--videos", 1, "--frames", 5]
    first = run("ablation.py", "-o", tmp_path, *small, "--seeds", 1, 2, "--rows", "full")
    assert first.returncode == 0, first.stderr
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(before) == 4  # two seeds, and where each starts and ends
    shutil.rmtree(tmp_path / "full-2")
    again = run("ablation.py", "-o", tmp_path, "--seeds", 1, "--rows", *rows)
    known = run("ablation.py", "-o", tmp_path, "--rows", "full", "--seeds", 2)
    assert again.returncode == known.returncode == 0, again.stderr + known.stderr
    assert not (tmp_path / "full-2").exists()  # its scores are known, so its model is not needed
    assert list(json.loads((tmp_path / "scores.json").read_text())["full"]) == ["1", "2"]
    names = [line.split(" | ")[0] for line in (tmp_path / "rows.md").read_text().splitlines() if " | 1 | " in line]
    expected = ["| tracker by IoU alone", "| clips of 1 frame"]
    assert names == expected * 2  # a table for each difficulty
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(after) == 4 and len(before.items() & after.items()) == 2  # the tracker's row has no training of its own
    exact = run("ablation.py", "-o", tmp_path, "--rows", "full", "--seeds", 3, "--amp", "none")
    assert exact.returncode == 0 and json.loads((tmp_path / "scores.json").read_text())["full"]["3"]["amp"] == "none"
    other = run("ablation.py", "-o", tmp_path, "--steps", 3, "--rows", "full")
    assert other.returncode == 1 and "steps is 2" in other.stderr and "Traceback" not in other.stderr


WRITER = """
import ablation, pathlib, sys, time
folder, row = pathlib.Path("."), sys.argv[1]
(folder / row).touch()
while len(list(folder.glob("row *"))) < 2:  # both begin together
    time.sleep(0.001)
for number in range(100):
    ablation.add_scores(folder, row, number, {})
"""


def test_ablation_keeps_the_scores_of_processes_that_end_together(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(EXAMPLES), *sys.path])}
    command, rows = [sys.executable, "-c", WRITER], ("row a", "row b")
    (tmp_path / "scale.json").write_text("{}")
    both = [subprocess.Popen([*command, row], cwd=tmp_path, env=environment) for row in rows]
    assert [process.wait(timeout=200) for process in both] == [0, 0]
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert {row: len(runs) for row, runs in scores.items()} == dict.fromkeys(rows, 100)


def test_differences_are_paired_by_seed(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    ablation = importlib.import_module("ablation")
    finding = ablation.FINDINGS[0]
    scores = {
        name: {str(seed): {"standard": {"AP": value}} for seed, value in values.items()}
        for name, values in ((finding.without, {1: 0.2, 2: 0.3, 4: 0.9}), (finding.full, {1: 0.25, 2: 0.31, 3: 0.1}))
    }
    for name, amp in ((finding.without, "none"), (finding.full, "bf16")):
        scores[name]["5"] = {"standard": {"AP": 0.5}, "amp": amp}  # not a pair: trained with different precision
    gains = ablation.differences(scores, finding, "standard", "AP")
    assert gains == pytest.approx([5, 1])
    assert ablation.interval(gains) == "3.0 ± 25.4"  # t = 12.706 with one degree of freedom, standard error 2
    assert ablation.interval([1.25]) == "1.2"


def test_findings_without_figures_in_the_paper(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(EXAMPLES)
    ablation = importlib.import_module("ablation")
    values = {"full": 0.5, "clips of 3 frames": 0.4, "clips of 1 frame": 0.3}
    scores = {
        name: {
            str(seed): {d: dict.fromkeys(ablation.GAINS, value + seed / 100) for d in ablation.DIFFICULTIES}
            for seed in (1, 2)
        }
        for name, value in values.items()
    }
    lines = ablation.findings_table(scores, "occluded").splitlines()
    gains = " | ".join(["{0} ± 0.0"] * len(ablation.GAINS))
    assert f"| clips of 4 frames in place of 1 (Fig. 6) | +3.6 | – | 2 | {gains.format('20.0')} |" in lines
    assert f"| clips of 4 frames in place of 3 (Fig. 6) | – | – | 2 | {gains.format('10.0')} |" in lines
    pytest.importorskip("matplotlib")
    ablation.plot(scores, tmp_path / "findings.png")
    assert (tmp_path / "findings.png").stat().st_size > 10_000


def test_clips_have_the_objects_of_their_frames(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    ablation = importlib.import_module("ablation")
    options = {"seed": 5, "frames": 10, "size": (64, 96), "difficulty": "hard"}
    clips, whole = ablation.clip_validation(1, **options), draw_video(index=0, **options)
    assert len(clips.videos) == 2  # the last two frames are no clip
    for number, (video, frames) in enumerate(zip(clips.annotations.videos.values(), clips.frames, strict=True)):
        part = slice(4 * number, 4 * number + 4)
        np.testing.assert_array_equal(np.stack(list(frames())), whole.frames[part])
        assert len(video.objects) == whole.masks[:, part].any(axis=(1, 2, 3)).sum() > 0


def test_scores_of_rows_of_another_version_are_kept(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(EXAMPLES)
    ablation = importlib.import_module("ablation")
    (tmp_path / "scale.json").write_text("{}")
    (tmp_path / "scores.json").write_text('{"a newer row": {"1": {}}, "plain mask loss": {"2": {}}}')
    ablation.add_scores(tmp_path, "full", 1, {"standard": {"AP": 0.5}})
    found = ablation.read_scores(tmp_path)
    assert list(found) == ["full", "plain mask loss", "a newer row"] and found["full"]["1"]["standard"] == {"AP": 0.5}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scale.json", "scores.json"]


def test_association_is_counted_for_objects_that_both_frames_show(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    association = importlib.import_module("association")
    before = np.array([[0, 1, 2, -1], [0, 1, 3, -1]])  # the central frame is the first one
    after = np.array([[0, 1, 2, -1], [0, 0, 2, 1]])
    hidden = np.array([[0.0, 0.0], [0.2, 0.6], [0.0, 0.0], [0.0, 0.0]])
    # Object 0 is right, object 1, which is half hidden, is wrong; no query of the second frame lies on object 2.
    assert association.count(before, after, hidden).tolist() == [1, 2, 0, 1]


@pytest.mark.slow
def test_association_of_a_window_beats_none():
    done = run("association.py", "--videos", 1, "--frames", 6, "--clip-lengths", 5, "--windows", 0, 5)
    assert done.returncode == 0, done.stderr
    without, within = (float(line.split(" | ")[3].split()[0]) for line in done.stdout.splitlines()[2:])
    assert 0 < without < within <= 100
