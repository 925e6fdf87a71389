"""Class loss of the clip queries: focal loss over independent categories."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Focal loss (α ¼, γ 2), summed over queries and categories.

    Args:
        logits: (…, K).
        labels: (…) int64, −1 where a query has no object.
    """
    categories = torch.arange(logits.shape[-1], device=logits.device)
    wanted = (labels[..., None] == categories).to(logits.dtype)
    return sigmoid_focal_loss(logits, wanted, alpha=0.25, gamma=2.0, reduction="sum")
