"""Reference implementations of attention and sampling, written as loops from their definitions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Shapes = Sequence[tuple[int, int]]


def bilinear(image: Tensor, x: float, y: float, border: bool = False) -> Tensor:
    """(D,): image (h, w, D) at (x, y) in [0, 1]; pixel i has its centre at (i + 1/2) / size. Outside: 0 or border."""
    h, w = image.shape[:2]
    column, row = x * w - 0.5, y * h - 0.5
    if border:
        column, row = min(max(column, 0), w - 1), min(max(row, 0), h - 1)
    left, top = math.floor(column), math.floor(row)
    total = image.new_zeros(image.shape[2])
    for i, share_y in ((top, top + 1 - row), (top + 1, row - top)):
        for j, share_x in ((left, left + 1 - column), (left + 1, column - left)):
            if 0 <= i < h and 0 <= j < w:
                total = total + share_y * share_x * image[i, j]
    return total


def levels_of(tokens: Tensor, shapes: Shapes) -> list[Tensor]:
    """Tokens (N, …) as maps (h, w, …)."""
    parts = tokens.split([h * w for h, w in shapes])
    return [part.unflatten(0, shape) for part, shape in zip(parts, shapes, strict=True)]


def deformable(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """value (N, H, D), locations (Q, H, L, P, 2), weights (Q, H, L, P) → (Q, H·D)."""
    maps = levels_of(value, shapes)
    queries, heads, levels, points = weights.shape
    out = value.new_zeros(queries, heads, value.shape[2])
    for q in range(queries):
        for h in range(heads):
            for level in range(levels):
                for p in range(points):
                    x, y = locations[q, h, level, p].tolist()
                    out[q, h] += weights[q, h, level, p] * bilinear(maps[level][:, :, h], x, y)
    return out.flatten(1)


def dense(weight: Tensor, bias: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Multi-head attention with one projection (3·C, C) of queries, keys and values, each (n, C)."""
    q, k, v = (
        (x @ w.T + b).unflatten(1, (heads, -1)).transpose(0, 1)  # (heads, n, C / heads)
        for x, w, b in zip((q, k, v), weight.chunk(3), bias.chunk(3), strict=True)
    )
    scores = (q @ k.transpose(1, 2)) / math.sqrt(q.shape[-1])
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)


def spread(module: torch.nn.Module, amount: float = 0.3) -> torch.nn.Module:
    """The module in evaluation mode and float64, with noise added to its parameters, many of which start as 0 or 1."""
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=amount)
    return module
