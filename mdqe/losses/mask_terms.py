"""Sums over the pixels of masks, a few rows at a time: the arithmetic of mask losses and of matching. Torch alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_GROUP = 64  # factors of at least ½ that are multiplied before a logarithm is taken: 2⁻⁶⁴ is far from underflow


def block_size(device: torch.device) -> int:
    """Elements to work on at a time: what stays in a core's cache, or enough to keep an accelerator busy."""
    return 1 << (18 if device.type == "cpu" else 25)


def certainty(p: Tensor) -> Tensor:
    """max(p, 1 − p) of probabilities."""
    return (p - 0.5).abs_().add_(0.5)


def sum_log(q: Tensor) -> Tensor:
    """Σ log q over the pixels of q (N, P) in [½, 1]: (N,).

    The logarithm of products: one per pixel would cost more than everything else in the losses.
    """
    whole = q.shape[1] // _GROUP * _GROUP
    products = q[:, :whole].unflatten(1, (_GROUP, whole // _GROUP)).prod(1)
    return products.log().sum(1) + q[:, whole:].log().sum(1)


class MaskTerms(torch.autograd.Function):
    """BCE and Dice of every row of logits with its object; of tensors with a row each it keeps the logits only.

    With p = sigmoid(x), m = masks, o = others, w = 1 + (alpha − 1) · emphasis of the row's object:
    BCE = Σ w (softplus(x) − x m) / Σ w, Dice = 1 − (Σ p (2m − o) + Σ o + 1) / (Σ p + Σ m + Σ o + 1).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, rows: Tensor, masks: Tensor, emphasis: Tensor | None, others: Tensor | None, alpha: float
    ) -> tuple[Tensor, Tensor]:
        """N rows of P logits and their objects' places among K → BCE (N,) and Dice (N,).

        Args:
            x: (N, P).
            rows: (N,) each row's object.
            masks: (K, P) in [0, 1], in the type that sums are kept in.
            emphasis: (K, P) of zeros and ones, where pixels weigh alpha; None: nowhere.
            others: (K, P) of zeros and ones, what must stay empty; None: nothing.
            alpha: a positive number.
        """
        reward = 2 * masks if others is None else 2 * masks - others
        unclaimed = masks.new_zeros(len(masks)) if others is None else others.sum(1)
        weight = x.shape[1] + (masks.new_zeros(len(masks)) if emphasis is None else (alpha - 1) * emphasis.sum(1))
        bce, shown, overlap = masks.new_zeros(3, len(x)).unbind()
        for part in _parts(x):
            xs, k = x[part].to(masks.dtype), rows[part]
            p = xs.sigmoid()
            shown[part] = p.sum(1)
            overlap[part] = reward.index_select(0, k).mul_(p).sum(1)
            # softplus(x) − x m = hinge − log q
            hinge = xs.clamp(min=0).sub_(masks.index_select(0, k).mul_(xs))
            q = certainty(p)
            bce[part] = hinge.sum(1) - sum_log(q)
            if emphasis is not None:
                e = emphasis.index_select(0, k)
                inside = hinge.mul_(e).sum(1) - sum_log(q.sub_(1).mul_(e).add_(1))
                bce[part] += (alpha - 1) * inside
        weight, unclaimed = weight[rows], unclaimed[rows]
        numerator = overlap + unclaimed + 1
        denominator = shown + masks.sum(1)[rows] + unclaimed + 1
        ctx.save_for_backward(x, rows, masks, emphasis, reward, weight, numerator, denominator)
        ctx.alpha = alpha
        return bce / weight, 1 - numerator / denominator

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_bce: Tensor, grad_dice: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the logits."""
        x, rows, masks, emphasis, reward, weight, numerator, denominator = ctx.saved_tensors
        for_bce = (grad_bce / weight)[:, None]
        for_reward = (grad_dice / denominator)[:, None]
        for_area = for_reward * (numerator / denominator)[:, None]
        grad = torch.empty_like(x)
        weights = None if emphasis is None else 1 + (ctx.alpha - 1) * emphasis  # (K, P)
        for part in _parts(x):
            k = rows[part]
            p = x[part].to(masks.dtype).sigmoid()
            dice = reward.index_select(0, k).mul_(-for_reward[part]).add_(for_area[part])
            dice.mul_(p - p * p)  # the sigmoid's slope
            bce = p.sub_(masks.index_select(0, k)).mul_(for_bce[part])
            if weights is not None:
                bce.mul_(weights.index_select(0, k))
            grad[part] = bce.add_(dice)
        return grad, None, None, None, None, None


def _parts(x: Tensor) -> list[slice]:
    """Rows (N, P) in blocks; a single one where a compiler fuses the arithmetic itself."""
    if torch.compiler.is_compiling():
        return [slice(None)]
    rows = max(block_size(x.device) // max(x.shape[1], 1), 1)
    return [slice(i, i + rows) for i in range(0, len(x), rows)]
