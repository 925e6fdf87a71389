"""Random model outputs and objects."""

from collections.abc import Callable

import torch
from torch import Tensor

from mdqe.modeling.network import ClipOutput, ClipPrediction
from mdqe.modeling.query_init import FrameQueries
from mdqe.targets import ClipTargets

CLASSES = 4
SIZE = (64, 96)
FRAMES = 2
QUERIES = 16


def output(clips: int, seed: int = 0, dtype: torch.dtype = torch.float64, layers: int = 3) -> ClipOutput:
    """Differentiable outputs of `clips` clips."""
    g = torch.Generator().manual_seed(seed)

    def leaf(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=g, dtype=torch.float64) * scale).to(dtype).requires_grad_()

    predictions = []
    for _ in range(layers):
        boxes = torch.rand(clips, FRAMES, QUERIES, 4, generator=g, dtype=torch.float64) * 0.6 + 0.1
        boxes = boxes.to(dtype).requires_grad_()
        logits, coefficients = leaf(clips, QUERIES, CLASSES), leaf(clips, QUERIES, 8)
        predictions.append(ClipPrediction(logits, coefficients, boxes, leaf(clips, QUERIES, 8)))
    h, w = SIZE
    coords = torch.rand(clips, FRAMES, QUERIES, 2, generator=g, dtype=torch.float64).to(dtype)
    queries = FrameQueries(
        leaf(clips, FRAMES, QUERIES, 8), coords, leaf(clips, FRAMES, QUERIES, 6, scale=0.5),
        leaf(clips, FRAMES, CLASSES, h // 8, w // 8),
    )  # fmt: skip
    return ClipOutput(predictions, leaf(clips, 8, FRAMES, h // 4, w // 4), queries)


def mapped(function: Callable[[Tensor], Tensor], out: ClipOutput) -> ClipOutput:
    """An output whose tensors are replaced by the results of a function, such as one that selects clips."""
    layers = [ClipPrediction(*map(function, layer)) for layer in out.layers]
    return ClipOutput(layers, function(out.mask_features), FrameQueries(*map(function, out.queries)))


def leaves(out: ClipOutput) -> list[Tensor]:
    """The tensors of an output that have a gradient from the losses."""
    per_layer = [x for layer in out.layers for x in layer[:3]]
    return [*per_layer, out.mask_features, out.queries.embeddings, out.queries.activation]


def targets(count: int, seed: int = 0, size: tuple[int, int] = SIZE) -> ClipTargets:
    """Rectangles, one of which is absent in the first frame."""
    g = torch.Generator().manual_seed(seed)
    height, width = size
    corners = torch.rand(count, FRAMES, 2, 2, generator=g).sort(2).values
    boxes = corners.flatten(2) * torch.tensor([width, height, width, height])
    ids = torch.arange(count)[:, None].repeat(1, FRAMES)
    if count > 1:
        ids[0, 0] = -1
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    across = (x >= boxes[..., :1]) & (x < boxes[..., 2:3])
    down = (y >= boxes[..., 1:2]) & (y < boxes[..., 3:])
    masks = down[..., :, None] & across[..., None, :] & (ids >= 0)[..., None, None]
    return ClipTargets(torch.randint(0, CLASSES, (count,), generator=g), ids, masks, boxes)
