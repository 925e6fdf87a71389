"""Models and videos so small that a test of the whole model takes a fraction of a second."""

from typing import Any

import torch
from torch import nn

from mdqe import MDQE, MDQEConfig

OPTIONS: dict[str, Any] = {
    "backbone": "mobilenetv3_small_050", "hidden_dim": 32, "num_heads": 4, "num_points": 2, "encoder_layers": 1,
    "decoder_layers": 2, "grid_size": 4, "embed_dim": 8, "num_classes": 3, "window_length": 6,
    "score_threshold": 0.02, "detections_per_image": 2, "test_shorter_edge": None,
}  # fmt: skip


def small_model(**overrides: Any) -> MDQE:
    """An MDQE in evaluation mode and float64. It finds many distinct, non-empty instances in `moving_squares`."""
    torch.manual_seed(0)
    model = MDQE(MDQEConfig(**{**OPTIONS, **overrides})).double().eval()
    livelier(model)
    return model


def livelier(model: nn.Module) -> None:
    """Replace the initial weights, with which all queries are similar and have low scores."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
            if parameter.ndim == 1:
                parameter.copy_((1 if name.endswith("weight") else 0) + 0.1 * noise)
            else:
                parameter.copy_(noise * 1.4 / parameter[0].numel() ** 0.5)
        model.class_head.layers[-1].bias.sub_(1)


def moving_squares(frames: int, size: tuple[int, int] = (64, 96), objects: int = 3, seed: int = 0) -> torch.Tensor:
    """A video (frames, H, W, 3) uint8: coloured squares that move at constant speed over noise."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    video = torch.randint(0, 60, (frames, height, width, 3), generator=generator, dtype=torch.uint8)
    for _ in range(objects):
        edge = int(torch.randint(height // 6, height // 3, (1,), generator=generator))
        colour = torch.randint(60, 256, (3,), generator=generator, dtype=torch.uint8)
        start, speed = torch.rand(2, generator=generator), torch.rand(2, generator=generator) * 6 - 3
        for t in range(frames):
            y, x = (int(v) for v in start * torch.tensor([height - edge, width - edge]) + speed * t)
            video[t, max(y, 0) : max(y + edge, 0), max(x, 0) : max(x + edge, 0)] = colour
    return video
