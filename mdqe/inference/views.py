"""What can be shown of a frame besides its instances: where its queries began, and what they became (paper Fig. 5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mdqe.inference.frame_buffer import EncodedFrames
from mdqe.inference.postprocess import DUPLICATE_SIMILARITY, ClipDetections


class FrameView(NamedTuple):
    """Where a frame's queries began (the paper's Fig. 5)."""

    frame: int
    points: np.ndarray
    """(Q, 2) xy in [0, 1] of the frame; beyond 1 in its padding."""
    track_ids: np.ndarray
    """(Q,): the track that the query, or one like it, was matched to; −1 for none."""
    activation: np.ndarray
    """(h, w) in [0, 1]: the largest class activation at stride 8; all 0 where queries are learned, for want of one."""


def frame_views(
    clip: EncodedFrames, frames: range, coords: Tensor, embeddings: Tensor, found: ClipDetections, track_ids: Tensor
) -> Iterator[FrameView]:
    """Views of some frames of a clip that was decoded and tracked.

    Args:
        clip: the encoded clip.
        frames: which of its frames, by their number in the video.
        coords: (T, Q, 2) xy of the associated queries, in [0, 1] of the padded image.
        embeddings: (Q, C) of the clip queries.
        found: the D detections among them.
        track_ids: (D,) of the detections, −1 where dropped.
    """
    similarity = F.normalize(embeddings, dim=1) @ F.normalize(found.embeddings, dim=1).T  # (Q, D)
    tracks = torch.full((len(embeddings),), -1, device=embeddings.device)
    if len(track_ids):
        best, which = similarity.max(1)
        tracks = torch.where(best >= DUPLICATE_SIMILARITY, track_ids[which], tracks)
    scale = coords.new_tensor(clip.padded_size[::-1]) / coords.new_tensor(clip.size[::-1])
    h, w = (-(-edge // 8) for edge in clip.size)
    for frame in frames:
        t = frame - clip.first
        saliency = coords.new_zeros(h, w)
        if clip.queries.activation is not None:
            saliency = clip.queries.activation[0, t, :, :h, :w].float().sigmoid().amax(0)
        points = (coords[t] * scale).cpu().numpy()
        yield FrameView(frame, points, tracks.cpu().numpy(), saliency.cpu().numpy())
