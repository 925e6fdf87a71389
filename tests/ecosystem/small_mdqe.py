"""`mdqe` and `torchrun`, as the pages call them, with what takes hours made small.

Trainings are of a small model, for two steps; data sets of two videos; two processes instead of eight. Weights of
ImageNet, which would be fetched, are left out. Everything else of a command is as it stands on the page.
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
    """The arguments of an `mdqe` that does the same in seconds."""
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
    """The command of a `torchrun` of two processes of the small `mdqe`."""
    at = arguments.index("--nproc-per-node")
    rest = [*arguments[:at], *arguments[at + 2 :]]
    if "-m" in rest:
        at = rest.index("-m")
        assert rest[at + 1] in ("mdqe", "mdqe.train"), rest
        rest[at : at + 2] = ["--no-python", *rest[at + 1].split(".")]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *rest]


if __name__ == "__main__":
    if Path(sys.argv[0]).name == "torchrun":
        command = torchrun(sys.argv[1:])
        os.execv(command[0], command)
    from mdqe.cli import main

    sys.exit(main(smaller(sys.argv[1:])))
