"""Encoded frames: what the clips of a video need of each frame, computed once however many clips see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mdqe.modeling.decoder import LayerValues
from mdqe.modeling.encoder import SpatialShapes
from mdqe.modeling.network import Network
from mdqe.modeling.preprocess import padded_size
from mdqe.modeling.query_init import FrameQueries

MIN_SPARE = 5  # frames of room beyond what clips need, so that few appends move what is held


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
        return self.map(lambda x: x[:, window])._replace(first=start)

    def map(self, function: Callable[..., Tensor], *others: EncodedFrames) -> EncodedFrames:
        """`function` of every tensor (1, frames, …), and of those of the same name in `others`."""

        def each(parts: Iterable[Iterable[Tensor | None]]) -> Iterator[Any]:
            """Named tuples of tensors, or None in all of them at once → the tensors of one such tuple."""
            for first, *rest in zip(*parts, strict=True):
                yield None if first is None else function(first, *rest)

        every = (self, *others)
        return self._replace(
            values=tuple(LayerValues(*each(layer)) for layer in zip(*(e.values for e in every), strict=True)),
            queries=FrameQueries(*each(e.queries for e in every)),
            mask_features=function(*(e.mask_features.transpose(1, 2) for e in every)).transpose(1, 2),
        )


class FrameBuffer:
    """The frames that clips to come still need, in tensors made once: to append a frame moves no other, most times.

    Args:
        clip_length: most frames of a clip; one less are still needed when further ones come.
        frames_at_once: most frames that come together.
    """

    def __init__(self, clip_length: int, frames_at_once: int) -> None:
        self._room = clip_length - 1 + max(frames_at_once, MIN_SPARE)
        self._held: EncodedFrames | None = None  # `_room` frames, until the first ones tell their sizes

    @property
    def first(self) -> int:
        """Number of the frame that the first row is for."""
        return 0 if self._held is None else self._held.first

    def restore(self, frames: EncodedFrames, first: int) -> None:
        """Put frames into an empty buffer whose first row is for frame number `first`, so that all lie as they lay."""
        self._held = frames.map(lambda x: x.new_empty(1, self._room, *x.shape[2:]))._replace(first=first)
        _put(frames, self._held)

    def append(self, new: EncodedFrames, start: int) -> None:
        """Add frames after the last one; those before number `start` are not needed any more."""
        if self._held is None:
            return self.restore(new, new.first)
        frames = new.mask_features.shape[2]
        if new.first + frames > self._held.first + self._room:
            start = min(start, new.first)
            kept = self._held.clip(start, new.first)
            if new.first - start > start - self._held.first:  # where they lie and where they go overlap
                kept = kept.map(torch.clone)
            self._held = self._held._replace(first=start)
            _put(kept, self._held)
        _put(new, self._held)

    def clip(self, start: int, end: int) -> EncodedFrames:
        """Frames [start, end) of the video, without copying; valid until the next `append`."""
        assert self._held is not None, "no frames yet"
        return self._held.clip(start, end)


def _put(frames: EncodedFrames, into: EncodedFrames) -> None:
    row = frames.first - into.first
    into.map(lambda x, y: x[:, row : row + y.shape[1]].copy_(y), frames)


def encode_frames(model: Network, frames: Tensor, first: int) -> EncodedFrames:
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
