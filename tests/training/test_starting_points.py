"""Starting points for training: weights of other code, compared with forward passes of the original modules."""

import re

import pytest
import timm
import tiny
import torch
import torchvision
from torch import nn

from mdqe.checkpoint import initialize
from mdqe.cli import main
from mdqe.modeling.backbone import Backbone
from mdqe.modeling.encoder import pixel_centers

OPTIONS = {
    "backbone": "resnet18", "hidden_dim": 64, "num_heads": 4, "num_points": 4, "encoder_layers": 1, "num_classes": 6
}  # fmt: skip


def trained(module: nn.Module) -> nn.Module:
    """The module in evaluation mode and float64, with statistics of batch norms as after training."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.8, 1.2)
            nn.init.uniform_(part.weight, 0.8, 1.2)
            nn.init.normal_(part.bias, std=0.1)
    return module.double().eval()


def maps_of(resnet: nn.Module, frames: torch.Tensor) -> list[torch.Tensor]:
    """The maps at strides 8, 16 and 32 of torchvision's ResNet."""
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(frames))))
    maps = [x := layer(x) for layer in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)]
    return maps[1:]


class Holder(nn.Module):
    """A backbone where a model has it."""

    def __init__(self, config, **options):
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone, **options)


def backbone(name, **options):
    return Holder(tiny.model().config.replace(backbone=name), **options).double().eval()


FRAMES = torch.randn(2, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def assert_same_maps(model, expected, frames=FRAMES):
    with torch.no_grad():
        for got, want in zip(model.backbone(frames), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("frozen", [True, False])
def test_torchvision(name, frozen):
    if (name, frozen) == ("resnet50", False):
        pytest.skip("as resnet18")
    original = trained(getattr(torchvision.models, name)())
    model = backbone(name, frozen_batch_norm=frozen)
    start = initialize(model, original.state_dict())
    assert not start.initial and {"fc.weight", "fc.bias"} <= set(start.unused)
    assert all("num_batches" in name or name.startswith("fc.") for name in start.unused)
    with torch.no_grad():
        assert_same_maps(model, maps_of(original, FRAMES))


def test_timm():
    original = trained(timm.create_model("resnet18"))
    model = backbone("resnet18")
    assert not initialize(model, {f"module.{name}": value for name, value in original.state_dict().items()}).initial
    with torch.no_grad():
        assert_same_maps(model, original.forward_intermediates(FRAMES, indices=(2, 3, 4), intermediates_only=True))


def detectron2_names(state):
    """torchvision's names as detectron2 has them."""
    out = {}
    for name, value in state.items():
        if name.startswith("fc.") or "num_batches" in name:
            continue
        name = re.sub(r"layer(\d)\.", lambda found: f"res{int(found[1]) + 1}.", name)
        name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        name = re.sub(r"bn(\d)\.", r"conv\1.norm.", name)
        out[re.sub(r"^conv1\.", "stem.conv1.", name)] = value
    return out


def caffe2_names(state):
    """detectron2's names as its older files have them."""
    out = {}
    for name, value in detectron2_names(state).items():
        name = name.replace("stem.conv1.norm.", "res_conv1_bn_").replace("stem.conv1.", "conv1_")
        name = re.sub(r"res(\d)\.(\d+)\.", r"res\1_\2_", name).replace("shortcut.", "branch1_")
        name = re.sub(r"conv([123])\.", lambda found: f"branch2{'abc'[int(found[1]) - 1]}_", name)
        name = name.replace("norm.", "bn_")
        name = name.replace("_bn_weight", "_bn_gamma").replace("_bn_bias", "_bn_beta")
        out[re.sub(r"_weight$", "_w", name)] = value
    return out


@pytest.mark.parametrize("prefix", ["backbone.bottom_up.", "detr.detr.backbone.0.backbone."])
def test_detectron2(prefix):
    original = trained(torchvision.models.resnet50())
    model = backbone("resnet50")
    state = {prefix + name: value for name, value in detectron2_names(original.state_dict()).items()}
    start = initialize(model, state)
    assert not start.initial and not start.unused
    with torch.no_grad():
        assert_same_maps(model, maps_of(original, FRAMES))


def test_caffe2_names_of_detectron2():
    """These weights expect BGR frames without a standard deviation, and stride in the first convolution."""
    original = trained(torchvision.models.resnet50())
    for layer in (original.layer2, original.layer3, original.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    state = caffe2_names(original.state_dict())
    assert {"conv1_w", "res_conv1_bn_gamma", "res2_0_branch1_w", "res2_0_branch2a_bn_running_mean"} <= set(state)
    model = backbone("resnet50", stride_in_1x1=True)
    assert not initialize(model, state).initial
    std = torch.tensor(model.config.pixel_std, dtype=torch.float64).view(3, 1, 1)
    with torch.no_grad():
        expected = maps_of(original, (FRAMES * std).flip(1))
        for got, want in zip(model.backbone(FRAMES), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)


def microsoft_names(state):
    """timm's names as Microsoft's files have them: a downsampling ends a stage."""
    return {
        re.sub(r"^layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", name): value
        for name, value in state.items()
    }


@pytest.mark.parametrize("names", [microsoft_names, pytest.param(dict, marks=pytest.mark.slow)])
def test_swin(names):
    name = "swinv2_tiny_window8_256"
    original = timm.create_model(name, img_size=256).double().eval()
    model = backbone(name)
    start = initialize(model, {"model." + key: value for key, value in names(original.state_dict()).items()})
    assert {key for key in start.initial if "relative_coords_table" not in key} == {
        f"backbone.norms.{i}.{leaf}" for i in (0, 1) for leaf in ("weight", "bias")
    }
    assert torch.equal(model.backbone.norms[2].weight, original.norm.weight)
    frames = torch.randn(1, 3, 256, 256, dtype=torch.float64)
    with torch.no_grad():
        maps = original.forward_intermediates(frames, indices=(1, 2), intermediates_only=True)
        for norm, got, want in zip(model.backbone.norms, model.backbone(frames), maps, strict=False):
            want = norm(want.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)


def deformable_detr():
    transformers = pytest.importorskip("transformers")
    config = transformers.DeformableDetrConfig(
        use_timm_backbone=True, backbone="resnet18", use_pretrained_backbone=False, d_model=64, encoder_layers=1,
        decoder_layers=1, encoder_ffn_dim=256, decoder_ffn_dim=256, encoder_attention_heads=4,
        decoder_attention_heads=4, activation_function="gelu", num_queries=5,
    )  # fmt: skip
    original = transformers.DeformableDetrModel(config)
    for name, parameter in original.named_parameters():
        nn.init.normal_(parameter, mean=float(name.endswith("norm.weight")), std=0.05)
    return trained(original)


def test_deformable_detr_of_transformers():
    """Its backbone, projections, and encoder layer, for the same positions."""
    original, model = deformable_detr(), tiny.model(**OPTIONS).double().eval()
    start = initialize(
        model, {f"model.{name}": value for name, value in original.state_dict().items()}, frame_size=(64, 96)
    )
    assert {name for name in start.initial if name.startswith(("backbone", "encoder"))} == {
        "encoder.norm.weight", "encoder.norm.bias"
    }  # fmt: skip
    with torch.no_grad():
        maps = model.backbone(FRAMES)
        levels = model.encoder.project(maps)
        sources = [original.input_proj[i](one) for i, one in enumerate(maps)]
        sources.append(original.input_proj[3](maps[-1]))
        for got, want in zip(levels, sources, strict=True):
            torch.testing.assert_close(got, want)
        shapes = tuple((one.shape[-2], one.shape[-1]) for one in levels)
        x = torch.cat([one.flatten(2).transpose(1, 2) for one in levels], 1)
        position = torch.randn_like(x)
        centers = pixel_centers(shapes, torch.float64, x.device)
        got = model.encoder.layers[0](x, position, centers, shapes, None)
        sizes = torch.tensor(shapes)
        starts = torch.cat([sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]])
        want = original.encoder.layers[0](
            x, None, spatial_position_embeddings=position, spatial_shapes=sizes, spatial_shapes_list=list(shapes),
            reference_points=centers[:, :, None].expand(len(x), -1, len(shapes), -1), level_start_index=starts,
        )  # fmt: skip
        want = want[0] if isinstance(want, tuple) else want
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


LAYOUTS = {  # the authors' names of Deformable DETR, SeqFormer and IDOL
    "Deformable DETR": ("backbone.0.body.", "transformer.", ""),
    "SeqFormer": ("detr.backbone.0.backbone.", "detr.transformer.", "detr."),
    "IDOL": ("detr.detr.backbone.0.backbone.", "detr.detr.transformer.", "detr.detr."),
}


@pytest.mark.parametrize("code", LAYOUTS)
def test_names_of_the_relatives_of_deformable_detr(code):
    """A state with the values of a model of ours, under their names, gives the same model."""
    source, model = tiny.model(**OPTIONS), tiny.model(**OPTIONS)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.1)
    body, transformer, detr = LAYOUTS[code]
    state = {}
    for name, value in source.state_dict().items():
        if name.startswith("backbone.body."):
            name = name.removeprefix("backbone.body.")
            if "backbone" in body[10:]:
                (name,) = detectron2_names(
                    {
                        re.sub(
                            r"(conv|downsample\.)(\d)\.norm\.",
                            lambda f: "downsample.1." if "down" in f[1] else f"bn{f[2]}.",
                            name,
                        ): value
                    }
                )
            state[body + name] = value
        elif name.startswith("encoder."):
            name = name.replace("mlp.layers.0", "linear1").replace("mlp.layers.1", "linear2")
            name = re.sub("^encoder.projections", f"{detr}input_proj", name)
            name = re.sub("^encoder.level_embed", f"{transformer}level_embed", name)
            state[re.sub("^encoder", f"{transformer}encoder", name)] = value
    state |= {
        f"{detr}class_embed.0.weight": torch.zeros(3, 64),
        f"{transformer}decoder.layers.0.norm1.weight": torch.ones(64),
    }
    start = initialize(model, state, frame_size=(100, 200))
    assert all(not name.startswith(("backbone", "encoder")) for name in start.initial)
    assert set(start.unused) == {f"{detr}class_embed.0.weight", f"{transformer}decoder.layers.0.norm1.weight"}
    for name, value in source.state_dict().items():
        if name.startswith(("backbone", "encoder")):
            if "sampling_offsets" in name:  # cells of levels of 16x28 … 2x4 become eighths of the image
                cells = torch.tensor([[28, 16], [14, 8], [7, 4], [4, 2]]).view(1, 4, 1, 2, *[1] * (value.dim() - 1))
                value = (value.unflatten(0, (4, 4, 4, 2)) * 8 / cells).flatten(0, 3)
            torch.testing.assert_close(model.state_dict()[name], value)


def test_less_than_the_backbone_is_an_error_and_changes_nothing():
    model = backbone("resnet18")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torchvision.models.resnet18().state_dict()
    for change, message in (
        (lambda s: s.pop("layer2.0.conv1.weight"), r"1 of the \d+ tensors of the backbone are not in the weights: "),
        (lambda s: s.update({"conv1.weight": torch.ones(64, 3, 3, 3)}), r"\(64, 3, 3, 3\), expected \(64, 3, 7, 7\)"),
        (lambda s: s.update({"conv1.weight": torch.full((64, 3, 7, 7), torch.nan)}), "complex, NaN or infinite values"),
        (lambda s: s.clear() or s.update(x=torch.ones(1)), r"and \d+ more$"),
    ):
        changed = dict(state)
        change(changed)
        with pytest.raises(ValueError, match=message):
            initialize(model, changed)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["wrapped", "array", "sparse", "meta"])
def test_a_state_of_anything_but_tensors(kind):
    state = torchvision.models.resnet18().state_dict()
    weight = state["conv1.weight"]
    state = {
        "wrapped": {"model": state},
        "array": {**state, "conv1.weight": weight.numpy()},
        "sparse": {**state, "conv1.weight": weight.to_sparse()},
        "meta": {**state, "conv1.weight": weight.to("meta")},
    }[kind]
    with pytest.raises(ValueError, match=r"^(model|conv1\.weight) is .*, expected tensors by name, as read_official"):
        initialize(tiny.model(**OPTIONS), state)


def test_the_command_prints_a_table_and_writes_it_to_the_run(tmp_path, capsys):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    (tmp_path / "config.json").write_text(
        '{"model_type": "mdqe", "format_version": 1, "backbone": "resnet18", "hidden_dim": 32,'
        ' "num_heads": 4, "encoder_layers": 1, "decoder_layers": 1, "grid_size": 4, "clip_length": 1,'
        ' "test_clip_length": 1}'
    )
    options = ["--data", "synthetic", "--size", "64x48", "--steps", "1", "--batch", "1", "--device", "cpu"]
    command = ["train", "--init", str(tmp_path / "resnet18.pth"), *options, "-o", str(tmp_path / "run")]
    assert main(command) == 2
    assert "is a file of weights without a configuration; add --preset or --config" in capsys.readouterr().err
    assert main([*command, "--config", str(tmp_path / "config.json")]) == 0
    text = (tmp_path / "run" / "initial_weights.txt").read_text()
    assert text in capsys.readouterr().err
    lines = text.splitlines()
    assert lines[0] == f"weights: {tmp_path / 'resnet18.pth'}"
    assert lines[1].split() == ["part", "taken", "of"]
    assert re.fullmatch(r"backbone\.body +100 +100", lines[2])
    assert re.search(r"^decoder +0 +\d+ +random$", text, re.M) and "not used: bn1.num_batches_tracked, fc.bias" in text
