"""Dynamic-k assignment and its costs against loops over queries and objects."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mdqe.losses import DynamicMatcher
from mdqe.losses.matcher import mask_costs
from mdqe.losses.targets import ScaledTargets
from mdqe.modeling.network import ClipPrediction


def slow_assign(cost: np.ndarray, giou: np.ndarray) -> list[int]:
    """Costs and GIoUs (Q, K) of one layer → the object of each query, −1 for none."""
    queries, objects = cost.shape
    takers: list[set[int]] = [set() for _ in range(queries)]
    for k in range(objects):
        count = max(math.floor(sum(sorted(np.maximum(giou[:, k], 0), reverse=True)[:10])), 2)
        for q in sorted(range(queries), key=lambda q: (cost[q, k], q))[:count]:
            takers[q].add(k)

    def cheapest(q: int) -> int:
        return min(range(objects), key=lambda k: (cost[q, k], k))

    owner = [-1 if not t else next(iter(t)) if len(t) == 1 else cheapest(q) for q, t in enumerate(takers)]
    while set(range(objects)) - set(owner) and -1 in owner:
        free = [q for q in range(queries) if owner[q] < 0]
        chosen: dict[int, set[int]] = {}
        for k in set(range(objects)) - set(owner):
            chosen.setdefault(min(free, key=lambda q: (cost[q, k], q)), set()).add(k)
        for q, ks in chosen.items():
            owner[q] = next(iter(ks)) if len(ks) == 1 else cheapest(q)
    return owner


@settings(max_examples=150, deadline=None)
@given(
    queries=st.integers(1, 30),
    objects=st.integers(1, 12),
    levels=st.sampled_from([2, 5, 1000]),
    generous=st.sampled_from([0.1, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_assignment_equals_the_procedure(queries: int, objects: int, levels: int, generous: float, seed: int) -> None:
    g = np.random.default_rng(seed)
    cost = g.integers(0, levels, (3, queries, objects)).astype(np.float64)  # few levels, so many costs are equal
    giou = (g.random((3, queries, objects)) * 2 - 1) * generous
    owner = DynamicMatcher().assign(torch.from_numpy(cost), torch.from_numpy(giou))
    assert owner.tolist() == [slow_assign(c, i) for c, i in zip(cost, giou, strict=True)]


@pytest.mark.parametrize("queries", [20, 40, 200])
def test_an_object_without_a_query_means_that_no_query_is_free(queries: int) -> None:
    cost = torch.rand(4, queries, 1).expand(4, queries, 25) + torch.rand(4, queries, 25) * 0.01
    owner = DynamicMatcher().assign(cost, torch.zeros_like(cost))  # the same queries are cheapest for all objects
    for layer in owner.tolist():
        assert set(range(25)) <= set(layer) or -1 not in layer
    assert queries < 200 or (owner == -1).any()


def scaled(masks: Tensor, boxes: Tensor, labels: Tensor) -> ScaledTargets:
    ids = torch.arange(len(labels))[:, None].expand(masks.shape[:2])
    return ScaledTargets(labels, ids, boxes, masks, masks[..., ::2, ::2] > 0.5)


def random_clip(queries: int, objects: int, seed: int) -> tuple[ClipPrediction, Tensor, ScaledTargets]:
    """Prediction of a layer, mask features and objects of a small clip; one object is absent from a frame."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    corners = torch.stack([rand(objects, 3, 2), rand(objects, 3, 2)], 2).sort(2).values.flatten(2)
    corners[0, 1] = 0
    masks = (rand(objects, 3, 8, 8) * 4).round() / 4
    predicted = torch.cat([rand(1, 3, queries, 2), rand(1, 3, queries, 2) * 0.5 + 0.05], -1)
    layer = ClipPrediction(rand(1, queries, 5) * 4 - 2, rand(1, queries, 6) * 2 - 1, predicted, rand(1, queries, 8))
    return layer, rand(1, 6, 3, 8, 8) * 4 - 2, scaled(masks, corners, torch.randint(0, 5, (objects,), generator=g))


def slow_cost(layer: ClipPrediction, features: Tensor, target: ScaledTargets, q: int, k: int) -> tuple[float, float]:
    """The cost of query q for object k, and their GIoU."""
    cx, cy, w, h = layer.boxes[0, :, q].unbind(-1)
    box = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1).numpy()
    truth = target.boxes.numpy()
    gious, outside = [], 0
    for t in range(len(box)):
        if (truth[k, t, 2:] > truth[k, t, :2]).all():
            sides = np.minimum(box[t, 2:], truth[k, t, 2:]) - np.maximum(box[t, :2], truth[k, t, :2])
            intersection = np.prod(np.maximum(sides, 0))
            union = np.prod(box[t, 2:] - box[t, :2]) + np.prod(truth[k, t, 2:] - truth[k, t, :2]) - intersection
            hull = np.prod(np.maximum(box[t, 2:], truth[k, t, 2:]) - np.minimum(box[t, :2], truth[k, t, :2]))
            giou = intersection / max(union, 1e-3) - (hull - union) / max(hull, 1e-3)
            gious.append(giou if intersection > 0 else 0)
        center = (box[t, :2] + box[t, 2:]) / 2
        inside = any(((center > b[t, :2]) & (center < b[t, 2:])).all() for b in truth)
        near = any((np.abs(center - (b[t, :2] + b[t, 2:]) / 2) < 2.5 / 32).all() for b in truth)
        outside += not (inside or near)
    giou = sum(gious) / max(len(gious), 1)
    x = torch.einsum("m,mthw->thw", layer.mask_coefficients[0, q], features[0])
    m = target.masks[k]
    bce = torch.nn.functional.binary_cross_entropy_with_logits(x, m)
    p = x.sigmoid()
    dice = 1 - (2 * (p * m).sum() + 1) / (p.sum() + m.sum() + 1)
    score = layer.class_logits[0, q, target.labels[k]].sigmoid()
    box_cost = np.abs(box - truth[k]).sum() + 1 - giou
    return float(-score + 2 * box_cost + 4 * (bce + dice)) + 100 * outside, giou


def test_whole_matching_equals_the_procedure() -> None:
    for seed in range(8):
        layer, features, target = random_clip(queries=17, objects=4, seed=seed)
        table = np.array([[slow_cost(layer, features, target, q, k) for k in range(4)] for q in range(17)])
        owner = DynamicMatcher()([layer], features, [target])
        assert owner[0, 0].tolist() == slow_assign(table[..., 0], table[..., 1])


def test_layers_and_clips_are_matched_separately() -> None:
    clips = [random_clip(17, objects, seed) for seed, objects in enumerate((4, 2, 6))]
    first = ClipPrediction(*(torch.cat(x) for x in zip(*(c[0] for c in clips), strict=True)))
    second = first._replace(class_logits=first.class_logits.flip(1), boxes=first.boxes.flip(2))
    features, targets = torch.cat([c[1] for c in clips]), [c[2] for c in clips]
    owner = DynamicMatcher()([first, second], features, targets)
    assert owner.shape == (2, 3, 17)
    for layer, expected in zip((first, second), owner, strict=True):
        for b, target in enumerate(targets):
            one = ClipPrediction(*(x[b : b + 1] for x in layer))
            assert torch.equal(DynamicMatcher()([one], features[b : b + 1], [target])[0, 0], expected[b])


def test_a_clip_without_objects_matches_nothing() -> None:
    layer, features, _ = random_clip(9, 2, 0)
    nothing = scaled(torch.zeros(0, 3, 8, 8), torch.zeros(0, 3, 4), torch.zeros(0, dtype=torch.int64))
    assert DynamicMatcher()([layer], features, [nothing]).tolist() == [[[-1] * 9]]


def test_values_that_are_not_finite_have_a_high_cost() -> None:
    layer, features, target = random_clip(17, 2, 0)
    broken = layer._replace(boxes=layer.boxes.clone(), class_logits=layer.class_logits.clone())
    broken.boxes[0, :, 3] = float("nan")
    broken.class_logits[0, 5] = float("nan")
    owner = DynamicMatcher()([broken], features, [target])[0, 0]
    assert set(owner.tolist()) >= {0, 1}
    assert owner[3] == owner[5] == -1


@pytest.mark.parametrize("pixels", [1, 63, 64, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mask_costs_in_blocks(pixels: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdqe.losses.mask.block_elements", lambda device: 14 * 128)
    coefficients, features = torch.randn(2, 7, 4, dtype=torch.float64), torch.randn(4, pixels, dtype=torch.float64) * 9
    masks = torch.rand(3, pixels, dtype=torch.float64)
    x = (coefficients @ features)[:, :, None].expand(2, 7, 3, pixels)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(x, masks.expand_as(x), reduction="none").mean(-1)
    p = x.sigmoid()
    dice = 1 - (2 * (p * masks).sum(-1) + 1) / (p.sum(-1) + masks.sum(-1) + 1)
    cost = mask_costs(coefficients.to(dtype), features.to(dtype), masks.to(dtype))
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(cost.double(), bce + dice, rtol=tolerance, atol=tolerance)
