"""The weighted sum of all training losses (paper Sec. 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
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
from mdqe.losses.targets import ScaledTargets, StackedTargets, check_types, scale_clips, stack_targets
from mdqe.modeling.network import ClipOutput, ClipPrediction
from mdqe.modeling.query_init import FrameQueries
from mdqe.ops.reference import widen
from mdqe.targets import ClipTargets


def build_criterion(config: MDQEConfig, **weights: Any) -> Criterion:
    """Build the criterion of a configuration; weights (`class_weight`, …) replace the published ones."""
    mask_loss = PlainMaskLoss(check_values=False)  # `scale_targets` keeps masks and boxes in [0, 1]
    if config.mask_loss != "plain":
        dice = config.mask_loss == "inter_instance"
        mask_loss = InterInstanceMaskLoss(iou_threshold=config.mask_loss_iou_threshold, dice=dice, check_values=False)
    return Criterion(mask_loss=mask_loss, association_window=config.association_window, **weights)


class Criterion(nn.Module):
    """The weighted losses of the query initialisation and of every decoder layer.

    Every layer is matched with the objects separately. The losses of matched queries are summed and divided by the
    number of matched queries in the batch, averaged over the processes and at least 1.

    Args:
        mask_loss: `InterInstanceMaskLoss` by default; or `PlainMaskLoss`, or another module with the same call. The
            criterion passes masks and boxes in [0, 1]; `check_values=False` saves checking them. It passes the matched
            masks of a clip from all layers together, with `reduction="none"`.
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
            layers = _stack(output.layers)  # with (L, B, …) tensors
            scaled = self.scale(output, targets)
            objects = stack_targets(scaled)
            owner = self.matcher(output.layers, output.mask_features, scaled)  # (L, B, Q)
            matches = _matches(owner, layers.class_logits.device)
            sem, reid, reid_aux, anchors = self.query_init_losses(output.queries, scaled)
            clips, anchors, *matched = _average(len(targets), anchors, matches.counts, sem)
            frames, queries = layers.boxes.shape[2:4]
            losses = {}
            if output.queries.activation is not None:
                losses["init_sem"] = self.init_sem_weight * (sem / (clips * frames))
                losses["init_reid"] = self.init_reid_weight * (reid / anchors)
                losses["init_reid_aux"] = self.init_reid_aux_weight * (reid_aux / anchors)
            count = torch.stack(matched).clamp(min=1)  # (L,)
            pairs = torch.stack(
                [
                    *self.box_losses(layers, matches, objects),
                    *self.mask_losses(layers, output.mask_features, matches, scaled),
                ]
            )  # (4, N)
            box, giou, mask, dice = matches.sum_layers(pairs)  # (L,) each
            focal = self.class_loss(layers, matches, objects)  # (L,)
            of_layers = {
                "class": self.class_weight * (focal / (clips * queries)),
                "box": self.box_weight * (box / (count * frames)),
                "giou": self.giou_weight * (giou / (count * frames)),
                "mask": self.mask_weight * (mask / count),
                "dice": self.dice_weight * (dice / count),
            }
            of_layers = {name: loss.unbind() for name, loss in of_layers.items()}
            for i in range(len(count)):
                suffix = "" if i == len(count) - 1 else f"_{i}"
                losses |= {f"{name}{suffix}": loss[i] for name, loss in of_layers.items()}
            return losses

    def scale(self, output: ClipOutput, targets: Sequence[ClipTargets]) -> list[ScaledTargets]:
        """Scale the targets to the sizes of the output."""
        h, w = output.mask_features.shape[-2:]
        num_classes = output.layers[-1].class_logits.shape[-1]
        return scale_clips(targets, (4 * h, 4 * w), num_classes, output.mask_features.dtype)

    def query_init_losses(self, queries: FrameQueries, targets: Sequence[ScaledTargets]) -> tuple[Tensor, ...]:
        """Return the sums of the activation loss over frames and of both association losses over objects.

        The fourth number is the number of objects in the association losses, those that have a query.
        """
        logits, embeddings = queries.activation, queries.embeddings  # (B, T, K, h, w), (B, T, Q, E)
        if logits is None or embeddings is None:
            nothing = queries.coords.new_zeros(())
            return nothing, nothing, nothing, targets[0].labels.new_tensor(0)
        objects = stack_targets(targets)
        semantic = semantic_targets(objects, logits.shape[2])
        activation = rearrange(logits, "b t k h w -> (b t) (h w) k")
        sem = activation_loss(activation, semantic.labels, semantic.centerness).sum()
        ids = ids_at(semantic.ids, queries.coords.flatten(0, 1), (logits.shape[-2], logits.shape[-1]))  # (B·T, Q)
        ids = ids.view(embeddings.shape[:3])  # (B, T, Q)
        return sem, *association_losses(embeddings, ids, objects.ids.amax(-1), self.association_window)

    def class_loss(self, layers: ClipPrediction, matches: Matches, objects: StackedTargets) -> Tensor:
        """Return the focal loss (α ¼, γ 2) of every layer, summed over clips, queries and categories: (L,).

        Unmatched queries have no category.
        """
        logits = layers.class_logits  # (L, B, Q, K)
        labels = matches.query.new_full(logits.shape[:3], -1)  # (L, B, Q)
        places = (matches.layer, matches.clip, matches.query)
        labels = labels.index_put(places, objects.labels[matches.clip, matches.object])
        one_hot = (labels[..., None] == torch.arange(logits.shape[-1], device=logits.device)).to(logits.dtype)
        return sigmoid_focal_loss(logits, one_hot, alpha=0.25, gamma=2.0).sum((1, 2, 3))

    def box_losses(self, layers: ClipPrediction, matches: Matches, objects: StackedTargets) -> tuple[Tensor, Tensor]:
        """Return L1 and 1 − GIoU of matched boxes, summed over the frames in which the object has a box: (N,) each."""
        boxes = to_xyxy(layers.boxes[matches.layer, matches.clip, :, matches.query])  # (N, T, 4)
        targets = objects.boxes[matches.clip, matches.object]  # (N, T, 4)
        present = is_box(targets)  # (N, T)
        l1 = (boxes - targets).abs().sum(-1)  # (N, T)
        return torch.where(present, l1, 0).sum(1), torch.where(present, 1 - box_giou(boxes, targets), 0).sum(1)

    def mask_losses(
        self, layers: ClipPrediction, features: Tensor, matches: Matches, targets: Sequence[ScaledTargets]
    ) -> tuple[Tensor, Tensor]:
        """Return BCE and Dice of matched masks, (N,) each, with the mask features (B, M, T, h, w)."""
        coefficients = layers.mask_coefficients[matches.layer, matches.clip, matches.query]  # (N, M)
        parts = (x.split(matches.sizes) for x in (coefficients, matches.object))
        losses = [
            self.mask_loss((c, features[b]), targets[b].masks, targets[b].boxes, matched=k, reduction="none")
            for b, c, k in zip(matches.groups, *parts, strict=True)
        ]
        bce, dice = (torch.cat(terms) for terms in zip(*losses, strict=True))
        return bce, dice


class Matches(NamedTuple):
    """The N matched pairs of all layers, in groups of one clip and of layers in which it has the same matched objects.

    The neighbours in the mask loss are matched objects, so the masks of a group need them once. A clip usually has one
    group, because an object is only left without a query if no query is free.
    """

    layer: Tensor
    """(N,) the layer."""
    clip: Tensor
    """(N,) the clip."""
    query: Tensor
    """(N,) the query."""
    object: Tensor
    """(N,) the object, counted within its clip."""
    order: Tensor
    """(N,) the pairs in the order of layers."""
    counts: list[int]
    """The number of pairs in each of the L layers."""
    groups: list[int]
    """The clip of each group."""
    sizes: list[int]
    """The number of pairs in each group."""

    def sum_layers(self, values: Tensor) -> Tensor:
        """Sum values (…, N) of the pairs over each layer: (…, L)."""
        return torch.stack([x.sum(-1) for x in values.index_select(-1, self.order).split(self.counts, -1)], -1)


def _matches(owner: Tensor, device: torch.device) -> Matches:
    """Convert the object of each query (L, B, Q) to matched pairs on a device, with a single transfer to it."""
    owners = owner.numpy(force=True)
    groups: dict[tuple[int, bytes], list[int]] = {}
    for b, i in np.ndindex(owners.shape[1], owners.shape[0]):
        objects = np.unique(owners[i, b])
        groups.setdefault((b, objects[objects >= 0].tobytes()), []).append(i)
    parts = []
    for (b, _), layers in groups.items():
        row, queries = (owners[layers, b] >= 0).nonzero()
        rows = np.array(layers)[row]
        parts.append(np.stack([rows, np.full_like(rows, b), queries, owners[rows, b, queries]]))
    pairs = np.concatenate(parts, 1)  # (4, N)
    columns = torch.from_numpy(np.concatenate([pairs, pairs[:1].argsort(kind="stable")]))
    if device.type == "cuda":
        columns = columns.pin_memory().to(device, non_blocking=True)
    layer, clip, query, index, order = columns.to(device)
    counts = np.bincount(pairs[0], minlength=len(owners)).tolist()
    return Matches(layer, clip, query, index, order, counts, [b for b, _ in groups], [p.shape[1] for p in parts])


def _average(clips: int, anchors: Tensor, matched: Sequence[int], like: Tensor) -> Tensor:
    """Average counts over the processes that train together, in the type of `like`; 0 becomes 1."""
    numbers = torch.cat([like.new_tensor([clips]), anchors[None].to(like.dtype), like.new_tensor(matched)])
    if ranks() > 1:
        distributed.all_reduce(numbers)
    return torch.where(numbers > 0, numbers / ranks(), 1)


def _stack(layers: Sequence[ClipPrediction]) -> ClipPrediction:
    """The predictions of L layers as (L, B, …) tensors, except the embeddings, which have no losses."""
    logits, coefficients, boxes, _ = zip(*layers, strict=True)
    return ClipPrediction(torch.stack(logits), torch.stack(coefficients), torch.stack(boxes), layers[-1].embeddings)


def _widen(output: ClipOutput) -> ClipOutput:
    """Convert half precision to float32, for sums over thousands of pixels."""
    layers = [type(layer)(*map(widen, layer)) for layer in output.layers]
    present = {name: widen(x) for name, x in output.queries._asdict().items() if x is not None}
    queries = output.queries._replace(**present)
    return output._replace(layers=layers, mask_features=widen(output.mask_features), queries=queries)
