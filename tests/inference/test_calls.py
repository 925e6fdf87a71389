"""The number of operator calls and of transfers to the host, which bound the speed on a GPU."""

import sys
from pathlib import Path

import torch

from mdqe import MDQE, MDQEConfig

sys.path.append(str(Path(__file__).parents[2] / "examples" / "benchmarks"))
from calls import count_losses, count_segment, counted

MOST_CALLS = 200  # a frame
MOST_WAITS = 48  # a group of 16 frames: at most two for each clip, and 16 for the group

MOST_LOSS_CALLS = 1500  # matching, losses and their backward pass, for 4 clips
LOSS_WAITS = 3  # for the labels, for objects that cover no pixel, and for the matching


def test_calls_of_a_video_in_groups_of_16():
    torch.manual_seed(0)
    model = MDQE(MDQEConfig.preset("r50_ovis_360", test_shorter_edge=None)).eval()
    found = count_segment(model, 32, 16, (64, 96))
    assert found.calls["aten::conv2d"] >= 53  # it counts the backbone
    assert found.waits["cpu"] >= 29  # and the tracker, for each of 29 clips
    assert found.calls.total() / 32 <= MOST_CALLS
    assert found.waits.total() / 2 <= MOST_WAITS


def test_calls_of_the_losses_of_four_clips():
    config = MDQEConfig.preset("r50_ovis_360")
    found = count_losses(config, clips=4, objects=5)
    assert found.calls["aten::sigmoid"] > 4  # it counts the matching
    assert found.calls.total() <= MOST_LOSS_CALLS
    assert found.waits.total() == LOSS_WAITS


def test_what_is_counted():
    x = torch.arange(6.0).view(2, 3)
    with counted() as found:
        y = x + 1
        y.T[0].mul_(2)
        y[y > 2].tolist()
        x.nonzero()
        x.cpu()
    assert found.calls["aten::add"] == found.calls["aten::mul_"] == 1
    assert not found.calls["aten::transpose"] + found.calls["aten::select"]  # views
    assert found.waits.total() == 4  # the boolean index, tolist, nonzero and cpu
