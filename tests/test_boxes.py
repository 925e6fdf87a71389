"""Box geometry: moving in logit space and enclosing."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mdqe.boxes import inverse_sigmoid, refine, union

UNIT = st.floats(0, 1, width=64)


def test_inverse_sigmoid_is_the_logit():
    x = torch.linspace(1e-4, 1 - 1e-4, 101, dtype=torch.float64)
    torch.testing.assert_close(inverse_sigmoid(x), torch.tensor([math.log(v / (1 - v)) for v in x.tolist()]).double())
    torch.testing.assert_close(inverse_sigmoid(x).sigmoid(), x, rtol=1e-12, atol=0)


@pytest.mark.parametrize("x", [-3.0, 0.0, 1e-12, 1.0, 1.5])
def test_inverse_sigmoid_is_finite_at_the_ends(x):
    at = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    value = inverse_sigmoid(at)
    value.backward()
    assert value.item() == pytest.approx(math.copysign(math.log(1e5), x - 0.5), rel=1e-4)
    assert at.grad.isfinite().all()


@given(hnp.arrays("float64", (3, 4), elements=st.floats(1e-4, 1 - 1e-4)), st.floats(-5, 5))
def test_refining_there_and_back(boxes, delta):
    boxes = torch.from_numpy(boxes)
    moved = refine(boxes, torch.full_like(boxes, delta))
    assert ((moved > boxes) == (delta > 0)).all() or abs(delta) < 1e-9
    inside = (moved > 1e-5) & (moved < 1 - 1e-5)  # beyond, the logit is cut
    torch.testing.assert_close(
        refine(moved, torch.full_like(boxes, -delta))[inside], boxes[inside], rtol=1e-8, atol=1e-9
    )


@given(hnp.arrays("float64", (5, 3, 4), elements=UNIT))
def test_union_is_the_smallest_box_around(boxes):
    boxes = torch.from_numpy(boxes)
    got = union(boxes, 0)
    for k in range(3):
        corners = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in boxes[:, k].tolist()]
        left, top = (min(max(min(c[i] for c in corners), 0), 1) for i in (0, 1))
        right, bottom = (min(max(max(c[i] for c in corners), 0), 1) for i in (2, 3))
        want = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        assert got[k].tolist() == pytest.approx(want, abs=1e-12)
    torch.testing.assert_close(union(boxes.transpose(0, 1), 1), got, rtol=0, atol=0)
    torch.testing.assert_close(union(boxes.flip(0), 0), got, rtol=0, atol=0)


def test_union_of_one_inside_the_image_is_itself():
    boxes = torch.tensor([[[0.5, 0.4, 0.2, 0.3]]], dtype=torch.float64)
    torch.testing.assert_close(union(boxes, 0), boxes[0])
