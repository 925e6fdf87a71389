"""Box geometry: refinement in logit space and unions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mdqe.boxes import box_iou, inverse_sigmoid, mask_boxes, refine, union

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
def test_refinement_is_invertible(boxes, delta):
    boxes = torch.from_numpy(boxes)
    moved = refine(boxes, torch.full_like(boxes, delta))
    assert ((moved > boxes) == (delta > 0)).all() or abs(delta) < 1e-9
    inside = (moved > 1e-5) & (moved < 1 - 1e-5)  # outside, the logit is clamped
    torch.testing.assert_close(
        refine(moved, torch.full_like(boxes, -delta))[inside], boxes[inside], rtol=1e-8, atol=1e-9
    )


@given(hnp.arrays("float64", (5, 3, 4), elements=UNIT))
def test_union_is_the_smallest_enclosing_box(boxes):
    boxes = torch.from_numpy(boxes)
    result = union(boxes, 0)
    for k in range(3):
        corners = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in boxes[:, k].tolist()]
        left, top = (min(max(min(c[i] for c in corners), 0), 1) for i in (0, 1))
        right, bottom = (min(max(max(c[i] for c in corners), 0), 1) for i in (2, 3))
        expected = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        assert result[k].tolist() == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(union(boxes.transpose(0, 1), 1), result, rtol=0, atol=0)
    torch.testing.assert_close(union(boxes.flip(0), 0), result, rtol=0, atol=0)


def test_union_of_one_box_is_the_box():
    boxes = torch.tensor([[[0.5, 0.4, 0.2, 0.3]]], dtype=torch.float64)
    torch.testing.assert_close(union(boxes, 0), boxes[0])


def test_boxes_of_masks():
    masks = torch.zeros(3, 5, 7, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    masks[1, 4, 6] = True
    assert mask_boxes(masks).tolist() == [[2, 1, 6, 3], [6, 4, 7, 5], [0, 0, 0, 0]]


def test_tiny_boxes_have_a_small_iou():
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.25, 0.0, 0.75, 0.5], [0.0, 0.0, 0.01, 0.01]])
    iou = box_iou(boxes[:, None], boxes)
    assert iou[0, 1].item() == pytest.approx(1 / 3)
    assert iou[2, 2].item() == pytest.approx(0.1)  # 1e-4 over a union of at least 1e-3
