"""Encoding of the frames of a video: each frame is resized and encoded once, for all clips that contain it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mdqe.errors import is_out_of_memory
from mdqe.inference.graphs import Graphs
from mdqe.inference.overlap import Overlap
from mdqe.modeling.decoder import LayerValues
from mdqe.modeling.encoder import SpatialShapes, Tokens
from mdqe.modeling.network import Network, evaluation_mode
from mdqe.modeling.preprocess import as_frame, padded_size, resize, resized_size
from mdqe.modeling.query_init import FrameQueries

MIN_SPARE = 5  # spare rows of the buffer, so that few appends move the frames in it
CPU_PIXELS = 2**20  # most pixels of a batch on a CPU, unless it is one frame


class EncodedFrames(NamedTuple):
    """Consecutive frames of one video, B = 1; or, from `clips`, B clips of such frames."""

    first: int
    """Index of the first frame in the video; of the first clip."""
    size: tuple[int, int]
    """(height, width) of the resized frames without padding."""
    spatial_shapes: SpatialShapes
    values: tuple[LayerValues, ...]
    """Per decoder layer, (B, frames, N, H, C / H)."""
    queries: FrameQueries
    """The queries of each frame before association."""
    mask_features: Tensor
    """(B, M, frames, h, w)."""

    @property
    def padded_size(self) -> tuple[int, int]:
        """(height, width) with padding."""
        return padded_size(self.size)

    def clip(self, start: int, end: int) -> EncodedFrames:
        """Frames [start, end) of the video, without copying."""
        rows = slice(start - self.first, end - self.first)
        return self.map(lambda x: x[:, rows])._replace(first=start)

    def clips(self, starts: range, length: int) -> EncodedFrames:
        """Clips of `length` frames from each of `starts`, as one batch. Clips share the memory of their frames."""
        frames = self.clip(starts[0], starts[-1] + length)
        return frames.map(lambda x: x[0].unfold(0, length, starts.step).movedim(-1, 1))

    def map(self, function: Callable[..., Tensor], *others: EncodedFrames) -> EncodedFrames:
        """Apply `function` to every tensor (B, frames, …), together with the tensors of the same name in `others`."""

        def each(parts: Iterable[Iterable[Tensor | None]]) -> Iterator[Any]:
            """Named tuples with tensors, or None in all of them → the fields of one such tuple."""
            for first, *rest in zip(*parts, strict=True):
                yield None if first is None else function(first, *rest)

        every = (self, *others)
        return self._replace(
            values=tuple(LayerValues(*each(layer)) for layer in zip(*(e.values for e in every), strict=True)),
            queries=FrameQueries(*each(e.queries for e in every)),
            mask_features=function(*(e.mask_features.transpose(1, 2) for e in every)).transpose(1, 2),
        )


def encode_frames(model: Network, frames: Tensor, first: int, graphs: Graphs | None = None) -> EncodedFrames:
    """Encode resized frames (n, 3, H, W) uint8; `first` is the index of the first one in the video.

    With graphs, the next call may overwrite the result; `graphs.lock` prevents that until it is copied.
    """
    size = (frames.shape[-2], frames.shape[-1])
    frames = frames[None].to(model.device, non_blocking=True)

    def prepare(tokens: Tokens) -> tuple[Any, ...]:
        memory, shapes, padding_mask = tokens
        values = model.decoder.project_values(memory, padding_mask)
        return shapes, values, model.query_init.select(memory, shapes), model.mask_head(memory, shapes)

    if graphs is None:
        encoded = prepare(model.encode(frames))
    else:
        pixel_values = model.normalize(frames, [size])
        encoded = graphs.run(lambda x: prepare(model.encode_normalized(x, [size])), pixel_values, "encode", size)
    return EncodedFrames(first, size, *encoded)


class FrameBuffer:
    """The encoded frames that later clips need, in tensors that are allocated once. Most appends move no frames.

    Args:
        clip_length: maximum number of frames of a clip. One frame less is still needed when new frames arrive.
        batch_size: maximum number of frames per append.
    """

    def __init__(self, clip_length: int, batch_size: int) -> None:
        self.capacity = clip_length - 1 + max(batch_size, MIN_SPARE)  # in frames
        self._rows: EncodedFrames | None = None  # `capacity` frames, allocated with the first ones

    @property
    def first(self) -> int:
        """Index in the video of the frame in the first row."""
        return 0 if self._rows is None else self._rows.first

    def restore(self, frames: EncodedFrames, first: int) -> None:
        """Put frames into the rows that they had in a buffer with this `first`."""
        self._rows = frames.map(lambda x: x.new_empty(1, self.capacity, *x.shape[2:]))._replace(first=first)
        _copy(frames, self._rows)

    def append(self, new: EncodedFrames, start: int) -> None:
        """Add frames after the last one. Frames before index `start` are no longer needed."""
        if self._rows is None:
            return self.restore(new, new.first)
        if new.first + new.mask_features.shape[2] > self._rows.first + self.capacity:
            start = min(start, new.first)
            kept = self._rows.clip(start, new.first)
            if new.first - start > start - self._rows.first:  # the old and the new rows overlap
                kept = kept.map(torch.clone)
            self._rows = self._rows._replace(first=start)
            _copy(kept, self._rows)
        _copy(new, self._rows)

    @property
    def frames(self) -> EncodedFrames:
        """The frames in the buffer, without copying; valid until the next `append`."""
        assert self._rows is not None, "no frames yet"
        return self._rows


def _copy(frames: EncodedFrames, into: EncodedFrames) -> None:
    row = frames.first - into.first
    into.map(lambda x, y: x[:, row : row + y.shape[1]].copy_(y), frames)


class FrameEncoder:
    """Takes the frames of a video one by one, encodes them in batches and keeps those that later clips need.

    It keeps the resized frames too. A saved session contains them instead of their features. A resumed session encodes
    them again in the same batches, so its results are equal to the bit. The file is a hundred times smaller than with
    features and does not depend on how this version computes them.

    Args:
        model: the network.
        batch_size: number of frames per batch; 0: chosen at the first frame, see `default_batch_size`.

    Attributes:
        frame_size: (height, width) of the frames before resizing; None before the first one.
        size: (height, width) of the resized frames.
        num_frames, num_encoded: number of frames that were added, and of those that were encoded.
        frames: the last frames, (3, H, W) resized.
        buffer: the last encoded frames.
        overlap: if set, frames are resized in its thread; `frames` then has futures.
        graphs: if set, frames are encoded by CUDA graphs.
    """

    overlap: Overlap | None = None
    graphs: Graphs | None = None

    def __init__(self, model: Network, batch_size: int) -> None:
        self.model, self.batch_size = model, batch_size
        self.frame_size: tuple[int, int] | None = None
        self.size = (0, 0)
        self.num_frames = self.num_encoded = 0
        self.clear()

    def clear(self) -> None:
        """Release all frames."""
        self.frames: deque[Tensor | Future[Tensor]] = deque()
        self.buffer = FrameBuffer(self.model.config.test_clip_length, self.batch_size)

    def add(self, frame: np.ndarray | Tensor) -> None:
        """Take the next frame, (H, W, 3) uint8 on any device, and copy it to the host.

        Raises:
            InputError: another type or shape, or another size than the first frame.
        """
        # A saved session continues on the host, and only memory of the host can be pinned.
        frame = as_frame(frame, self.num_frames, self.frame_size).cpu()
        if self.frame_size is None:
            self.begin((frame.shape[0], frame.shape[1]))
        if self.overlap is not None and tuple(frame.shape[:2]) != self.size:
            copy, size = frame.clone(), self.size
            self.frames.append(self.overlap.submit(lambda: resize(copy.permute(2, 0, 1), size)))
        else:
            self.frames.append(resize(frame.permute(2, 0, 1), self.size).clone())  # (3, H, W)
        self.num_frames += 1

    def has_batch(self, last: bool = False) -> bool:
        """Whether a whole batch, or with `last` at least one frame, is not encoded yet."""
        return self.num_frames - self.num_encoded >= (1 if last else self.batch_size)

    def encode_batch(self, next_clip: int) -> None:
        """Encode the next frames, at most a batch. Frames before index `next_clip` are no longer needed.

        If the memory is not enough for a batch, this and all later batches are half as large.
        """
        done = self.num_encoded - (self.num_frames - len(self.frames))  # encoded frames in `frames`
        with nullcontext() if self.graphs is None else self.graphs.lock:  # until the buffer has the result
            encoded = None
            while encoded is None:
                batch = torch.stack(self.resized(slice(done, done + self.batch_size)))  # (n, 3, H, W)
                if self.model.device.type == "cuda":
                    batch = batch.pin_memory()
                try:
                    encoded = encode_frames(self.model, batch, self.num_encoded, self.graphs)
                except Exception as error:
                    if self.batch_size == 1 or not is_out_of_memory(error):
                        raise
                if encoded is None:  # not in the handler, where the error still has tensors
                    # A divisor, so that earlier batches are whole numbers of these.
                    self.batch_size = next(n for n in range(self.batch_size // 2, 0, -1) if self.batch_size % n == 0)
            self.buffer.append(encoded, next_clip)
        self.num_encoded += len(batch)
        self.drop_frames(next_clip)

    def resized(self, part: slice = slice(None)) -> list[Tensor]:
        """The last frames, or some of them, (3, H, W) each."""
        return [frame.result() if isinstance(frame, Future) else frame for frame in list(self.frames)[part]]

    def drop_frames(self, next_clip: int) -> None:
        """Drop the resized frames before index `next_clip`, in whole batches."""
        needed = first_kept(next_clip, self.batch_size)
        while self.num_frames - len(self.frames) < needed:
            self.frames.popleft()

    def begin(self, frame_size: tuple[int, int]) -> None:
        """Set the sizes that the first frame determines."""
        c = self.model.config
        self.frame_size = frame_size
        self.size = resized_size(frame_size, c.test_shorter_edge, c.test_longer_edge)
        self.batch_size = self.batch_size or default_batch_size(self.model.device, self.size)
        self.clear()

    @torch.inference_mode()
    def restore(self, frames: Sequence[Tensor], num_frames: int, num_encoded: int, first_row: int) -> None:
        """Continue from the attributes of another encoder, after `begin`; `first_row` is `buffer.first`."""
        self.frames.extend(frames)
        self.num_frames, self.num_encoded = num_frames, num_encoded
        first = num_frames - len(frames)
        with evaluation_mode(self.model):
            for start in range(first, num_encoded, self.batch_size):
                end = min(start + self.batch_size, num_encoded)
                encoded = encode_frames(self.model, torch.stack(list(frames[start - first : end - first])), start)
                if start == first:
                    self.buffer.restore(encoded.clip(max(start, first_row), end), first_row)
                else:
                    self.buffer.append(encoded, first)


def first_kept(next_clip: int, batch_size: int) -> int:
    """Index of the first frame of the batch that contains the first frame of the next clip."""
    return next_clip // max(batch_size, 1) * batch_size


def default_batch_size(device: torch.device, size: tuple[int, int]) -> int:
    """Number of frames of `size` to encode together: 16 on a GPU; on a CPU from 1 to 16, by the number of their pixels.

    Larger batches of small frames are faster on a CPU; docs/experiments.md has the times.
    """
    return 16 if device.type != "cpu" else min(max(CPU_PIXELS // (size[0] * size[1]), 1), 16)
