"""Dynamic one-to-many assignment of queries to objects (paper Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mdqe.boxes import box_giou, is_box, to_xyxy
from mdqe.losses.mask import certainty, pixel_blocks, sum_log
from mdqe.losses.targets import ScaledTargets
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
        """Match the predictions of L layers with the objects of B clips.

        Args:
            layers: predictions, in float32 or wider.
            mask_features: (B, M, T, H / 4, W / 4).
            targets: of each clip.

        Returns:
            (L, B, Q) int64: the object of every query, counted within its clip; −1 for none.
        """
        logits, coefficients = (torch.stack(x) for x in zip(*((p[0], p[1]) for p in layers), strict=True))
        boxes = torch.stack([to_xyxy(p.boxes) for p in layers])  # (L, B, T, Q, 4)
        clips = [
            self._match(logits[:, b], coefficients[:, b], boxes[:, b], mask_features[b].flatten(1), t)
            for b, t in enumerate(targets)
        ]
        return torch.stack(clips, 1)

    def _match(
        self, logits: Tensor, coefficients: Tensor, boxes: Tensor, features: Tensor, targets: ScaledTargets
    ) -> Tensor:
        """Match one clip in all layers: (L, Q, K), (L, Q, M), (L, T, Q, 4), (M, T·h·w) → (L, Q)."""
        if not len(targets.labels):
            return torch.full(logits.shape[:2], -1, device=logits.device)
        giou, box_cost = _box_costs(boxes, targets.boxes)
        mask_cost = mask_costs(coefficients, features, targets.masks.flatten(1))
        class_cost = -logits.sigmoid()[..., targets.labels]
        cost = self.class_cost * class_cost + self.box_cost * box_cost + self.mask_cost * mask_cost  # (L, Q, K)
        cost = torch.where(cost.isfinite(), cost, _NOT_FINITE_COST)
        outside = ~_on_an_object(boxes, targets.boxes, self.center_radius)  # (L, T, Q)
        cost = cost + _OUTSIDE_COST * outside.sum(1)[..., None]
        return self.assign(cost, giou.nan_to_num(0))

    def assign(self, cost: Tensor, giou: Tensor) -> Tensor:
        """Costs and GIoUs (L, Q, K) → the object of every query (L, Q), −1 for none."""
        best = giou.clamp(min=0).topk(min(self.candidates, giou.shape[1]), dim=1).values.sum(1)  # (L, K)
        count = best.to(torch.int64).clamp(min=self.min_queries)  # (L, K)
        rank = cost.argsort(dim=1, stable=True).argsort(dim=1)  # (L, Q, K)
        matched = _resolve_conflicts(cost, rank < count[:, None])  # (L, Q)
        objects = torch.arange(cost.shape[2], device=cost.device)
        while True:
            free = matched < 0  # (L, Q)
            unmatched = ~(matched[..., None] == objects).any(1) & free.any(1, keepdim=True)  # (L, K)
            if not unmatched.any():
                return matched
            cheapest = cost.masked_fill(~free[..., None], float("inf")).argmin(1, keepdim=True)  # (L, 1, K)
            taken = torch.zeros_like(cost, dtype=torch.bool).scatter(1, cheapest, unmatched[:, None])
            matched = torch.where(free, _resolve_conflicts(cost, taken), matched)


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
        softplus += x.clamp_(min=0).sum(1) - sum_log(certainty(p))
        area += p.sum(1)
        overlap += p @ masks[:, part].T
    logits_inside = rows @ (features @ masks.T)  # (L·Q, K)
    bce = (softplus[:, None] - logits_inside) / pixels
    dice = 1 - (2 * overlap + 1) / (area[:, None] + masks.sum(1) + 1)
    return (bce + dice).unflatten(0, coefficients.shape[:2])


def _box_costs(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (L, T, Q, 4), targets (K, T, 4) → GIoU, averaged over an object's frames, and L1 + 1 − GIoU: (L, Q, K)."""
    a, b = boxes[:, :, :, None], targets.transpose(0, 1)[:, None]  # (L, T, Q, 1, 4), (T, 1, K, 4)
    present = is_box(b)  # (T, 1, K)
    giou = torch.where(present, box_giou(a, b), 0).sum(1) / present.sum(0).clamp(min=1)  # (L, Q, K)
    return giou, (a - b).abs().sum((1, -1)) + 1 - giou


def _on_an_object(boxes: Tensor, targets: Tensor, radius: float) -> Tensor:
    """Return whether the centres of boxes (L, T, Q, 4) lie in or near the centre of a target (K, T, 4): (L, T, Q)."""
    center = ((boxes[..., :2] + boxes[..., 2:]) / 2)[:, :, :, None]  # (L, T, Q, 1, 2)
    low, high = (x.transpose(0, 1)[:, None] for x in targets.split(2, -1))  # (T, 1, K, 2)
    inside = ((center > low) & (center < high)).all(-1)  # (L, T, Q, K)
    near = ((center - (low + high) / 2).abs() < radius).all(-1)
    return (inside | near).any(-1)


def _resolve_conflicts(cost: Tensor, taken: Tensor) -> Tensor:
    """Which objects take a query (L, Q, K) → one object per query (L, Q); of several, the cheapest of all; −1: none."""
    times = taken.sum(2)
    matched = torch.where(times > 1, cost.argmin(2), taken.byte().argmax(2))
    return torch.where(times > 0, matched, -1)
