"""The detectors of `mdqe link --detector`: instance segmentation models of torchvision, frame by frame."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mdqe.errors import InputError
from mdqe.importing.source import Frame, Shape, Video
from mdqe.results import rle

PREFIX = "torchvision:"
MODELS = ("maskrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn")
LEAST_SCORE = 0.05


def detected(source: Path, detector: str, device: str | None) -> Video:
    """A video whose shapes a detector finds, one frame after the other.

    Raises:
        InputError: an unknown detector, or its weights are not there.
        OSError, VideoError: the video cannot be opened.
    """
    from mdqe.video.read import open_frames

    frames = open_frames(str(source))
    model, categories = load_detector(detector, device)
    return Video(source.stem, frames.count or 0, _detect(model, categories, frames))


def chosen_device(device: str | None) -> str:
    """The device of a detector; by default a GPU if there is one.

    Raises:
        InputError: there is no such device.
    """
    import torch

    from mdqe.weights.hub import checked_device

    return str(checked_device(device or ("cuda" if torch.cuda.is_available() else "cpu")))


def load_detector(detector: str, device: str | None = None) -> tuple[Any, list[str]]:
    """A detector in evaluation mode, and the names of its categories.

    Raises:
        InputError: an unknown detector or device, or the weights are not there or damaged.
    """
    name = detector.removeprefix(PREFIX)
    if not detector.startswith(PREFIX) or name not in MODELS:
        raise InputError(
            f"the detector {detector!r} is unknown, expected {' or '.join(PREFIX + one for one in MODELS)}"
        )
    import torch
    from torchvision import models

    chosen = chosen_device(device)
    weights = models.get_model_weights(name).DEFAULT
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if not path.is_file():
        raise InputError(f"the weights of {detector} are not there: {path}; download them from {weights.url}")
    model = models.get_model(name, weights=None, weights_backbone=None)
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise InputError(f"{path} does not hold the weights of {detector}: {str(error).splitlines()[0]}") from error
    return model.eval().to(chosen), list(weights.meta["categories"])


def _detect(model: Any, categories: list[str], frames: Any) -> Iterator[Frame]:
    import torch

    device = next(model.parameters()).device
    for timed in frames.timed():
        image = torch.from_numpy(np.ascontiguousarray(timed.image)).to(device).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            (found,) = model([image])
        kept = found["scores"] >= LEAST_SCORE
        counts = rle.encode(found["masks"][kept, 0] > 0.5)
        labels, scores = found["labels"][kept].tolist(), found["scores"][kept].tolist()
        shapes = [
            Shape(i, categories[label], one, score=score)
            for i, (one, label, score) in enumerate(zip(counts, labels, scores, strict=True))
        ]
        yield Frame("", (int(timed.image.shape[0]), int(timed.image.shape[1])), shapes)
