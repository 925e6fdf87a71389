"""Post-processing: predictions → detections of a clip, mask logits → masks, scores of windows → scores of a video."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mdqe.modeling.mask_head import MASK_STRIDE, first_sample, mask_logits
from mdqe.ops.reference import widen

DUPLICATE_SIMILARITY = 0.99  # cosine from which a query duplicates a better one
SUPPRESSION_IOU = 0.5  # IoU with a better detection from which a detection is dropped
SUBSAMPLED_CLIP = 5  # clips of so many frames are compared at every second frame
MEAN_WEIGHT = 0.75  # of the mean over windows in the score of a video; the rest is the weight of the maximum
BENCHMARK_SCORE, BENCHMARK_PAIRS = 0.05, 10  # all pairs above the score, and at least this number of pairs
# Pixels per chunk of masks: 16 MiB of float32 logits fit into the cache of a CPU; a GPU has 512 MiB at a time.
CHUNK_PIXELS = {"cpu": 2**22, "gpu": 2**27}


class ClipDetections(NamedTuple):
    """Detections of one clip, best first.

    class_scores: (D, K), probabilities weighted by overlap with better detections and by mask quality.
    mask_logits: (D, T, h, w) at stride 4, over the padded frames.
    embeddings: (D, C).
    """

    class_scores: Tensor
    mask_logits: Tensor
    embeddings: Tensor


def filter_clips(
    class_scores: Tensor,
    mask_coefficients: Tensor,
    embeddings: Tensor,
    mask_features: Tensor,
    *,
    score_threshold: float,
    max_detections: int,
) -> list[ClipDetections]:
    """Keep the confident, distinct queries of B clips with non-empty masks, and weight scores by the quality of masks.

    Masks are computed only for queries that pass the threshold and do not duplicate the embedding of a better query.
    They are subsampled at first. Full masks are computed only for queries whose mask does not duplicate a better one.

    Every step has as many rows per clip as the clip with the most queries left. A GPU waits five times for these
    numbers, however many clips there are.

    Args:
        class_scores: (B, Q, K), after the sigmoid.
        mask_coefficients: (B, Q, M).
        embeddings: (B, Q, C), the clip queries before the shared norm.
        mask_features: (B, M, T, h, w) of the clips' frames, padding included; clips may share frames in memory.
        score_threshold: minimum class score of a query, before and after weighting. The best query of a clip is always
            kept, unless all masks are empty.
        max_detections: maximum number of queries of a clip for which masks are computed.

    Returns:
        The detections of each clip, views of shared tensors.

    Raises:
        ValueError: a tensor of the wrong shape.
    """
    _check_shapes(class_scores, mask_coefficients, embeddings, mask_features)
    if max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, got {max_detections}")
    # 1. The confident queries, best first, without near duplicates. (B, D)
    order, valid = _distinct_queries(class_scores, embeddings, score_threshold, max_detections)

    # 2. Those with masks that are not empty and do not repeat a better one. (B, D)
    coefficients = _rows(mask_coefficients, order)
    coarse = mask_logits(coefficients, _subsample(mask_features))
    nonempty = (coarse > 0).flatten(2).any(2)
    unsure = valid & ~nonempty  # the pixels between the subsampled ones may be foreground
    if unsure.any():
        nonempty |= unsure & (mask_logits(coefficients, mask_features) > 0).flatten(2).any(2)
    valid = valid & nonempty
    overlap = overlap_with_better(coarse, valid)
    order, valid, overlap = _compact(valid & (overlap < SUPPRESSION_IOU), order, overlap)

    # 3. Weight their scores, and keep those above the threshold, best first.
    logits = mask_logits(_rows(mask_coefficients, order), mask_features)  # (B, D, T, h, w)
    weight = (1 - overlap) * foreground_confidence(logits.flatten(2))
    scores = _rows(class_scores, order) * weight[..., None].to(class_scores)
    best, rank = scores.amax(2).where(valid, -1).sort(dim=1, descending=True, stable=True)
    number = torch.minimum((best > score_threshold).sum(1).clamp(min=1), valid.sum(1)).tolist()
    kept = zip(*(_rows(x, rank) for x in (scores, logits, _rows(embeddings, order))), strict=True)
    return [ClipDetections(*(x[:n] for x in clip)) for n, clip in zip(number, kept, strict=True)]


def overlap_with_better(logits: Tensor, valid: Tensor) -> Tensor:
    """Largest IoU (B, D) of each mask, binarised, with the soft masks of better ones that are valid.

    Args:
        logits: (B, D, …), best first.
        valid: (B, D) bool.
    """
    if logits.shape[1] == 0:
        return widen(logits.new_zeros(valid.shape))
    soft = widen(logits).flatten(2).sigmoid()
    hard = (soft > 0.5).to(soft)
    soft = soft * valid[..., None]
    with torch.autocast(soft.device.type, enabled=False):
        intersection = soft @ hard.mT  # (B, better, worse)
    union = soft.sum(2)[..., None] + hard.sum(2)[:, None] - intersection
    return (intersection / (union + 1)).triu(diagonal=1).amax(1)


def foreground_confidence(logits: Tensor) -> Tensor:
    """Mean probability (…) of the foreground pixels of each mask; logits (…, pixels)."""
    soft = widen(logits).sigmoid()
    hard = (soft > 0.5).to(soft)
    return (soft * hard).sum(-1) / (hard.sum(-1) + 1e-6)


def upsample_masks(logits: Tensor, alignment: str = "released") -> Tensor:
    """Interpolate mask logits (…, h, w) bilinearly to (…, 4h, 4w), in float32 or wider.

    `first_sample(alignment)` tells where the samples lie. The edge value is repeated before the first and after the
    last one.
    """
    *leading, height, width = logits.shape
    if alignment == "centered":
        size = (MASK_STRIDE * height, MASK_STRIDE * width)
        return _interpolate_centered(logits, size, size)
    flat = widen(logits).reshape(-1, 1, height, width)
    # One more sample on each side, so that every pixel is between two samples; pixel 0 is then half-way to the first.
    padded = F.pad(flat, (1, 1, 1, 1), mode="replicate")
    size = (MASK_STRIDE * (height + 1) + 1, MASK_STRIDE * (width + 1) + 1)
    fine = F.interpolate(padded, size=size, mode="bilinear", align_corners=True)
    edge = MASK_STRIDE - int(first_sample(alignment))
    fine = fine[:, 0, edge : edge + MASK_STRIDE * height, edge : edge + MASK_STRIDE * width]
    return fine.unflatten(0, leading)


def window_masks(
    mask_logits: Tensor,
    frame_size: tuple[int, int],
    output_size: tuple[int, int],
    *,
    alignment: str = "released",
    chunk_pixels: int | None = None,
) -> Iterator[Tensor]:
    """Yield the masks (n, frames, H, W) bool of a window's tracks in order, in chunks of n tracks to bound the memory.

    Masks are column-major in memory, as run-length encoding needs them.

    Args:
        mask_logits: (N, frames, h, w), at stride 4 over the padded frames.
        frame_size: (height, width) of the resized frames without padding.
        output_size: (H, W) of the masks.
        alignment: `mask_alignment` of the configuration. "centered" interpolates the logits at the centres of the
            output pixels. "released" takes the nearest pixel of the frame (PyTorch's `nearest`), as the released code.
        chunk_pixels: maximum number of pixels of a chunk; None: `CHUNK_PIXELS`. A chunk has at least one track.

    Raises:
        ValueError: a frame larger than its masks.
    """
    limit = (MASK_STRIDE * mask_logits.shape[-2], MASK_STRIDE * mask_logits.shape[-1])
    if not (1 <= frame_size[0] <= limit[0] and 1 <= frame_size[1] <= limit[1]):
        raise ValueError(f"frame_size must be within the masks' {limit}, got {tuple(frame_size)}")
    chunk_pixels = chunk_pixels or CHUNK_PIXELS["cpu" if mask_logits.is_cpu else "gpu"]
    pixels = max(mask_logits.shape[1], 1) * max(limit[0] * limit[1], output_size[0] * output_size[1])
    chunks = mask_logits.split(max(chunk_pixels // pixels, 1))
    return (_binary_masks(chunk, tuple(frame_size), tuple(output_size), alignment) for chunk in chunks)


def _binary_masks(logits: Tensor, frame_size: tuple[int, ...], output_size: tuple[int, ...], alignment: str) -> Tensor:
    """Logits (n, frames, h, w) at stride 4 → masks (n, frames, H, W) of `output_size`."""
    n, t = logits.shape[:2]
    # A probability above 1/2 is a logit above 0. Transposed, because run lengths go down the columns.
    if alignment == "centered":
        return (_interpolate_centered(logits.mT, frame_size[::-1], output_size[::-1]) > 0).mT
    masks = upsample_masks(logits.mT)[..., : frame_size[1], : frame_size[0]] > 0  # (n, frames, width, height)
    if output_size != frame_size:
        flat = rearrange(masks, "n t w h -> (n t) 1 w h").to(torch.uint8)
        flat = F.interpolate(flat, size=output_size[::-1], mode="nearest").bool()
        masks = rearrange(flat, "(n t) 1 w h -> n t w h", n=n, t=t)
    return masks.mT


def _interpolate_centered(logits: Tensor, frame_size: tuple[int, ...], output_size: tuple[int, ...]) -> Tensor:
    """Interpolate centred logits (…, h, w) bilinearly at the pixels of the frame resized to `output_size`."""
    flat = widen(logits).reshape(-1, 1, *logits.shape[-2:])
    scale = (MASK_STRIDE * after / before for before, after in zip(frame_size, output_size, strict=True))
    # `F.interpolate` takes no size together with a scale. The size alone would stretch the padding into the frame.
    fine = torch.ops.aten.upsample_bilinear2d(flat, list(output_size), False, *scale)
    return fine[:, 0].unflatten(0, logits.shape[:-2])


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
    class_scores = class_scores.cpu()
    if multi_label:
        number = min(max(int((class_scores > BENCHMARK_SCORE).sum()), BENCHMARK_PAIRS), class_scores.numel())
        scores, pairs = class_scores.flatten().topk(number)
        tracks, labels = pairs // class_scores.shape[1], pairs % class_scores.shape[1]
    else:
        scores, labels = class_scores.max(1)
        order = scores.argsort(descending=True, stable=True)
        tracks = order[: np.count_nonzero(scores.numpy() >= score_threshold)]
        scores, labels = scores[tracks], labels[tracks]
    return RankedTracks(scores.double(), labels, tracks)


def _distinct_queries(
    class_scores: Tensor, embeddings: Tensor, score_threshold: float, max_detections: int
) -> tuple[Tensor, Tensor]:
    """The confident queries, best first, without near duplicates of any better query, kept or not.

    Returns:
        Their indices (B, D), and which of them (B, D) are such queries; the others fill up the rows.
    """
    best, order = class_scores.amax(2).sort(dim=1, descending=True, stable=True)
    valid = best >= score_threshold
    valid[:, 0] = True
    order, valid = _compact(valid, order)
    directions = F.normalize(widen(_rows(embeddings, order)), dim=2)
    with torch.autocast(directions.device.type, enabled=False):
        similarity = (directions @ directions.mT).triu(diagonal=1)  # (B, better, worse)
    valid = valid & (similarity < DUPLICATE_SIMILARITY).all(1)
    order, valid = _compact(valid & (valid.cumsum(1) <= max_detections), order)
    return order, valid


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows of each clip: x (B, Q, …), index (B, D) → (B, D, …)."""
    first = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, (first + index).flatten()).unflatten(0, index.shape)


def _compact(keep: Tensor, *rows: Tensor) -> list[Tensor]:
    """Move the rows to keep to the front of each clip, in order, and cut the others off.

    Args:
        keep: (B, R) bool.
        rows: (B, R) each.

    Returns:
        Each of `rows`, then `keep` after the first: (B, D), where D is the largest number of rows kept in a clip.
    """
    number = int(keep.sum(1).amax())
    front = keep.byte().argsort(dim=1, descending=True, stable=True)[:, :number]  # (B, D)
    first, *others = (x.gather(1, front) for x in rows)
    return [first, keep.gather(1, front), *others]


def _subsample(features: Tensor) -> Tensor:
    """Every second row and column of (B, M, T, h, w), and every second frame of long clips."""
    step = 2 if features.shape[2] >= SUBSAMPLED_CLIP else 1
    return features[:, :, ::step, ::2, ::2]


def _check_shapes(class_scores: Tensor, mask_coefficients: Tensor, embeddings: Tensor, mask_features: Tensor) -> None:
    queries, features = (class_scores, mask_coefficients, embeddings), mask_features
    valid = all(x.dim() == 3 and x.shape[:2] == class_scores.shape[:2] for x in queries) and features.dim() == 5
    valid = valid and features.shape[:2] == (len(class_scores), mask_coefficients.shape[2])
    if not valid or any(0 in x.shape for x in (*queries, features)):
        raise ValueError(
            "class_scores, mask_coefficients, embeddings and mask_features must be (B, Q, K), (B, Q, M), (B, Q, C) and "
            f"(B, M, T, h, w) without empty axes, got {', '.join(str(tuple(x.shape)) for x in (*queries, features))}"
        )
