"""AdamW and the schedule of its learning rate."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from mdqe.errors import InputError


def adamw(
    model: nn.Module,
    learning_rate: float = 1e-4,
    *,
    backbone_multiplier: float = 0.1,
    weight_decay: float = 1e-4,
) -> torch.optim.AdamW:
    """AdamW over all that a model trains, in two groups: the backbone at a rate of its own, and the rest.

    Args:
        model: its backbone is `model.backbone`.
        learning_rate: of the rest.
        backbone_multiplier: the backbone's rate, in units of the other.
        weight_decay: of every parameter alike, biases and norms included.

    Raises:
        ValueError: a rate, multiplier or decay that is negative or not a number.
    """
    values = {
        "learning_rate": learning_rate, "backbone_multiplier": backbone_multiplier, "weight_decay": weight_decay
    }  # fmt: skip
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise InputError(f"{name} is {value!r}, expected a number of at least 0")
    backbone: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (backbone if name.startswith("backbone.") else rest).append(parameter)
    groups = [
        {"params": rest, "lr": learning_rate},
        {"params": backbone, "lr": learning_rate * backbone_multiplier},
    ]
    return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)


@dataclass(frozen=True)
class StepDecay:
    """The learning rate as a function of the step alone, in units of the base rate: linear warm-up, then step decay.

    Raises:
        ValueError: steps that are negative or not in order, or a factor that is not in 0 … 1.
    """

    decay_steps: Sequence[int] = ()
    """From each of these on, the rate is `factor` times what it was."""
    warmup_steps: int = 0
    """The rate rises evenly over so many steps; the first has 1 / (warmup_steps + 1) of it."""
    factor: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "decay_steps", tuple(self.decay_steps))
        if any(step < 0 for step in self.decay_steps) or list(self.decay_steps) != sorted(self.decay_steps):
            raise InputError(f"decay_steps is {self.decay_steps}, expected rising numbers of at least 0")
        if self.warmup_steps < 0:
            raise InputError(f"warmup_steps is {self.warmup_steps}, expected at least 0")
        if not 0 <= self.factor <= 1:
            raise InputError(f"factor is {self.factor}, expected 0 to 1")

    def __call__(self, step: int) -> float:
        """The rate of step 0, 1, …"""
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return warm * self.factor ** bisect_right(self.decay_steps, step)
