"""Instances of a single image by the COCO protocol, without a tracker. It validates the COCO stage of training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mdqe.boxes import box_iou, mask_boxes
from mdqe.errors import InputError
from mdqe.inference.postprocess import foreground_confidence, upsample_masks
from mdqe.modeling.mask_head import MASK_STRIDE
from mdqe.modeling.network import Network, evaluation_mode
from mdqe.modeling.preprocess import as_frame, resize, resized_size
from mdqe.results.instances import VideoInstances

CHUNK_PIXELS = 2**24  # maximum number of mask pixels per chunk


def segment_image(model: Network, image: Any, output_size: tuple[int, int] | None = None) -> VideoInstances:
    """Find the instances of one image; see `MDQE.segment_image`."""
    c = model.config
    image = as_frame(image, 0)
    size = resized_size(tuple(image.shape[:2]), c.test_shorter_edge, c.test_longer_edge)
    with torch.inference_mode(), evaluation_mode(model):
        output = model(resize(image.permute(2, 0, 1), size)[None, None].to(model.device))  # (1, 1, 3, H, W)
        found = filter_image(
            output.layers[-1].class_logits[0].sigmoid(),
            output.mask_logits[0, :, 0],
            size,
            output_size or tuple(image.shape[:2]),
            alignment=c.mask_alignment,
        )
    return VideoInstances.from_masks(
        found.scores.cpu().double(),
        found.labels.cpu(),
        range(len(found.scores)),
        found.masks[:, None].cpu().numpy(),
        categories=c.categories,
        category_ids=c.label_ids,
    )


class ImageDetections(NamedTuple):
    """Instances of one image, best first.

    scores: (N,).
    labels: (N,) int64.
    boxes: (N, 4) xyxy in pixels of the output, right and bottom exclusive; zeros where the mask is empty.
    masks: (N, H, W) bool.
    """

    scores: Tensor
    labels: Tensor
    boxes: Tensor
    masks: Tensor


def filter_image(
    class_scores: Tensor,
    mask_logits: Tensor,
    frame_size: tuple[int, int],
    output_size: tuple[int, int],
    *,
    score_threshold: float = 0.05,
    alignment: str = "released",
) -> ImageDetections:
    """Keep (query, class) pairs above the threshold, with scores weighted by mask quality and overlap with better ones.

    Args:
        class_scores: (Q, K), after the sigmoid.
        mask_logits: (Q, h, w), at stride 4 over the padded image.
        frame_size: (height, width) of the resized image without padding.
        output_size: (height, width) of the returned masks.
        score_threshold: minimum class score of a query before weighting and of a pair after weighting. The best query
            passes the first of these always.
        alignment: `mask_alignment` of the configuration.

    Raises:
        ValueError: a tensor of the wrong shape, or a frame larger than its mask.
    """
    _check_shapes(class_scores, mask_logits, frame_size, output_size)
    best = class_scores.amax(dim=1)
    kept = (best >= best.max().clamp(max=score_threshold)).nonzero().flatten()
    class_scores, mask_logits = class_scores[kept], mask_logits[kept]

    confidence, boxes = [], []
    for fine in _frame_logits(mask_logits, frame_size, frame_size, alignment):
        confidence.append(foreground_confidence(fine.flatten(1)))
        boxes.append(mask_boxes(fine > 0))
    class_scores = class_scores * torch.cat(confidence)[:, None].to(class_scores)
    order = class_scores.amax(dim=1).argsort(descending=True, stable=True)
    class_scores, mask_logits, ordered = class_scores[order], mask_logits[order], torch.cat(boxes)[order]
    height, width = frame_size
    unit = ordered / ordered.new_tensor([width, height, width, height])
    overlap = box_iou(unit[:, None], unit).triu(diagonal=1).amax(dim=0)
    class_scores = class_scores * (1 - overlap)[:, None].to(class_scores)

    queries, labels = (class_scores > score_threshold).nonzero(as_tuple=True)
    scores, order = class_scores[queries, labels].sort(descending=True, stable=True)
    queries, labels = queries[order], labels[order]
    distinct, rows = queries.unique(return_inverse=True)  # a query with several classes is resized once
    masks = torch.cat(
        [
            F.interpolate(fine[:, None], size=tuple(output_size), mode="bilinear", align_corners=False)[:, 0] > 0
            for fine in _frame_logits(mask_logits[distinct], frame_size, output_size, alignment)
        ]
    )  # (distinct, H, W)
    return ImageDetections(scores, labels, mask_boxes(masks)[rows], masks[rows])


def _frame_logits(
    logits: Tensor, frame_size: tuple[int, int], output_size: tuple[int, int], alignment: str
) -> Iterator[Tensor]:
    """Yield the logits (n, height, width) of the frame without padding, in chunks of queries."""
    height, width = frame_size
    pixels = max(MASK_STRIDE**2 * logits.shape[-2] * logits.shape[-1], output_size[0] * output_size[1])
    for chunk in logits.split(max(CHUNK_PIXELS // pixels, 1)):
        yield upsample_masks(chunk, alignment)[:, :height, :width]


def _check_shapes(
    class_scores: Tensor, mask_logits: Tensor, frame_size: tuple[int, int], output_size: tuple[int, int]
) -> None:
    given = (tuple(class_scores.shape), tuple(mask_logits.shape))
    if class_scores.dim() != 2 or 0 in given[0] or mask_logits.dim() != 3 or given[0][0] != given[1][0]:
        raise ValueError(f"class_scores and mask_logits must be (Q, K), not empty, and (Q, h, w), got {given}")
    limit = (MASK_STRIDE * mask_logits.shape[-2], MASK_STRIDE * mask_logits.shape[-1])
    if not (1 <= frame_size[0] <= limit[0] and 1 <= frame_size[1] <= limit[1]):
        raise ValueError(f"frame_size must be within the masks' {limit}, got {tuple(frame_size)}")
    if len(output_size) != 2 or min(output_size) < 1:
        raise InputError(f"output_size is {output_size}, expected (height, width) in pixels")
