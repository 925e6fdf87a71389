"""The losses, assignments and gradients of the authors' code, in float64."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import golden
import pytest
import torch
import training_reference as reference
from torch import Tensor

from mdqe.checkpoint import convert_official
from mdqe.losses import Criterion
from mdqe.losses.query_init import ids_at, semantic_targets
from mdqe.losses.targets import stack_targets
from mdqe.targets import ClipTargets

EXACT = 1e-5  # relative, of losses and gradient norms in float64
ZERO = 1e-10  # gradients that cancel: biases before a normalisation or a softmax
STORED = 1e-6  # relative, of arrays that were stored in float32

LOSS_NAMES = {
    "init_sem": "loss_sem_cls_query_init",
    "init_reid": "loss_reid_query_init",
    "init_reid_aux": "loss_reid_query_init_aux",
    "class": "loss_cls",
    "box": "loss_bbox",
    "giou": "loss_giou",
    "mask": "loss_mask",
    "dice": "loss_dice",
}

SECOND_NAMES = {
    "detr.transformer_dec.decoder_norm.": "detr.transformer_dec.decoder.norm.",
    "detr.transformer_dec.bbox_embed.": "detr.transformer_dec.decoder.bbox_embed.",
    "detr.transformer_dec.point2pos_proj.": "detr.transformer_dec.decoder.point2pos_proj.",
}


class Step(NamedTuple):
    """Our training step on the clips of the reference."""

    targets: list[ClipTargets]
    output: Any
    criterion: Criterion
    losses: dict[str, float]
    gradient_norms: dict[str, float]


@pytest.fixture(scope="module")
def step() -> Step:
    model = golden.model("train_r50")
    arrays = reference.arrays()
    frames = arrays["frames"].permute(0, 3, 1, 2).unflatten(0, (2, 3))  # (B, T, 3, H, W)
    targets = [reference.clip_targets(arrays, i) for i in range(2)]
    criterion = Criterion(association_window=model.config.association_window)
    seen: list[Any] = []
    criterion.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randperm", torch.arange)  # the random subsets of the reference are the first candidates
        losses = model.loss(frames, targets, criterion=criterion)
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(sum(losses.values()), list(parameters.values()), allow_unused=True)
    norms = {name: float(g.norm()) for name, g in zip(parameters, gradients, strict=True) if g is not None}
    return Step(targets, seen[0], criterion, {k: float(v.detach()) for k, v in losses.items()}, norms)


def test_semantic_targets_are_equal(step: Step) -> None:
    expected = reference.arrays()
    for i, target in enumerate(step.criterion.scale(step.output, step.targets)):
        semantic = semantic_targets(stack_targets([target]), 25)
        assert torch.equal(semantic.labels, expected["sem_target.labels"][i])
        assert torch.equal(semantic.ids, expected["sem_target.ids"][i])
        centerness = semantic.centerness.sum(-1).float()
        torch.testing.assert_close(centerness, expected["sem_target.distance_sum"][i], rtol=STORED, atol=STORED)
        under_queries = ids_at(semantic.ids, step.output.queries.coords[i], target.inner.shape[-2:])
        assert torch.equal(under_queries, expected["out.query_init_inst_id"][i])


def test_assignments_of_every_layer_are_equal(step: Step) -> None:
    scaled = step.criterion.scale(step.output, step.targets)
    owner = step.criterion.matcher(step.output.layers, step.output.mask_features, scaled)
    for layer, expected in zip(owner, reference.described()["assignment"], strict=True):
        for clip, (queries, objects) in zip(layer, expected, strict=True):
            matched = (clip >= 0).nonzero()[:, 0]
            assert matched.tolist() == queries
            assert clip[matched].tolist() == objects


def test_every_loss_and_the_total_are_equal(step: Step) -> None:
    ours = {}
    for name, loss in step.losses.items():
        kind = re.sub(r"_\d+$", "", name)
        ours[LOSS_NAMES[kind] + name.removeprefix(kind)] = loss
    assert ours == pytest.approx(reference.described()["weighted_losses"], rel=EXACT)
    assert sum(ours.values()) == pytest.approx(reference.described()["total"], rel=EXACT)


def test_every_gradient_norm_is_equal(step: Step) -> None:
    # Tensors that contain their number show which parameter each official name becomes.
    shapes = golden.meta("train_r50")["parameters"]
    names = list(shapes)
    numbered = {name: torch.tensor(float(i)).expand(shape) for i, (name, shape) in enumerate(shapes.items())}
    converted = convert_official(numbered, golden.model("train_r50").config)
    official = {ours: names[int(tensor.flatten()[0])] for ours, tensor in converted.items()}
    norms = {official[name]: norm for name, norm in step.gradient_norms.items()}
    for first, second in SECOND_NAMES.items():  # of one module; the reference lists gradients by the first
        norms.update({n.replace(second, first): norm for n, norm in norms.items() if n.startswith(second)})
    expected = reference.described()["grad_norm"]
    assert len(expected) > 400
    assert {name: norms[name] for name in expected} == pytest.approx(expected, rel=EXACT, abs=ZERO)


def test_the_core_is_the_full_reference(shared: Path) -> None:
    meta, full = reference.full(shared)
    core: dict[str, Tensor] = reference.arrays()
    assert all(torch.equal(core[key], full[key]) for key in reference.ARRAYS)
    assert reference.described() == {key: meta[key] for key in reference.DESCRIBED}
