"""Checks of the shapes of arguments, for parts that are used outside of the network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def check_shapes(sizes: dict[str, int], **tensors: tuple[Any, str]) -> None:
    """Check that the sizes of tensors fit together. Compiled code does not check them.

    Args:
        sizes: the known sizes by the names of the axes. The size of any other axis is that of the first tensor with it.
        **tensors: the tensors with the names of their axes, such as `boxes=(boxes, "B T Q 4")`.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: a tensor has another shape; the message names the tensor.
    """
    if torch.compiler.is_compiling():
        return
    known = {"2": 2, "4": 4, **sizes}
    for name, (x, axes) in tensors.items():
        names = axes.split()
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} is a {type(x).__name__}, expected a tensor ({', '.join(names)})")
        if x.ndim != len(names) or tuple(map(known.get, names, x.shape)) != x.shape:
            numbers = [known.get(axis, axis) for axis in names]
            values = "" if numbers == names else f" = ({', '.join(map(str, numbers))})"
            raise ValueError(f"{name} is {tuple(x.shape)}, expected ({', '.join(names)}){values}")
        known.update(zip(names, x.shape, strict=True))


def check_levels(spatial_shapes: Any, tokens: int, name: str, num_levels: int | None = None) -> None:
    """Check the (h, w) of each level against the number of tokens of the tensor `name`. Compiled code does not.

    Raises:
        TypeError: spatial_shapes is a tensor.
        ValueError: another number of levels than `num_levels`, or of tokens.
    """
    if torch.compiler.is_compiling():
        return
    if isinstance(spatial_shapes, Tensor):
        raise TypeError("spatial_shapes is a tensor, expected a tuple of (h, w), whole numbers")
    if num_levels is not None and len(spatial_shapes) != num_levels:
        raise ValueError(f"spatial_shapes has {len(spatial_shapes)} levels, expected num_levels={num_levels}")
    total = sum(h * w for h, w in spatial_shapes)
    if total != tokens:
        raise ValueError(
            f"spatial_shapes {tuple(spatial_shapes)} adds up to {total} tokens, but {name} has N = {tokens}"
        )
