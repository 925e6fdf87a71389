"""MLP: linear layers with GELU between them."""

import math

import torch

from mdqe.modeling import layers as module
from mdqe.modeling.layers import MLP


def test_equals_plain_arithmetic():
    mlp, x = MLP(5, 7, 3).double(), torch.randn(2, 4, 5, dtype=torch.float64)
    first, second, third = mlp.layers
    y = x
    for layer in (first, second):
        y = y @ layer.weight.T + layer.bias
        y = 0.5 * y * (1 + torch.erf(y / math.sqrt(2)))
    torch.testing.assert_close(mlp(x), y @ third.weight.T + third.bias, rtol=1e-10, atol=1e-12)


def test_widths():
    assert [tuple(layer.weight.shape) for layer in MLP(5, 7, 3, num_layers=4).layers] == [
        (7, 5),
        (7, 7),
        (7, 7),
        (3, 7),
    ]
    assert [tuple(layer.weight.shape) for layer in MLP(5, 7, 3, num_layers=1).layers] == [(3, 5)]


def test_dropout_is_for_training_alone():
    mlp, x = MLP(5, 64, 3, dropout=0.5), torch.randn(4, 5)
    assert not torch.equal(mlp(x), mlp(x))
    mlp.eval()
    assert torch.equal(mlp(x), mlp(x))


def test_many_tokens_are_taken_in_parts_without_gradients(monkeypatch):
    monkeypatch.setattr(module, "HIDDEN_AT_ONCE", 7 * 3)
    mlp, x = MLP(5, 7, 3).double().eval(), torch.randn(2, 40, 5, dtype=torch.float64)
    sizes = []
    mlp.layers[0].register_forward_hook(lambda layer, given, y: sizes.append(y.shape[:-1].numel()))
    whole = mlp(x)
    assert sizes == [80]
    sizes.clear()
    with torch.no_grad():
        parts = mlp(x.transpose(0, 1)).transpose(0, 1)  # not contiguous
    assert len(sizes) > 1 and sum(sizes) == 80 and max(sizes) <= 3 * torch.get_num_threads()
    torch.testing.assert_close(parts, whole.detach(), rtol=1e-12, atol=1e-14)
