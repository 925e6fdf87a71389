"""An exponential moving average of a model's parameters (EMA)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mdqe.errors import InputError


class MovingAverage:
    """The average of a model's trained parameters over the steps so far; buffers are not averaged.

    Args:
        model: whose parameters are followed; the average starts as they are.
        decay: share of the old average that a step keeps.

    Raises:
        ValueError: decay outside [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"decay of the moving average is {decay!r}, expected 0 up to, not including, 1")
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.averages = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._advance = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as a step left them."""
        self._advance(list(self.averages.values()), [p.detach() for p in self.parameters.values()], 0)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the model has the averaged parameters."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.data, self.averages[name] = self.averages[name], parameter.data

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the parameters' names."""
        return dict(self.averages)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from saved averages.

        Raises:
            ValueError: those of another model.
        """
        if state.keys() != self.averages.keys():
            raise InputError("the saved moving average is of another model")
        for name, average in self.averages.items():
            average.copy_(state[name])
