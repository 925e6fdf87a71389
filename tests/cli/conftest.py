"""A model so small that a command runs in a moment, and clips for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mdqe.cli import main
from mdqe.data.synthetic import draw_video


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A folder with a small model of random weights that finds something in every clip."""
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
    """make_clip("name.mp4", frames=…, size=…) -> the path of a new video of the synthetic set, 10 frames per second."""
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
        except SystemExit as leaving:  # argparse's way
            status = int(leaving.code or 0)
        out, err = capfd.readouterr()
        return status, out, err

    return call
