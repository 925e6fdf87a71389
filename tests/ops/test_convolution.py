"""3×3 convolutions: the compiled kernel against sums over the taps in float64, and where it is used."""

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mdqe.modeling import layers
from mdqe.modeling.layers import Conv2d
from mdqe.ops.convolution import can_convolve, conv3x3
from mdqe.ops.kernels import has_conv3x3, limit_cpu

ROUNDING = 2e-6
"""Largest error, relative to the largest sum of absolute products: a few units of float32's 6e-8."""

SHAPES = [
    # B, C, H, W, O
    (1, 8, 1, 1, 16),
    (2, 8, 1, 2, 16),
    (1, 16, 2, 1, 32),
    (3, 24, 5, 7, 48),
    (2, 64, 13, 14, 16),
    (1, 56, 6, 7, 16),  # three and a half vectors of inputs with AVX-512
    (1, 32, 12, 16, 32),  # a whole block of tiles
    (5, 40, 10, 10, 16),
    (1, 136, 3, 200, 32),
]


@pytest.fixture(autouse=True, params=["AVX2", "AVX-512"])
def kernel(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each kernel that this processor can run."""
    name = limit_cpu(request.param.lower().replace("-", ""))
    if name != request.param:
        limit_cpu(None)
        pytest.skip(f"the kernels were not built, or this processor has no {request.param}")
    assert has_conv3x3()
    yield
    limit_cpu(None)


def random(batch: int, inputs: int, height: int, width: int, outputs: int, seed: int = 0) -> tuple[Tensor, ...]:
    """An input, channels last, weights and a bias."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, height, width, inputs, generator=g).permute(0, 3, 1, 2)
    return x, torch.randn(outputs, inputs, 3, 3, generator=g), torch.randn(outputs, generator=g)


def slow(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The definition, in float64."""
    x, weight, bias = x.double(), weight.double(), bias.double()
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1))
    taps = [(i, j) for i in range(3) for j in range(3)]
    return bias[:, None, None] + sum(
        torch.einsum("bchw,oc->bohw", padded[..., i : i + height, j : j + width], weight[..., i, j]) for i, j in taps
    )


def assert_close(result: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Compare with the definition."""
    assert result.dtype == torch.float32
    assert result.shape == (len(x), len(weight), *x.shape[2:])
    assert result.permute(0, 2, 3, 1).is_contiguous()
    largest = slow(x.abs(), weight.abs(), bias.abs()).max()
    assert (result - slow(x, weight, bias)).abs().max() <= ROUNDING * largest


@pytest.mark.parametrize("shape", SHAPES)
def test_is_a_convolution(shape):
    x, weight, bias = random(*shape)
    with torch.no_grad():
        assert can_convolve(x, weight, bias)
        assert_close(conv3x3(x, weight, bias), x, weight, bias)


def test_rounds_less_than_pytorch():
    x, weight, bias = random(2, 128, 24, 24, 64)
    expected = slow(x, weight, bias)
    errors = [
        (result - expected).square().mean() for result in (conv3x3(x, weight, bias), F.conv2d(x, weight, bias, 1, 1))
    ]
    assert errors[0] < errors[1]


def test_each_weight_and_pixel_exactly():
    """Small integers have no rounding: every tap, at every border."""
    g = torch.Generator().manual_seed(1)
    x = torch.randint(-4, 5, (2, 7, 6, 8), generator=g).float().permute(0, 3, 1, 2)
    weight, bias = torch.randint(-2, 3, (16, 8, 3, 3), generator=g).float() * 4, torch.arange(16.0)
    assert torch.equal(conv3x3(x, weight, bias).double(), slow(x, weight, bias))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_batches_change_nothing(threads):
    x, weight, bias = random(5, 16, 9, 11, 32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        together = conv3x3(x, weight, bias)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together, torch.cat([conv3x3(one, weight, bias) for one in x.split(1)]))


def test_memory_of_any_layout():
    """Frames that are far apart are read in place; weights and other inputs are copied."""
    x, weight, bias = random(6, 16, 4, 6, 16)
    with torch.no_grad():
        apart = x[::2]
        assert can_convolve(apart, weight, bias)
        assert_close(conv3x3(apart, weight, bias), apart, weight, bias)
        assert_close(conv3x3(x[:, :, 1:3, 1:5], weight, bias), x[:, :, 1:3, 1:5], weight, bias)
        planes = x.contiguous()
        assert not can_convolve(planes, weight, bias)
        assert_close(conv3x3(planes, weight, bias), planes, weight, bias)
        last = weight.contiguous(memory_format=torch.channels_last)
        assert_close(conv3x3(x, last, bias.repeat(2)[::2]), x, weight, bias.repeat(2)[::2])


def test_no_frames():
    x, weight, bias = random(1, 16, 4, 6, 16)
    assert conv3x3(x[:0], weight, bias).shape == (0, 16, 4, 6)
    assert conv3x3(x[:, :, :0], weight, bias).shape == (1, 16, 0, 6)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "message"),
    [
        ((1, 8, 4, 4), (16, 16, 3, 3), (16,), "weight must be"),
        ((1, 8, 4, 4), (16, 8, 3, 2), (16,), "weight must be"),
        ((1, 8, 4, 4), (16, 8, 3, 3), (8,), "bias"),
        ((1, 8, 4, 4), (8, 8, 3, 3), (8,), "multiples"),
        ((1, 4, 4, 4), (16, 4, 3, 3), (16,), "multiples"),
    ],
)
def test_wrong_sizes(x, weight, bias, message):
    with pytest.raises(RuntimeError, match=message):
        conv3x3(torch.ones(x), torch.ones(weight), torch.ones(bias))


def test_wrong_types():
    x, weight, bias = random(1, 8, 4, 4, 16)
    for given in ((x.double(), weight, bias), (x, weight.half(), bias), (x, weight, bias.bfloat16())):
        with pytest.raises(RuntimeError, match="float32"):
            conv3x3(*given)


def test_not_used_where_pytorch_must_see_the_convolution():
    x, weight, bias = random(1, 8, 4, 6, 16)
    assert not can_convolve(x, weight, bias)  # gradients are enabled
    with torch.no_grad():
        assert can_convolve(x, weight, bias)
        assert can_convolve(x, nn.Parameter(weight), bias)
        assert not can_convolve(x, weight, None)
        assert not can_convolve(x.double(), weight.double(), bias.double())
        assert not can_convolve(x.to("meta"), weight.to("meta"), bias.to("meta"))
        assert not can_convolve(x, weight[:8], bias[:8])
        with torch.autocast("cpu", torch.bfloat16):
            assert not can_convolve(x, weight, bias)
        with FlopCounterMode(display=False):
            assert not can_convolve(x, weight, bias)
        limit_cpu("default")
        assert not can_convolve(x, weight, bias)


def test_derivatives_in_forward_mode():
    x, weight, bias = random(1, 8, 4, 6, 16)
    layer = Conv2d(8, 16, 3, padding=1)
    layer.load_state_dict({"weight": weight, "bias": bias})
    with torch.no_grad():
        _, derivative = torch.func.jvp(layer, (x,), (x,))
    assert torch.equal(derivative, F.conv2d(x, weight, padding=1))


def test_vmap_sees_a_convolution_of_pytorch():
    """PyTorch knows how to batch its own convolution; it would call the kernel once for each item."""
    x, weight, bias = random(2, 8, 4, 6, 16)
    with torch.no_grad():
        used = []
        torch.vmap(lambda one: used.append(can_convolve(one[None], weight, bias)) or one)(x)
    assert used == [False]


class Counted(Exception):
    """The kernel was called."""


@pytest.mark.parametrize(
    ("options", "used"),
    [
        ({"padding": 1}, True),
        ({"padding": "same"}, False),
        ({"padding": 0}, False),
        ({"padding": 1, "stride": 2}, False),
        ({"padding": 1, "groups": 2}, False),
        ({"padding": 1, "dilation": 2}, False),
        ({"padding": 1, "bias": False}, False),
        ({"padding": 1, "padding_mode": "reflect"}, False),
    ],
)
def test_layer_of_any_kind(options, used, monkeypatch):
    """The layer has the results of `nn.Conv2d`, and calls the kernel only where that is the same convolution."""
    torch.manual_seed(0)
    layer, plain = Conv2d(16, 32, 3, **options), nn.Conv2d(16, 32, 3, **options)
    plain.load_state_dict(layer.state_dict(), strict=True)
    x = random(2, 16, 6, 8, 32)[0]
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-5)

        def counted(*_: Tensor) -> Tensor:
            raise Counted

        monkeypatch.setattr(layers, "conv3x3", counted)
        if used:
            with pytest.raises(Counted):
                layer(x)
        else:
            layer(x)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
def test_layer_is_a_convolution_for_others():
    """Gradients, float64, hooks, copies, pickles and exports are those of `nn.Conv2d`."""
    torch.manual_seed(0)
    layer, plain = Conv2d(8, 16, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
    plain.load_state_dict(layer.state_dict(), strict=True)
    assert isinstance(layer, nn.Conv2d)
    x = random(1, 8, 5, 6, 16)[0].requires_grad_()
    for one in (layer, plain):
        one(x).square().sum().backward()
    assert torch.equal(layer.weight.grad, plain.weight.grad)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(layer).double()(x.double()), copy.deepcopy(plain).double()(x.double()))
        seen = []
        layer.register_forward_hook(lambda module, arguments, output: seen.append(output))
        expected = layer(x)
        assert seen[0] is expected
        assert torch.equal(copy.deepcopy(layer)(x), expected)
        layer._forward_hooks.clear()
        assert torch.equal(pickle.loads(pickle.dumps(layer))(x), expected)
        for program in (torch.export.export(layer, (x.detach(),)).graph, torch.jit.trace(layer, (x.detach(),)).graph):
            assert "mdqe::" not in str(program)
            assert "conv2d" in str(program) or "convolution" in str(program)


def test_changed_weights_count_at_once():
    layer = Conv2d(8, 16, 3, padding=1)
    x = random(1, 8, 5, 6, 16)[0]
    with torch.no_grad():
        layer(x)
        layer.weight.data.zero_()
        assert torch.equal(layer(x), layer.bias[:, None, None].expand(1, 16, 5, 6))
