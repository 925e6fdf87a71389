"""Sums over the pixels of masks, some pixels at a time: the arithmetic of mask losses and of matching. Torch alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_GROUP = 64  # factors of at least ½ that are multiplied before a logarithm is taken: 2⁻⁶⁴ is far from underflow


def pixel_blocks(rows: int, pixels: int, device: torch.device) -> list[slice]:
    """Pixels to work on at a time: what stays in a core's cache, or enough to keep an accelerator busy.

    All of them where a compiler fuses the arithmetic itself.
    """
    if torch.compiler.is_compiling():
        return [slice(None)]
    width = max(block_elements(device) // max(rows, 1) // _GROUP, 1) * _GROUP
    return [slice(start, start + width) for start in range(0, pixels, width)]


def block_elements(device: torch.device) -> int:
    """Elements of a block."""
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
    """BCE and Dice of every row of logits with its object, without a tensor of rows × pixels beside those given.

    With p = sigmoid(x), m = masks, o = others, w = 1 + (alpha − 1) · emphasis of the row's object:
    BCE = Σ w (softplus(x) − x m) / Σ w, Dice = 1 − (Σ p (2m − o) + Σ o + 1) / (Σ p + Σ m + Σ o + 1).
    """

    @staticmethod
    def forward(
        ctx: Any,
        source: Tensor,
        features: Tensor | None,
        rows: Tensor,
        masks: Tensor,
        emphasis: Tensor | None,
        others: Tensor | None,
        alpha: float,
    ) -> tuple[Tensor, Tensor]:
        """N rows of P logits and their objects' places among K → BCE (N,) and Dice (N,).

        Args:
            source: logits x (N, P), or coefficients (N, M).
            features: (M, P), which times the coefficients are the logits; None where those are given.
            rows: (N,) each row's object.
            masks: (K, P) in [0, 1], in the type that sums are kept in.
            emphasis: (K, P) of zeros and ones, where pixels weigh alpha; None: nowhere.
            others: (K, P) of zeros and ones, what must stay empty; None: nothing.
            alpha: a positive number.
        """
        reward = 2 * masks if others is None else 2 * masks - others
        bce, shown, overlap = masks.new_zeros(3, len(source)).unbind()
        for part in pixel_blocks(len(source), masks.shape[1], masks.device):
            x = _logits(source, features, part, masks.dtype)
            p = x.sigmoid()
            shown += p.sum(1)
            overlap += reward[:, part].index_select(0, rows).mul_(p).sum(1)
            # softplus(x) − x m = hinge − log q
            hinge = x.clamp(min=0).sub_(masks[:, part].index_select(0, rows).mul_(x))
            q = certainty(p)
            bce += hinge.sum(1) - sum_log(q)
            if emphasis is not None:
                e = emphasis[:, part].index_select(0, rows)
                inside = hinge.mul_(e).sum(1) - sum_log(q.sub_(1).mul_(e).add_(1))
                bce += (alpha - 1) * inside
        nothing = masks.new_zeros(len(masks))
        weight = masks.shape[1] + (nothing if emphasis is None else (alpha - 1) * emphasis.sum(1))[rows]
        empty = (nothing if others is None else others.sum(1))[rows]
        numerator = overlap + empty + 1
        denominator = shown + masks.sum(1)[rows] + empty + 1
        ctx.save_for_backward(source, features, rows, masks, emphasis, reward, weight, numerator, denominator)
        ctx.alpha = alpha
        return bce / weight, 1 - numerator / denominator

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_bce: Tensor, grad_dice: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of source and features."""
        source, features, rows, masks, emphasis, reward, weight, numerator, denominator = ctx.saved_tensors
        for_bce = (grad_bce / weight)[:, None]
        for_reward = (grad_dice / denominator)[:, None]
        for_area = for_reward * (numerator / denominator)[:, None]
        weights = None if emphasis is None else 1 + (ctx.alpha - 1) * emphasis  # (K, P)
        grad = torch.empty_like(source) if features is None else torch.zeros_like(source, dtype=masks.dtype)
        grad_features = None if features is None else torch.empty_like(features)
        for part in pixel_blocks(len(source), masks.shape[1], masks.device):
            p = _logits(source, features, part, masks.dtype).sigmoid_()
            dice = reward[:, part].index_select(0, rows).mul_(-for_reward).add_(for_area)
            dice.mul_(p - p * p)  # the sigmoid's slope
            slope = p.sub_(masks[:, part].index_select(0, rows)).mul_(for_bce)
            if weights is not None:
                slope.mul_(weights[:, part].index_select(0, rows))
            slope.add_(dice)
            if features is None or grad_features is None:
                grad[:, part] = slope
            else:
                with torch.autocast(source.device.type, enabled=False):
                    grad += slope @ features[:, part].to(slope.dtype).T
                    grad_features[:, part] = source.to(slope.dtype).T @ slope
        return grad.to(source.dtype), grad_features, None, None, None, None, None


def _logits(source: Tensor, features: Tensor | None, part: slice, dtype: torch.dtype) -> Tensor:
    """A copy of some pixels' logits (N, p), in `dtype`."""
    if features is None:
        return source[:, part].to(dtype, copy=True)
    with torch.autocast(source.device.type, enabled=False):
        return source.to(dtype) @ features[:, part].to(dtype)
