"""Semantic targets against loops over objects and pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdqe.losses.query_init import ids_at, semantic_targets
from mdqe.losses.targets import ScaledTargets, stack_targets

CLASSES = 3


def slow_targets(target: ScaledTargets) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (T, P), ids (T, P) and centerness (T, P, K), one object after another."""
    boxes, inner, ids, labels = (x.numpy() for x in (target.boxes, target.inner, target.ids, target.labels))
    frames, (h, w) = ids.shape[1], inner.shape[-2:]
    label_map, id_map = np.full((frames, h * w), -1), np.full((frames, h * w), -1)
    centerness = np.zeros((frames, h * w, CLASSES))
    sizes = boxes[..., 2:] - boxes[..., :2]
    order = sorted(range(len(labels)), key=lambda k: (sizes[k].prod(-1).mean(), k))
    for t in range(frames):
        taken = np.zeros(h * w, bool)
        for k in order:
            if ids[k, t] < 0 or not (sizes[k] > 0).all(-1).any():
                continue
            distance = np.zeros(h * w)
            for p in range(h * w):
                for axis, (place, count) in enumerate(((p % w, w), (p // w, h))):
                    center = (boxes[k, t, axis] + boxes[k, t, axis + 2]) / 2
                    distance[p] += (((place + 0.5) / count - center) / max(sizes[k, t, axis], 0.05)) ** 2
            pixels = np.flatnonzero(inner[k, t])
            if not len(pixels):
                pixels = np.array([np.where(taken, np.inf, distance).argmin()])
            label_map[t, pixels], id_map[t, pixels] = labels[k], ids[k, t]
            gamma = 1 - 2 * np.minimum(distance[pixels], 0.5)
            centerness[t, pixels, labels[k]] = np.where(taken[pixels], 0, gamma)
            taken[pixels] = True
    return label_map, id_map, centerness


def random_objects(objects: int, frames: int, small: float, seed: int) -> ScaledTargets:
    """Overlapping objects of few categories; a share of them is too small to cover a pixel."""
    g = np.random.default_rng(seed)
    h, w = 4, 5
    low, size = g.random((objects, frames, 2)), g.random((objects, frames, 2)) * 0.7
    tiny = g.random((objects, frames)) < small
    size[tiny] = 0.02
    boxes = np.concatenate([low, np.minimum(low + size, 1)], -1)
    ids = np.where(g.random((objects, frames)) < 0.2, -1, np.arange(objects)[:, None] * 7)
    boxes[ids < 0] = 0
    x, y = (np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h
    across = (x > boxes[..., :1]) & (x < boxes[..., 2:3])
    down = (y > boxes[..., 1:2]) & (y < boxes[..., 3:])
    inner = down[..., :, None] & across[..., None, :] & (~tiny & (ids >= 0))[..., None, None]
    masks = torch.zeros(objects, frames, 2 * h, 2 * w)
    labels = torch.from_numpy(g.integers(0, CLASSES, objects))
    return ScaledTargets(labels, torch.from_numpy(ids), torch.from_numpy(boxes), masks, torch.from_numpy(inner))


@settings(max_examples=80, deadline=None)
@given(
    objects=st.integers(1, 9),
    frames=st.integers(1, 4),
    small=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_equals_the_loops(objects: int, frames: int, small: float, seed: int) -> None:
    target = random_objects(objects, frames, small, seed)
    labels, ids, centerness = slow_targets(target)
    result = semantic_targets(stack_targets([target]), CLASSES)
    assert np.array_equal(result.labels, labels)
    assert np.array_equal(result.ids, ids)
    np.testing.assert_allclose(result.centerness, centerness, rtol=1e-12, atol=1e-14)


def test_more_small_objects_than_pixels() -> None:
    target = random_objects(30, 2, 1.0, 3)  # 20 pixels
    result = semantic_targets(stack_targets([target]), CLASSES)
    # No pixel is covered twice before every pixel is covered.
    present = (target.ids >= 0).sum(0)
    assert all((result.labels[t] >= 0).sum() == min(int(present[t]), 20) for t in range(2))


@pytest.mark.parametrize("kind", ["none", "boxes without an area"])
def test_no_objects(kind: str) -> None:
    target = random_objects(4, 2, 0.0, 0)
    target = ScaledTargets(*(x[:0] for x in target)) if kind == "none" else target._replace(boxes=target.boxes * 0)
    result = semantic_targets(stack_targets([target]), CLASSES)
    assert (result.labels == -1).all()
    assert (result.ids == -1).all()
    assert result.centerness.shape == (2, 20, CLASSES)
    assert not result.centerness.any()


def test_a_point_has_the_id_of_its_pixel() -> None:
    ids = torch.arange(2 * 12).view(2, 12)
    g = torch.Generator().manual_seed(0)
    coords = torch.rand(2, 50, 2, generator=g, dtype=torch.float64)
    coords[0, 0], coords[0, 1] = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])
    column = (coords[..., 0] * 4).floor().clamp(max=3)
    row = (coords[..., 1] * 3).floor().clamp(max=2)
    expected = torch.tensor([[0], [12]]) + row * 4 + column
    assert torch.equal(ids_at(ids, coords, (3, 4)), expected.long())
