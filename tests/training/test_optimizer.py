"""The groups of AdamW, the schedule, and the recipes of the published presets."""

import json

import pytest
import tiny
import torch

from mdqe import MDQEConfig
from mdqe.data.loader import collate
from mdqe.training.optimizer import StepDecay, adamw, freeze
from mdqe.training.recipe import Recipe
from mdqe.training.step import TrainingStep


def test_every_parameter_is_in_one_group():
    model = tiny.model()
    optimizer = adamw(model, 2e-4, backbone_multiplier=0.1, weight_decay=0.05)
    rest, backbone = ([id(p) for p in group["params"]] for group in optimizer.param_groups)
    assert backbone == [id(p) for p in model.backbone.parameters()]
    assert sorted(rest + backbone) == sorted(id(p) for p in model.parameters())
    assert [group["lr"] for group in optimizer.param_groups] == [2e-4, pytest.approx(2e-5)]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.05]


def test_frozen_parameters_are_omitted():
    model = tiny.model()
    model.encoder.level_embed.requires_grad_(False)
    parameters = [p for group in adamw(model).param_groups for p in group["params"]]
    assert len(parameters) == len(list(model.parameters())) - 1


def test_frozen_parts_stay_and_the_others_get_the_same_gradients():
    gradients, models = [], []
    for parts in ((), ("backbone", "encoder")):
        model = tiny.model(dropout=0.0).train()
        freeze(model, parts)
        torch.manual_seed(1)
        TrainingStep(model, adamw(model, 1e-2), clip_norm=None)([collate([tiny.clips()[0]])])
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        models.append(model)
    names = {name for name in gradients[0] if not name.startswith(("backbone.", "encoder."))}
    assert 0 < len(names) < len(gradients[0]) and set(gradients[1]) == names
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in names)
    start = tiny.model(dropout=0.0).state_dict()
    changed = {name for name, value in models[1].state_dict().items() if not torch.equal(value, start[name])}
    assert changed and changed <= names


def test_only_backbone_and_encoder_can_be_frozen():
    with pytest.raises(ValueError, match="parts to freeze are decoder; expected some of backbone, encoder"):
        freeze(tiny.model(), ["encoder", "decoder"])


@pytest.mark.parametrize("name", ["learning_rate", "backbone_multiplier", "weight_decay"])
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_wrong_settings(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}, expected a number of at least 0"):
        adamw(tiny.model(), **{name: value})


def test_warm_up_and_decay():
    schedule = StepDecay((6, 8), warmup_steps=3)
    rates = [schedule(step) for step in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [StepDecay()(step) for step in (0, 10**6)] == [1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"decay_steps": (8, 6)}, "decay_steps is"), ({"decay_steps": (-1,)}, "decay_steps is"),
     ({"warmup_steps": -1}, "warmup_steps is -1"), ({"factor": 2.0}, "factor is 2.0")],
)  # fmt: skip
def test_wrong_schedules(options, message):
    with pytest.raises(ValueError, match=message):
        StepDecay(**options)


def test_rates_reach_the_optimizer(tmp_path):
    run = tiny.trainer(tmp_path, steps=5)
    seen = []
    run.train_step.optimizer.register_step_pre_hook(lambda o, *_: seen.append([g["lr"] for g in o.param_groups]))
    run.train()
    expected = [0.5, 1, 1, 1, 0.1]  # of tiny.py: one step of warm-up, decay after four
    assert seen == [pytest.approx([1e-3 * rate, 1e-4 * rate]) for rate in expected]


def test_recipes_are_the_published_ones(shared):
    for name, preset in json.loads((shared / "facts" / "presets.json").read_text()).items():
        solver, inputs, recipe = preset["solver"], preset["input"], Recipe.of(name)
        assert inputs["random_flip"] == "flip_by_clip"  # the default of ClipAugmentation
        pseudo = inputs["pseudo_video_from_images"]
        assert pseudo["augmentations"] == ["rotation"] and inputs["augmentations"] == []
        assert (
            solver["optimizer"] == "ADAMW" and solver["warmup_factor"] == 1.0
        )  # so its ten warm-up steps have no effect
        assert recipe == Recipe(
            steps=solver["max_iter"],
            batch=solver["clips_per_batch"],
            learning_rate=solver["base_lr"],
            decay_steps=solver["decay_steps"],
            weight_decay=solver["weight_decay"],
            backbone_multiplier=solver["backbone_multiplier"],
            warmup_steps=0,
            clip_norm=solver["clip_grad_norm_full_model"],
            frame_range=inputs["sampling_frame_range"],
            video=augmentation(inputs["min_size_train"], inputs["max_size_train"], inputs["crop"]),
            image={**augmentation(pseudo["min_size"], pseudo["max_size"], pseudo["crop"]), "rotation": 15},
        )
        assert [round(share * recipe.steps) for share in recipe.decay_shares()] == recipe.decay_steps


def augmentation(edges, longest, crop):
    return {"shorter_edges": edges, "longer_edge": longest, "crop_type": crop["type"], "crop_size": crop["size"]}


def test_every_preset_has_a_recipe():
    assert [Recipe.of(name) for name in MDQEConfig.presets()]
    with pytest.raises(ValueError, match="unknown preset 'r50'"):
        Recipe.of("r50")
    assert Recipe.of(None) == Recipe()


def test_fused_and_plain_updates_agree():
    """The fused kernel is the same AdamW."""
    models = [tiny.model().double(), tiny.model().double()]
    fused = adamw(models[0], 1e-2)
    plain = torch.optim.AdamW(
        [{"params": [p for n, p in models[1].named_parameters() if n.startswith("backbone.") == part], "lr": lr}
         for part, lr in ((False, 1e-2), (True, 1e-3))], weight_decay=1e-4, foreach=False,
    )  # fmt: skip
    for model, optimizer in zip(models, (fused, plain), strict=True):
        for i, p in enumerate(model.parameters()):
            p.grad = torch.full_like(p, 0.1 * (i % 7) - 0.3)
        optimizer.step()
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
