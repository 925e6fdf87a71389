"""`encode` and `decode` are one graph each for any size and length, and `MDQE.compile` does not change results."""

import numpy as np
import pytest
import torch
from small_models import moving_squares, small_model

from mdqe.inference.frame_buffer import encode_frames
from mdqe.modeling.network import COMPILED_PARTS

pytestmark = pytest.mark.slow  # each trace takes half a minute on an idle core

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
            result, expected = encode(clip[None]), model.encode(clip[None])
            assert result.spatial_shapes == expected.spatial_shapes
            torch.testing.assert_close(result.memory, expected.memory, rtol=1e-9, atol=1e-9)
            encoded = encode_frames(model, clip, 0)
            inputs = encoded.queries, encoded.values, encoded.spatial_shapes
            for result, expected in zip(tensors(decode(*inputs)), tensors(model.decode(*inputs)), strict=True):
                torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
    assert 2 <= len(graphs) <= 2 * len(SHAPES)  # graphs differ by length and padding


def test_compile_does_not_change_results_names_and_saving(tmp_path):
    torch._dynamo.reset()
    video = moving_squares(8)
    model = small_model(decoder_layers=1, clip_stride=4)  # two equal clips: one graph of each part
    expected, names = model.segment(video, score_threshold=0), list(model.state_dict())
    model.compile(backend="eager")
    result = model.segment(video, score_threshold=0)
    assert all(getattr(model, name)._compiled_call_impl is not None for name in COMPILED_PARTS)
    np.testing.assert_array_equal(result.track_ids, expected.track_ids)
    np.testing.assert_allclose(result.scores, expected.scores, rtol=1e-9)
    np.testing.assert_array_equal(result.masks, expected.masks)
    assert list(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=torch.float64).segment(video, score_threshold=0)
    np.testing.assert_array_equal(again.masks, expected.masks)


def test_compiled_code_gives_equal_results():
    """With the default backend, which generates and compiles code; in float32 only rounding may differ."""
    torch._dynamo.reset()
    video = moving_squares(8)
    model = small_model(decoder_layers=1, clip_stride=4).float()  # two equal clips: one program of each part
    expected = model.segment(video, score_threshold=0)
    model.compile()
    result = model.segment(video, score_threshold=0)
    np.testing.assert_array_equal(result.track_ids, expected.track_ids)
    np.testing.assert_allclose(result.scores, expected.scores, rtol=1e-3)
    assert (result.masks != expected.masks).mean() < 1e-3
