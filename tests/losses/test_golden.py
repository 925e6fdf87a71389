"""The losses, assignments and gradients of the authors' code on two clips of 4 and 6 overlapping objects."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.ops import box_convert

from mdqe import MDQE, MDQEConfig
from mdqe.checkpoint import convert_official
from mdqe.losses import Criterion
from mdqe.losses.criterion import clip_losses
from mdqe.losses.semantic import ids_at, semantic_targets
from mdqe.targets import ClipTargets

EXACT = 1e-5  # relative, of losses and gradient norms in float64
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
    """One training step, ours beside theirs."""

    meta: dict[str, Any]
    gold: dict[str, Tensor]
    targets: list[ClipTargets]
    output: Any
    criterion: Criterion
    losses: dict[str, Tensor]
    gradient_norms: dict[str, float]


@pytest.fixture(scope="module")
def step(shared: Path) -> Step:
    folder = shared / "golden"
    meta = json.loads((folder / "train_r50.json").read_text())
    gold = load_file(folder / "train_r50.safetensors")
    model = MDQE(MDQEConfig.preset("r50_ovis_360", clip_length=3, dropout=0.0)).double()
    model.load_state_dict(convert_official(_pseudo_weights(folder, meta), model.config))
    frames = gold["frames"].permute(0, 3, 1, 2).unflatten(0, (2, 3))  # (B, T, 3, H, W)
    targets = [_targets(gold, i, frames.shape[-2:]) for i in range(2)]
    caught: list[Any] = []
    criterion = Criterion(association_window=model.config.association_window)
    criterion.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randperm", torch.arange)
        losses = clip_losses(model, frames, targets, criterion)
    sum(losses.values()).backward()
    norms = {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}
    return Step(meta, gold, targets, caught[0], criterion, {k: v.detach() for k, v in losses.items()}, norms)


def _pseudo_weights(folder: Path, meta: dict[str, Any]) -> dict[str, Tensor]:
    spec = importlib.util.spec_from_file_location("golden_weights", folder / "weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    return {
        name: torch.from_numpy(weights.tensor(name, shape, meta["salt"]))
        for name, (shape, _, kind) in meta["parameters"].items()
        if kind == "pseudo"
    }


def _targets(gold: dict[str, Tensor], i: int, size: tuple[int, int]) -> ClipTargets:
    height, width = size
    boxes = gold[f"target{i}.boxes_xyxy"] * torch.tensor([width, height, width, height])
    return ClipTargets(gold[f"target{i}.labels"], gold[f"target{i}.ids"], gold[f"target{i}.masks"].bool(), boxes)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    error = (actual.detach() - expected).norm() / expected.norm()
    assert error < STORED, error


def test_the_outputs_that_the_losses_see(step: Step) -> None:
    assert_close(step.output.mask_features, step.gold["out.proto"])
    assert_close(step.output.queries.activation.permute(0, 1, 3, 4, 2), step.gold["out.rpn_sem_cls"])
    assert_close(step.output.queries.embeddings, step.gold["out.query_init_embed"])
    for i, layer in enumerate(step.output.layers):
        assert_close(layer.class_logits, step.gold["out.cls"][i])
        assert_close(layer.mask_coefficients, step.gold["out.mask_coeff"][i])
        assert_close(box_convert(layer.boxes, "cxcywh", "xyxy").transpose(1, 2), step.gold["out.boxes"][i])


def test_semantic_targets_are_equal(step: Step) -> None:
    scaled = step.criterion.scale(step.output, step.targets)
    for i, target in enumerate(scaled):
        semantic = semantic_targets(target, 25)
        assert torch.equal(semantic.labels, step.gold["sem_target.labels"][i])
        assert torch.equal(semantic.ids, step.gold["sem_target.ids"][i])
        torch.testing.assert_close(
            semantic.centerness.sum(-1).float(), step.gold["sem_target.distance_sum"][i], rtol=STORED, atol=STORED
        )
        under_queries = ids_at(semantic.ids, step.output.queries.coords[i], target.inner.shape[-2:])
        assert torch.equal(under_queries, step.gold["out.query_init_inst_id"][i])


def test_assignments_of_every_layer_are_equal(step: Step) -> None:
    scaled = step.criterion.scale(step.output, step.targets)
    owner = step.criterion.matcher(step.output.layers, step.output.mask_features, scaled)
    for layer, expected in zip(owner, step.meta["assignment"], strict=True):
        for clip, (queries, objects) in zip(layer, expected, strict=True):
            matched = (clip >= 0).nonzero()[:, 0]
            assert matched.tolist() == queries
            assert clip[matched].tolist() == objects


def test_every_loss_and_the_total_are_equal(step: Step) -> None:
    ours = {}
    for name, loss in step.losses.items():
        kind = re.sub(r"_\d+$", "", name)
        ours[LOSS_NAMES[kind] + name.removeprefix(kind)] = float(loss)
    assert ours == pytest.approx(step.meta["weighted_losses"], rel=EXACT)
    assert sum(ours.values()) == pytest.approx(step.meta["total"], rel=EXACT)


def test_every_gradient_norm_is_equal(step: Step) -> None:
    names = list(step.meta["parameters"])
    # The converter tells which parameter each official name became: it moves tensors that say who they are.
    numbered = {
        name: torch.tensor(float(i)).expand(shape)
        for i, (name, (shape, _, kind)) in enumerate(step.meta["parameters"].items())
        if kind == "pseudo"
    }
    converted = convert_official(numbered, MDQEConfig.preset("r50_ovis_360", clip_length=3))
    official = {ours: names[int(tensor.flatten()[0])] for ours, tensor in converted.items()}
    norms = {official[name]: norm for name, norm in step.gradient_norms.items()}
    for first, second in SECOND_NAMES.items():  # of one module; gradients are listed by the first
        norms.update({n.replace(second, first): norm for n, norm in norms.items() if n.startswith(second)})
    expected = step.meta["grad_norm"]
    assert len(expected) > 300
    assert {name: norms[name] for name in expected} == pytest.approx(expected, rel=EXACT)
