"""The multi-layer perceptron that every head of the model is."""

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdqe.dropout import Dropout

# Numbers of a hidden layer per thread of a CPU, for up to so many threads: the memory of larger ones goes back to the
# system after every MLP, and getting it anew, page by page, takes as long as to fill it.
HIDDEN_AT_ONCE, MOST_THREADS = 2**19, 4


class MLP(nn.Module):
    """Linear layers with GELU between them: (…, in_dim) → (…, out_dim)."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        widths = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.dropout = Dropout(dropout)

    @property
    def last(self) -> nn.Linear:
        """The layer that gives the output."""
        return cast(nn.Linear, self.layers[-1])

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_dim) → (…, out_dim)."""
        if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._forward(x)  # a gradient needs the whole hidden layer
        hidden_dim = cast(nn.Linear, self.layers[0]).out_features
        rows = max(1, HIDDEN_AT_ONCE * min(torch.get_num_threads(), MOST_THREADS) // hidden_dim)
        if x.shape[:-1].numel() <= rows:
            return self._forward(x)
        parts = [self._forward(part) for part in x.flatten(0, -2).split(rows)]  # (rows or fewer, in_dim) each
        return torch.cat(parts).unflatten(0, x.shape[:-1])  # (…, out_dim)

    def _forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.dropout(F.gelu(layer(x)))
        return self.layers[-1](x)
