"""The examples that use the library in other code run on small sizes, and their outputs are as described."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *options: str) -> str:
    """The output of an example."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(pattern: str, text: str) -> list[float]:
    """All numbers that match the group of the pattern."""
    return [float(found) for found in re.findall(pattern, text)]


NAMES = (
    "deformable_detr_attention",
    "link_frames",
    "link_mask2former",
    "link_results",
    "link_torchvision",
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
    assert numbers(r"(\d+) pairs of neighbours", printed)[0] >= 1  # otherwise the loss equals the plain loss


def test_deformable_detr_gives_the_same_outputs():
    pytest.importorskip("transformers")
    printed = run("deformable_detr_attention", "--size", "96", "128", "--layers", "2")
    assert "4 attention layers replaced" in printed
    difference, scale = re.search(r"in logits: (\S+); largest logit: (\S+)", printed).groups()
    assert float(difference) < 1e-5 * float(scale)  # float32 sums in another order, through four layers
    assert numbers(r"in boxes: (\S+)", printed)[0] < 1e-5


def test_linked_frames_keep_their_identities():
    printed = run("link_frames")
    tracks = re.findall(r"track (\d): ([\d.]+)% ball (\d), out of sight for (\d+) frames", printed)
    assert sorted(ball for _, _, ball, _ in tracks) == ["0", "1", "2"]
    assert all(float(share) == 100 for _, share, _, _ in tracks)
    assert all(int(hidden) >= 2 for _, _, _, hidden in tracks)  # each went behind the wall and returned


def test_torchvision_masks_are_linked_as_they_come():
    printed = run("link_torchvision")
    frames = re.findall(r"masks \(\d+, 1, 96, 144\), ids \[([-\d, ]*)\]", printed)
    assert len(frames) == 6 and any("0" in ids.split(", ") for ids in frames[1:])
    assert numbers(r"(\d+) tracks", printed)[0] >= 1


def test_mask2former_queries_are_linked():
    pytest.importorskip("transformers")
    printed = run("link_mask2former")
    assert "in 6 frames of 96x96" in printed
    assert max(numbers(r"visible in (\d+)", printed)) >= 4  # several frames have one identity


def test_results_and_run_lengths_are_linked():
    printed = run("link_results")
    assert numbers(r"(\d+) tracks", printed) == [2, 2]
    assert "Ultralytics: 2 tracks, the last frame has [0, 1]" in printed and "in 12 frames" in printed


def test_plain_detr_learns_with_our_parts():
    first, last = numbers(r"([\d.]+) pixels off", run("video_detr", "60"))
    assert last < first / 2


def test_another_backbone():
    printed = run("timm_backbone", "mobilenetv3_small_050")
    assert "mobilenetv3_small_050: " in printed
    first, last = numbers(r"loss ([\d.]+)", printed)
    assert last < first / 2
    assert "in 8 frames of 128x96" in printed
    assert max(numbers(r"IoU ([\d.]+)", printed)) > 0.5  # the training finds the shape of the scene
