"""Initial query positions of a frame and the tracks of its queries, for drawing (the dots of paper Fig. 5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mdqe.inference.frame_buffer import EncodedFrames
from mdqe.inference.postprocess import DUPLICATE_SIMILARITY, ClipDetections
from mdqe.ops.reference import widen


class FrameView(NamedTuple):
    """The initial queries of one frame."""

    frame: int
    points: np.ndarray
    """(Q, 2) xy in [0, 1] of the frame; beyond 1 in its padding."""
    track_ids: np.ndarray
    """(Q,): the track to which the query, or a near duplicate of it, was matched; −1 for none."""
    activation: np.ndarray
    """(h, w) in [0, 1]: the largest class activation at stride 8; 0 everywhere if the queries are learned."""


def frame_views(
    clip: EncodedFrames, frames: range, coords: Tensor, embeddings: Tensor, found: ClipDetections, track_ids: Tensor
) -> Iterator[FrameView]:
    """Yield the views of some frames of a decoded and tracked clip.

    Args:
        clip: the encoded clip.
        frames: indices of these frames in the video.
        coords: (T, Q, 2) xy of the associated queries, in [0, 1] of the padded image.
        embeddings: (Q, C) of the clip queries.
        found: the D detections among them.
        track_ids: (D,) of the detections, −1 where dropped.
    """
    queries, kept = (F.normalize(widen(x), dim=1) for x in (embeddings, found.embeddings))  # as in `filter_clips`
    with torch.autocast(embeddings.device.type, enabled=False):
        similarity = queries @ kept.T  # (Q, D)
    tracks = torch.full((len(embeddings),), -1, device=embeddings.device)
    if len(track_ids):
        best, nearest = similarity.max(1)
        tracks = torch.where(best >= DUPLICATE_SIMILARITY, track_ids[nearest], tracks)
    scale = coords.new_tensor(clip.padded_size[::-1]) / coords.new_tensor(clip.size[::-1])
    h, w = (-(-edge // 8) for edge in clip.size)
    for frame in frames:
        t = frame - clip.first
        activation = coords.new_zeros(h, w)
        if clip.queries.activation is not None:
            activation = clip.queries.activation[0, t, :, :h, :w].float().sigmoid().amax(0)
        points = (coords[t] * scale).cpu().numpy()
        ids = tracks.cpu().numpy().copy()  # the caller may change it, and other frames have the same tracks
        yield FrameView(frame, points, ids, activation.cpu().numpy())
