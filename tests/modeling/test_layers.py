"""MLP, dropout and the warning about bfloat16."""

import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mdqe.modeling import layers
from mdqe.modeling.layers import MLP, Dropout, warn_if_type_is_slow


def test_mlp_equals_plain_arithmetic():
    mlp, x = MLP(5, 7, 3).double(), torch.randn(2, 4, 5, dtype=torch.float64)
    first, second, third = mlp.layers
    y = x
    for layer in (first, second):
        y = y @ layer.weight.T + layer.bias
        y = 0.5 * y * (1 + torch.erf(y / math.sqrt(2)))
    torch.testing.assert_close(mlp(x), y @ third.weight.T + third.bias, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("num_layers", "widths"), [(4, [(7, 5), (7, 7), (7, 7), (3, 7)]), (1, [(3, 5)])])
def test_mlp_widths(num_layers, widths):
    assert [tuple(layer.weight.shape) for layer in MLP(5, 7, 3, num_layers=num_layers).layers] == widths


def test_mlp_has_dropout_in_training_only():
    mlp, x = MLP(5, 64, 3, dropout=0.5), torch.randn(4, 5)
    assert not torch.equal(mlp(x), mlp(x))
    mlp.eval()
    assert torch.equal(mlp(x), mlp(x))


def test_mlp_computes_many_tokens_in_parts_without_gradients(monkeypatch):
    monkeypatch.setattr(layers, "MAX_HIDDEN_NUMBERS", 7 * 3)
    mlp, x = MLP(5, 7, 3).double().eval(), torch.randn(2, 40, 5, dtype=torch.float64)
    sizes = []
    mlp.layers[0].register_forward_hook(lambda layer, inputs, y: sizes.append(y.shape[:-1].numel()))
    whole = mlp(x)
    assert sizes == [80]
    sizes.clear()
    with torch.no_grad():
        parts = mlp(x.transpose(0, 1)).transpose(0, 1)  # not contiguous
    assert len(sizes) > 1 and sum(sizes) == 80 and max(sizes) <= 3 * torch.get_num_threads()
    torch.testing.assert_close(parts, whole.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dropout_has_the_rate_and_scale_of_torch(p, dtype):
    x = torch.ones(1000, 301, dtype=dtype)
    ours, theirs = Dropout(p)(x), nn.Dropout(p)(x)
    assert ours.dtype == dtype and ours.shape == x.shape
    assert (ours == 0).double().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5)
    # Both have zero and one other value, which differs by the rounding of the rate.
    assert ours.max().item() == pytest.approx(theirs.max().item(), rel=1e-2 if dtype == torch.bfloat16 else 2e-4)
    assert len(ours.unique()) == 2


def test_dropout_of_neighbours_is_independent():
    """Each random number decides about four elements. The 16 patterns of four have the expected frequencies."""
    kept = Dropout(0.25)(torch.ones(400_000)).view(-1, 4) > 0
    pattern = (kept.long() * torch.tensor([1, 2, 4, 8])).sum(1)
    expected = torch.tensor([0.75 ** bin(i).count("1") * 0.25 ** (4 - bin(i).count("1")) for i in range(16)])
    found = pattern.bincount(minlength=16) / len(pattern)
    assert ((found - expected).abs() < 5 * (expected / len(pattern)).sqrt()).all()


def test_dropout_multiplies_the_gradient_by_the_mask():
    x = torch.randn(7, 5, 3, requires_grad=True)
    y = Dropout(0.3)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), y.detach())


def test_dropout_depends_on_the_seed():
    x, results = torch.randn(33), []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(Dropout(0.5)(x))
    assert results[0].equal(results[1]) and not results[0].equal(Dropout(0.5)(x))


@pytest.mark.parametrize("p", [0.0, 1e-6, 1.0])
def test_dropout_at_the_ends_of_the_range(p):
    x = torch.randn(100)
    assert Dropout(p)(x).equal(x * (p < 0.5))
    assert Dropout(p).eval()(x).equal(x)


def test_dropout_keeps_any_shape():
    assert Dropout(0.5)(torch.ones(2, 0, 3)).shape == (2, 0, 3)
    assert Dropout(0.5)(torch.ones(4, 6).t()).shape == (6, 4)


@pytest.mark.parametrize("p", [-0.1, 1.5])
def test_dropout_rejects_other_rates(p):
    with pytest.raises(ValueError, match=f"p is {p}"):
        Dropout(p)


@pytest.mark.parametrize(
    ("device", "operators", "expected"),
    [
        ("cpu", {"_is_mkldnn_bf16_supported": lambda: False}, 1),
        ("cpu", {"_is_mkldnn_bf16_supported": lambda: True}, 0),
        ("cuda", {"_is_mkldnn_bf16_supported": lambda: False}, 0),
        ("cpu", {}, 0),
    ],
)
def test_the_warning_about_bfloat16_depends_on_what_pytorch_supports(monkeypatch, device, operators, expected):
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**operators))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_type_is_slow(torch.device(device), torch.bfloat16)
        warn_if_type_is_slow(torch.device(device), torch.float32)
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == expected
    assert all(text.startswith("bfloat16 is several times slower than float32 on this CPU") for text in texts)


def test_pytorch_says_whether_it_supports_bfloat16():
    """The operator has a private name; without it, no CPU gets the warning."""
    assert torch.ops.mkldnn._is_mkldnn_bf16_supported() in (True, False)


def test_float16_is_warned_about_too(monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(_is_mkldnn_fp16_supported=lambda: False))
    with pytest.warns(UserWarning, match=r"^float16 is several times slower than float32 on this CPU"):
        warn_if_type_is_slow(torch.device("cpu"), torch.float16)
