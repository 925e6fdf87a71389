"""Losses of the query initialisation against loops over objects, pairs and pixels."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mdqe.losses import query_init
from mdqe.losses.query_init import activation_loss, association_losses


def slow_activation_loss(logits: Tensor, labels: Tensor, centerness: Tensor, most: int) -> list[float]:
    losses = []
    categories = logits.shape[-1]
    for x, frame_labels, gamma in zip(logits.sigmoid().numpy(), labels.numpy(), centerness.numpy(), strict=True):
        values, uncertainty = [], []
        for p in range(len(x)):
            value, doubt = 0.0, 0.0
            for k in range(categories):
                t = float(frame_labels[p] == k)
                bce = -math.log(x[p, k] if t else 1 - x[p, k])
                weight = gamma[p, k] if t else 1 - gamma[p, k]
                value += bce * abs(t - x[p, k]) ** 2 * weight**2
                doubt += categories * (1 - x[p, k]) if t else x[p, k]
            values.append(value)
            uncertainty.append(doubt)
        chosen = sorted(range(len(x)), key=lambda p: -uncertainty[p])[:most]
        labelled = sum(frame_labels[p] >= 0 for p in chosen)
        losses.append(sum(values[p] for p in chosen) / max(labelled, 1))
    return losses


@pytest.mark.parametrize("most", [12, 60, 12544])
def test_activation_loss(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_init, "MAX_PIXELS", most)
    logits = torch.randn(3, 60, 4, dtype=torch.float64) * 3
    labels = torch.randint(-1, 4, (3, 60))
    labels[1] = -1  # a frame without objects
    centerness = torch.rand(3, 60, 4, dtype=torch.float64) * (torch.rand(3, 60, 4) > 0.5)
    assert activation_loss(logits, labels, centerness).tolist() == pytest.approx(
        slow_activation_loss(logits, labels, centerness, most)
    )


def slow_association_losses(
    embeddings: Tensor, ids: Tensor, object_ids: list[int], window: float
) -> tuple[list[float], list[float]]:
    """Both losses of every object that has a query, with the first candidates as subsets."""
    frames, queries, _ = embeddings.shape
    grid = math.isqrt(queries)
    e = embeddings.numpy()
    contrasts, auxiliaries = [], []
    for k in object_ids:
        own = [(t, q) for t in range(frames) for q in range(queries) if ids[t, q] == k]
        if not own:
            continue
        f, a = own[0]
        positives, negatives = [], []
        for t in range(frames):
            for q in range(queries):
                steps = max(abs(q // grid - a // grid), abs(q % grid - a % grid))
                if steps <= max(window, 2) * (abs(t - f) + 1):
                    (positives if ids[t, q] == k else negatives).append(e[t, q])
        negatives = negatives[: 50 * frames]
        positives = positives[: max(len(negatives) // 5, 2)]
        anchor = e[f, a]
        terms = [math.log(1 + min(sum(math.exp((n - p) @ anchor) for n in negatives), 1000)) for p in positives]
        contrasts.append(float(np.mean(terms)))
        cosines = [v @ anchor / np.linalg.norm(v) / np.linalg.norm(anchor) for v in positives + negatives]
        aims = [1] * len(positives) + [0] * len(negatives)
        auxiliaries.append(float(np.mean([(c - aim) ** 2 for c, aim in zip(cosines, aims, strict=True)])))
    return contrasts, auxiliaries


@pytest.mark.parametrize(("frames", "grid", "window", "spread"), [(1, 3, 5, 1), (3, 6, 1, 1), (4, 8, 2.5, 0.3)])
def test_association_losses(
    frames: int, grid: int, window: float, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "randperm", torch.arange)
    embeddings = torch.randn(frames, grid**2, 5, dtype=torch.float64) * spread
    ids = torch.randint(-1, 6, (frames, grid**2)) * 3
    ids[ids < 0] = -1
    objects = [15, 0, 9, 21, 3, 12]  # 21 has no query
    contrast, aux, found = association_losses(embeddings, ids, torch.tensor(objects), window)
    contrasts, auxiliaries = slow_association_losses(embeddings, ids, objects, window)
    assert int(found) == len(contrasts) > 2
    assert float(contrast) == pytest.approx(sum(contrasts))
    assert float(aux) == pytest.approx(sum(auxiliaries))


def test_random_subsets_are_candidates_of_the_right_number() -> None:
    positives, negatives = torch.rand(6, 400) < 0.2, torch.rand(6, 400) < 0.6
    negatives &= ~positives
    negatives[0], negatives[1, 50:] = False, False
    drawn_positives, drawn_negatives = query_init._draw(positives, negatives, 150)
    assert not (drawn_positives & ~positives).any()
    assert not (drawn_negatives & ~negatives).any()
    wanted = [min(int(n), 150) for n in negatives.sum(1)]
    assert drawn_negatives.sum(1).tolist() == wanted
    available = positives.sum(1).tolist()
    assert drawn_positives.sum(1).tolist() == [min(max(n // 5, 2), a) for n, a in zip(wanted, available, strict=True)]


def test_every_candidate_is_drawn_equally_often() -> None:
    candidates = torch.zeros(2000, 10, dtype=torch.bool)
    candidates[:, 2:8] = True
    order = torch.randperm(candidates.numel()).view_as(candidates).argsort(1)
    drawn = query_init._first(candidates, order, torch.full((2000,), 3)).float().mean(0)
    assert drawn[[0, 1, 8, 9]].tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(drawn[2:8], torch.full((6,), 0.5), rtol=0, atol=0.06)  # five standard deviations


def test_without_negatives_only_the_auxiliary_is_left() -> None:
    embeddings = torch.randn(2, 9, 4, dtype=torch.float64, requires_grad=True)
    contrast, aux, found = association_losses(embeddings, torch.full((2, 9), 5), torch.tensor([5]), 5)
    assert (float(contrast.detach()), int(found)) == (0, 1)
    assert float(aux.detach()) > 0
    (contrast + aux).backward()
    assert embeddings.grad.isfinite().all()


def test_no_objects_give_a_differentiable_zero() -> None:
    embeddings = torch.randn(2, 9, 4, requires_grad=True)
    contrast, aux, found = association_losses(embeddings, torch.full((2, 9), -1), torch.tensor([3]), 5)
    (contrast + aux).backward()
    assert (float(contrast.detach()), float(aux.detach()), int(found)) == (0, 0, 0)
    assert not embeddings.grad.any()


def test_far_apart_embeddings_do_not_overflow() -> None:
    embeddings = (torch.randn(2, 16, 8) * 100).requires_grad_()
    ids = torch.randint(-1, 2, (2, 16))
    contrast, aux, found = association_losses(embeddings, ids, torch.tensor([0, 1]), 5)
    (contrast + aux).backward()
    assert float(contrast.detach()) <= math.log(1001) * int(found) + 1e-4
    assert embeddings.grad.isfinite().all()


def test_gradients() -> None:
    torch.manual_seed(1)
    embeddings = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(-1, 2, (2, 9))

    def losses(e: Tensor) -> Tensor:
        torch.manual_seed(0)
        contrast, aux, _ = association_losses(e, ids, torch.tensor([0, 1]), 5)
        return contrast + aux

    assert torch.autograd.gradcheck(losses, embeddings)
    logits = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(-1, 3, (2, 7))
    assert torch.autograd.gradcheck(
        lambda x: activation_loss(x, labels, F.one_hot(labels + 1, 4)[..., 1:] * 0.7), logits
    )
