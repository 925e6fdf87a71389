"""The examples of this library inside other code run, on sizes that take a moment, and show what they claim."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *options: str) -> str:
    """What an example prints."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(pattern: str, text: str) -> list[float]:
    """All numbers that stand where the pattern has its group."""
    return [float(found) for found in re.findall(pattern, text)]


NAMES = (
    "deformable_detr_attention",
    "link_frames",
    "mask2former_loss",
    "supervision_overlay",
    "timm_backbone",
    "video_detr",
)


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 80


def test_mask2former_trains_with_the_inter_instance_loss():
    pytest.importorskip("transformers")
    printed = run("mask2former_loss", "--steps", "3")
    first, last = numbers(r"loss ([\d.]+)", printed)
    assert last < first
    assert numbers(r"(\d+) pairs of neighbours", printed)[0] >= 1  # else the loss would be the ordinary one


def test_deformable_detr_gives_the_same_outputs():
    pytest.importorskip("transformers")
    printed = run("deformable_detr_attention", "--size", "96", "128", "--layers", "2")
    assert "4 attention layers replaced" in printed
    difference, scale = re.search(r"logits (\S+) of (\S+)", printed).groups()
    assert float(difference) < 1e-5 * float(scale)  # float32 sums in another order, through four layers
    assert numbers(r"of boxes (\S+)", printed)[0] < 1e-5


def test_linked_frames_keep_their_identities():
    printed = run("link_frames")
    tracks = re.findall(r"track (\d): ([\d.]+)% ball (\d), out of sight for (\d+) frames", printed)
    assert sorted(ball for _, _, ball, _ in tracks) == ["0", "1", "2"]
    assert all(float(share) == 100 for _, share, _, _ in tracks)
    assert all(int(hidden) >= 2 for _, _, _, hidden in tracks)  # each was behind the wall and came back


def test_plain_detr_learns_with_our_parts():
    first, last = numbers(r"([\d.]+) pixels off", run("video_detr", "60"))
    assert last < first / 2


def test_another_backbone():
    printed = run("timm_backbone", "mobilenetv3_small_050")
    assert "mobilenetv3_small_050: " in printed
    first, last = numbers(r"loss ([\d.]+)", printed)
    assert last < first / 2
    assert "in 8 frames of 128x96" in printed
    assert max(numbers(r"IoU ([\d.]+)", printed)) > 0.5  # what the steps are for: the scene's shape is found
