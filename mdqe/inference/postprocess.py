"""Post-processing: predictions → detections of a clip, mask logits → masks, scores of windows → scores of a video."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mdqe.modeling.mask_head import mask_logits
from mdqe.ops.reference import widen

MASK_STRIDE = 4
DUPLICATE_SIMILARITY = 0.99  # cosine from which a query duplicates a better one
SUPPRESSION_IOU = 0.5  # IoU with a better detection from which a detection is dropped
SUBSAMPLED_CLIP = 5  # clips of so many frames are compared at every second frame
MEAN_WEIGHT = 0.75  # of the mean over windows in the score of a video; the rest is the weight of the maximum
BENCHMARK_SCORE, BENCHMARK_PAIRS = 0.05, 10  # all pairs above the score, and at least this number of pairs
CHUNK_PIXELS = 2**22  # pixels per chunk of masks: 16 MiB of logits fit into the cache of a CPU


class ClipDetections(NamedTuple):
    """Detections of one clip, best first.

    class_scores: (D, K), probabilities weighted by overlap with better detections and by mask quality.
    mask_logits: (D, T, h, w) at stride 4, over the padded frames.
    embeddings: (D, C).
    """

    class_scores: Tensor
    mask_logits: Tensor
    embeddings: Tensor


def filter_clip(
    class_scores: Tensor,
    mask_coefficients: Tensor,
    embeddings: Tensor,
    mask_features: Tensor,
    *,
    score_threshold: float,
    max_detections: int,
) -> ClipDetections:
    """Keep the confident, distinct queries of a clip with non-empty masks, and weight scores by the quality of masks.

    Masks are computed only for queries that pass the threshold and do not duplicate the embedding of a better query.
    They are subsampled at first. Full masks are computed only for queries whose mask does not duplicate a better one.

    Args:
        class_scores: (Q, K), after the sigmoid.
        mask_coefficients: (Q, M).
        embeddings: (Q, C), the clip queries before the shared norm.
        mask_features: (M, T, h, w) of the clip's frames, padding included.
        score_threshold: minimum class score of a query, before and after weighting. The best query is always kept,
            unless all masks are empty.
        max_detections: maximum number of queries for which masks are computed.

    Raises:
        ValueError: a tensor of the wrong shape.
    """
    _check_shapes(class_scores, mask_coefficients, embeddings, mask_features)
    if max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, got {max_detections}")
    order = _distinct_queries(class_scores, embeddings, score_threshold)[:max_detections]  # (D,)
    coarse = mask_logits(mask_coefficients[order], _subsample(mask_features))

    nonempty = (coarse > 0).flatten(1).any(dim=1)
    unsure = (~nonempty).nonzero().flatten()  # the pixels between the subsampled ones may be foreground
    nonempty[unsure] = (mask_logits(mask_coefficients[order[unsure]], mask_features) > 0).flatten(1).any(dim=1)
    overlap = overlap_with_better(coarse[nonempty])
    kept = overlap < SUPPRESSION_IOU
    order = order[nonempty][kept]

    logits = mask_logits(mask_coefficients[order], mask_features)  # (D, T, h, w)
    weight = (1 - overlap[kept]) * foreground_confidence(logits)
    class_scores, embeddings = class_scores[order] * weight[:, None].to(class_scores), embeddings[order]
    best, order = class_scores.amax(dim=1).sort(descending=True, stable=True)
    number = max(int((best > score_threshold).sum()), 1)
    order = order[:number]
    return ClipDetections(class_scores[order], logits[order], embeddings[order])


def overlap_with_better(logits: Tensor) -> Tensor:
    """Largest IoU (D,) of each mask, binarised, with the soft masks of better ones; logits (D, …), best first."""
    if len(logits) == 0:
        return logits.new_zeros(0)
    soft = widen(logits).flatten(1).sigmoid()
    hard = (soft > 0.5).to(soft)
    with torch.autocast(soft.device.type, enabled=False):
        intersection = soft @ hard.T  # (better, worse)
    union = soft.sum(dim=1)[:, None] + hard.sum(dim=1) - intersection
    return (intersection / (union + 1)).triu(diagonal=1).amax(dim=0)


def foreground_confidence(logits: Tensor) -> Tensor:
    """Mean probability (D,) of the foreground pixels of each mask; logits (D, …)."""
    soft = widen(logits).flatten(1).sigmoid()
    hard = (soft > 0.5).to(soft)
    return (soft * hard).sum(dim=1) / (hard.sum(dim=1) + 1e-6)


def upsample_masks(logits: Tensor) -> Tensor:
    """Interpolate mask logits (…, h, w) bilinearly to (…, 4h, 4w), in float32 or wider.

    Sample i of an axis is at pixel 4i + 2. The edge value is repeated before the first and after the last sample.
    """
    *leading, height, width = logits.shape
    flat = widen(logits).reshape(-1, 1, height, width)
    # One more sample on each side, so that every pixel is between two samples; pixel 0 is then half-way to the first.
    padded = F.pad(flat, (1, 1, 1, 1), mode="replicate")
    size = (MASK_STRIDE * (height + 1) + 1, MASK_STRIDE * (width + 1) + 1)
    fine = F.interpolate(padded, size=size, mode="bilinear", align_corners=True)
    edge = MASK_STRIDE // 2
    fine = fine[:, 0, edge : edge + MASK_STRIDE * height, edge : edge + MASK_STRIDE * width]
    return fine.unflatten(0, leading)


def window_masks(
    mask_logits: Tensor, frame_size: tuple[int, int], output_size: tuple[int, int], *, chunk_pixels: int = CHUNK_PIXELS
) -> Iterator[Tensor]:
    """Yield the masks (n, frames, H, W) bool of a window's tracks in order, in chunks of n tracks to bound the memory.

    Masks are column-major in memory, as run-length encoding needs them.

    Args:
        mask_logits: (N, frames, h, w), at stride 4 over the padded frames.
        frame_size: (height, width) of the resized frames without padding.
        output_size: (H, W) of the masks, by nearest-neighbour interpolation (PyTorch's `nearest`).
        chunk_pixels: maximum number of pixels of a chunk. A chunk has at least one track.

    Raises:
        ValueError: a frame larger than its masks.
    """
    limit = (MASK_STRIDE * mask_logits.shape[-2], MASK_STRIDE * mask_logits.shape[-1])
    if not (1 <= frame_size[0] <= limit[0] and 1 <= frame_size[1] <= limit[1]):
        raise ValueError(f"frame_size must be within the masks' {limit}, got {tuple(frame_size)}")
    pixels = max(mask_logits.shape[1], 1) * max(limit[0] * limit[1], output_size[0] * output_size[1])
    chunks = mask_logits.split(max(chunk_pixels // pixels, 1))
    return (_binary_masks(chunk, tuple(frame_size), tuple(output_size)) for chunk in chunks)


def _binary_masks(logits: Tensor, frame_size: tuple[int, ...], output_size: tuple[int, ...]) -> Tensor:
    """Logits (n, frames, h, w) at stride 4 → masks (n, frames, H, W) of `output_size`."""
    n, t = logits.shape[:2]
    # A probability above 1/2 is a logit above 0. Transposed, because run lengths go down the columns.
    masks = upsample_masks(logits.mT)[..., : frame_size[1], : frame_size[0]] > 0  # (n, frames, width, height)
    if output_size != frame_size:
        flat = rearrange(masks, "n t w h -> (n t) 1 w h").to(torch.uint8)
        flat = F.interpolate(flat, size=output_size[::-1], mode="nearest").bool()
        masks = rearrange(flat, "(n t) 1 w h -> n t w h", n=n, t=t)
    return masks.mT


class ScoreSums(NamedTuple):
    """Class scores of the tracks of a video over its windows so far.

    total, peak: (N, K), sum and maximum over the windows; a window before the first observation of a track counts as 0.
    windows: number of windows.
    """

    total: Tensor
    peak: Tensor
    windows: int = 0

    def add(self, class_scores: Tensor) -> "ScoreSums":
        """Add a window: class_scores (N, K) of all tracks so far."""
        born = len(class_scores) - len(self.total)
        if born < 0:
            raise ValueError(f"tracks never disappear: got scores of {len(class_scores)} after {len(self.total)}")
        new = class_scores.new_zeros(born, class_scores.shape[1])
        total, peak = (torch.cat([x.to(new), new]) for x in (self.total, self.peak))
        return ScoreSums(total + class_scores, torch.maximum(peak, class_scores), self.windows + 1)

    def mean_and_peak(self) -> Tensor:
        """Class scores (N, K) of the video: ¾ of the mean and ¼ of the maximum over the windows."""
        return MEAN_WEIGHT * self.total / self.windows + (1 - MEAN_WEIGHT) * self.peak


class RankedTracks(NamedTuple):
    """Rows of a result, best first; on the CPU."""

    scores: Tensor
    """(N,) float64."""
    labels: Tensor
    """(N,) int64."""
    track_ids: Tensor
    """(N,) int64. With several classes per track, a track has several rows."""


def rank_tracks(class_scores: Tensor, score_threshold: float, multi_label: bool = False) -> RankedTracks:
    """Rank tracks by class scores (N, K); a row index is a track id.

    The result has each track whose best class reaches the threshold. With `multi_label` it has the (track, class) pairs
    that the benchmarks count: all above 0.05, or the 10 best if these are more.
    """
    if multi_label:
        number = min(max(int((class_scores > BENCHMARK_SCORE).sum()), BENCHMARK_PAIRS), class_scores.numel())
        scores, pairs = class_scores.flatten().topk(number)
        tracks, labels = pairs // class_scores.shape[1], pairs % class_scores.shape[1]
    else:
        scores, labels = class_scores.max(1)
        tracks = scores.argsort(descending=True, stable=True)
        tracks = tracks[scores[tracks] >= score_threshold]
        scores, labels = scores[tracks], labels[tracks]
    return RankedTracks(scores.double().cpu(), labels.cpu(), tracks.cpu())


def _distinct_queries(class_scores: Tensor, embeddings: Tensor, score_threshold: float) -> Tensor:
    """Indices of the confident queries, best first, without near duplicates of any better query, kept or not."""
    best, order = class_scores.amax(dim=1).sort(descending=True, stable=True)
    order = order[: max(int((best >= score_threshold).sum()), 1)]
    directions = F.normalize(widen(embeddings[order]), dim=1)
    with torch.autocast(directions.device.type, enabled=False):
        similarity = (directions @ directions.T).triu(diagonal=1)  # (better, worse)
    return order[(similarity < DUPLICATE_SIMILARITY).all(dim=0)]


def _subsample(features: Tensor) -> Tensor:
    """Every second row and column of (M, T, h, w), and every second frame of long clips."""
    step = 2 if features.shape[1] >= SUBSAMPLED_CLIP else 1
    return features[:, ::step, ::2, ::2]


def _check_shapes(class_scores: Tensor, mask_coefficients: Tensor, embeddings: Tensor, mask_features: Tensor) -> None:
    queries, (channels, *_) = (class_scores, mask_coefficients, embeddings), mask_features.shape
    valid = all(x.dim() == 2 and len(x) == len(class_scores) for x in queries) and mask_features.dim() == 4
    if not valid or mask_coefficients.shape[1] != channels or any(0 in x.shape for x in (*queries, mask_features)):
        raise ValueError(
            "class_scores, mask_coefficients, embeddings and mask_features must be (Q, K), (Q, M), (Q, C) and "
            f"(M, T, h, w) without empty axes, got {', '.join(str(tuple(x.shape)) for x in (*queries, mask_features))}"
        )
