"""Dropout against what it promises: its rate, its mean, its gradient, its use of the generator."""

import pytest
import torch
from torch import nn

from mdqe.modeling.layers import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rate_and_scale_are_those_of_torch(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(1000, 301, dtype=dtype)
    ours, theirs = Dropout(p)(x), nn.Dropout(p)(x)
    assert ours.dtype == dtype and ours.shape == x.shape
    assert (ours == 0).double().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5)
    # Both have zero and one other value; ours differs by the rounding of the rate alone.
    assert ours.max().item() == pytest.approx(theirs.max().item(), rel=1e-2 if dtype == torch.bfloat16 else 2e-4)
    assert len(ours.unique()) == 2


def test_neighbours_share_a_number_and_nothing_else():
    """Four elements come from each number: the 16 patterns of four are as frequent as if they were independent."""
    torch.manual_seed(1)
    kept = Dropout(0.25)(torch.ones(400_000)).view(-1, 4) > 0
    pattern = (kept.long() * torch.tensor([1, 2, 4, 8])).sum(1)
    expected = torch.tensor([0.75 ** bin(i).count("1") * 0.25 ** (4 - bin(i).count("1")) for i in range(16)])
    found = pattern.bincount(minlength=16) / len(pattern)
    assert ((found - expected).abs() < 5 * (expected / len(pattern)).sqrt()).all()


def test_gradient_is_the_mask():
    x = torch.randn(7, 5, 3, requires_grad=True)
    y = Dropout(0.3)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), y.detach())


def test_seed_decides():
    x = torch.randn(33)
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(Dropout(0.5)(x))
        again = Dropout(0.5)(x)
    assert drawn[0].equal(drawn[1]) and not again.equal(drawn[0])


@pytest.mark.parametrize("p", [0.0, 1e-6, 1.0])
def test_ends_of_the_range(p):
    x = torch.randn(100)
    assert Dropout(p)(x).equal(x * (p < 0.5))
    assert Dropout(p).eval()(x).equal(x)


def test_layouts_and_empty_tensors_keep_their_shape():
    assert Dropout(0.5)(torch.ones(2, 0, 3)).shape == (2, 0, 3)
    x = torch.ones(4, 6).t()
    assert Dropout(0.5)(x).shape == (6, 4)


@pytest.mark.parametrize("p", [-0.1, 1.5])
def test_bad_rate_is_named(p):
    with pytest.raises(ValueError, match=f"p is {p}"):
        Dropout(p)
