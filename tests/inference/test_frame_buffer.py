"""The buffer of encoded frames against a plain list of them."""

from itertools import pairwise

import pytest
import torch

from mdqe.inference.frame_buffer import EncodedFrames, FrameBuffer, default_batch_size
from mdqe.modeling.decoder import LayerValues
from mdqe.modeling.query_init import FrameQueries


def encoded(first: int, number: int, temporal: bool) -> EncodedFrames:
    """Frames whose tensors contain the index of the frame."""
    number_of = torch.arange(first, first + number, dtype=torch.float32)

    def like(*shape: int) -> torch.Tensor:
        return number_of.view(1, number, *[1] * len(shape)).expand(1, number, *shape).clone()

    values = tuple(LayerValues(like(5, 2, 3) + i, like(5, 2, 3) - i if temporal else None) for i in range(2))
    queries = FrameQueries(like(4, 6), like(4, 2), None, like(3, 2, 2))
    return EncodedFrames(first, (32, 64), ((2, 2), (1, 1)), values, queries, like(4, 8, 16).transpose(1, 2))


@pytest.mark.parametrize("temporal", [True, False])
@pytest.mark.parametrize(("clip_length", "stride", "batch"), [(4, 1, 1), (4, 1, 16), (3, 5, 2), (8, 3, 1), (1, 1, 4)])
def test_clips_are_those_of_all_frames(clip_length, stride, batch, temporal):
    whole = encoded(0, 60, temporal)
    buffer, start, clips = FrameBuffer(clip_length, batch), 0, 0
    for first in range(0, 60, batch):
        number = min(batch, 60 - first)
        buffer.append(encoded(first, number, temporal), start)
        starts = range(start, first + number - clip_length + 1, stride)
        if not starts:
            continue
        together = buffer.frames.clips(starts, clip_length)
        assert together.first == start
        for i, start in enumerate(starts):
            found, expected = (
                together.map(lambda x, i=i: x[i : i + 1])._replace(first=start),
                whole.clip(start, start + clip_length),
            )
            assert (found.first, found.size, found.spatial_shapes) == (start, (32, 64), ((2, 2), (1, 1)))
            found.map(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0) or a, expected)
        start, clips = starts[-1] + stride, clips + len(starts)
    assert clips == len(range(0, 60 - clip_length + 1, stride))


def test_most_appends_move_no_frames():
    buffer = FrameBuffer(4, 1)
    places = []
    for frame in range(20):
        buffer.append(encoded(frame, 1, True), max(frame - 3, 0))
        places.append(buffer.frames.clip(frame, frame + 1).values[0].spatial.data_ptr())
    assert len(set(places)) == 8  # rows for 3 needed frames and 5 more, used repeatedly
    assert sum(b < a for a, b in pairwise(places)) == 3


@pytest.mark.parametrize(
    ("size", "frames"), [((32, 64), 16), ((256, 384), 10), ((384, 640), 4), ((1024, 1024), 1), ((1080, 1920), 1)]
)
def test_frames_that_are_encoded_together_are_limited_by_their_pixels_on_a_cpu_only(size, frames):
    assert default_batch_size(torch.device("cpu"), size) == frames
    assert default_batch_size(torch.device("cuda"), size) == 16
