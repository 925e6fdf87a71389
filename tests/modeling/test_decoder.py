"""Decoder: temporal attention over clips of any length, the layers step by step, boxes that move on."""

import math

import pytest
import torch
from slow_attention import deformable, dense, spread
from torch import Tensor, nn
from torch.nn import functional as F

from mdqe import O2IDecoderLayer, TemporalCrossAttention
from mdqe.boxes import inverse_sigmoid, union
from mdqe.modeling.decoder import Decoder, DecoderState, I2ODecoderLayer

SHAPES = ((4, 6), (2, 3))
TOKENS = 4 * 6 + 2 * 3
DIM, HEADS, POINTS, QUERIES = 16, 2, 2, 5


def tca(frames: int) -> TemporalCrossAttention:
    return spread(TemporalCrossAttention(DIM, HEADS, frames, POINTS), 0.5)


def boxes(*shape: int) -> Tensor:
    """cxcywh, all inside the image."""
    return torch.cat([torch.rand(*shape, 2) * 0.6 + 0.2, torch.rand(*shape, 2) * 0.3 + 0.05], -1).double()


@pytest.mark.parametrize(
    ("trained", "clip", "frames"),
    [
        (4, 4, (0, 1, 2, 3)), (4, 2, (0, 1, 1, 1)), (4, 5, (1, 2, 3, 4)), (4, 1, (0, 0, 0, 0)), (4, 3, (0, 1, 2, 2)),
        (3, 4, (0, 1, 2)), (4, 8, (1, 3, 5, 7)), (4, 7, (2, 3, 4, 5)), (1, 5, (2,)), (2, 9, (4, 8)), (3, 7, (1, 3, 5)),
        (2, 1, (0, 0)), (5, 5, (0, 1, 2, 3, 4)),
    ],
)  # fmt: skip
def test_frames_attended_to(trained, clip, frames):
    assert TemporalCrossAttention(DIM, HEADS, trained).frames(clip) == frames


@pytest.mark.parametrize("trained", range(1, 7))
def test_frames_of_clips_of_any_length(trained):
    """As many as in training, from the first on in equal steps, inside the clip, the last one repeated."""
    module = TemporalCrossAttention(DIM, HEADS, trained)
    for clip in range(1, 25):
        chosen = module.frames(clip)
        center, step = (clip - 1) // 2, max(clip // trained, 1)
        first = max(center - (trained - 1) // 2 * step, 0)
        inside = [f for f in range(clip) if f >= first and (f - first) % step == 0][:trained]
        assert list(chosen) == inside + [inside[-1]] * (trained - len(inside))
        assert module.frames(trained) == tuple(range(trained))
        assert module.frame_index(clip, torch.device("cpu")).tolist() == list(chosen)
        reference = module.reference_frames(clip, torch.device("cpu"))
        assert sorted(set(reference.tolist())) == [
            f for f in range(clip) if center - (trained - 1) // 2 <= f < center + trained
        ]
        assert module.num_frames == trained


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
    module = tca(trained)
    query, reference = torch.randn(2, QUERIES, DIM).double(), boxes(2, QUERIES)
    value = module.project_value(torch.randn(2, clip, TOKENS, DIM).double())
    with torch.no_grad():
        got = module(query, reference, value, SHAPES)
        for b in range(2):
            want = slow_tca(module, query[b], reference[b], value[b])
            torch.testing.assert_close(got[b], want, rtol=1e-9, atol=1e-11)


def test_values_of_a_clip_are_read_in_place():
    """A slice of a longer stretch of frames, not contiguous over the batch, gives the same."""
    module = tca(3)
    query, reference = torch.randn(2, QUERIES, DIM).double(), boxes(2, QUERIES)
    value = module.project_value(torch.randn(2, 7, TOKENS, DIM).double())
    with torch.no_grad():
        got = module(query, reference, value[:, 2:5], SHAPES)
        assert torch.equal(got, module(query, reference, value[:, 2:5].contiguous(), SHAPES))


def test_temporal_attention_learns():
    module = tca(2)
    tokens = torch.randn(1, 3, TOKENS, DIM).double().requires_grad_()
    query, reference = torch.randn(1, QUERIES, DIM).double(), boxes(1, QUERIES)
    module(query, reference, module.project_value(tokens), SHAPES).mul(torch.randn(DIM)).sum().backward()
    assert all(p.grad.any() for p in module.parameters())
    assert not tokens.grad[0, 0].any()  # 2 of 3 frames: the second and third
    assert tokens.grad[0, 1].any()
    assert tokens.grad[0, 2].any()


def layer(kind: type = O2IDecoderLayer, frames: int = 3, **options) -> O2IDecoderLayer:
    made = kind(DIM, num_heads=HEADS, num_levels=2, num_points=POINTS, num_frames=frames, mlp_ratio=2, **options)
    return spread(made, 0.2)


def state(clips: int = 2, frames: int = 3) -> DecoderState:
    queries = torch.randn(clips, frames, QUERIES, DIM).double()
    return DecoderState(queries, torch.randn(clips, QUERIES, DIM).double(), boxes(clips, frames, QUERIES))


def normed(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def talked(block: nn.Module, x: Tensor, position: Tensor) -> Tensor:
    """Self-attention with q = k = x + position and v = x: (Q, C)."""
    attention = block.self_attn
    seen = dense(attention.in_proj_weight, attention.in_proj_bias, x + position, x + position, x, HEADS)
    return normed(block.self_norm, x + seen @ attention.out_proj.weight.T + attention.out_proj.bias)


def thought(block: nn.Module, x: Tensor) -> Tensor:
    first, second = block.mlp.layers
    hidden = first(x)
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    return normed(block.mlp_norm, x + second(hidden))


def seen_in_frame(module: nn.Module, query: Tensor, reference: Tensor, value: Tensor) -> Tensor:
    """Deformable attention of boxes to the levels of one frame."""
    offsets, logits = module.sampling(query[None], reference[None])  # tests/ops/test_module.py
    weights = logits[0].flatten(2).softmax(-1).view(logits.shape[1:])
    locations = reference[:, None, None, None, :2] + offsets[0] / 8
    return module.output_proj(deformable(value, SHAPES, locations, weights))


def slow_o2i(module: O2IDecoderLayer, entering: DecoderState, memory: Tensor, position_proj: nn.Linear, item: int):
    """One clip through the layer, as the method tells it, step by step."""
    values = module.project_values(memory[item : item + 1])
    looked, frame_queries = [], []
    for t, x in enumerate(entering.frame_queries[item]):
        box = entering.boxes[item, t]
        position = position_proj(box[:, :2])
        after = normed(
            module.frame.cross_norm,
            x + seen_in_frame(module.frame.cross_attn, x + position, box, values.spatial[0, t]),
        )
        looked.append(after)
        frame_queries.append(thought(module.frame, talked(module.frame, after, position)))
    frame_queries = torch.stack(frame_queries)
    share = (frame_queries @ module.time_weights.weight[0] + module.time_weights.bias).softmax(0)  # (T, Q)
    fused = sum(w[:, None] * x for w, x in zip(share, looked, strict=True))
    attention = module.clip.cross_attn
    window = slice(None) if attention is None else attention.reference_frames(len(looked), torch.device("cpu"))
    clip_box = union(entering.boxes[item, window], 0)
    clip_position = position_proj(clip_box[:, :2])
    seen = fused
    if attention is not None:
        seen = slow_tca(attention, fused + clip_position, clip_box, values.temporal[0])
    x = normed(module.clip.cross_norm, entering.clip_queries[item] + seen)
    return frame_queries, thought(module.clip, talked(module.clip, x, clip_position))


def slow_i2o(module: I2ODecoderLayer, entering: DecoderState, memory: Tensor, position_proj: nn.Linear, item: int):
    """The baseline: clip queries talk, are spread to the frames, and take in what these saw."""
    values = module.project_values(memory[item : item + 1])
    attention = module.clip.cross_attn
    window = (
        slice(None) if attention is None else attention.reference_frames(entering.boxes.shape[1], torch.device("cpu"))
    )
    clip_box = union(entering.boxes[item, window], 0)
    clip_position = position_proj(clip_box[:, :2])
    x = talked(module.clip, entering.clip_queries[item], clip_position)
    looked = []
    for t, box in enumerate(entering.boxes[item]):
        query = x + position_proj(box[:, :2])
        seen = seen_in_frame(module.frame.cross_attn, query, box, values.spatial[0, t])
        looked.append(normed(module.frame.cross_norm, x + seen))
    frame_queries = torch.stack([thought(module.frame, after) for after in looked])
    share = (frame_queries @ module.time_weights.weight[0] + module.time_weights.bias).softmax(0)
    fused = sum(w[:, None] * after for w, after in zip(share, looked, strict=True))
    seen = fused
    if attention is not None:
        seen = slow_tca(attention, fused + clip_position, clip_box, values.temporal[0])
    return frame_queries, thought(module.clip, normed(module.clip.cross_norm, x + seen))


@pytest.mark.parametrize(("trained", "clip"), [(3, 3), (3, 4), (4, 2), (2, 5), (1, 1)])
@pytest.mark.parametrize("temporal", [True, False])
@pytest.mark.parametrize(("kind", "slow"), [(O2IDecoderLayer, slow_o2i), (I2ODecoderLayer, slow_i2o)])
def test_a_layer_step_by_step(kind, slow, temporal, trained, clip):
    module, entering = layer(kind, trained, temporal=temporal), state(2, clip)
    memory, position_proj = torch.randn(2, clip, TOKENS, DIM).double(), nn.Linear(2, DIM).double()
    with torch.no_grad():
        values = module.project_values(memory)
        assert (values.temporal is None) == (not temporal)
        frame_queries, clip_queries = module(entering, values, SHAPES, position_proj)
        for b in range(2):
            wanted = slow(module, entering, memory, position_proj, b)
            torch.testing.assert_close(frame_queries[b], wanted[0], rtol=1e-8, atol=1e-10)
            torch.testing.assert_close(clip_queries[b], wanted[1], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", [O2IDecoderLayer, I2ODecoderLayer])
def test_queries_have_no_order(kind):
    module, entering, order = layer(kind), state(), torch.randperm(QUERIES)
    values, position_proj = module.project_values(torch.randn(2, 3, TOKENS, DIM).double()), nn.Linear(2, DIM).double()
    shuffled = DecoderState(
        entering.frame_queries[:, :, order], entering.clip_queries[:, order], entering.boxes[:, :, order]
    )
    with torch.no_grad():
        frame_queries, clip_queries = module(entering, values, SHAPES, position_proj)
        got_frame, got_clip = module(shuffled, values, SHAPES, position_proj)
    torch.testing.assert_close(got_frame, frame_queries[:, :, order], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(got_clip, clip_queries[:, order], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", [O2IDecoderLayer, I2ODecoderLayer])
def test_padded_tokens_are_never_seen(kind):
    module, entering, position_proj = layer(kind), state(), nn.Linear(2, DIM).double()
    mask = torch.rand(2, TOKENS) < 0.4
    memory = torch.randn(2, 3, TOKENS, DIM).double()
    other = torch.where(mask[:, None, :, None], 100.0, memory)
    with torch.no_grad():
        one = module(entering, module.project_values(memory, mask), SHAPES, position_proj)
        two = module(entering, module.project_values(other, mask), SHAPES, position_proj)
        three = module(entering, module.project_values(other), SHAPES, position_proj)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.allclose(one[1], three[1])


def decoder(layers: int = 2, kind: type = O2IDecoderLayer, **options) -> Decoder:
    return spread(Decoder([layer(kind, **options) for _ in range(layers)], DIM), 0.2)


def problem(made: Decoder, clips: int = 2, frames: int = 3) -> tuple:
    content, coords = torch.randn(clips, frames, QUERIES, DIM).double(), torch.rand(clips, frames, QUERIES, 2).double()
    return content, coords, made.project_values(torch.randn(clips, frames, TOKENS, DIM).double()), SHAPES


def moved(made: Decoder, reference: Tensor, frame_queries: Tensor) -> Tensor:
    """Boxes refined by the shared norm and head, added to their logits."""
    x = normed(made.norm, frame_queries)
    for linear in made.box_head.layers[:-1]:
        x = F.gelu(linear(x))
    return (inverse_sigmoid(reference) + made.box_head.layers[-1](x)).sigmoid()


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_the_warm_up_and_every_layer(frames):
    """Boxes begin as a tenth of the image around the points and are refined once before any attention."""
    made = decoder()
    content, coords, values, shapes = problem(made, frames=frames)
    with torch.no_grad():
        states = made(content, coords, values, shapes)
        assert len(states) == 3
        assert torch.equal(states[0].frame_queries, content)
        assert torch.equal(states[0].clip_queries, content[:, (frames - 1) // 2])
        start = torch.cat([coords, torch.full_like(coords, 0.1)], -1)
        torch.testing.assert_close(states[0].boxes, moved(made, start, content), rtol=1e-9, atol=1e-12)
        for before, after, part, value in zip(states, states[1:], made.layers, values, strict=False):
            wanted = part(before, value, shapes, made.position_proj)
            torch.testing.assert_close(after.frame_queries, wanted[0], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(after.clip_queries, wanted[1], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(after.boxes, moved(made, before.boxes, wanted[0]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [O2IDecoderLayer, I2ODecoderLayer])
@pytest.mark.parametrize("blind", [False, True])
def test_gradients_of_queries_reach_boxes_through_the_position_embedding_alone(kind, blind):
    """Of the references themselves no gradient flows: with an embedding that does not see the boxes none is left."""
    made = decoder(kind=kind)
    content, coords, values, shapes = problem(made)
    coords.requires_grad_()
    if blind:
        torch.nn.init.zeros_(made.position_proj.weight)
    last = made(content, coords, values, shapes)[-1]
    (last.clip_queries.sum() + last.frame_queries.sum()).backward(retain_graph=True)
    reached = [coords.grad, *(p.grad for p in made.box_head.parameters())]
    assert any(g is not None and g.any() for g in reached) != blind
    assert made.position_proj.weight.grad.any()
    last.boxes.sum().backward()
    assert all(p.grad.any() for p in made.box_head.parameters())


def test_the_warm_up_trains_points():
    made = decoder()
    content, coords, values, shapes = problem(made)
    coords.requires_grad_()
    made(content, coords, values, shapes)[0].boxes.sum().backward()
    assert coords.grad.any()


def test_an_untrained_decoder_leaves_boxes_where_they_are():
    made = Decoder([], DIM).double()
    content, coords = torch.randn(1, 2, QUERIES, DIM).double(), torch.rand(1, 2, QUERIES, 2).double()
    start = torch.cat([coords, torch.full_like(coords, 0.1)], -1)
    torch.testing.assert_close(made(content, coords, (), SHAPES)[0].boxes, start)


@pytest.mark.parametrize("kind", [O2IDecoderLayer, I2ODecoderLayer])
@pytest.mark.parametrize("temporal", [True, False])
def test_every_parameter_learns(kind, temporal):
    """But the bias of the time weights, which the softmax over time takes away."""
    made = decoder(1, kind, temporal=temporal).train()
    for part in made.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0
    states = made(*problem(made))
    noise = [torch.randn_like(x) for x in states[-1]]
    sum((x * y).sum() for x, y in zip(states[-1], noise, strict=True)).backward()
    idle = {name for name, p in made.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-12}
    assert idle == {"layers.0.time_weights.bias"}


def test_clips_do_not_see_each_other():
    made = decoder()
    content, coords, values, shapes = problem(made, clips=3)
    with torch.no_grad():
        together = made(content, coords, values, shapes)[-1]
        for b in range(3):
            own = tuple(type(v)(*(x[b : b + 1] for x in v)) for v in values)
            alone = made(content[b : b + 1], coords[b : b + 1], own, shapes)[-1]
            for x, y in zip(together, alone, strict=True):
                torch.testing.assert_close(x[b], y[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_boxes_are_never_in_half_precision(dtype):
    made = decoder().to(dtype)
    content = torch.randn(1, 3, QUERIES, DIM, dtype=dtype)
    values = made.project_values(torch.randn(1, 3, TOKENS, DIM, dtype=dtype))
    with torch.no_grad():
        last = made(content, torch.rand(1, 3, QUERIES, 2), values, SHAPES)[-1]
    assert (last.boxes.dtype, last.clip_queries.dtype, last.frame_queries.dtype) == (torch.float32, dtype, dtype)
