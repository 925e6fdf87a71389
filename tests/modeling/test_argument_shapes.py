"""Parts that are used in other code name the argument that does not fit."""

import doctest
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mdqe.modeling.decoder
import mdqe.modeling.query_init
from mdqe import Decoder, DecoderState, LayerValues, O2IDecoderLayer, QueryInitializer, TemporalCrossAttention
from mdqe.modeling.decoder_i2o import I2ODecoderLayer

B, T, Q, C, HEADS = 2, 3, 9, 16, 2
SHAPES = ((4, 6), (2, 3))
N = 4 * 6 + 2 * 3


def tokens(*leading: int, number: int = N, dim: int = C) -> Tensor:
    return torch.randn(*(leading or (B, T)), number, dim)


def layer_call(kind: type, **change: Any) -> None:
    """Call a layer with one argument changed."""
    layer = kind(C, num_heads=HEADS, num_levels=2, num_points=2, num_frames=T)
    arguments = {
        "frame_queries": torch.randn(B, T, Q, C),
        "clip_queries": torch.randn(B, Q, C),
        "boxes": torch.rand(B, T, Q, 4),
        "values": layer.project_values(tokens()),
        "spatial_shapes": SHAPES,
        "position_proj": nn.Linear(2, C),
    }
    layer(**{**arguments, **change})


def tca_call(**change: Any) -> None:
    tca = TemporalCrossAttention(C, HEADS, T, 2)
    arguments = {
        "query": torch.randn(B, Q, C),
        "reference": torch.rand(B, Q, 4),
        "value": tca.project_value(tokens()),
        "spatial_shapes": SHAPES,
    }
    tca(**{**arguments, **change})


def select_call(**change: Any) -> None:
    QueryInitializer(C, 3, grid_size=3, embed_dim=5)(**{"memory": tokens(), "spatial_shapes": SHAPES, **change})


def decoder_call(**change: Any) -> None:
    decoder = Decoder([O2IDecoderLayer(C, num_heads=HEADS, num_levels=2, num_frames=T)], C)
    values = decoder.project_values(tokens())
    arguments = {"content": torch.randn(B, T, Q, C), "coords": torch.rand(B, T, Q, 2), "values": values}
    decoder(**{**arguments, "spatial_shapes": SHAPES, **change})


LAYER = [
    ({"frame_queries": torch.zeros(B * T, Q, C)}, r"frame_queries is \(6, 9, 16\), expected \(B, T, Q, C\)"),
    ({"frame_queries": torch.zeros(B, T, Q, 8)}, r"frame_queries is \(2, 3, 9, 8\), .* = \(B, T, Q, 16\)"),
    ({"clip_queries": torch.zeros(B, T, Q, C)}, r"clip_queries is \(2, 3, 9, 16\), .* \(B, Q, C\) = \(2, 9, 16\)"),
    ({"clip_queries": torch.zeros(B, Q + 1, C)}, r"clip_queries is \(2, 10, 16\), .* = \(2, 9, 16\)"),
    ({"boxes": torch.zeros(B, T, Q, 2)}, r"boxes is \(2, 3, 9, 2\), expected \(B, T, Q, 4\) = \(2, 3, 9, 4\)"),
    ({"boxes": torch.zeros(B * T, Q, 4)}, r"boxes is \(6, 9, 4\)"),
    ({"boxes": torch.zeros(B, T + 1, Q, 4)}, r"boxes is \(2, 4, 9, 4\)"),
    (
        {"values": LayerValues(torch.zeros(B * T, N, HEADS, 8), None)},
        r"values.spatial is \(6, 30, 2, 8\), expected \(B, T",
    ),
    ({"values": LayerValues(torch.zeros(B, T, N, HEADS, 8), torch.zeros(B, T, N, 1, 16))}, "values.temporal is"),
    ({"spatial_shapes": SHAPES[:1]}, "spatial_shapes has 1 levels, expected num_levels=2"),
    ({"spatial_shapes": ((4, 6), (3, 3))}, r"adds up to 33 tokens, but values.spatial has N = 30"),
]
OTHERS = [
    (tca_call, {"query": torch.zeros(B, Q, 8)}, r"query is \(2, 9, 8\), expected \(B, Q, C\) = \(B, Q, 16\)"),
    (tca_call, {"query": torch.zeros(B, T, Q, C)}, r"query is \(2, 3, 9, 16\), expected \(B, Q, C\)"),
    (tca_call, {"reference": torch.zeros(B, Q, 2)}, r"reference is \(2, 9, 2\), expected \(B, Q, 4\)"),
    (tca_call, {"value": torch.zeros(B * T, N, HEADS, 8)}, r"value is \(6, 30, 2, 8\), expected \(B, T′, N, H, C/H\)"),
    (tca_call, {"value": torch.zeros(B, T, N, C)}, r"value is \(2, 3, 30, 16\), .* = \(2, T′, N, 2, 8\)"),
    (tca_call, {"spatial_shapes": ((4, 6),)}, "adds up to 24 tokens, but value has N = 30"),
    (select_call, {"memory": tokens(B * T)}, r"memory is \(6, 30, 16\), expected \(B, T, N, C\) = \(B, T, N, 16\)"),
    (select_call, {"memory": tokens(dim=8)}, r"memory is \(2, 3, 30, 8\)"),
    (select_call, {"spatial_shapes": SHAPES[:1]}, "adds up to 24 tokens, but memory has N = 30"),
    (decoder_call, {"coords": torch.zeros(B, T, Q, 4)}, r"coords is \(2, 3, 9, 4\), expected \(B, T, Q, 2\)"),
    (decoder_call, {"content": torch.zeros(B, Q, C)}, r"content is \(2, 9, 16\)"),
    (decoder_call, {"values": ()}, "values has 0 entries, expected one for each of 1 layers"),
]


@pytest.mark.parametrize(("change", "message"), LAYER)
@pytest.mark.parametrize("kind", [O2IDecoderLayer, I2ODecoderLayer])
def test_layers_name_the_argument(kind: type, change: dict[str, Any], message: str) -> None:
    layer_call(kind)
    with pytest.raises(ValueError, match=message):
        layer_call(kind, **change)


@pytest.mark.parametrize(("call", "change", "message"), OTHERS)
def test_other_parts_name_the_argument(call: Any, change: dict[str, Any], message: str) -> None:
    call()
    with pytest.raises(ValueError, match=message):
        call(**change)


def test_the_frames_of_tca_may_be_selected_beforehand() -> None:
    """Exported programs do so, whatever the length of the clip."""
    layer, position_proj = O2IDecoderLayer(C, num_heads=HEADS, num_levels=2, num_frames=4).eval(), nn.Linear(2, C)
    state = DecoderState(torch.randn(B, T, Q, C), torch.randn(B, Q, C), torch.rand(B, T, Q, 4))
    values = layer.project_values(tokens())
    frames = list(layer.clip.cross_attn.frames(T))
    assert frames == [0, 1, 2, 2]
    selected = LayerValues(values.spatial, values.temporal[:, frames])
    expected = layer(*state, values, SHAPES, position_proj)
    torch.testing.assert_close(layer(*state, selected, SHAPES, position_proj), expected)


def test_tensors_of_sizes_and_lists_of_numbers_are_named() -> None:
    with pytest.raises(TypeError, match=r"spatial_shapes is a tensor, expected a tuple of \(h, w\)"):
        select_call(spatial_shapes=torch.tensor(SHAPES))
    with pytest.raises(TypeError, match=r"boxes is a list, expected a tensor \(B, T, Q, 4\)"):
        layer_call(O2IDecoderLayer, boxes=[0.5])


def test_projections_and_association_name_the_argument() -> None:
    layer = O2IDecoderLayer(C, num_heads=HEADS)
    with pytest.raises(ValueError, match=r"memory is \(6, 30, 16\), expected \(B, T, N, C\)"):
        layer.project_values(tokens(B * T))
    with pytest.raises(ValueError, match=r"padding_mask is \(2, 3, 30\), expected \(B, N\) = \(2, 30\)"):
        layer.project_values(tokens(), torch.zeros(B, T, N, dtype=torch.bool))
    queries = QueryInitializer(C, 3, grid_size=3)(tokens(), SHAPES, None)
    with pytest.raises(ValueError, match=r"queries.content is \(2, 3, 9, 16\), .* = \(B, T, 16, C\)"):
        QueryInitializer(C, 3, grid_size=4).associate(queries, 2.5)


@pytest.mark.parametrize("module", [mdqe.modeling.decoder, mdqe.modeling.query_init])
def test_examples_of_the_docstrings(module: Any) -> None:
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


def test_no_gradient_of_later_losses_reaches_the_activation_and_the_embeddings() -> None:
    """They need losses of their own, as the docstrings say."""
    query_init = QueryInitializer(C, 3, grid_size=3, embed_dim=5)
    decoder = Decoder([O2IDecoderLayer(C, num_heads=HEADS, num_levels=2, num_frames=T)], C)
    memory = tokens().requires_grad_()
    queries = query_init(memory, SHAPES)
    states = decoder(queries.content, queries.coords, decoder.project_values(memory), SHAPES)
    assert isinstance(states[-1], DecoderState)
    sum(x.sum() for x in states[-1]).backward()
    assert memory.grad.any()
    assert all(p.grad is None for p in query_init.parameters())
