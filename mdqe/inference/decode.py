"""From encoded frames to the detections of clips: the clips of a group of frames are decoded and filtered together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from mdqe.errors import is_out_of_memory
from mdqe.inference.frame_buffer import EncodedFrames
from mdqe.inference.graphs import Graphs, copied
from mdqe.inference.postprocess import ClipDetections, filter_clips
from mdqe.modeling.network import ClipPrediction, Network


class DecodedClip(NamedTuple):
    """A clip of the video, decoded and filtered."""

    frames: range
    """Indices of its T frames in the video."""
    coords: Tensor
    """(T, Q, 2): the points of its queries, xy in [0, 1] of the padded image."""
    embeddings: Tensor
    """(Q, C): its clip queries."""
    detections: ClipDetections


def decode_clips(
    model: Network, frames: EncodedFrames, starts: range, length: int, graphs: Graphs | None = None
) -> Iterator[DecodedClip]:
    """Decode the clips of `length` frames from each of `starts` as one batch, and filter their predictions.

    If the memory is not enough for the batch, its halves are decoded one after the other.
    """
    if not starts:
        return
    decoded = None
    try:
        decoded = _decode_batch(model, frames, starts, length, graphs)
    except Exception as error:
        if len(starts) == 1 or not is_out_of_memory(error):
            raise
    if decoded is None:  # not in the handler, where the error still has tensors
        half = len(starts) // 2
        yield from decode_clips(model, frames, starts[:half], length, graphs)
        yield from decode_clips(model, frames, starts[half:], length, graphs)
    else:
        yield from (
            DecodedClip(range(start, start + length), *clip) for start, clip in zip(starts, decoded, strict=True)
        )


def _decode_batch(
    model: Network, frames: EncodedFrames, starts: range, length: int, graphs: Graphs | None
) -> list[tuple[Tensor, Tensor, ClipDetections]]:
    """The points, clip queries and detections of each clip."""

    def network(frames: EncodedFrames) -> tuple[Tensor, ClipPrediction]:
        clips = frames.clips(range(0, starts[-1] - starts[0] + 1, starts.step), length)
        queries, prediction = model.decode(clips.queries, clips.values, clips.spatial_shapes)
        return queries.coords, prediction

    # 1. Decode: associate the queries of the frames and predict from them.
    group = frames.clip(starts[0], starts[-1] + length)._replace(first=0)
    if graphs is None:
        coords, prediction = network(group)
    else:
        with graphs.lock:
            coords, prediction = copied(graphs.run(network, group, "decode", len(starts), starts.step, length))
    # 2. Filter: keep the D confident and distinct predictions of each clip, with masks at stride 4.
    detections = filter_clips(
        prediction.class_logits.sigmoid(),
        prediction.mask_coefficients,
        prediction.embeddings,
        frames.clips(starts, length).mask_features,
        score_threshold=model.config.score_threshold,
        max_detections=10 * model.config.detections_per_image,
    )
    return list(zip(coords, prediction.embeddings, detections, strict=True))
