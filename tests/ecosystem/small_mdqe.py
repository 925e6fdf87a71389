"""Replacements of `mdqe` and `torchrun` for the commands on the pages, which run in seconds instead of hours.

Training takes two steps of a small model without ImageNet weights, data sets have two videos, and `torchrun` starts two
processes. Otherwise commands run as the page shows them.
"""

import os
import sys
from pathlib import Path

SETTINGS = (
    "backbone=resnet10t", "hidden_dim=32", "num_heads=4", "encoder_layers=1", "decoder_layers=1", "grid_size=4",
    "test_shorter_edge=64",
)  # fmt: skip
SMALL = ["--steps", "2", "--batch", "2", "--size", "96x64", "--edges", "64", "--validate-videos", "1"]
SMALL += [word for setting in SETTINGS for word in ("--set", setting)]


def smaller(arguments: list[str]) -> list[str]:
    """The arguments of a command that does the same in seconds."""
    if "--help" in arguments:
        return arguments
    if arguments[0] == "make-data":
        return [*arguments, "--videos", "2", "--frames", "6"]
    if arguments[0] == "train" and "--resume" in arguments:
        return [*arguments, "--steps", "3"]
    if arguments[0] == "train":
        kept = list(arguments)
        if "imagenet" in kept:
            at = kept.index("imagenet")
            del kept[at - 1 : at + 1]
        return [*kept, *SMALL]
    return arguments


def torchrun(arguments: list[str]) -> list[str]:
    """A command that starts two processes of this `mdqe`."""
    at = arguments.index("--nproc-per-node")
    rest = [*arguments[:at], *arguments[at + 2 :]]
    if "-m" in rest:
        at = rest.index("-m")
        assert rest[at + 1] == "mdqe", rest
        rest[at : at + 2] = ["--no-python", "mdqe"]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *rest]


if __name__ == "__main__":
    if Path(sys.argv[0]).name == "torchrun":
        command = torchrun(sys.argv[1:])
        os.execv(command[0], command)
    from mdqe.cli import main

    sys.exit(main(smaller(sys.argv[1:])))
