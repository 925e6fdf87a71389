"""Encoded frames: what the clips of a video need of each frame, computed once however many clips see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mdqe.decoder import LayerValues
from mdqe.encoder import SpatialShapes
from mdqe.frames import padded_size
from mdqe.query_init import FrameQueries

if TYPE_CHECKING:
    from mdqe.model import MDQE


class EncodedFrames(NamedTuple):
    """Consecutive frames of one video; B = 1 everywhere."""

    first: int
    """Index of the first frame in the video."""
    size: tuple[int, int]
    """(height, width) of the frames as the model sees them, without padding."""
    spatial_shapes: SpatialShapes
    values: tuple[LayerValues, ...]
    """Per decoder layer, (1, frames, N, H, C / H)."""
    queries: FrameQueries
    """Each frame's own queries, before association."""
    mask_features: Tensor
    """(1, M, frames, h, w)."""

    @property
    def padded_size(self) -> tuple[int, int]:
        """(height, width) with padding."""
        return padded_size(self.size)

    def clip(self, start: int, end: int) -> EncodedFrames:
        """Frames [start, end) of the video, without copying."""
        window = slice(start - self.first, end - self.first)
        return self._replace(
            first=start,
            values=tuple(LayerValues(*(_each(v, lambda x: x[:, window]) for v in layer)) for layer in self.values),
            queries=FrameQueries(*(_each(q, lambda x: x[:, window]) for q in self.queries)),
            mask_features=self.mask_features[:, :, window],
        )

    def extend(self, new: EncodedFrames, start: int) -> EncodedFrames:
        """These frames from `start` on, and the new ones after them."""
        old = self.clip(start, new.first)
        return old._replace(
            values=tuple(
                LayerValues(*(_join(a, b) for a, b in zip(x, y, strict=True)))
                for x, y in zip(old.values, new.values, strict=True)
            ),
            queries=FrameQueries(*(_join(a, b) for a, b in zip(old.queries, new.queries, strict=True))),
            mask_features=torch.cat([old.mask_features, new.mask_features], 2),
        )


def encode_frames(model: MDQE, frames: Tensor, first: int) -> EncodedFrames:
    """Encode resized frames (n, 3, H, W) uint8, the first of which is number `first` of the video."""
    size = (frames.shape[-2], frames.shape[-1])
    tokens = model.encode(frames[None].to(model.device))
    return EncodedFrames(
        first,
        size,
        tokens.spatial_shapes,
        model.decoder.project_values(tokens.memory, tokens.padding_mask),
        model.query_init.select(tokens.memory, tokens.spatial_shapes),
        model.mask_head(tokens.memory, tokens.spatial_shapes),
    )


def _each(x, function):
    return None if x is None else function(x)


def _join(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None else torch.cat([a, b], 1)
