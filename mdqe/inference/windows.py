"""Window results to video results: masks at the output's size, scores over all windows, what the benchmark counts."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mdqe.inference.postprocess import MASK_STRIDE, upsample_masks

MEAN_SHARE = 0.75  # of a video score; the rest is the best window's
BENCHMARK_SCORE, BENCHMARK_PAIRS = 0.05, 10  # every pair above the score is counted, and at least so many
CHUNK_PIXELS = 2**22  # pixels of mask held at once: 16 MiB of logits stay in a CPU's cache


def window_masks(
    mask_logits: Tensor, frame_size: tuple[int, int], output_size: tuple[int, int], *, chunk_pixels: int = CHUNK_PIXELS
) -> Iterator[Tensor]:
    """Masks (n, frames, H, W) bool of a window's tracks, in order, a few at a time to bound the memory.

    They lie in memory column by column.

    Args:
        mask_logits: (N, frames, h, w), at stride 4 over the padded frames.
        frame_size: (height, width) of the frames as the model saw them, without padding.
        output_size: (H, W) of the masks; the nearest pixel is taken (PyTorch's `nearest`).
        chunk_pixels: most pixels of a chunk, but at least one track.

    Raises:
        ValueError: a frame larger than its masks.
    """
    (height, width), limit = frame_size, tuple(MASK_STRIDE * side for side in mask_logits.shape[-2:])
    if not (1 <= height <= limit[0] and 1 <= width <= limit[1]):
        raise ValueError(f"frame_size must lie within the masks' {limit}, got {tuple(frame_size)}")
    pixels = max(mask_logits.shape[1], 1) * max(limit[0] * limit[1], output_size[0] * output_size[1])
    return _masks(mask_logits.split(max(chunk_pixels // pixels, 1)), frame_size, output_size)


def _masks(chunks: tuple[Tensor, ...], frame_size: tuple[int, int], output_size: tuple[int, int]) -> Iterator[Tensor]:
    for logits in chunks:
        # Run lengths go down the columns, so columns shall lie in one piece.
        # A probability above 1/2 is a logit above 0, and the nearest pixel's.
        masks = upsample_masks(logits.mT)[..., : frame_size[1], : frame_size[0]] > 0  # (n, frames, width, height)
        if tuple(output_size) != tuple(frame_size):
            flat = masks.flatten(0, 1)[:, None].to(torch.uint8)  # (n·frames, 1, width, height)
            flat = F.interpolate(flat, size=tuple(output_size)[::-1], mode="nearest").bool()[:, 0]
            masks = flat.unflatten(0, logits.shape[:2])
        yield masks.mT


class ScoreSums(NamedTuple):
    """Class scores of a video's tracks over its windows so far.

    total, peak: (N, K), sum and maximum over the windows; a window before the track existed counts as 0.
    windows: how many.
    """

    total: Tensor
    peak: Tensor
    windows: int


def add_window(sums: ScoreSums | None, class_scores: Tensor) -> ScoreSums:
    """The sums (None before the first window) with one more window: class_scores (N, K) of all tracks so far."""
    if sums is None:
        return ScoreSums(class_scores, class_scores, 1)
    born = len(class_scores) - len(sums.total)
    if born < 0:
        raise ValueError(f"tracks never disappear: got scores of {len(class_scores)} after {len(sums.total)}")
    total, peak = (torch.cat([x, x.new_zeros(born, *x.shape[1:])]) for x in (sums.total, sums.peak))
    return ScoreSums(total + class_scores, torch.maximum(peak, class_scores), sums.windows + 1)


def video_scores(sums: ScoreSums) -> Tensor:
    """Class scores (N, K) of the video's tracks: ¾ of the mean and ¼ of the maximum over the windows."""
    return MEAN_SHARE * sums.total / sums.windows + (1 - MEAN_SHARE) * sums.peak


def benchmark_pairs(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The (track, class) pairs that the benchmarks count: all above 0.05, or the 10 best where those are more.

    Args:
        scores: (N, K) of the video.

    Returns:
        scores (P,), best first; tracks (P,) and labels (P,) int64.
    """
    number = min(max(int((scores > BENCHMARK_SCORE).sum()), BENCHMARK_PAIRS), scores.numel())
    best, places = scores.flatten().topk(number)
    return best, places // scores.shape[1], places % scores.shape[1]


class Rows(NamedTuple):
    """Rows of a result, best first; on the CPU."""

    scores: Tensor
    """(N,) float64."""
    labels: Tensor
    """(N,) int64."""
    track_ids: Tensor
    """(N,) int64."""

    def only(self, track_ids: np.ndarray) -> "Rows":
        """Those of some tracks."""
        held = torch.isin(self.track_ids, torch.as_tensor(track_ids))
        return Rows(*(column[held] for column in self))


def select(class_scores: Tensor, score_threshold: float, multi_label: bool) -> Rows:
    """The rows of a result by class scores (N, K); row = track id.

    Each track whose best class reaches the threshold, or with multi_label the pairs that the benchmarks count.
    """
    if multi_label:
        scores, tracks, labels = benchmark_pairs(class_scores)
    else:
        scores, labels = class_scores.max(1) if len(class_scores) else (class_scores.sum(1), class_scores.sum(1).long())
        tracks = scores.argsort(descending=True, stable=True)
        tracks = tracks[scores[tracks] >= score_threshold]
        scores, labels = scores[tracks], labels[tracks]
    return Rows(scores.double().cpu(), labels.cpu(), tracks.cpu())
