"""Encoder: position, padding, levels, layers; alone, with plain arguments."""

import math

import pytest
import torch
from slow_attention import deformable, spread
from torch.nn import functional as F

from mdqe.modeling.encoder import Encoder, EncoderLayer, at_least_float32, level_masks, pixel_centers, sine_position

PADDED = (64, 96)
CHANNELS = (5, 7, 9)


def maps(frames: int = 2, size: tuple[int, int] = PADDED) -> list[torch.Tensor]:
    return [
        torch.randn(frames, c, size[0] // s, size[1] // s, dtype=torch.float64)
        for c, s in zip(CHANNELS, (8, 16, 32), strict=True)
    ]


def encoder(layers: int = 2, **options) -> Encoder:
    made = Encoder(CHANNELS, 32, num_layers=layers, num_heads=4, num_points=2, **options)
    return spread(made, 0.1)


@pytest.mark.parametrize("dim", [8, 20])
def test_sine_position_pixel_by_pixel(dim):
    """Rows and columns are counted from 1 over the valid area, which is 2π long; y first, sine and cosine in turn."""
    mask = torch.zeros(2, 5, 7, dtype=torch.bool)
    mask[1, 3:] = True
    mask[1, :, 4:] = True
    got = sine_position(mask, dim, torch.float64)
    assert got.shape == (2, 5, 7, dim)
    half = dim // 2
    for b, (height, width) in enumerate([(5, 7), (3, 4)]):
        for y in range(height):
            for x in range(width):
                for axis, position in enumerate([(y + 1) / (height + 1e-6), (x + 1) / (width + 1e-6)]):
                    for i in range(half):
                        angle = position * 2 * math.pi / 10000 ** (2 * (i // 2) / half)
                        want = math.cos(angle) if i % 2 else math.sin(angle)
                        assert float(got[b, y, x, axis * half + i]) == pytest.approx(want, abs=1e-12)


def test_positions_of_all_levels():
    """Each level's sine encoding plus its own embedding, levels one after another, rows first."""
    made, shapes = encoder(), ((8, 12), (4, 6), (2, 3), (1, 2))
    masks = [torch.zeros(1, h, w, dtype=torch.bool) for h, w in shapes]
    got = made.position(masks, torch.float64)
    assert got.shape == (1, sum(h * w for h, w in shapes), 32)
    row = 0
    for level, (h, w) in enumerate(shapes):
        sine = sine_position(masks[level], 32, torch.float64)
        for y in range(h):
            for x in range(w):
                torch.testing.assert_close(got[0, row], sine[0, y, x] + made.level_embed[level])
                row += 1


@pytest.mark.parametrize("size", [(64, 96), (33, 65), (1, 1), (32, 64), (57, 96), (50, 70)])
def test_padding_of_every_level(size):
    """A cell counts as long as it begins inside the frame; levels beyond the backbone's follow its last one."""
    shapes = ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))
    masks = level_masks(PADDED, [size], shapes, 3, torch.device("cpu"))
    for mask, (h, w), stride in zip(masks[:3], shapes, (8, 16, 32), strict=False):
        for y in range(h):
            for x in range(w):
                assert bool(mask[0, y, x]) == (y * stride >= size[0] or x * stride >= size[1])
        assert (~mask[0]).sum() == math.ceil(size[0] / stride) * math.ceil(size[1] / stride)
    last = masks[2]
    for mask, (h, w) in zip(masks[3:], shapes[3:], strict=True):
        nearest = last[0, [int(y * last.shape[1] / h) for y in range(h)]][
            :, [int(x * last.shape[2] / w) for x in range(w)]
        ]
        assert torch.equal(mask[0], nearest)
        last = mask


def test_centres_of_pixels():
    shapes = ((3, 4), (1, 2))
    got = pixel_centers(shapes, torch.float64, torch.device("cpu"))
    want = [((x + 0.5) / w, (y + 0.5) / h) for h, w in shapes for y in range(h) for x in range(w)]
    torch.testing.assert_close(got, torch.tensor([want], dtype=torch.float64))


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)  # fmt: skip
def test_coordinates_are_never_in_half_precision(dtype, wide):
    assert at_least_float32(dtype) == wide


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_levels_without_layers(levels):
    """Projections and final norm alone: 1×1 convolutions, and beyond them stride-2 convolutions of the last map."""
    made, inputs = encoder(layers=0, num_levels=levels), maps(6)
    with torch.no_grad():
        out = made(inputs, 2, PADDED, [PADDED])
        wanted = []
        for i, m in enumerate(inputs):
            conv, norm = made.projections[i]
            flat = torch.einsum("bchw,oc->bohw", m, conv.weight[:, :, 0, 0]) + conv.bias[:, None, None]
            wanted.append(F.group_norm(flat, 16, norm.weight, norm.bias))
        source = inputs[-1]
        for conv, norm in made.projections[3:]:
            source = F.group_norm(
                F.conv2d(source, conv.weight, conv.bias, stride=2, padding=1), 16, norm.weight, norm.bias
            )
            wanted.append(source)
        assert out.spatial_shapes == ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))[:levels]
        assert out.padding_mask is None
        tokens = torch.cat([w.permute(0, 2, 3, 1).reshape(6, -1, 32) for w in wanted], 1)
        want = F.layer_norm(tokens, (32,), made.norm.weight, made.norm.bias)
    assert out.memory.shape == (2, 3, *want.shape[1:])
    torch.testing.assert_close(out.memory.flatten(0, 1), want, rtol=1e-9, atol=1e-10)


def test_a_level_of_one_pixel_says_something():
    """Of few channels and a single frame, too; in groups of one channel it would be normalised to nothing."""
    made, size = encoder(layers=0), (64, 64)
    with torch.no_grad():
        last = [made(maps(1, size), 1, size, [size]).memory[0, 0, -1] for _ in range(2)]
    assert (last[0] - last[1]).abs().max() > 0.1


@pytest.mark.parametrize("dim", [192, 256])
def test_published_sizes_are_normalised_in_32_groups(dim):
    norms = [m for m in Encoder(CHANNELS, dim, num_layers=0).modules() if isinstance(m, torch.nn.GroupNorm)]
    assert [norm.num_groups for norm in norms] == [32] * 4


def test_a_layer_by_its_definition():
    """Post-norm: attention of tokens plus position on tokens; a GELU MLP."""
    layer = spread(EncoderLayer(8, 2, 2, 2, mlp_ratio=3), 0.3)
    shapes = ((2, 3), (1, 2))
    x, position = torch.randn(1, 8, 8, dtype=torch.float64), torch.randn(1, 8, 8, dtype=torch.float64)
    mask = torch.tensor([[False] * 5 + [True] + [False] * 2])
    centers = pixel_centers(shapes, torch.float64, x.device)
    with torch.no_grad():
        got = layer(x, position, centers, shapes, mask)[0]
        attn, q = layer.self_attn, (x + position)[0]
        value = torch.where(mask[0, :, None], 0.0, attn.value_proj(x[0])).unflatten(1, (2, 4))
        offsets = attn.sampling_offsets(q).view(8, 2, 2, 2, 2) / 8
        weights = attn.attention_weights(q).view(8, 2, 4).softmax(-1).view(8, 2, 2, 2)
        seen = attn.output_proj(deformable(value, shapes, centers[0, :, None, None, None] + offsets, weights))
        middle = F.layer_norm(x[0] + seen, (8,), layer.norm1.weight, layer.norm1.bias)
        first, second = layer.mlp.layers
        assert first.out_features == 24
        hidden = first(middle)
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
        want = F.layer_norm(middle + second(hidden), (8,), layer.norm2.weight, layer.norm2.bias)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_padding_is_as_if_it_were_not_there():
    """The valid part of a padded map gives what the map without padding gives, at the same distances in pixels."""
    layer = spread(EncoderLayer(8, 2, 2, 2), 0.2)
    wide, narrow = ((4, 8), (2, 4)), ((4, 4), (2, 2))
    mask = torch.cat([torch.arange(w).expand(h, w).flatten() >= w // 2 for h, w in wide])[None]
    x, position = torch.randn(1, 40, 8, dtype=torch.float64), torch.randn(1, 40, 8, dtype=torch.float64)
    with torch.no_grad():
        padded = layer(x, position, pixel_centers(wide, torch.float64, x.device), wide, mask)
        # Half as wide: an offset of as many pixels is twice as large a part of the map.
        for parameter in (layer.self_attn.sampling_offsets.weight, layer.self_attn.sampling_offsets.bias):
            parameter.unflatten(0, (-1, 2))[:, 0] *= 2
        alone = layer(
            x[:, ~mask[0]], position[:, ~mask[0]], pixel_centers(narrow, torch.float64, x.device), narrow, None
        )
    torch.testing.assert_close(padded[:, ~mask[0]], alone, rtol=1e-9, atol=1e-11)


def test_what_padded_tokens_hold_never_reaches_the_valid_ones():
    layers = [spread(EncoderLayer(8, 2, 2, 2), 0.3) for _ in range(3)]
    shapes = ((4, 6), (2, 3))
    mask = torch.rand(2, 30) < 0.4
    x, position = torch.randn(2, 30, 8, dtype=torch.float64), torch.randn(2, 30, 8, dtype=torch.float64)
    centers = pixel_centers(shapes, torch.float64, x.device)
    with torch.no_grad():
        one, other = x, torch.where(mask[..., None], torch.randn_like(x) * 100, x)
        for layer in layers:
            one, other = (layer(t, position, centers, shapes, mask) for t in (one, other))
    assert torch.equal(one[~mask], other[~mask])
    assert not torch.equal(one[mask], other[mask])


def test_clips_of_different_sizes():
    """Position and padding are each clip's own, for all of its frames."""
    made, inputs, sizes = encoder(), maps(6), [(64, 96), (40, 50), (64, 33)]
    with torch.no_grad():
        together = made(inputs, 3, PADDED, sizes)
        assert together.memory.shape == (3, 2, 96 + 24 + 6 + 2, 32)
        assert together.padding_mask.shape == (3, 128)
        for i, size in enumerate(sizes):
            alone = made([m[2 * i : 2 * i + 2] for m in inputs], 1, PADDED, [size])
            torch.testing.assert_close(together.memory[i], alone.memory[0], rtol=1e-10, atol=1e-12)
            if alone.padding_mask is None:
                assert not together.padding_mask[i].any()
            else:
                assert torch.equal(together.padding_mask[i], alone.padding_mask[0])
        shared = made(inputs, 3, PADDED, [(40, 50)])
        each = made(inputs, 3, PADDED, [(40, 50)] * 3)
    torch.testing.assert_close(shared.memory, each.memory, rtol=1e-10, atol=1e-12)
    assert shared.padding_mask.shape == (1, 128)


def test_frames_do_not_see_each_other():
    made, inputs = encoder(), maps(3)
    with torch.no_grad():
        before = made(inputs, 1, PADDED, [PADDED]).memory
        for m in inputs:
            m[1] += 1
        after = made(inputs, 1, PADDED, [PADDED]).memory
    assert torch.equal(before[0, 0], after[0, 0])
    assert torch.equal(before[0, 2], after[0, 2])
    assert not torch.allclose(before[0, 1], after[0, 1])


def test_every_parameter_learns():
    made = encoder().train()
    for layer in made.layers:
        layer.dropout.p = layer.mlp.dropout.p = 0
    made(maps(), 1, PADDED, [(50, 70)]).memory.mul(torch.randn(128, 32)).sum().backward()
    assert [name for name, p in made.named_parameters() if not p.grad.any()] == []


def test_dropout_is_for_training_alone():
    made, inputs = encoder(dropout=0.5), maps()
    with torch.no_grad():
        assert torch.equal(made(inputs, 1, PADDED, [PADDED]).memory, made(inputs, 1, PADDED, [PADDED]).memory)
        made.train()
        assert not torch.equal(made(inputs, 1, PADDED, [PADDED]).memory, made(inputs, 1, PADDED, [PADDED]).memory)
