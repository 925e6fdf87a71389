"""encode and decode are one graph each, whatever the size and length, and `MDQE.compile` changes no result."""

import numpy as np
import pytest
import torch
from small_models import moving_squares, small_model

from mdqe.inference.frame_buffer import encode_frames
from mdqe.modeling.network import COMPILED_PARTS

pytestmark = pytest.mark.slow  # what is traced here takes half a minute each on a free core

SHAPES = ((3, 80, 136), (2, 96, 160), (4, 70, 200))  # frames, height, width; the second needs no padding


def frames(length: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (length, 3, height, width), dtype=torch.uint8)


def tensors(nested) -> list[torch.Tensor]:
    if isinstance(nested, torch.Tensor):
        return [nested]
    return [x for part in nested or () for x in tensors(part)] if isinstance(nested, tuple | list) else []


def test_encode_and_decode_have_no_breaks():
    torch._dynamo.reset()
    model = small_model(decoder_layers=1)
    graphs = []

    def counting(graph, example):
        graphs.append(graph)
        return graph.forward

    options = {"fullgraph": True, "dynamic": True, "backend": counting}
    encode, decode = torch.compile(model.encode, **options), torch.compile(model.decode, **options)
    with torch.no_grad():
        for shape in SHAPES:
            clip = frames(*shape)
            got, want = encode(clip[None]), model.encode(clip[None])
            assert got.spatial_shapes == want.spatial_shapes
            torch.testing.assert_close(got.memory, want.memory, rtol=1e-9, atol=1e-9)
            encoded = encode_frames(model, clip, 0)
            inputs = encoded.queries, encoded.values, encoded.spatial_shapes
            for got, want in zip(tensors(decode(*inputs)), tensors(model.decode(*inputs)), strict=True):
                torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    assert 2 <= len(graphs) <= 2 * len(SHAPES)  # lengths, and padding or not, tell graphs apart


def test_compile_keeps_results_names_and_saving(tmp_path):
    torch._dynamo.reset()
    video = moving_squares(8)
    model = small_model(decoder_layers=1, clip_stride=4)  # two equal clips: one graph of each part
    wanted, names = model.segment(video, score_threshold=0), list(model.state_dict())
    model.compile(backend="eager")
    got = model.segment(video, score_threshold=0)
    assert all(getattr(model, name)._compiled_call_impl is not None for name in COMPILED_PARTS)
    np.testing.assert_array_equal(got.track_ids, wanted.track_ids)
    np.testing.assert_allclose(got.scores, wanted.scores, rtol=1e-9)
    np.testing.assert_array_equal(got.masks, wanted.masks)
    assert list(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=torch.float64).segment(video, score_threshold=0)
    np.testing.assert_array_equal(again.masks, wanted.masks)


def test_compiled_code_gives_the_same_video():
    """By the default backend, which writes and compiles code; float32, so only rounding may differ."""
    torch._dynamo.reset()
    video = moving_squares(7)
    model = small_model(decoder_layers=1).float()
    wanted = model.segment(video, score_threshold=0)
    model.compile()
    got = model.segment(video, score_threshold=0)
    np.testing.assert_array_equal(got.track_ids, wanted.track_ids)
    np.testing.assert_allclose(got.scores, wanted.scores, rtol=1e-3)
    assert (got.masks != wanted.masks).mean() < 1e-3
