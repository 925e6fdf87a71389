"""Activation checkpointing: parts of the model keep their inputs alone and are computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from torch import nn
from torch.utils.checkpoint import checkpoint

from mdqe.errors import InputError

if TYPE_CHECKING:
    from mdqe.model import MDQE

PARTS = ("backbone", "encoder", "decoder")


def recompute_activations(model: MDQE, parts: Collection[str] = PARTS) -> None:
    """Let training compute parts of a model twice for the memory of one of their layers at a time.

    Results, gradients, names of parameters and what inference does stay as they are. Of the backbone, its stages but
    the last; of encoder and decoder, every layer.

    Args:
        model: changed in place.
        parts: some of PARTS.

    Raises:
        ValueError: a part of another name, or a backbone that timm cannot recompute.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise InputError(f"parts to recompute are {', '.join(unknown)}; expected some of {', '.join(PARTS)}")
    if "backbone" in parts:
        recompute_backbone = getattr(model.backbone.body, "set_grad_checkpointing", None)
        if recompute_backbone is None:
            raise InputError(f"backbone {model.config.backbone!r} cannot be recomputed: timm has no way to")
        recompute_backbone(True)
    for part in ("encoder", "decoder"):
        if part in parts:
            for layer in getattr(model, part).layers:
                _recompute(layer)


def _recompute(layer: nn.Module) -> None:
    # On the instance: the class, its parameters' names and its hooks stay as they are.
    layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
