"""The stacked losses of all layers and clips against a loop over layers, clips, queries and objects, in float64."""

import clips
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mdqe.boxes import box_giou, to_xyxy
from mdqe.losses import Criterion, InterInstanceMaskLoss
from mdqe.losses.targets import ScaledTargets
from mdqe.modeling.network import ClipOutput

EXACT = 1e-10
COUNTS = [(5, 0, 2, 3), (14, 3), (0,)]  # 14 objects take all 16 queries, and some layers leave objects without one


@pytest.fixture(autouse=True)
def first_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace random subsets by the first candidates."""
    monkeypatch.setattr(torch, "randperm", torch.arange)


def slow_losses(criterion: Criterion, out: ClipOutput, scaled: list[ScaledTargets], owner: Tensor) -> dict[str, Tensor]:
    """The weighted losses of the layers, one layer, clip and pair after another."""
    losses = {}
    for i, layer in enumerate(out.layers):
        sums = {name: out.mask_features.new_zeros(()) for name in ("class", "box", "giou", "mask", "dice")}
        for b, target in enumerate(scaled):
            mask_loss = InterInstanceMaskLoss()
            queries = [q for q in range(clips.QUERIES) if owner[i, b, q] >= 0]
            objects = owner[i, b, queries]
            one_hot = torch.zeros_like(layer.class_logits[b])
            for q, k in zip(queries, objects.tolist(), strict=True):
                one_hot[q, target.labels[k]] = 1
                for t in range(clips.FRAMES):
                    box, truth = to_xyxy(layer.boxes[b, t, q]), target.boxes[k, t]
                    if (truth[2:] > truth[:2]).all():
                        sums["box"] = sums["box"] + (box - truth).abs().sum()
                        sums["giou"] = sums["giou"] + 1 - box_giou(box, truth)
            p = layer.class_logits[b].sigmoid()
            alpha, error = one_hot * 0.25 + (1 - one_hot) * 0.75, (one_hot - p).abs()
            bce = F.binary_cross_entropy_with_logits(layer.class_logits[b], one_hot, reduction="none")
            sums["class"] = sums["class"] + (alpha * error**2 * bce).sum()
            logits = torch.einsum("qm,mthw->qthw", layer.mask_coefficients[b, queries], out.mask_features[b])
            bce, dice = mask_loss(logits, target.masks, target.boxes, matched=objects, normalizer=1)
            sums["mask"], sums["dice"] = sums["mask"] + bce, sums["dice"] + dice
        count = max(int((owner[i] >= 0).sum()), 1)
        suffix = "" if i == len(out.layers) - 1 else f"_{i}"
        for name, value in sums.items():
            divisor = len(scaled) * clips.QUERIES if name == "class" else count
            divisor *= clips.FRAMES if name in ("box", "giou") else 1
            losses[name + suffix] = getattr(criterion, f"{name}_weight") * value / divisor
    return losses


@pytest.mark.parametrize("few_logarithms", [True, False])
@pytest.mark.parametrize("counts", COUNTS)
def test_losses_and_gradients_equal_the_loops(
    counts: tuple[int, ...], few_logarithms: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = clips.output(len(counts), seed=3)
    objects = [clips.targets(n, seed=n) for n in counts]
    criterion = Criterion()
    scaled = criterion.scale(out, objects)
    owner = criterion.matcher(out.layers, out.mask_features, scaled)
    missing = sum(set(range(n)) != {*owner[i, b].tolist()} - {-1} for b, n in enumerate(counts) for i in range(3))
    assert (missing > 0) == (max(counts) > 10)
    expected = slow_losses(criterion, out, scaled, owner)
    monkeypatch.setattr("mdqe.losses.mask.counts_logarithms", lambda device: few_logarithms)  # as on a CPU, or a GPU
    monkeypatch.setattr("mdqe.losses.mask.block_elements", lambda device: 1 << 12)  # several blocks
    assert torch.equal(owner, criterion.matcher(out.layers, out.mask_features, scaled))
    losses = {name: loss for name, loss in criterion(out, objects).items() if not name.startswith("init")}
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=EXACT, atol=EXACT)
    leaves = [x for x in clips.leaves(out) if x is not out.queries.embeddings and x is not out.queries.activation]
    gradients, slow = (
        torch.autograd.grad(sum(v.values()), leaves, materialize_grads=True, retain_graph=True)
        for v in (losses, expected)
    )
    for ours, theirs in zip(gradients, slow, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=EXACT, atol=EXACT)


def test_initialisation_losses_are_sums_over_clips() -> None:
    counts = (5, 0, 2, 7)
    out, criterion = clips.output(4, seed=1), Criterion()
    scaled = criterion.scale(out, [clips.targets(n, seed=n) for n in counts])
    leaves = [out.queries.embeddings, out.queries.activation]
    together = criterion.query_init_losses(out.queries, scaled)
    alone = [
        criterion.query_init_losses(clips.mapped(lambda x, b=b: x[b : b + 1], out).queries, scaled[b : b + 1])
        for b in range(4)
    ]
    summed = [sum(parts) for parts in zip(*alone, strict=True)]
    torch.testing.assert_close(list(together), summed, rtol=EXACT, atol=EXACT)
    for total, expected in zip(together[:3], summed[:3], strict=True):
        pairs = (torch.autograd.grad(x, leaves, allow_unused=True, retain_graph=True) for x in (total, expected))
        for ours, theirs in zip(*pairs, strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours, theirs, rtol=EXACT, atol=EXACT)


def test_another_reduction_is_named() -> None:
    logits, masks = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match="reduction is 'sum', expected 'mean' or 'none'"):
        InterInstanceMaskLoss()(logits, masks, reduction="sum")  # type: ignore[arg-type]
