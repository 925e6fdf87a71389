"""Dynamic one-to-many assignment of queries to objects (paper Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mdqe.boxes import box_giou, is_box, to_xyxy
from mdqe.losses.mask import pixel_blocks, sum_softplus
from mdqe.losses.targets import ScaledTargets, StackedTargets, stack_targets
from mdqe.modeling.network import ClipPrediction

_NOT_FINITE_COST = 1000.0  # replaces a cost that is not finite
_OUTSIDE_COST = 100.0  # for every frame in which the box of a query lies on no object


class DynamicMatcher:
    """Dynamic-k matching: the sum of an object's best GIoUs decides how many queries it takes, at least `min_queries`.

    A query that several objects take is matched with the object of lowest cost for it among all objects, even if that
    object has not taken it. An object without a query then gets the cheapest unmatched query. If costs are equal, the
    first query or object is preferred. The paper names the assignment; its details are those of the released code.

    Args:
        class_cost, box_cost, mask_cost: weights of the three costs.
        candidates: the number of GIoUs that are summed.
        min_queries: queries that an object takes at least, before conflicts are resolved.
        center_radius: a box also lies on an object if its centre is nearer than this to the object's centre in both
            axes, in [0, 1] of the image.
    """

    def __init__(
        self,
        *,
        class_cost: float = 1.0,
        box_cost: float = 2.0,
        mask_cost: float = 4.0,
        candidates: int = 10,
        min_queries: int = 2,
        center_radius: float = 2.5 / 32,
    ) -> None:
        self.class_cost = class_cost
        self.box_cost = box_cost
        self.mask_cost = mask_cost
        self.candidates = candidates
        self.min_queries = min_queries
        self.center_radius = center_radius

    @torch.no_grad()
    def __call__(
        self, layers: Sequence[ClipPrediction], mask_features: Tensor, targets: Sequence[ScaledTargets]
    ) -> Tensor:
        """Match the predictions of L layers with the objects of B clips, with a single transfer from their device.

        Args:
            layers: predictions, in float32 or wider.
            mask_features: (B, M, T, H / 4, W / 4).
            targets: of each clip.

        Returns:
            (L, B, Q) int64, on the CPU: the object of every query, counted within its clip; −1 for none.
        """
        logits, coefficients = (torch.stack(x) for x in zip(*((p[0], p[1]) for p in layers), strict=True))
        boxes = to_xyxy(torch.stack([p.boxes for p in layers]))  # (L, B, T, Q, 4)
        objects = stack_targets(targets)
        giou, box_cost = _box_costs(boxes, objects.boxes)  # (L, B, Q, K)
        mask_cost = torch.zeros_like(giou)
        for b, target in enumerate(targets):  # one after the other: the mask logits of a clip fill the memory
            if not len(target.labels):
                continue
            costs = mask_costs(coefficients[:, b], mask_features[b].flatten(1), target.masks.flatten(1))
            mask_cost[:, b, :, : len(target.labels)] = costs
        class_cost = -logits.sigmoid().gather(-1, objects.labels[:, None].expand_as(giou))
        cost = self.class_cost * class_cost + self.box_cost * box_cost + self.mask_cost * mask_cost  # (L, B, Q, K)
        cost = torch.where(cost.isfinite(), cost, _NOT_FINITE_COST)
        outside = ~_on_an_object(boxes, objects, self.center_radius)  # (L, B, T, Q)
        cost = cost + _OUTSIDE_COST * outside.sum(2)[..., None]
        return self.assign(cost, giou.nan_to_num(0), objects.valid[:, None])

    def assign(self, cost: Tensor, giou: Tensor, valid: Tensor | None = None) -> Tensor:
        """Assign an object to every query.

        Args:
            cost, giou: (…, Q, K).
            valid: (…, 1, K) bool, whether the object exists; None: all do.

        Returns:
            (…, Q) int64, on the CPU; −1 for none.
        """
        if not cost.numel():
            return torch.full(cost.shape[:-1], -1)
        best = giou.clamp(min=0).topk(min(self.candidates, giou.shape[-2]), dim=-2).values.sum(-2, keepdim=True)
        count = best.to(torch.int64).clamp(min=self.min_queries)  # (…, 1, K)
        taken = cost.argsort(dim=-2, stable=True).argsort(dim=-2) < count  # (…, Q, K)
        if valid is not None:
            taken, cost = taken & valid, cost.masked_fill(~valid, float("inf"))
        read = torch.stack([cost, taken.to(cost.dtype)]).cpu().numpy()
        return torch.from_numpy(_settle(read[0], read[1] > 0))


def _settle(cost: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """One object per query: costs and which objects take a query (…, Q, K) → (…, Q); an infinite cost: no object."""
    matched = _resolve_conflicts(cost, taken)
    exists = np.isfinite(cost).any(-2)  # (…, K)
    objects = np.arange(cost.shape[-1])
    while True:
        free = matched < 0  # (…, Q)
        unmatched = exists & ~(matched[..., None] == objects).any(-2) & free.any(-1, keepdims=True)  # (…, K)
        if not unmatched.any():
            return matched
        cheapest = np.where(free[..., None], cost, np.inf).argmin(-2)  # (…, K)
        taken = (np.arange(cost.shape[-2])[:, None] == cheapest[..., None, :]) & unmatched[..., None, :]  # (…, Q, K)
        matched = np.where(free, _resolve_conflicts(cost, taken), matched)


def mask_costs(coefficients: Tensor, features: Tensor, masks: Tensor) -> Tensor:
    """Compute the BCE, averaged over the pixels, plus the Dice loss of every query with every object.

    Args:
        coefficients: (L, Q, M).
        features: (M, P).
        masks: (K, P) in [0, 1].

    Returns:
        (L, Q, K). No tensor of queries × pixels is allocated.
    """
    rows = coefficients.flatten(0, 1)  # (L·Q, M)
    pixels = features.shape[1]
    softplus, area = rows.new_zeros(2, len(rows)).unbind()
    overlap = rows.new_zeros(len(rows), len(masks))
    for part in pixel_blocks(len(rows), pixels, rows.device):
        x = rows @ features[:, part]
        p = x.sigmoid()
        softplus += sum_softplus(x, p)
        area += p.sum(1)
        overlap += p @ masks[:, part].T
    logits_inside = rows @ (features @ masks.T)  # (L·Q, K)
    bce = (softplus[:, None] - logits_inside) / pixels
    dice = 1 - (2 * overlap + 1) / (area[:, None] + masks.sum(1) + 1)
    return (bce + dice).unflatten(0, coefficients.shape[:2])


def _box_costs(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """GIoU, averaged over an object's frames, and L1 + 1 − GIoU: both (L, B, Q, K).

    Args:
        boxes: (L, B, T, Q, 4).
        targets: (B, K, T, 4).
    """
    a, b = boxes[..., None, :], targets.transpose(1, 2)[:, :, None]  # (L, B, T, Q, 1, 4), (B, T, 1, K, 4)
    present = is_box(b)  # (B, T, 1, K)
    giou = torch.where(present, box_giou(a, b), 0).sum(2) / present.sum(1).clamp(min=1)  # (L, B, Q, K)
    return giou, (a - b).abs().sum((2, -1)) + 1 - giou


def _on_an_object(boxes: Tensor, objects: StackedTargets, radius: float) -> Tensor:
    """Return whether the centres of boxes (L, B, T, Q, 4) lie in or near the centre of an object: (L, B, T, Q)."""
    center = ((boxes[..., :2] + boxes[..., 2:]) / 2)[..., None, :]  # (L, B, T, Q, 1, 2)
    low, high = (x.transpose(1, 2)[:, :, None] for x in objects.boxes.split(2, -1))  # (B, T, 1, K, 2)
    inside = ((center > low) & (center < high)).all(-1)  # (L, B, T, Q, K)
    near = ((center - (low + high) / 2).abs() < radius).all(-1)
    return ((inside | near) & objects.valid[:, None, None]).any(-1)


def _resolve_conflicts(cost: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Which objects take a query (…, Q, K) → one object per query (…, Q); of several, the cheapest of all; −1: none."""
    times = taken.sum(-1)
    matched = np.where(times > 1, cost.argmin(-1), taken.argmax(-1))
    return np.where(times > 0, matched, -1)
