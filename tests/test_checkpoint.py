"""Released checkpoints: names, presets by shape, inflation to clips, and invalid files."""

import json

import pytest
import torch
from official_layout import layout, pickled

from mdqe import MDQE, MDQEConfig
from mdqe.checkpoint import (
    convert_official,
    dropped,
    inflate_temporal,
    matching_presets,
    official_sizes,
    read_official,
)
from mdqe.modeling.decoder import TemporalCrossAttention
from mdqe.weights.folder import SkipRandomInit

SIZES = {
    "r50": ("resnet50", 256),
    "r101": ("resnet101", 256),
    "swinl": ("swinv2_large_window12_192", 192),
}
CLASSES = {"coco": 80, "ovis": 25, "ytvis19": 40, "ytvis21": 40}


def preset_layout(name):
    """Shapes of a preset's checkpoint, independent of the library."""
    trunk, data_set = name.split("_")[:2]
    video_frames = {"swinl_ovis": 2, "swinl_ytvis19": 3, "swinl_ytvis21": 3}.get(name, 4)
    return layout(*SIZES[trunk], CLASSES[data_set], 1 if data_set == "coco" else video_frames)


def preset_tensors(name):
    return pickled(preset_layout(name))


def model_shapes(config):
    with SkipRandomInit():
        return {name: tuple(tensor.shape) for name, tensor in MDQE(config).state_dict().items()}


@pytest.mark.parametrize("name", ["r50_ovis", "swinl_ovis", "coco_image"])
def test_layout_equals_that_of_the_released_code(shared, name):
    facts = json.loads((shared / "golden" / f"{name}.json").read_text())
    released = {key: tuple(shape) for key, (shape, *_) in facts["parameters"].items()}
    preset = {"coco_image": "r50_coco", "r50_ovis": "r50_ovis_360"}.get(name, name)
    assert preset_layout(preset) == released


@pytest.mark.parametrize("name", ["r50_ovis_360", "r101_ytvis19", "r50_coco", "swinl_ytvis21"])
def test_conversion_is_complete(name):
    """Every released tensor is used or dropped, and every tensor of the model is loaded."""
    config = MDQEConfig.preset(name)
    official = preset_tensors(name)
    converted = convert_official(official, config)
    assert {key: tuple(tensor.shape) for key, tensor in converted.items()} == model_shapes(config)
    assert len(converted) + len(dropped(official)) == len(official)


def test_values_are_kept():
    """The value of every tensor is unique in the checkpoint and occurs once in the result."""
    config = MDQEConfig.preset("r50_ovis_360")
    official = {
        name: torch.full((1,), float(i)).expand(shape)
        for i, (name, shape) in enumerate(preset_layout("r50_ovis_360").items())
    }
    converted = convert_official({"model": official}, config)
    values = {int(tensor[(0,) * tensor.ndim]): key for key, tensor in converted.items()}
    used = {i for i, name in enumerate(official) if name not in dropped(official)}
    assert set(values) == used
    names = list(official)
    expected = {
        "detr.transformer_dec.decoder.layers.3.norm2_inst.weight": "decoder.layers.3.clip.cross_norm.weight",
        "detr.transformer_dec.decoder.layers.3.norm1.bias": "decoder.layers.3.frame.self_norm.bias",
        "detr.backbone.0.backbone.res4.5.conv2.norm.running_var": "backbone.body.layer3.5.conv2.norm.running_var",
        "detr.transformer_dec.rpn_cls_embed.layers.1.bias": "query_init.activation_head.layers.1.bias",
    }
    for name, key in expected.items():
        assert values[names.index(name)] == key


@pytest.mark.parametrize("name", ["r50_ovis_360", "swinl_ovis"])
def test_dropped_tensors_are_computed_buffers_or_second_names(name):
    buffers = {"query_relpos_grid", "lvl_spatial_scales", "sampling_offsets", "relative_position_index"}
    names = dropped(preset_layout(name))
    assert {key.split(".")[-1] for key in names} <= buffers | {"weight", "bias"}
    second = {key.split(".")[2] for key in names if key.endswith(("weight", "bias"))}
    assert second == {"decoder_norm", "bbox_embed", "point2pos_proj"}


def test_unknown_names_are_listed():
    official = preset_tensors("r50_ovis_360") | {"detr.extra.weight": torch.zeros(1), "head": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"2 names are not in the released layout: detr\.extra\.weight, head"):
        convert_official(official, MDQEConfig.preset("r50_ovis_360"))


# --- presets by shape -----------------------------------------------------------------------------------------------


def test_presets_by_shape():
    same = [("r50_ovis_360", "r50_ovis_720"), ("r50_ytvis19", "r50_ytvis21"), ("swinl_ytvis19", "swinl_ytvis21")]
    for name in MDQEConfig.presets():
        expected = next((group for group in same if name in group), (name,))
        assert matching_presets(preset_tensors(name)) == expected


def test_sizes_of_a_checkpoint_trained_on_other_data():
    official = pickled(layout("resnet101", 256, 7, 6))
    assert official_sizes(official) == ("resnet101", 256, 7, 6)
    assert matching_presets(official) == ()


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (("resnet50", 256, 80, 4), ("r50_coco",)),
        (("resnet101", 256, 80, 2), ("r101_coco",)),
        (("resnet101", 256, 40, 1), ("r101_ytvis19",)),
        (("swinv2_large_window12_192", 192, 80, 3), ("swinl_coco",)),
        (("swinv2_large_window12_192", 192, 25, 4), ("swinl_ovis",)),
        (("resnet50", 256, 25, 2), ("r50_ovis_360", "r50_ovis_720")),
        (("resnet50", 256, 40, 7), ("r50_ytvis19", "r50_ytvis21")),
    ],
)
def test_presets_by_shape_with_another_number_of_frames(sizes, expected):
    assert matching_presets(pickled(layout(*sizes))) == expected


def test_checkpoints_of_other_code():
    with pytest.raises(ValueError, match=r"not a checkpoint of the released MDQE: missing .*level_embed"):
        official_sizes({"detr.class_embed.weight": torch.zeros(2, 2)})
    official = pickled(layout("resnet50", 256, 25, 4))
    del official["detr.backbone.0.backbone.res4.5.conv1.weight"]
    with pytest.raises(
        ValueError, match="unknown backbone in the checkpoint, expected one of resnet50, resnet101, swinv2"
    ):
        official_sizes(official)


# --- inflation ------------------------------------------------------------------------------------------------------


def test_inflated_attention_on_identical_frames_equals_that_on_one_frame():
    config = MDQEConfig(hidden_dim=32, num_heads=4, clip_length=3)
    single = TemporalCrossAttention(32, 4, num_frames=1).double()
    for parameter in single.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    prefix = "decoder.layers.0.clip.cross_attn."
    state = inflate_temporal({prefix + name: tensor for name, tensor in single.state_dict().items()}, config)
    video = TemporalCrossAttention(32, 4, num_frames=3).double()
    video.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    shapes = ((6, 8), (3, 4), (2, 2))
    frame = torch.randn(2, 1, 64, 4, 8, dtype=torch.float64)  # (B, T, N, H, C / H)
    query, box = torch.randn(2, 5, 32, dtype=torch.float64), torch.rand(2, 5, 4, dtype=torch.float64)
    expected = single(query, box, frame, shapes)
    got = video(query, box, frame.expand(-1, 3, -1, -1, -1).contiguous(), shapes)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_conversion_inflates_single_frame_checkpoints():
    config = MDQEConfig.preset("r50_coco", clip_length=4)
    official = preset_tensors("r50_coco")
    weights = "detr.transformer_dec.decoder.layers.2.temp_attn_inst.attention_weights.bias"
    official[weights] = torch.arange(32.0)  # four points for each head
    converted = convert_official(official, config)
    assert {key: tuple(tensor.shape) for key, tensor in converted.items()} == model_shapes(config)
    rows = converted["decoder.layers.2.clip.cross_attn.attention_weights.bias"].view(8, 4, 4)  # (H, T, P)
    assert torch.equal(rows, torch.arange(32.0).view(8, 1, 4).expand(8, 4, 4))


def test_attention_over_several_frames_is_not_inflated():
    converted = convert_official(preset_tensors("r50_ovis_360"), MDQEConfig.preset("r50_ovis_360", clip_length=5))
    assert (
        len(converted["decoder.layers.0.clip.cross_attn.attention_weights.bias"]) == 8 * 4 * 4
    )  # heads, frames, points


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_tensors(tmp_path, wrapped, zipped):
    state = {"a.weight": torch.rand(2, 3), "b": torch.arange(3)}
    whole = {"model": state, "optimizer": {"lr": 0.1}, "iteration": 12} if wrapped else state
    torch.save(whole, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    loaded = read_official(tmp_path / "x.pth")
    assert set(loaded) == set(state)
    assert all(torch.equal(loaded[name], state[name]) for name in state)


class Program:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_files_with_other_objects_are_rejected(tmp_path, zipped):
    whole = {"model": {"a": torch.rand(2)}, "hook": Program(tmp_path / "ran")}
    torch.save(whole, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ValueError, match=r"contains Python objects other than tensors.* torch\.save\(\{k: v for k, v in torch\.load"
    ) as raised:
        read_official(tmp_path / "x.pth")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.999])
def test_truncated_files(tmp_path, keep):
    path = tmp_path / "x.pth"
    torch.save({"model": {"a": torch.rand(1000)}}, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ValueError, match=r"x\.pth is a truncated or damaged file \([\d,]+ bytes\)"):
        read_official(path)


@pytest.mark.parametrize("data", [b"", b"hello", b"<!DOCTYPE html><html><head>", b"\x93NUMPY"])
def test_files_of_another_format(tmp_path, data):
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.pth was not written by torch\.save: it begins with b"):
        read_official(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "contains a list, expected tensors by name"),
        ({}, "contains no entries, expected tensors by name"),
        ({"model": None}, "contains entries that are not tensors by name: model"),
        ({"a": torch.zeros(1), "epochs": [3]}, "contains entries that are not tensors by name: epochs"),
        ({"epoch": 3}, "contains entries that are not tensors by name: epoch"),
    ],
)
def test_files_without_tensors(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message):
        read_official(tmp_path / "x.pth")


def test_a_folder_and_a_file_that_needs_no_conversion(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a folder, expected a file such as .*checkpoint\.pt"):
        read_official(tmp_path)
    (tmp_path / "x.safetensors").touch()
    with pytest.raises(ValueError, match=r"x\.safetensors needs no conversion: name the folder of a model"):
        read_official(tmp_path / "x.safetensors")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*x\.pth"):
        read_official(tmp_path / "x.pth")
