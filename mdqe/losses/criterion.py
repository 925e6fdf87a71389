"""The weighted sum of all training losses (paper Sec. 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, distributed, nn
from torchvision.ops import sigmoid_focal_loss

from mdqe.boxes import box_giou, is_box, to_xyxy
from mdqe.config import MDQEConfig
from mdqe.distributed import ranks
from mdqe.losses.mask import InterInstanceMaskLoss, PlainMaskLoss
from mdqe.losses.matcher import DynamicMatcher
from mdqe.losses.query_init import activation_loss, association_losses, ids_at, semantic_targets
from mdqe.losses.targets import ScaledTargets, StackedTargets, check_types, scale_targets, stack_targets
from mdqe.modeling.network import ClipOutput, ClipPrediction
from mdqe.modeling.query_init import FrameQueries
from mdqe.ops.reference import widen
from mdqe.targets import ClipTargets

MASK_LOSSES = {"inter_instance": InterInstanceMaskLoss, "plain": PlainMaskLoss}
"""The mask losses by their names in `MDQEConfig.mask_loss`."""


def build_criterion(config: MDQEConfig, **weights: Any) -> Criterion:
    """Build the criterion of a configuration; weights (`class_weight`, …) replace the published ones."""
    mask_loss = MASK_LOSSES[config.mask_loss](check_values=False)  # `scale_targets` keeps masks and boxes in [0, 1]
    return Criterion(mask_loss=mask_loss, association_window=config.association_window, **weights)


class Criterion(nn.Module):
    """The weighted losses of the query initialisation and of every decoder layer.

    Every layer is matched with the objects separately. The losses of matched queries are summed and divided by the
    number of matched queries in the batch, averaged over the processes and at least 1.

    Args:
        mask_loss: `InterInstanceMaskLoss` by default; or `PlainMaskLoss`, or another module with the same call. The
            criterion passes masks and boxes in [0, 1]; `check_values=False` saves checking them.
        matcher: assigns queries to objects.
        association_window: cells that an object may move per frame, for `init_reid`.
        class_weight, box_weight, giou_weight, mask_weight, dice_weight: weights of the losses of every layer;
            mask_weight is the weight of the BCE. The defaults are those of the published models: 2, 2, 2, 4 and 4.
        init_sem_weight, init_reid_weight, init_reid_aux_weight: weights of the losses of the query initialisation; the
            published models have 2, 0.5 and 0.5. `init_sem` trains the activation map, `init_reid` and `init_reid_aux`
            train the embeddings. `init_reid_aux` is part of the released code; the paper does not describe it.
    """

    def __init__(
        self,
        *,
        mask_loss: nn.Module | None = None,
        matcher: DynamicMatcher | None = None,
        association_window: float = 5,
        class_weight: float = 2.0,
        box_weight: float = 2.0,
        giou_weight: float = 2.0,
        mask_weight: float = 4.0,
        dice_weight: float = 4.0,
        init_sem_weight: float = 2.0,
        init_reid_weight: float = 0.5,
        init_reid_aux_weight: float = 0.5,
    ) -> None:
        super().__init__()
        self.mask_loss = InterInstanceMaskLoss(check_values=False) if mask_loss is None else mask_loss
        self.matcher = DynamicMatcher() if matcher is None else matcher
        self.association_window = association_window
        self.class_weight, self.box_weight, self.giou_weight = class_weight, box_weight, giou_weight
        self.mask_weight, self.dice_weight = mask_weight, dice_weight
        self.init_sem_weight, self.init_reid_weight = init_sem_weight, init_reid_weight
        self.init_reid_aux_weight = init_reid_aux_weight

    def forward(self, output: ClipOutput, targets: Sequence[ClipTargets]) -> dict[str, Tensor]:
        """Compute the weighted losses by name.

        The losses of the query initialisation are `init_sem`, `init_reid` and `init_reid_aux`; learned queries have
        none. Those of the last layer are `class`, `box`, `giou`, `mask` and `dice`; those of the warm-up and of the
        layers before the last are `class_0`, ….

        Args:
            output: of `MDQE.forward` for B clips.
            targets: of each clip, on the device of the output.

        Raises:
            TypeError: targets are not `ClipTargets`.
            ValueError: another number of targets than clips, or labels that the model does not have.
        """
        check_types(targets, clips=len(output.mask_features))
        with torch.autocast(output.mask_features.device.type, enabled=False):
            output = _widen(output)
            scaled = self.scale(output, targets)
            owner = self.matcher(output.layers, output.mask_features, scaled)  # (L, B, Q)
            sem, reid, reid_aux, anchors = self.query_init_losses(output.queries, scaled)
            clips, anchors, *matched = _average([len(targets), anchors, *(owner >= 0).sum((1, 2))], sem)
            frames, queries = output.layers[0].boxes.shape[1:3]
            losses = {}
            if output.queries.activation is not None:
                losses["init_sem"] = self.init_sem_weight * (sem / (clips * frames))
                losses["init_reid"] = self.init_reid_weight * (reid / anchors)
                losses["init_reid_aux"] = self.init_reid_aux_weight * (reid_aux / anchors)
            objects = stack_targets(scaled)
            for i, (layer, matches) in enumerate(zip(output.layers, _matches(owner, objects), strict=True)):
                suffix = "" if i == len(output.layers) - 1 else f"_{i}"
                count = matched[i].clamp(min=1)
                box, giou = self.box_losses(layer, matches, objects)
                mask, dice = self.mask_losses(layer, output.mask_features, matches, scaled)
                focal = self.class_loss(layer, matches, objects)
                losses[f"class{suffix}"] = self.class_weight * (focal / (clips * queries))
                losses[f"box{suffix}"] = self.box_weight * (box / (count * frames))
                losses[f"giou{suffix}"] = self.giou_weight * (giou / (count * frames))
                losses[f"mask{suffix}"] = self.mask_weight * (mask / count)
                losses[f"dice{suffix}"] = self.dice_weight * (dice / count)
            return losses

    def scale(self, output: ClipOutput, targets: Sequence[ClipTargets]) -> list[ScaledTargets]:
        """Scale the targets to the sizes of the output."""
        h, w = output.mask_features.shape[-2:]
        num_classes = output.layers[-1].class_logits.shape[-1]
        return [scale_targets(t, (4 * h, 4 * w), num_classes, output.mask_features.dtype) for t in targets]

    def query_init_losses(self, queries: FrameQueries, targets: Sequence[ScaledTargets]) -> tuple[Tensor, ...]:
        """Return the sums of the activation loss over frames and of both association losses over objects.

        The fourth number is the number of objects in the association losses, those that have a query.
        """
        logits, embeddings = queries.activation, queries.embeddings  # (B, T, K, h, w), (B, T, Q, E)
        sem = reid = aux = queries.coords.new_zeros(())
        found = targets[0].labels.new_tensor(0)
        if logits is None or embeddings is None:
            return sem, reid, aux, found
        for b, target in enumerate(targets):
            semantic = semantic_targets(target, logits.shape[2])
            activation = rearrange(logits[b], "t k h w -> t (h w) k")
            sem = sem + activation_loss(activation, semantic.labels, semantic.centerness).sum()
            ids = ids_at(semantic.ids, queries.coords[b], (logits.shape[-2], logits.shape[-1]))  # (T, Q)
            sums = association_losses(embeddings[b], ids, target.ids.amax(1), self.association_window)
            reid, aux, found = reid + sums[0], aux + sums[1], found + sums[2]
        return sem, reid, aux, found

    def class_loss(self, layer: ClipPrediction, matches: Matches, objects: StackedTargets) -> Tensor:
        """Return the focal loss (α ¼, γ 2), summed over queries and categories; unmatched queries have no category."""
        logits = layer.class_logits  # (B, Q, K)
        labels = matches.query.new_full(logits.shape[:2], -1)  # (B, Q)
        labels = labels.index_put((matches.clip, matches.query), objects.labels[matches.row])
        one_hot = (labels[..., None] == torch.arange(logits.shape[-1], device=logits.device)).to(logits.dtype)
        return sigmoid_focal_loss(logits, one_hot, alpha=0.25, gamma=2.0, reduction="sum")

    def box_losses(self, layer: ClipPrediction, matches: Matches, objects: StackedTargets) -> tuple[Tensor, Tensor]:
        """Return L1 and 1 − GIoU of matched boxes, summed over the frames in which the object has a box."""
        boxes = to_xyxy(layer.boxes[matches.clip, :, matches.query])  # (N, T, 4)
        targets = objects.boxes[matches.row]  # (N, T, 4)
        present = is_box(targets)  # (N, T)
        l1 = (boxes - targets).abs().sum(-1)  # (N, T)
        return torch.where(present, l1, 0).sum(), torch.where(present, 1 - box_giou(boxes, targets), 0).sum()

    def mask_losses(
        self, layer: ClipPrediction, features: Tensor, matches: Matches, targets: Sequence[ScaledTargets]
    ) -> tuple[Tensor, Tensor]:
        """Return BCE and Dice of matched masks, summed, with the mask features (B, M, T, h, w)."""
        coefficients = layer.mask_coefficients[matches.clip, matches.query].split(matches.counts)  # (N_b, M) each
        objects = matches.object.split(matches.counts)  # (N_b,) each
        losses = [
            self.mask_loss((c, f), t.masks, t.boxes, matched=k, normalizer=1)
            for c, f, t, k in zip(coefficients, features, targets, objects, strict=True)
        ]
        bce, dice = (sum(terms) for terms in zip(*losses, strict=True))
        return bce, dice


class Matches(NamedTuple):
    """The N matched pairs of one layer, clip after clip."""

    clip: Tensor
    """(N,) the clip."""
    query: Tensor
    """(N,) the query."""
    object: Tensor
    """(N,) the object, counted within its clip."""
    row: Tensor
    """(N,) the object's row in `StackedTargets`."""
    counts: list[int]
    """The number of pairs in each of the B clips."""


def _matches(owner: Tensor, objects: StackedTargets) -> list[Matches]:
    """Convert the object of each query (L, B, Q) to the matched pairs of each layer."""
    layer, clip, query = (owner >= 0).nonzero(as_tuple=True)
    index = owner[layer, clip, query]
    counts = (owner >= 0).sum(2).tolist()
    sizes = [sum(c) for c in counts]
    columns = (x.split(sizes) for x in (clip, query, index, objects.first[clip] + index))
    return [Matches(*parts) for parts in zip(*columns, counts, strict=True)]


def _average(counts: Sequence[int | Tensor], like: Tensor) -> Tensor:
    """Average counts over the processes that train together, in the type of `like`; 0 becomes 1."""
    numbers = torch.stack([torch.as_tensor(c, device=like.device) for c in counts]).to(like.dtype)
    if ranks() > 1:
        distributed.all_reduce(numbers)
    return torch.where(numbers > 0, numbers / ranks(), 1)


def _widen(output: ClipOutput) -> ClipOutput:
    """Convert half precision to float32, for sums over thousands of pixels."""
    layers = [type(layer)(*map(widen, layer)) for layer in output.layers]
    present = {name: widen(x) for name, x in output.queries._asdict().items() if x is not None}
    queries = output.queries._replace(**present)
    return output._replace(layers=layers, mask_features=widen(output.mask_features), queries=queries)
