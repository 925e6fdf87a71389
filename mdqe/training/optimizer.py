"""AdamW, the learning-rate schedule and the moving average of the weights."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mdqe.errors import InputError

FREEZABLE_PARTS = ("backbone", "encoder")


def freeze(model: nn.Module, parts: Collection[str] = FREEZABLE_PARTS) -> None:
    """Keep the weights of parts of a model as they are in training: a step needs less time and memory.

    Their dropout acts as before. Call it before the optimizer is created; `adamw` takes trained parameters only.

    Args:
        model: changed in place.
        parts: some of "backbone" and "encoder", or one of them.

    Raises:
        ValueError: a part of another name.
    """
    parts = (parts,) if isinstance(parts, str) else parts
    if unknown := sorted(set(parts) - set(FREEZABLE_PARTS)):
        raise InputError(f"parts to freeze are {', '.join(unknown)}; expected some of {', '.join(FREEZABLE_PARTS)}")
    for part in parts:
        getattr(model, part).requires_grad_(False)


def adamw(
    model: nn.Module, learning_rate: float = 1e-4, *, backbone_multiplier: float = 0.1, weight_decay: float = 1e-4
) -> torch.optim.AdamW:
    """Create AdamW for the trained parameters of a model, in two groups: the backbone, and all others.

    Args:
        model: its backbone is `model.backbone`.
        learning_rate: of all parameters outside the backbone.
        backbone_multiplier: learning rate of the backbone, in units of learning_rate.
        weight_decay: of every parameter, biases and norms included.

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
    groups = [{"params": rest, "lr": learning_rate}, {"params": backbone, "lr": learning_rate * backbone_multiplier}]
    return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)


@dataclass(frozen=True)
class StepDecay:
    """The learning rate of a step, in units of the base rate: linear warm-up, then step decay.

    Raises:
        ValueError: steps that are negative or not in order, or a factor outside 0 … 1.
    """

    decay_steps: Sequence[int] = ()
    """At each of these steps the rate is multiplied by `factor`."""
    warmup_steps: int = 0
    """The rate rises linearly over this many steps, from 1 / (warmup_steps + 1)."""
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
        """Return the rate of step 0, 1, …"""
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return warm * self.factor ** bisect_right(self.decay_steps, step)


class MovingAverage:
    """An exponential moving average (EMA) of the trained parameters of a model; buffers are not averaged.

    Args:
        model: the average starts with its current parameters.
        decay: share of the old average that a step keeps.

    Raises:
        ValueError: decay outside [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"decay of the moving average is {decay!r}, expected 0 up to, not including, 1")
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.averages = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._average = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self) -> None:
        """Add the current parameters to the average."""
        self._average(list(self.averages.values()), [p.detach() for p in self.parameters.values()], 0)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the parameters of the model by their averages inside the context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.data, self.averages[name] = self.averages[name], parameter.data

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by the names of the parameters."""
        return dict(self.averages)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load saved averages.

        Raises:
            ValueError: the averages of another model.
        """
        if state.keys() != self.averages.keys():
            raise InputError("the saved moving average belongs to another model")
        for name, average in self.averages.items():
            average.copy_(state[name])
