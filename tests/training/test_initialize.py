"""Initial weights: those of other models, random ones, and errors."""

import time
from types import SimpleNamespace

import pytest
import timm
import tiny
import torch
from huggingface_hub.errors import HfHubHTTPError
from timm.models import _builder

from mdqe.training.initialize import imagenet_backbone, initial_model

RESET = {"class_head.layers.2.weight", "class_head.layers.2.bias", "query_init.activation_head.layers.2.weight",
         "query_init.activation_head.layers.2.bias"}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model of single-frame clips and 3 categories."""
    folder = tmp_path_factory.mktemp("models") / "coco"
    model = tiny.model(clip_length=1, num_classes=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def said():
    return []


def test_random_weights_are_reported(said):
    initial_model(tiny.model().config, say=said.append)
    assert said == ["weights: random"]


def test_single_frame_weights_are_repeated_for_every_frame(saved, said):
    config = tiny.model(clip_length=2, num_classes=3).config
    model = initial_model(config, saved, say=said.append)
    assert said == [f"weights: {saved} (TCA repeated for 2 frames)"]
    single = tiny.MDQE.from_pretrained(saved)
    one, two = (m.decoder.layers[0].clip.cross_attn.attention_weights.bias for m in (single, model))
    heads = config.num_heads
    for frame in two.unflatten(0, (heads, 2, -1)).unbind(1):  # (H, T, P)
        assert torch.equal(frame, one.unflatten(0, (heads, -1)))
    state, old = model.state_dict(), single.state_dict()
    differ = {name for name in state if state[name].shape != old[name].shape or not torch.equal(state[name], old[name])}
    assert differ and all(".clip.cross_attn." in name for name in differ)


def test_other_categories_are_an_error(saved):
    with pytest.raises(
        ValueError, match=r"coco has 3 categories, not 6: .*reset_classes=True, in mdqe train with --reset-classes"
    ):
        initial_model(tiny.model().config, saved)


def test_other_categories_with_random_class_heads(saved, said):
    torch.manual_seed(4)
    model = initial_model(tiny.model(clip_length=1).config, saved, reset_classes=True, say=said.append)
    assert said == [f"weights: {saved} (class heads random)"]
    old = tiny.MDQE.from_pretrained(saved).state_dict()
    new = {name for name, tensor in model.state_dict().items() if tensor.shape != old[name].shape}
    assert new == RESET
    assert all(torch.equal(model.state_dict()[name], old[name]) for name in old.keys() - RESET)
    assert float(model.class_head.layers[-1].bias[0].detach()) == pytest.approx(-4.595)  # as in a new model


def test_learned_queries_have_one_class_head(tmp_path, said):
    tiny.model(query_initialization=False, num_classes=3).save_pretrained(tmp_path)
    initial_model(tiny.model(query_initialization=False).config, tmp_path, reset_classes=True, say=said.append)
    assert said == [f"weights: {tmp_path} (class heads random)"]


def test_a_model_of_other_sizes(saved):
    with pytest.raises(ValueError, match="with a different shape"):
        initial_model(tiny.model(num_classes=3, hidden_dim=64).config, saved)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        initial_model(tiny.model().config, "./nowhere")


def test_imagenet_weights_of_the_backbone(monkeypatch, said):
    name = tiny.OPTIONS["backbone"]
    torch.manual_seed(9)
    trained = timm.create_model(name).state_dict()
    asked = []
    monkeypatch.setattr(
        _builder, "load_state_dict_from_hf", lambda *arguments, **_: asked.append(arguments[0]) or dict(trained)
    )
    model = initial_model(tiny.model().config, "imagenet", say=said.append)
    assert said == [f"weights: timm's ImageNet weights of {name}, all others random"]
    assert asked and name in asked[0]
    found = model.backbone.body.state_dict()
    shared = [key for key in found if key in trained and "num_batches" not in key]
    assert len(shared) > 50
    assert all(torch.equal(found[key], trained[key]) for key in shared)


def test_imagenet_weights_that_cannot_be_fetched(monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("We couldn't connect\nto the Hub")

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", refuse)
    with pytest.raises(ConnectionError, match=r"cannot be downloaded \(We couldn't connect\)") as raised:
        initial_model(tiny.model().config, "imagenet")
    assert "\n" not in str(raised.value)


def test_imagenet_weights_of_a_hub_that_limits_requests(monkeypatch):
    response = SimpleNamespace(status_code=429, headers={}, request=None)

    def refuse(*arguments, **options):
        raise OSError("An error happened") from HfHubHTTPError("limited", response=response)

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", refuse)
    with pytest.raises(ConnectionError, match=r"timm's weights for .* returned status 429 \(Too Many Requests\): wait"):
        initial_model(tiny.model().config, "imagenet")


def test_imagenet_weights_that_do_not_arrive(monkeypatch, tmp_path):
    monkeypatch.setenv("MDQE_DOWNLOAD_TIMEOUT", "0.3")
    monkeypatch.setattr("mdqe.training.initialize.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(_builder, "load_state_dict_from_hf", lambda *arguments, **options: time.sleep(5))
    with pytest.raises(ConnectionError, match=r"cannot be downloaded \(no progress for 0.3 s\)"):
        initial_model(tiny.model().config, "imagenet")


def test_a_backbone_without_imagenet_weights():
    """timm itself would use random weights in some cases."""
    name = next(n for n in timm.list_models("*resnet*") if not timm.get_pretrained_cfg(n).has_weights)
    with pytest.raises(ValueError, match=f"timm has no weights for backbone '{name}'"):
        imagenet_backbone(tiny.model().config.replace(backbone=name))
