"""Encoder: positions, padding, levels and layers."""

import math

import pytest
import torch
from slow_attention import deformable, spread
from torch import Tensor
from torch.nn import functional as F

from mdqe.modeling.encoder import Encoder, EncoderLayer, level_masks, pixel_centers, sine_position

PADDED = (64, 96)
CHANNELS = (5, 7, 9)
CPU = torch.device("cpu")


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def random_maps(frames: int = 2, size: tuple[int, int] = PADDED) -> list[Tensor]:
    return [random(frames, c, size[0] // s, size[1] // s) for c, s in zip(CHANNELS, (8, 16, 32), strict=True)]


def make_encoder(layers: int = 2, **options) -> Encoder:
    return spread(Encoder(CHANNELS, 32, num_layers=layers, num_heads=4, num_points=2, **options), 0.1)


@pytest.mark.parametrize("dim", [8, 20])
def test_sine_position_pixel_by_pixel(dim):
    """Valid rows and columns are counted from 1 and scaled to 2π; y comes first, sine and cosine alternate."""
    mask = torch.zeros(2, 5, 7, dtype=torch.bool)
    mask[1, 3:] = True
    mask[1, :, 4:] = True
    result = sine_position(mask, dim, torch.float64)
    assert result.shape == (2, 5, 7, dim)
    half = dim // 2
    for b, (height, width) in enumerate([(5, 7), (3, 4)]):
        for y in range(height):
            for x in range(width):
                for axis, position in enumerate([(y + 1) / (height + 1e-6), (x + 1) / (width + 1e-6)]):
                    for i in range(half):
                        angle = position * 2 * math.pi / 10000 ** (2 * (i // 2) / half)
                        expected = math.cos(angle) if i % 2 else math.sin(angle)
                        assert float(result[b, y, x, axis * half + i]) == pytest.approx(expected, abs=1e-12)


def test_positions_of_all_levels():
    """Sine encoding plus level embedding; the levels follow one another, row by row."""
    encoder, shapes = make_encoder(), ((8, 12), (4, 6), (2, 3), (1, 2))
    masks = [torch.zeros(1, h, w, dtype=torch.bool) for h, w in shapes]
    sines = [sine_position(m, 32, torch.float64)[0] for m in masks]
    expected = [s[y, x] + e for s, e in zip(sines, encoder.level_embed, strict=True) for y in range(len(s))
                for x in range(s.shape[1])]  # fmt: skip
    torch.testing.assert_close(encoder.position(masks, torch.float64)[0], torch.stack(expected))


@pytest.mark.parametrize("size", [(64, 96), (33, 65), (1, 1), (32, 64), (57, 96), (50, 70)])
def test_padding_of_every_level(size):
    """A cell is valid if it starts inside the frame; levels beyond the backbone's resize the last mask."""
    shapes = ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))
    masks = level_masks(PADDED, [size], shapes, 3, CPU)
    for mask, (h, w), stride in zip(masks[:3], shapes, (8, 16, 32), strict=False):
        for y in range(h):
            for x in range(w):
                assert bool(mask[0, y, x]) == (y * stride >= size[0] or x * stride >= size[1])
        assert (~mask[0]).sum() == math.ceil(size[0] / stride) * math.ceil(size[1] / stride)
    last = masks[2]
    for mask, (h, w) in zip(masks[3:], shapes[3:], strict=True):
        rows, columns = ([int(i * a / b) for i in range(b)] for a, b in zip(last.shape[1:], (h, w), strict=True))
        assert torch.equal(mask[0], last[0, rows][:, columns])
        last = mask


def test_centers_of_pixels():
    shapes = ((3, 4), (1, 2))
    expected = [((x + 0.5) / w, (y + 0.5) / h) for h, w in shapes for y in range(h) for x in range(w)]
    torch.testing.assert_close(pixel_centers(shapes, torch.float64, CPU), torch.tensor([expected], dtype=torch.float64))


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_levels_without_layers(levels):
    """1×1 convolutions, further levels by stride-2 convolutions of the last map, and the final norm."""
    encoder, maps = make_encoder(layers=0, num_levels=levels), random_maps(6)
    with torch.no_grad():
        result = encoder(maps, 2, PADDED, [PADDED])
        expected = []
        for i, m in enumerate(maps):
            conv, norm = encoder.projections[i]
            flat = torch.einsum("bchw,oc->bohw", m, conv.weight[:, :, 0, 0]) + conv.bias[:, None, None]
            expected.append(F.group_norm(flat, 16, norm.weight, norm.bias))
        source = maps[-1]
        for conv, norm in encoder.projections[3:]:
            source = F.conv2d(source, conv.weight, conv.bias, stride=2, padding=1)
            source = F.group_norm(source, 16, norm.weight, norm.bias)
            expected.append(source)
        tokens = torch.cat([x.permute(0, 2, 3, 1).reshape(6, -1, 32) for x in expected], 1)
        tokens = F.layer_norm(tokens, (32,), encoder.norm.weight, encoder.norm.bias)
    assert result.spatial_shapes == ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))[:levels]
    assert result.padding_mask is None
    torch.testing.assert_close(result.memory, tokens.unflatten(0, (2, 3)), rtol=1e-9, atol=1e-10)


def test_a_level_of_one_pixel_keeps_information():
    """Groups of one channel would normalise it to zero."""
    encoder, size = make_encoder(layers=0), (64, 64)
    with torch.no_grad():
        last = [encoder(random_maps(1, size), 1, size, [size]).memory[0, 0, -1] for _ in range(2)]
    assert (last[0] - last[1]).abs().max() > 0.1


@pytest.mark.parametrize("dim", [192, 256])
def test_published_sizes_have_32_groups(dim):
    norms = [m for m in Encoder(CHANNELS, dim, num_layers=0).modules() if isinstance(m, torch.nn.GroupNorm)]
    assert [norm.num_groups for norm in norms] == [32] * 4


def test_a_layer_by_its_definition():
    """Post-norm: attention whose queries are tokens plus position and whose values are tokens; a GELU MLP."""
    layer, shapes = spread(EncoderLayer(8, 2, 2, 2, mlp_ratio=3), 0.3), ((2, 3), (1, 2))
    x, position = random(1, 8, 8), random(1, 8, 8)
    mask = torch.tensor([[False] * 5 + [True] + [False] * 2])
    centers = pixel_centers(shapes, torch.float64, CPU)
    with torch.no_grad():
        result = layer(x, position, centers, shapes, mask)[0]
        attn, query = layer.self_attn, (x + position)[0]
        value = torch.where(mask[0, :, None], 0.0, attn.value_proj(x[0])).unflatten(1, (2, 4))
        offsets = attn.sampling_offsets(query).view(8, 2, 2, 2, 2) / 8
        weights = attn.attention_weights(query).view(8, 2, 4).softmax(-1).view(8, 2, 2, 2)
        attended = attn.output_proj(deformable(value, shapes, centers[0, :, None, None, None] + offsets, weights))
        middle = F.layer_norm(x[0] + attended, (8,), layer.norm1.weight, layer.norm1.bias)
        first, second = layer.mlp.layers
        assert first.out_features == 24
        hidden = first(middle)
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
        expected = F.layer_norm(middle + second(hidden), (8,), layer.norm2.weight, layer.norm2.bias)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-11)


def test_padding_equals_a_smaller_map():
    """The valid part of a padded map gives the result of the map without padding, at equal distances in pixels."""
    layer = spread(EncoderLayer(8, 2, 2, 2), 0.2)
    wide, narrow = ((4, 8), (2, 4)), ((4, 4), (2, 2))
    mask = torch.cat([torch.arange(w).expand(h, w).flatten() >= w // 2 for h, w in wide])[None]
    x, position, valid = random(1, 40, 8), random(1, 40, 8), ~mask[0]
    with torch.no_grad():
        padded = layer(x, position, pixel_centers(wide, torch.float64, CPU), wide, mask)
        # The map is half as wide: the same number of pixels is twice as large a part of it.
        for parameter in (layer.self_attn.sampling_offsets.weight, layer.self_attn.sampling_offsets.bias):
            parameter.unflatten(0, (-1, 2))[:, 0] *= 2
        alone = layer(x[:, valid], position[:, valid], pixel_centers(narrow, torch.float64, CPU), narrow, None)
    torch.testing.assert_close(padded[:, valid], alone, rtol=1e-9, atol=1e-11)


def test_padded_tokens_have_no_effect_after_several_layers():
    layers, shapes = [spread(EncoderLayer(8, 2, 2, 2), 0.3) for _ in range(3)], ((4, 6), (2, 3))
    mask, position, one = torch.rand(2, 30) < 0.4, random(2, 30, 8), random(2, 30, 8)
    other = torch.where(mask[..., None], random(2, 30, 8) * 100, one)
    with torch.no_grad():
        for layer in layers:
            centers = pixel_centers(shapes, torch.float64, CPU)
            one, other = (layer(x, position, centers, shapes, mask) for x in (one, other))
    assert torch.equal(one[~mask], other[~mask])
    assert not torch.equal(one[mask], other[mask])


def test_clips_of_different_sizes():
    """Each clip has its own positions and padding for all of its frames."""
    encoder, maps, sizes = make_encoder(), random_maps(6), [(64, 96), (40, 50), (64, 33)]
    with torch.no_grad():
        together = encoder(maps, 3, PADDED, sizes)
        assert together.memory.shape == (3, 2, 96 + 24 + 6 + 2, 32)
        assert together.padding_mask.shape == (3, 128)
        for i, size in enumerate(sizes):
            alone = encoder([m[2 * i : 2 * i + 2] for m in maps], 1, PADDED, [size])
            torch.testing.assert_close(together.memory[i], alone.memory[0], rtol=1e-10, atol=1e-12)
            if alone.padding_mask is None:
                assert not together.padding_mask[i].any()
            else:
                assert torch.equal(together.padding_mask[i], alone.padding_mask[0])
        shared, each = (encoder(maps, 3, PADDED, [(40, 50)] * n) for n in (1, 3))
    torch.testing.assert_close(shared.memory, each.memory, rtol=1e-10, atol=1e-12)
    assert shared.padding_mask.shape == (1, 128)


def test_frames_are_independent():
    encoder, maps = make_encoder(), random_maps(3)
    with torch.no_grad():
        before = encoder(maps, 1, PADDED, [PADDED]).memory
        for m in maps:
            m[1] += 1
        after = encoder(maps, 1, PADDED, [PADDED]).memory
    assert torch.equal(before[0, ::2], after[0, ::2])
    assert not torch.allclose(before[0, 1], after[0, 1])


def test_every_parameter_has_a_gradient():
    encoder = make_encoder(dropout=0.0).train()
    encoder(random_maps(), 1, PADDED, [(50, 70)]).memory.mul(torch.randn(128, 32)).sum().backward()
    assert [name for name, p in encoder.named_parameters() if not p.grad.any()] == []


def test_dropout_in_training_only():
    encoder, maps = make_encoder(dropout=0.5), random_maps()
    for training in (False, True):
        encoder.train(training)
        with torch.no_grad():
            one, two = (encoder(maps, 1, PADDED, [PADDED]).memory for _ in range(2))
        assert torch.equal(one, two) != training
