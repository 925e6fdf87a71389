"""A model with which commands run in seconds, and clips for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mdqe.cli import main
from mdqe.data.synthetic import draw_video


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The folder of a small model with random weights, which finds instances in every clip."""
    from mdqe import MDQE, MDQEConfig

    config = MDQEConfig(
        backbone="resnet18",
        hidden_dim=32,
        num_heads=4,
        encoder_layers=1,
        decoder_layers=1,
        num_classes=2,
        categories=("cat", "dog"),
        category_ids=(3, 9),
        clip_length=2,
        test_clip_length=2,
        window_length=4,
        test_shorter_edge=64,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    MDQE(config).save_pretrained(folder, source="a test")
    return folder


@pytest.fixture
def make_clip(tmp_path) -> Callable[..., Path]:
    """make_clip("name.mp4", frames=…, size=…) -> the path of a new synthetic video with 10 frames per second."""
    from mdqe.video.write import VideoWriter

    def make(name: str = "clip.mp4", frames: int = 9, size: tuple[int, int] = (64, 96)) -> Path:
        path = tmp_path / name
        with VideoWriter(path, 10) as writer:
            for image in draw_video(0, frames=frames, size=size).frames:
                writer.write(image)
        return path

    return make


@pytest.fixture
def run(capfd) -> Callable[..., tuple[int, str, str]]:
    """run("segment", …) -> exit status, stdout and stderr of a command line."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as leaving:  # raised by argparse
            status = int(leaving.code or 0)
        out, err = capfd.readouterr()
        return status, out, err

    return call


@pytest.fixture
def segment(run, tiny_model) -> Callable[..., tuple[int, str, str]]:
    """segment("clip.mp4", "-o", …) -> as `run`, with a model that finds instances in every clip."""
    options = ("--model", tiny_model, "--score-threshold", "0", "--device", "cpu")
    return lambda *arguments: run("segment", *arguments, *options)
