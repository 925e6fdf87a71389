"""Decoder: temporal attention over clips of any length, the layers block by block, box refinement."""

import doctest
import math

import pytest
import torch
from slow_attention import deformable, dense, spread
from torch import Tensor, nn
from torch.nn import functional as F

import mdqe.modeling.decoder
from mdqe import O2IDecoderLayer, TemporalCrossAttention
from mdqe.boxes import inverse_sigmoid, union
from mdqe.modeling.decoder import Decoder, DecoderState
from mdqe.modeling.decoder_i2o import I2ODecoderLayer

SHAPES = ((4, 6), (2, 3))
TOKENS = 4 * 6 + 2 * 3
DIM, HEADS, POINTS, QUERIES = 16, 2, 2, 5
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
BOTH = pytest.mark.parametrize("kind", [O2IDecoderLayer, I2ODecoderLayer])


def random(*shape: int) -> Tensor:
    return torch.randn(*shape).double()


def random_boxes(*shape: int) -> Tensor:
    """cxcywh, all inside the image."""
    return torch.cat([torch.rand(*shape, 2) * 0.6 + 0.2, torch.rand(*shape, 2) * 0.3 + 0.05], -1).double()


def make_tca(frames: int) -> TemporalCrossAttention:
    return spread(TemporalCrossAttention(DIM, HEADS, frames, POINTS), 0.5)


@pytest.mark.parametrize(
    ("trained", "clip", "frames"),
    [
        (4, 4, (0, 1, 2, 3)), (4, 2, (0, 1, 1, 1)), (4, 5, (1, 2, 3, 4)), (4, 1, (0, 0, 0, 0)), (4, 3, (0, 1, 2, 2)),
        (3, 4, (0, 1, 2)), (4, 8, (1, 3, 5, 7)), (4, 7, (2, 3, 4, 5)), (1, 5, (2,)), (2, 9, (4, 8)), (3, 7, (1, 3, 5)),
        (2, 1, (0, 0)), (5, 5, (0, 1, 2, 3, 4)),
    ],
)  # fmt: skip
def test_attended_frames(trained, clip, frames):
    assert TemporalCrossAttention(DIM, HEADS, trained).frames(clip) == frames


@pytest.mark.parametrize("trained", range(1, 7))
def test_attended_frames_of_clips_of_any_length(trained):
    """As many as in training, from the first one in equal steps inside the clip; the last one is repeated."""
    module, cpu = TemporalCrossAttention(DIM, HEADS, trained), torch.device("cpu")
    assert module.num_frames == trained
    assert module.frames(trained) == tuple(range(trained))
    for clip in range(1, 25):
        chosen = module.frames(clip)
        center, step = (clip - 1) // 2, max(clip // trained, 1)
        first = max(center - (trained - 1) // 2 * step, 0)
        inside = [f for f in range(clip) if f >= first and (f - first) % step == 0][:trained]
        assert list(chosen) == inside + [inside[-1]] * (trained - len(inside))
        assert module.frame_index(clip, cpu).tolist() == list(chosen)
        reference = sorted(set(module.reference_frames(clip, cpu).tolist()))
        assert reference == [f for f in range(clip) if center - (trained - 1) // 2 <= f < center + trained]


def slow_tca(module: TemporalCrossAttention, query: Tensor, reference: Tensor, value: Tensor) -> Tensor:
    """One clip, level by level and frame by frame: query (Q, C), boxes (Q, 4), value (T', N, H, D) → (Q, C).

    The weights are one softmax over frames and points, the same at every level; the levels are averaged.
    """
    t = module.num_frames
    offsets = module.sampling_offsets(query).view(-1, HEADS, t, POINTS, 2) / 8
    size = reference[:, None, None, None, 2:]
    offsets = torch.maximum(torch.minimum(offsets, size), -size)
    for h in range(HEADS):
        angle = 2 * math.pi * h / HEADS
        direction = torch.tensor([math.cos(angle), math.sin(angle)], dtype=query.dtype)
        for p in range(POINTS):
            offsets[:, h, :, p] += direction / direction.abs().max() * (p + 1) / POINTS * reference[:, None, 2:] / 2
    locations = reference[:, None, None, None, :2] + offsets  # (Q, H, T, P, 2)
    weights = module.attention_weights(query).view(-1, HEADS, t * POINTS).softmax(-1).view(-1, HEADS, t, POINTS)
    per_level, first = [], 0
    for h, w in SHAPES:
        total = 0
        for i, frame in enumerate(module.frames(len(value))):
            image = value[frame, first : first + h * w].permute(1, 2, 0).unflatten(-1, (h, w))  # (H, D, h, w)
            grid = locations[:, :, i].transpose(0, 1) * 2 - 1  # (H, Q, P, 2)
            sampled = F.grid_sample(image, grid, align_corners=False)  # (H, D, Q, P)
            total = total + (sampled * weights[:, :, i].transpose(0, 1)[:, None]).sum(-1)  # (H, D, Q)
        per_level.append(total.permute(2, 0, 1).flatten(1))  # (Q, C)
        first += h * w
    return module.output_proj(torch.stack(per_level).mean(0))


@pytest.mark.parametrize(("trained", "clip"), [(4, 4), (4, 2), (4, 1), (4, 5), (3, 4), (2, 6), (1, 3)])
def test_temporal_attention_level_by_level(trained, clip):
    module = make_tca(trained)
    query, reference = random(2, QUERIES, DIM), random_boxes(2, QUERIES)
    value = module.project_value(random(2, clip, TOKENS, DIM))
    with torch.no_grad():
        result = module(query, reference, value, SHAPES)
        for b in range(2):
            expected = slow_tca(module, query[b], reference[b], value[b])
            torch.testing.assert_close(result[b], expected, **CLOSE)


def test_values_of_a_clip_may_be_a_slice():
    """A slice of more frames, not contiguous over the batch, gives the same."""
    module = make_tca(3)
    query, reference = random(2, QUERIES, DIM), random_boxes(2, QUERIES)
    value = module.project_value(random(2, 7, TOKENS, DIM))
    with torch.no_grad():
        result = module(query, reference, value[:, 2:5], SHAPES)
        assert torch.equal(result, module(query, reference, value[:, 2:5].contiguous(), SHAPES))


def test_gradients_of_temporal_attention():
    module = make_tca(2)
    tokens = random(1, 3, TOKENS, DIM).requires_grad_()
    value = module.project_value(tokens)
    module(random(1, QUERIES, DIM), random_boxes(1, QUERIES), value, SHAPES).mul(torch.randn(DIM)).sum().backward()
    assert all(p.grad.any() for p in module.parameters())
    assert [bool(tokens.grad[0, t].any()) for t in range(3)] == [False, True, True]  # TCA attends to two frames


def make_layer(kind: type = O2IDecoderLayer, frames: int = 3, **options) -> O2IDecoderLayer:
    layer = kind(DIM, num_heads=HEADS, num_levels=2, num_points=POINTS, num_frames=frames, mlp_ratio=2, **options)
    return spread(layer, 0.2)


def make_state(clips: int = 2, frames: int = 3) -> DecoderState:
    return DecoderState(
        random(clips, frames, QUERIES, DIM), random(clips, QUERIES, DIM), random_boxes(clips, frames, QUERIES)
    )


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def self_attention(block: nn.Module, x: Tensor, position: Tensor) -> Tensor:
    """Self-attention with q = k = x + position and v = x: (Q, C)."""
    attention = block.self_attn
    attended = dense(attention.in_proj_weight, attention.in_proj_bias, x + position, x + position, x, HEADS)
    return layer_norm(block.self_norm, x + attended @ attention.out_proj.weight.T + attention.out_proj.bias)


def mlp(block: nn.Module, x: Tensor) -> Tensor:
    first, second = block.mlp.layers
    hidden = first(x)
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    return layer_norm(block.mlp_norm, x + second(hidden))


def frame_attention(block: nn.Module, x: Tensor, position: Tensor, box: Tensor, value: Tensor) -> Tensor:
    """Deformable attention around boxes to the levels of one frame: (Q, C)."""
    module = block.cross_attn
    offsets, logits = module.sampling((x + position)[None], box[None])  # tests/ops/test_module.py
    weights = logits[0].flatten(2).softmax(-1).view(logits.shape[1:])
    locations = box[:, None, None, None, :2] + offsets[0] / 8
    attended = module.output_proj(deformable(value, SHAPES, locations, weights))
    return layer_norm(block.cross_norm, x + attended)


def slow_layer(layer: O2IDecoderLayer, state: DecoderState, memory: Tensor, position_proj: nn.Linear, item: int):
    """One clip through a layer, block by block."""
    values = layer.project_values(memory[item : item + 1])
    boxes, clip_queries, tca = state.boxes[item], state.clip_queries[item], layer.clip.cross_attn
    window = slice(None) if tca is None else tca.reference_frames(len(boxes), torch.device("cpu"))
    clip_box = union(boxes[window], 0)
    clip_position = position_proj(clip_box[:, :2])
    i2o = isinstance(layer, I2ODecoderLayer)
    if i2o:
        clip_queries = self_attention(layer.clip, clip_queries, clip_position)
    sampled, frame_queries = [], []
    for t, box in enumerate(boxes):
        x, position = clip_queries if i2o else state.frame_queries[item, t], position_proj(box[:, :2])
        x = frame_attention(layer.frame, x, position, box, values.spatial[0, t])
        sampled.append(x)
        frame_queries.append(mlp(layer.frame, x if i2o else self_attention(layer.frame, x, position)))
    frame_queries = torch.stack(frame_queries)
    share = (frame_queries @ layer.time_weights.weight[0] + layer.time_weights.bias).softmax(0)  # (T, Q)
    fused = sum(w[:, None] * x for w, x in zip(share, sampled, strict=True))
    attended = fused if tca is None else slow_tca(tca, fused + clip_position, clip_box, values.temporal[0])
    x = layer_norm(layer.clip.cross_norm, clip_queries + attended)
    return frame_queries, mlp(layer.clip, x if i2o else self_attention(layer.clip, x, clip_position))


@pytest.mark.parametrize(("trained", "clip"), [(3, 3), (3, 4), (4, 2), (2, 5), (1, 1)])
@pytest.mark.parametrize("temporal", [True, False])
@BOTH
def test_a_layer_block_by_block(kind, temporal, trained, clip):
    layer, state = make_layer(kind, trained, temporal=temporal), make_state(2, clip)
    memory, position_proj = random(2, clip, TOKENS, DIM), nn.Linear(2, DIM).double()
    with torch.no_grad():
        values = layer.project_values(memory)
        assert (values.temporal is None) == (not temporal)
        results = layer(*state, values, SHAPES, position_proj)
        for b in range(2):
            for result, expected in zip(results, slow_layer(layer, state, memory, position_proj, b), strict=True):
                torch.testing.assert_close(result[b], expected, rtol=1e-8, atol=1e-10)


def test_example_of_the_docstring():
    assert doctest.testmod(mdqe.modeling.decoder).attempted
    assert not doctest.testmod(mdqe.modeling.decoder).failed


@BOTH
def test_queries_have_no_order(kind):
    layer, state, order = make_layer(kind), make_state(), torch.randperm(QUERIES)
    values, position_proj = layer.project_values(random(2, 3, TOKENS, DIM)), nn.Linear(2, DIM).double()
    with torch.no_grad():
        expected = layer(*state, values, SHAPES, position_proj)
        shuffled = layer(*(x[..., order, :] for x in state), values, SHAPES, position_proj)
    for x, y in zip(shuffled, expected, strict=True):
        torch.testing.assert_close(x, y[..., order, :], **CLOSE)


@BOTH
def test_padded_tokens_have_no_effect(kind):
    layer, state, position_proj = make_layer(kind), make_state(), nn.Linear(2, DIM).double()
    mask = torch.rand(2, TOKENS) < 0.4
    memory = random(2, 3, TOKENS, DIM)
    other = torch.where(mask[:, None, :, None], 100.0, memory)
    with torch.no_grad():
        one, two, unmasked = (
            layer(*state, layer.project_values(*arguments), SHAPES, position_proj)
            for arguments in ((memory, mask), (other, mask), (other,))
        )
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.allclose(one[1], unmasked[1])


def make_decoder(layers: int = 2, kind: type = O2IDecoderLayer, **options) -> Decoder:
    return spread(Decoder([make_layer(kind, **options) for _ in range(layers)], DIM), 0.2)


def inputs(decoder: Decoder, clips: int = 2, frames: int = 3) -> tuple:
    content, coords = random(clips, frames, QUERIES, DIM), torch.rand(clips, frames, QUERIES, 2).double()
    return content, coords, decoder.project_values(random(clips, frames, TOKENS, DIM)), SHAPES


def refined(decoder: Decoder, boxes: Tensor, frame_queries: Tensor) -> Tensor:
    """Boxes after the shared norm and box head, whose result is added to the logits of the boxes."""
    x = layer_norm(decoder.norm, frame_queries)
    for linear in decoder.box_head.layers[:-1]:
        x = F.gelu(linear(x))
    return (inverse_sigmoid(boxes) + decoder.box_head.layers[-1](x)).sigmoid()


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_the_warm_up_and_every_layer(frames):
    """Boxes start as a tenth of the image around the points and are refined once before any attention."""
    decoder = make_decoder()
    content, coords, values, shapes = inputs(decoder, frames=frames)
    with torch.no_grad():
        states = decoder(content, coords, values, shapes)
        assert len(states) == 3
        assert torch.equal(states[0].frame_queries, content)
        assert torch.equal(states[0].clip_queries, content[:, (frames - 1) // 2])
        start = torch.cat([coords, torch.full_like(coords, 0.1)], -1)
        torch.testing.assert_close(states[0].boxes, refined(decoder, start, content), **CLOSE)
        for before, after, layer, value in zip(states, states[1:], decoder.layers, values, strict=False):
            frame_queries, clip_queries = layer(*before, value, shapes, decoder.position_proj)
            torch.testing.assert_close(after.frame_queries, frame_queries, **CLOSE)
            torch.testing.assert_close(after.clip_queries, clip_queries, **CLOSE)
            torch.testing.assert_close(after.boxes, refined(decoder, before.boxes, frame_queries), **CLOSE)


@BOTH
@pytest.mark.parametrize("constant", [False, True])
def test_queries_pass_gradients_to_boxes_only_through_the_position_embedding(kind, constant):
    """References have no gradient: if the embedding does not depend on the boxes, no gradient remains."""
    decoder = make_decoder(kind=kind)
    content, coords, values, shapes = inputs(decoder)
    coords.requires_grad_()
    if constant:
        torch.nn.init.zeros_(decoder.position_proj.weight)
    states = decoder(content, coords, values, shapes)
    last = states[-1]
    (last.clip_queries.sum() + last.frame_queries.sum()).backward(retain_graph=True)
    gradients = [coords.grad, *(p.grad for p in decoder.box_head.parameters())]
    assert any(g is not None and g.any() for g in gradients) != constant
    assert decoder.position_proj.weight.grad.any()
    last.boxes.sum().backward(retain_graph=True)
    assert all(p.grad.any() for p in decoder.box_head.parameters())
    coords.grad = None
    states[0].boxes.sum().backward()  # the warm-up trains the points
    assert coords.grad.any()


def test_an_untrained_decoder_does_not_move_boxes():
    decoder = Decoder([], DIM).double()
    content, coords = random(1, 2, QUERIES, DIM), torch.rand(1, 2, QUERIES, 2).double()
    start = torch.cat([coords, torch.full_like(coords, 0.1)], -1)
    torch.testing.assert_close(decoder(content, coords, (), SHAPES)[0].boxes, start)


@BOTH
@pytest.mark.parametrize("temporal", [True, False])
def test_every_parameter_has_a_gradient(kind, temporal):
    """Except the bias of the time weights, which the softmax over time removes."""
    decoder = make_decoder(1, kind, temporal=temporal, dropout=0.0).train()
    last = decoder(*inputs(decoder))[-1]
    sum((x * torch.randn_like(x)).sum() for x in last).backward()
    unused = {name for name, p in decoder.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-12}
    assert unused == {"layers.0.time_weights.bias"}


def test_clips_are_independent():
    decoder = make_decoder()
    content, coords, values, shapes = inputs(decoder, clips=3)
    with torch.no_grad():
        together = decoder(content, coords, values, shapes)[-1]
        for b in range(3):
            own = tuple(type(v)(*(x[b : b + 1] for x in v)) for v in values)
            alone = decoder(content[b : b + 1], coords[b : b + 1], own, shapes)[-1]
            for x, y in zip(together, alone, strict=True):
                torch.testing.assert_close(x[b], y[0], **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_boxes_are_float32_in_half_precision(dtype):
    decoder = make_decoder().to(dtype)
    content = torch.randn(1, 3, QUERIES, DIM, dtype=dtype)
    values = decoder.project_values(torch.randn(1, 3, TOKENS, DIM, dtype=dtype))
    with torch.no_grad():
        last = decoder(content, torch.rand(1, 3, QUERIES, 2), values, SHAPES)[-1]
    assert (last.boxes.dtype, last.clip_queries.dtype, last.frame_queries.dtype) == (torch.float32, dtype, dtype)
