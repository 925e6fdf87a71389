"""`mdqe demo`: the whole way from a video file to an overlay, on a clip that it makes."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mdqe.cli import say
from mdqe.cli.model_options import add_model_arguments, default_model, load_model

if TYPE_CHECKING:
    from mdqe.model import MDQE

HELP = "make a short clip, segment it and draw the result"
EXAMPLE = "mdqe demo -o mdqe-demo"
FPS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, default=Path("mdqe-demo"), help="results (default: %(default)s)"
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Make the clip, segment it as `mdqe segment` would, and say where the results are."""
    from mdqe.cli.clip import moving_shapes
    from mdqe.cli.segment_video import Job, segment_video
    from mdqe.video.read import open_frames
    from mdqe.video.write import VideoWriter

    args.output.mkdir(parents=True, exist_ok=True)
    trained = args.model is not None or default_model() is not None
    model = load_model(args) if trained else untrained_model()
    clip = args.output / "clip.mp4"
    with VideoWriter(clip, FPS) as writer:
        for image in moving_shapes():
            writer.write(image)
    if trained:
        job = Job(notes={"source": str(clip), "model": args.model or default_model()})
    else:
        say("the weights are UNTRAINED, random numbers: this shows that everything runs, not what the model can do")
        job = Job(score_threshold=0.0, notes={"source": str(clip), "model": "untrained"})
    outcome = segment_video(model, open_frames(clip), args.output, job)
    for remark in outcome.remarks:
        say(remark)
    meaning = "" if trained else " (untrained weights: they mean nothing)"
    print(f"instances: {outcome.found}{meaning}")
    for name in ("overlay.mp4", "sheet.png", "instances.json", "clip.mp4"):
        print(args.output / name)
    return outcome.status


def untrained_model() -> "MDQE":
    """A small model with random weights, the same every time."""
    import torch

    from mdqe.config import MDQEConfig
    from mdqe.model import MDQE

    config = MDQEConfig(
        backbone="resnet18",
        hidden_dim=64,
        encoder_layers=2,
        decoder_layers=2,
        num_classes=3,
        categories=("disc", "square", "star"),
        window_length=12,
        test_shorter_edge=192,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MDQE(config).eval()
