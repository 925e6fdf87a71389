"""MultiScaleDeformableAttention: sampling points, weights, masked tokens, gradients and types."""

import math

import pytest
import torch
from slow_attention import deformable, spread

from mdqe.ops import MultiScaleDeformableAttention

SHAPES = ((6, 8), (3, 4), (2, 2))
TOKENS = 6 * 8 + 3 * 4 + 2 * 2
HEADS, LEVELS, POINTS, DIM = 4, 3, 2, 24


def attention(**options) -> MultiScaleDeformableAttention:
    return MultiScaleDeformableAttention(DIM, HEADS, LEVELS, POINTS, **options)


def ray(head: int, heads: int) -> tuple[float, float]:
    """The direction of a head, up to the border of the square of side 2."""
    x, y = math.cos(2 * math.pi * head / heads), math.sin(2 * math.pi * head / heads)
    return x / max(abs(x), abs(y)), y / max(abs(x), abs(y))


@pytest.mark.parametrize("heads", [1, 4, 6, 8])
def test_points_start_on_rays(heads):
    """The P points of a head lie on its ray, up to 0.05·(level + 1) of the image, with equal weights."""
    module = MultiScaleDeformableAttention(24, heads, LEVELS, 4)
    offsets, logits = module.sampling(torch.randn(2, 5, 24), torch.rand(2, 5, 2))
    assert not logits.any()
    for h in range(heads):
        x, y = ray(h, heads)
        for level in range(LEVELS):
            for p in range(4):
                reach = (p + 1) / 4 * 0.05 * (level + 1) * 8
                expected = torch.tensor([x, y]).mul(reach).expand(2, 5, 2)
                torch.testing.assert_close(offsets[:, :, h, level, p], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("heads", [1, 4, 6, 8])
def test_box_points_start_on_rays_across_the_box(heads):
    """The last point of each ray lies on the border of the box; all levels have the same points."""
    module = MultiScaleDeformableAttention(24, heads, LEVELS, 4, boxes=True)
    boxes = torch.rand(2, 5, 4)
    offsets, _ = module.sampling(torch.randn(2, 5, 24), boxes)
    for h in range(heads):
        for p in range(4):
            expected = boxes[..., 2:] / 2 * torch.tensor(ray(h, heads)) * (p + 1) / 4
            for level in range(LEVELS):
                torch.testing.assert_close(offsets[:, :, h, level, p] / 8, expected, atol=1e-6, rtol=1e-6)
    assert "rays" not in module.state_dict()


def slow_forward(module, query, reference, tokens, mask=None):
    """One item of the batch: query (Q, C), reference (Q, 2 or 4), tokens (N, C), mask (N,) → (Q, C)."""
    value = tokens @ module.value_proj.weight.T + module.value_proj.bias
    if mask is not None:
        value = torch.where(mask[:, None], 0.0, value)
    value = value.unflatten(1, (HEADS, -1))
    linear = query @ module.sampling_offsets.weight.T + module.sampling_offsets.bias
    linear = linear.view(len(query), HEADS, LEVELS, POINTS, 2) / 8
    logits = query @ module.attention_weights.weight.T + module.attention_weights.bias
    weights = logits.view(len(query), HEADS, -1).softmax(-1).view(len(query), HEADS, LEVELS, POINTS)
    locations = torch.empty_like(linear)
    for q in range(len(query)):
        for h in range(HEADS):
            for p in range(POINTS):
                if reference.shape[1] == 2:
                    locations[q, h, :, p] = reference[q] + linear[q, h, :, p]
                else:
                    size = reference[q, 2:]
                    start = torch.tensor(ray(h, HEADS), dtype=query.dtype) * (p + 1) / POINTS * size / 2
                    moved = torch.minimum(torch.maximum(linear[q, h, :, p], -size), size)
                    locations[q, h, :, p] = reference[q, :2] + start + moved
    sampled = deformable(value, SHAPES, locations, weights)
    return sampled @ module.output_proj.weight.T + module.output_proj.bias


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_definition(boxes, masked):
    module = spread(attention(boxes=boxes), 0.6)
    query = torch.randn(2, 5, DIM, dtype=torch.float64)
    tokens = torch.randn(2, TOKENS, DIM, dtype=torch.float64)
    reference = torch.rand(2, 5, 4 if boxes else 2, dtype=torch.float64)
    mask = torch.rand(2, TOKENS) < 0.3 if masked else None
    with torch.no_grad():
        result = module(query, reference, module.project_value(tokens, mask), SHAPES)
        for i in range(2):
            expected = slow_forward(module, query[i], reference[i], tokens[i], None if mask is None else mask[i])
            torch.testing.assert_close(result[i], expected, rtol=1e-9, atol=1e-11)


def test_offsets_are_clamped_to_the_box():
    """Beyond one box width and height, the linear layer has no gradient."""
    module = attention(boxes=True).double()
    torch.nn.init.constant_(module.sampling_offsets.bias, 100.0)
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.1]]], dtype=torch.float64)
    offsets, _ = module.sampling(torch.randn(1, 1, DIM, dtype=torch.float64), boxes)
    farthest = (offsets / 8).flatten(0, -2).amax(0)
    torch.testing.assert_close(farthest, torch.tensor([0.3, 0.15], dtype=torch.float64))  # half a box and a box
    offsets.sum().backward()
    assert not module.sampling_offsets.bias.grad.any()


def test_references_shared_by_the_batch():
    module = spread(attention())
    query, value = torch.randn(3, 4, DIM).double(), module.project_value(torch.randn(3, TOKENS, DIM).double())
    centers = torch.rand(1, 4, 2).double()
    with torch.no_grad():
        shared = module(query, centers, value, SHAPES)
        torch.testing.assert_close(shared, module(query, centers.expand(3, -1, -1), value, SHAPES), rtol=0, atol=0)


def test_masked_tokens_have_no_effect():
    """Even NaN tokens; and they get no gradient."""
    module = spread(attention())
    tokens = torch.randn(1, TOKENS, DIM, dtype=torch.float64)
    mask = torch.arange(TOKENS)[None] % 3 == 0
    invalid = tokens.masked_fill(mask[..., None], float("nan")).requires_grad_()
    query, centers = torch.randn(1, 9, DIM).double(), torch.rand(1, 9, 2).double()
    expected, result = (module(query, centers, module.project_value(x, mask), SHAPES) for x in (tokens, invalid))
    assert torch.equal(result, expected)
    result.sum().backward()
    assert not invalid.grad[mask].any()
    assert invalid.grad[~mask].any()


def test_values_keep_leading_axes():
    module = attention()
    tokens, mask = torch.randn(2, 3, TOKENS, DIM), torch.rand(2, 1, TOKENS) < 0.5
    value = module.project_value(tokens, mask)
    assert value.shape == (2, 3, TOKENS, HEADS, DIM // HEADS)
    assert not value[mask.expand(2, 3, TOKENS)].any()
    torch.testing.assert_close(value[1, 2], module.project_value(tokens[1, 2], mask[1, 0]))


@pytest.mark.parametrize("boxes", [False, True])
def test_gradients(boxes):
    module = spread(attention(boxes=boxes))
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    reference = torch.rand(1, 2, 4 if boxes else 2, dtype=torch.float64).mul(0.5).add(0.25).requires_grad_()
    query = torch.randn(1, 2, DIM, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(1, TOKENS, DIM, dtype=torch.float64, requires_grad=True)

    def run(query, reference, tokens):
        return module(query, reference, module.project_value(tokens), SHAPES)

    assert torch.autograd.gradcheck(run, (query, reference, tokens), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("boxes", [False, True])
def test_types(dtype, boxes):
    """Half precision with references in float32: the output has the type of the query."""
    wide = spread(attention(boxes=boxes), 0.1)
    query, tokens = torch.randn(1, 7, DIM).to(dtype), torch.randn(1, TOKENS, DIM).to(dtype)
    reference = torch.rand(1, 7, 4 if boxes else 2)
    with torch.no_grad():
        expected = wide(query.double(), reference.double(), wide.project_value(tokens.double()), SHAPES)
        module = wide.to(dtype)
        result = module(query, reference, module.project_value(tokens), SHAPES)
    assert result.dtype == dtype
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    assert (result.double() - expected).norm() / expected.norm() < tolerance


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="dim is 24, expected a multiple of num_heads=5"):
        MultiScaleDeformableAttention(24, num_heads=5)
