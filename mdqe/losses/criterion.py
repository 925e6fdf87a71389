"""All training losses of the model, weighted (paper Sec. 3.4)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torchvision.ops import sigmoid_focal_loss

from mdqe.boxes import box_giou, is_box, to_xyxy
from mdqe.config import MDQEConfig
from mdqe.losses.mask import InterInstanceMaskLoss, PlainMaskLoss
from mdqe.losses.matcher import DynamicMatcher
from mdqe.losses.query_init import activation_loss, association_losses, ids_at, semantic_targets
from mdqe.losses.targets import ScaledTargets, StackedTargets, scale_targets, stack_targets
from mdqe.modeling.network import ClipOutput, ClipPrediction
from mdqe.modeling.query_init import FrameQueries
from mdqe.ops.reference import widen
from mdqe.targets import ClipTargets

MASK_LOSSES = {"inter_instance": InterInstanceMaskLoss, "plain": PlainMaskLoss}
"""By the name that `MDQEConfig.mask_loss` gives them."""


def configured_criterion(config: MDQEConfig, **weights: Any) -> Criterion:
    """The criterion of a model's configuration, with the published weights but for those given (`class_weight`, …)."""
    mask_loss = MASK_LOSSES[config.mask_loss]()
    return Criterion(mask_loss=mask_loss, association_window=config.association_window, **weights)


class Criterion(nn.Module):
    """The weighted losses of query initialisation and of every decoder layer.

    Every layer is matched with the objects by itself. Losses of matched queries are summed and divided by their number
    in the batch, averaged over processes and at least 1.

    Args:
        mask_loss: `InterInstanceMaskLoss` by default, or `PlainMaskLoss`, or another module that is called alike.
        matcher: assigns queries to objects.
        association_window: cells that an object may move per frame in `init_reid`.
        class_weight, box_weight, giou_weight, mask_weight, dice_weight: weights of every layer's losses; mask_weight
            is that of the BCE.
        init_sem_weight, init_reid_weight, init_reid_aux_weight: weights of the losses of the query initialisation.
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
        self.mask_loss = InterInstanceMaskLoss() if mask_loss is None else mask_loss
        self.matcher = DynamicMatcher() if matcher is None else matcher
        self.association_window = association_window
        self.weights = {
            "init_sem": init_sem_weight,
            "init_reid": init_reid_weight,
            "init_reid_aux": init_reid_aux_weight,
            "class": class_weight,
            "box": box_weight,
            "giou": giou_weight,
            "mask": mask_weight,
            "dice": dice_weight,
        }

    def forward(self, output: ClipOutput, targets: Sequence[ClipTargets]) -> dict[str, Tensor]:
        """Weighted losses by name.

        Of the query initialisation `init_sem`, `init_reid`, `init_reid_aux`, missing when queries are learned; of the
        last layer `class`, `box`, `giou`, `mask`, `dice`; of the warm-up and the layers before the last `class_0`, ….

        Args:
            output: of `MDQE.forward` on B clips.
            targets: of each clip, on the output's device.
        """
        with torch.autocast(output.mask_features.device.type, enabled=False):
            output = _widen(output)
            scaled = self.scale(output, targets)
            owner = self.matcher(output.layers, output.mask_features, scaled)  # (L, B, Q)
            matches, objects = _matches(owner), stack_targets(scaled)
            sums, found = self._init_sums(output.queries, scaled)
            clips = owner.new_tensor(owner.shape[1])
            numbers = torch.stack([clips, found, *(owner >= 0).sum((1, 2))]).to(output.mask_features.dtype)
            clips, found, *matched = _average_over_processes(numbers).unbind()
            frames, queries = output.layers[0].boxes.shape[1:3]
            counts = {"init_sem": clips * frames, "init_reid": found, "init_reid_aux": found}
            losses = {name: loss / counts[name] for name, loss in sums.items()}
            for i, layer in enumerate(output.layers):
                suffix = "" if i == len(output.layers) - 1 else f"_{i}"
                sums = self._layer_sums(layer, output.mask_features, matches[i], scaled, objects)
                m = matched[i].clamp(min=1)
                counts = {"class": clips * queries, "box": m * frames, "giou": m * frames, "mask": m, "dice": m}
                losses.update({name + suffix: loss / counts[name] for name, loss in sums.items()})
            return {name: self.weights[re.sub(r"_\d+$", "", name)] * loss for name, loss in losses.items()}

    def scale(self, output: ClipOutput, targets: Sequence[ClipTargets]) -> list[ScaledTargets]:
        """The targets at the scales of the output."""
        h, w = output.mask_features.shape[-2:]
        num_classes = output.layers[-1].class_logits.shape[-1]
        return [scale_targets(t, (4 * h, 4 * w), num_classes, output.mask_features.dtype) for t in targets]

    def _init_sums(self, queries: FrameQueries, targets: Sequence[ScaledTargets]) -> tuple[dict[str, Tensor], Tensor]:
        """Losses of the query initialisation, summed over frames or objects, and the number of these objects."""
        logits, embeddings = queries.activation, queries.embeddings  # (B, T, K, h, w), (B, T, Q, E)
        if logits is None or embeddings is None:
            return {}, targets[0].labels.new_tensor(0)
        zero = logits.new_zeros(())
        sem = reid = aux = zero
        found = targets[0].labels.new_tensor(0)
        for b, target in enumerate(targets):
            semantic = semantic_targets(target, logits.shape[2])
            activation = logits[b].flatten(2).transpose(1, 2)  # (T, h·w, K)
            sem = sem + activation_loss(activation, semantic.labels, semantic.centerness).sum()
            ids = ids_at(semantic.ids, queries.coords[b], (logits.shape[-2], logits.shape[-1]))
            sums = association_losses(embeddings[b], ids, target.ids.amax(1), self.association_window)
            reid, aux, found = reid + sums[0], aux + sums[1], found + sums[2]
        return {"init_sem": sem, "init_reid": reid, "init_reid_aux": aux}, found

    def _layer_sums(
        self,
        layer: ClipPrediction,
        features: Tensor,
        matches: Matches,
        targets: Sequence[ScaledTargets],
        objects: StackedTargets,
    ) -> dict[str, Tensor]:
        """One layer's losses, summed, of its prediction and features (B, M, T, h, w)."""
        clip, query, place = matches.clip, matches.query, objects.first[matches.clip] + matches.object  # (N,) each
        labels = query.new_full(layer.class_logits.shape[:2], -1).index_put((clip, query), objects.labels[place])
        predicted = to_xyxy(layer.boxes[clip, :, query])  # (N, T, 4)
        l1, giou = box_losses(predicted, objects.boxes[place])
        masks = [
            self.mask_loss((coefficients, f), t.masks, t.boxes, matched=k, normalizer=1)
            for coefficients, k, f, t in zip(
                layer.mask_coefficients[clip, query].split(matches.counts),
                matches.object.split(matches.counts),
                features,
                targets,
                strict=True,
            )
        ]
        bce, dice = (sum(terms) for terms in zip(*masks, strict=True))
        return {"class": class_loss(layer.class_logits, labels), "box": l1, "giou": giou, "mask": bce, "dice": dice}


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Focal loss (α ¼, γ 2), summed over queries and categories.

    Args:
        logits: (…, K).
        labels: (…) int64, −1 where a query has no object.
    """
    categories = torch.arange(logits.shape[-1], device=logits.device)
    wanted = (labels[..., None] == categories).to(logits.dtype)
    return sigmoid_focal_loss(logits, wanted, alpha=0.25, gamma=2.0, reduction="sum")


def box_losses(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """L1 and 1 − GIoU of matched boxes, summed over those with a target.

    Args:
        boxes: (N, T, 4) xyxy in [0, 1].
        targets: likewise; empty boxes where the object is absent.
    """
    there = is_box(targets)  # (N, T)
    l1 = (boxes - targets).abs().sum(-1)  # (N, T)
    return torch.where(there, l1, 0).sum(), torch.where(there, 1 - box_giou(boxes, targets), 0).sum()


class Matches(NamedTuple):
    """Who is matched with whom in one layer, clip after clip."""

    clip: Tensor
    """(N,)."""
    query: Tensor
    """(N,)."""
    object: Tensor
    """(N,) counted within its clip."""
    counts: list[int]
    """How many in each of the B clips."""


def _matches(owner: Tensor) -> list[Matches]:
    """Each query's object (L, B, Q) → matches of each layer."""
    layer, clip, query = (owner >= 0).nonzero(as_tuple=True)
    counts = (owner >= 0).sum(2).tolist()
    sizes = [sum(c) for c in counts]
    parts = zip(*(x.split(sizes) for x in (clip, query, owner[layer, clip, query])), counts, strict=True)
    return [Matches(*part) for part in parts]


def _average_over_processes(counts: Tensor) -> Tensor:
    """Counts averaged over the processes that train together; 1 where all are 0."""
    processes = 1
    if distributed.is_available() and distributed.is_initialized():
        processes = distributed.get_world_size()
        distributed.all_reduce(counts)
    return torch.where(counts > 0, counts / processes, 1)


def _widen(output: ClipOutput) -> ClipOutput:
    """Half precision to float32: sums over thousands of pixels need it."""

    layers = [type(layer)(*map(widen, layer)) for layer in output.layers]
    content, coords, *learned = output.queries
    optional = (None if x is None else widen(x) for x in learned)
    queries = type(output.queries)(widen(content), widen(coords), *optional)
    return output._replace(layers=layers, mask_features=widen(output.mask_features), queries=queries)
