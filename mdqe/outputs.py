"""What the model says of clips."""

from typing import NamedTuple

from torch import Tensor

from mdqe.mask_head import mask_logits
from mdqe.query_init import FrameQueries


class ClipPrediction(NamedTuple):
    """What a decoder layer says of the instances of a clip."""

    class_logits: Tensor
    """(B, Q, K)."""
    mask_coefficients: Tensor
    """(B, Q, M), in [−1, 1]; times the mask features they are mask logits."""
    boxes: Tensor
    """(B, T, Q, 4), cxcywh in [0, 1] of the padded image."""
    embeddings: Tensor
    """(B, Q, C): the clip queries, which the tracker compares."""


class ClipOutput(NamedTuple):
    """Everything that `MDQE.forward` computes of a batch of clips."""

    layers: list[ClipPrediction]
    """Before the first decoder layer (the warm-up) and after each one; the last is the prediction."""
    mask_features: Tensor
    """(B, M, T, H / 4, W / 4)."""
    queries: FrameQueries
    """Each frame's queries before association."""

    @property
    def mask_logits(self) -> Tensor:
        """Masks of the prediction: (B, Q, T, H / 4, W / 4)."""
        return mask_logits(self.layers[-1].mask_coefficients, self.mask_features)
