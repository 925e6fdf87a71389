"""MaskHead: fusion and upsampling against plain arithmetic, mask logits as products."""

import math

import pytest
import torch
from slow_attention import spread
from torch import Tensor
from torch.nn import functional as F

from mdqe.modeling.mask_head import MaskHead, mask_logits

SHAPES = ((8, 12), (4, 6), (2, 3), (1, 2))
TOKENS = sum(h * w for h, w in SHAPES)


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    parts = x.unflatten(1, (groups, -1))  # (B, G, C / G, h, w)
    mean = parts.mean((2, 3, 4), keepdim=True)
    variance = parts.var((2, 3, 4), unbiased=False, keepdim=True)
    normal = ((parts - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
    return normal * weight[:, None, None] + bias[:, None, None]


def separable(module: torch.nn.Sequential, x: Tensor, groups: int) -> Tensor:
    depthwise, pointwise, norm, _ = module
    padded = F.pad(x, (2, 2, 2, 2))
    h, w = x.shape[-2:]
    x = depthwise.bias[:, None, None] + sum(
        depthwise.weight[:, 0, i, j, None, None] * padded[..., i : i + h, j : j + w] for i in range(5) for j in range(5)
    )
    x = torch.einsum("bchw,oc->bohw", x, pointwise.weight[:, :, 0, 0]) + pointwise.bias[:, None, None]
    return group_norm(x, groups, norm.weight, norm.bias).clamp(min=0)


def slow_forward(head: MaskHead, frame: Tensor, groups: tuple[int, int]) -> Tensor:
    """Tokens (N, C) of one frame → mask features (M, H / 4, W / 4)."""
    parts = frame.split([h * w for h, w in SHAPES])[:3]
    fine, mid, coarse = (part.T.unflatten(1, shape)[None] for part, shape in zip(parts, SHAPES, strict=False))
    x = None
    for i, level in enumerate((coarse, mid, fine)):
        conv, norm, _ = head.fuse[i]
        if x is None:
            x = level
        else:
            lateral = head.lateral[i - 1]
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            x = x + torch.einsum("bchw,oc->bohw", level, lateral.weight[:, :, 0, 0]) + lateral.bias[:, None, None]
        x = group_norm(F.conv2d(x, conv.weight, conv.bias, padding=1), 8, norm.weight, norm.bias)
        x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    x = separable(head.refine, x, groups[0])
    spaced = head.upsample.bias[:, None, None].expand(1, -1, 2 * x.shape[2], 2 * x.shape[3]).clone()
    spaced[..., ::2, ::2] += head.upsample.weight[:, 0] * x[0]
    return separable(head.project, spaced, groups[1])[0]


@pytest.mark.parametrize(
    ("dim", "mask_dim", "groups"),
    [(64, 32, (32, 32)), (192, 24, (32, 24)), (48, 24, (24, 24)), (40, 5, (8, 1)), (32, 4, (32, 4))],
)
def test_equals_plain_arithmetic(dim, mask_dim, groups):
    """GroupNorm has 32 groups, or 24 if 32 does not divide the channels, or fewer in small models."""
    head = spread(MaskHead(dim, mask_dim), 0.1)
    memory = torch.randn(2, 2, TOKENS, dim, dtype=torch.float64)
    with torch.no_grad():
        result = head(memory, SHAPES)
        assert result.shape == (2, mask_dim, 2, 16, 24)
        for b in range(2):
            for t in range(2):
                expected = slow_forward(head, memory[b, t], groups)
                torch.testing.assert_close(result[b, :, t], expected, rtol=1e-8, atol=1e-9)


def test_the_coarsest_level_has_no_effect():
    head, memory = MaskHead(32, 4), torch.randn(1, 2, TOKENS, 32)
    with torch.no_grad():
        result = head(memory, SHAPES)
        assert torch.equal(result, head(memory[:, :, :-2], SHAPES[:3]))
        memory[:, :, -2:] = 0
        assert torch.equal(result, head(memory, SHAPES))
        memory[:, :, 0] = 0
        assert not torch.equal(result, head(memory, SHAPES))


def test_masks_are_coefficients_times_features():
    coefficients, features = torch.randn(2, 3, 4).double(), torch.randn(2, 4, 2, 5, 6).double()
    result = mask_logits(coefficients, features)
    expected = sum(coefficients[..., m, None, None, None] * features[:, None, m] for m in range(4))
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mask_logits(coefficients[0], features[0]), result[0])


def test_every_parameter_has_a_gradient():
    """With two channels per group: GroupNorm removes the bias before a group of one channel."""
    head = spread(MaskHead(128, 64), 0.1)
    head(torch.randn(1, 2, TOKENS, 128).double(), SHAPES).square().sum().backward()
    assert {name for name, p in head.named_parameters() if p.grad.abs().max() < 1e-9} == set()


def test_a_new_head_is_smooth():
    """Features must not depend mainly on the parity of rows and columns, which would delay training."""
    shapes = ((16, 24), (8, 12), (4, 6))
    memory = torch.randn(1, 2, sum(h * w for h, w in shapes), 64) + torch.randn(64)  # each channel has its own mean
    features = MaskHead(64, 8)(memory, shapes)[0]  # (M, T, h, w)
    phases = torch.stack([features[..., y::2, x::2].mean((1, 2, 3)) for y in (0, 1) for x in (0, 1)])  # (4, M)
    assert (phases.var(0, unbiased=False) < 0.05 * features.var((1, 2, 3))).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 2), (5, 7)])
def test_last_step_equals_its_modules(size):
    """Also for a small map, where the kernel crosses both borders."""
    head = MaskHead(64, 24).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 64, *size, dtype=torch.float64)
    torch.testing.assert_close(head._project_upsampled(x), head.project(head.upsample(x)), rtol=0, atol=1e-12)


def test_bias_gradients_are_exact_in_half_precision():
    """Each is a sum over all pixels of the large map. In bfloat16 it would stop growing at some hundreds."""
    head = MaskHead(32, 4)
    head.project[2] = head.project[3] = torch.nn.Identity()  # a norm would remove most of the sum
    x = torch.randn(1, 32, 48, 80)
    with torch.autocast("cpu", torch.bfloat16):
        head._project_upsampled(x).float().sum().backward()
    assert head.project[1].bias.grad.tolist() == pytest.approx([96 * 160] * 4, rel=0.01)
