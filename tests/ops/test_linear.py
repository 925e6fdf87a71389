"""Linear layers of oneDNN: plain `nn.Linear` for everyone, computed in one pass only where nothing else can notice."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mdqe.modeling import layers as modeling
from mdqe.modeling.layers import MLP
from mdqe.ops import convolution, linear
from mdqe.ops.linear import MANY_TOKENS, TokenLinear


@pytest.fixture
def layers() -> tuple[TokenLinear, nn.Linear]:
    """The layer and a plain one with the same weights."""
    torch.manual_seed(0)
    layer, plain = TokenLinear(24, 40), nn.Linear(24, 40)
    plain.load_state_dict(layer.state_dict(), strict=True)
    return layer, plain


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """The number of rows of each layer that is computed in one pass."""
    found, original = [], linear.fused_linear

    def counted(x, *args, **options):
        found.append(x.shape[:-1].numel())
        return original(x, *args, **options)

    for module in (linear, modeling):
        monkeypatch.setattr(module, "fused_linear", counted)
    return found


@pytest.mark.parametrize("shape", [(MANY_TOKENS, 24), (2, 2, MANY_TOKENS // 4 + 1, 24)])
@pytest.mark.parametrize("threads", [1, 2])
def test_equals_a_linear_layer(layers, calls, shape, threads):
    layer, plain = layers
    x, before = torch.randn(shape), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with torch.no_grad():
            found = layer(x)
            apart = layer(x.expand(2, *shape)[:, ..., :].transpose(0, 1))  # other strides
    finally:
        torch.set_num_threads(before)
    assert len(calls) == 2
    assert found.is_contiguous()
    expected = plain.double()(x.double())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(apart[:, 1].double(), expected, rtol=0, atol=2e-6)


def test_bfloat16(layers, calls):
    layer, plain = (one.bfloat16() for one in layers)
    x = torch.randn(MANY_TOKENS, 24, dtype=torch.bfloat16)
    with torch.no_grad():
        found = layer(x)
    assert len(calls) == (not convolution.is_slow(torch.bfloat16))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), plain.double()(x.double()), rtol=2**-8, atol=1e-3)


def test_not_where_pytorch_must_see_the_layer(layers, calls):
    layer, plain = layers
    x = torch.randn(MANY_TOKENS, 24)
    layer(x).sum().backward()  # gradients
    plain(x).sum().backward()
    assert torch.equal(layer.weight.grad, plain.weight.grad)
    with torch.no_grad():
        layer(x[1:])  # few tokens
        layer(x[:0])
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        with torch.backends.mkldnn.flags(enabled=False):
            layer(x)
        assert torch.equal(torch.vmap(layer)(x[None]), plain(x)[None])
        _, derivative = torch.func.jvp(layer, (x,), (x,))
        torch.testing.assert_close(derivative, x @ plain.weight.T)
        copy.deepcopy(layer).double()(x.double())
        layer.to("meta")(x.to("meta"))
    assert not calls


def test_flops_are_those_of_a_linear_layer(layers, calls):
    layer, _ = layers
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(torch.randn(MANY_TOKENS, 24))
    assert counter.get_total_flops() == 2 * MANY_TOKENS * 24 * 40
    assert not calls


def test_pytorch_without_onednn(layers, calls, monkeypatch):
    """Such a PyTorch reports oneDNN as enabled, but its convolution raises an error."""
    layer, plain = layers
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert torch.backends.mkldnn.enabled
    x = torch.randn(MANY_TOKENS, 24)
    with torch.no_grad():
        assert torch.equal(layer(x), plain(x))
    assert not calls


def test_parameters_with_gaps(layers, calls):
    layer, _ = layers
    weight, bias, x = torch.randn(40, 48), torch.randn(80), torch.randn(MANY_TOKENS, 24)
    layer.weight, layer.bias = nn.Parameter(weight[:, ::2]), nn.Parameter(bias[::2])
    with torch.no_grad():
        torch.testing.assert_close(layer(x), x @ weight[:, ::2].T + bias[::2], rtol=0, atol=1e-4)
    assert len(calls) == 1


def test_tensors_that_are_not_dense(layers, calls):
    layer, plain = layers
    x = torch.randn(MANY_TOKENS, 24)
    with torch.no_grad():
        expected = plain(x)
        torch.testing.assert_close(layer(x.to_sparse()), expected, rtol=0, atol=1e-5)
        layer.weight = nn.Parameter(layer.weight.to_sparse_csr())
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)
    assert not calls


def test_programs_have_a_linear_layer(layers, calls):
    layer, _ = layers
    x = torch.randn(MANY_TOKENS, 24)
    with torch.no_grad():
        assert "linear" in str(torch.export.export(layer, (x,)).graph)
    assert not calls


def test_no_bias(calls):
    layer = TokenLinear(24, 40, bias=False)
    x = torch.randn(MANY_TOKENS, 24)
    with torch.no_grad():
        assert torch.equal(layer(x), x @ layer.weight.T)
    assert not calls


def test_wrong_input_has_the_message_of_a_linear_layer(layers, calls):
    layer, plain = layers
    x = torch.randn(MANY_TOKENS, 23)
    with torch.no_grad():
        for one in (layer, plain):
            with pytest.raises(RuntimeError, match="cannot be multiplied"):
                one(x)
    assert not calls


def test_hooks_copies_and_pickles(layers, calls):
    layer, _ = layers
    x = torch.randn(MANY_TOKENS, 24)
    with torch.no_grad():
        expected = layer(x)
        for one in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert torch.equal(one(x), expected)
        seen = []
        layer.register_forward_hook(lambda module, arguments, output: seen.append(output))
        assert layer(x) is seen[0]
        layer.weight.data.zero_()  # changed weights count at once
        assert torch.equal(layer(x), layer.bias.expand(MANY_TOKENS, 40))
    assert len(calls) == 5


@pytest.fixture
def mlp() -> MLP:
    torch.manual_seed(0)
    return MLP(24, 48, 16, dropout=0.5).eval()


class Doubled(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def reference(mlp: MLP, x: torch.Tensor) -> torch.Tensor:
    """The MLP in float64."""
    x = x.double()
    for layer in mlp.layers:
        x = nn.functional.linear(x, layer.weight.double(), layer.bias.double())
        x = nn.functional.gelu(x) if layer is not mlp.last else x
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_mlp_equals_its_layers(mlp, calls, dtype, monkeypatch):
    x = torch.randn(2, MANY_TOKENS, 24).to(dtype)
    mlp.to(dtype)
    tolerance = {"rtol": 0, "atol": 2e-6} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 4e-3}
    slow = dtype == torch.bfloat16 and convolution.is_slow(torch.bfloat16)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x).double(), reference(mlp, x), **tolerance)
        assert calls == ([] if slow else [2 * MANY_TOKENS] * 3)
        monkeypatch.setattr(modeling, "MAX_HIDDEN_NUMBERS", (MANY_TOKENS + 4) * 48)
        monkeypatch.setattr(modeling, "MAX_THREADS", 1)
        torch.testing.assert_close(mlp(x).double(), reference(mlp, x), **tolerance)  # in two parts, one with few tokens
    assert calls[3:] == ([] if slow else [MANY_TOKENS + 4] * 3)


def test_layers_of_an_mlp_are_called_where_it_matters(mlp, calls):
    x, seen = torch.randn(MANY_TOKENS, 24), []
    expected = reference(mlp, x).float()
    with torch.no_grad():
        handle = mlp.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
        torch.testing.assert_close(mlp(x), expected)
        handle.remove()
        assert len(seen) == 1 and seen[0].shape == (MANY_TOKENS, 48)
        everywhere = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(output))
        mlp(x)
        everywhere.remove()
        assert len(seen) > 4
        mlp.dropout.train()  # alone, as for several estimates
        assert not torch.allclose(mlp(x), expected)
        mlp.dropout.eval()
        mlp.layers[0].__class__ = Doubled  # replaced, as adapters do
        found = mlp(x)
        mlp.layers[0].__class__ = nn.Linear
        mlp.layers[0].weight *= 2
        mlp.layers[0].bias *= 2
        assert not calls
        torch.testing.assert_close(found, mlp(x))
        assert len(calls) == 3
