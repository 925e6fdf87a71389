"""MDQEConfig: the published presets, invalid values, and the conversion to JSON and back."""

import ast
import dataclasses
import inspect
import itertools
import json
import math

import pytest

from mdqe import MDQEConfig
from mdqe import config as config_module
from mdqe.errors import InputError

PRESETS = (
    "r101_coco", "r101_ytvis19", "r50_coco", "r50_ovis_360", "r50_ovis_720", "r50_ytvis19", "r50_ytvis21",
    "swinl_coco", "swinl_ovis", "swinl_ytvis19", "swinl_ytvis21",
)  # fmt: skip


def test_names_of_the_presets():
    assert MDQEConfig.presets() == PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_values(shared, name):
    published = json.loads((shared / "facts" / "presets.json").read_text())[name]
    config = MDQEConfig.preset(name)
    depth = published["resnet_depth"]
    assert config.backbone == (f"resnet{depth}" if depth else "swinv2_large_window12_192")
    assert config.stride_in_1x1 == (depth == 101)
    names = {
        "num_classes": "num_classes", "hidden_dim": "hidden_dim", "num_heads": "nheads", "dropout": "dropout",
        "mlp_ratio": "mlp_ratio", "encoder_layers": "enc_layers", "decoder_layers": "dec_layers",
        "num_levels": "num_feature_levels", "num_points": "enc_num_points", "embed_dim": "query_embed_dim",
        "association_window": "window_inter_frame_association", "clip_stride": "clip_stride",
        "test_clip_length": "sampling_frame_num_test", "window_length": "window_frame_num_test",
        "score_threshold": "apply_cls_thres", "detections_per_image": "detections_per_image",
        "temporal_cross_attention": "dec_temporal",
    }  # fmt: skip
    assert {field: getattr(config, field) for field in names} == {f: published[key] for f, key in names.items()}
    inputs = {
        "clip_length": "sampling_frame_num", "test_shorter_edge": "min_size_test", "test_longer_edge": "max_size_test"
    }  # fmt: skip
    assert {field: getattr(config, field) for field in inputs} == {f: published["input"][k] for f, k in inputs.items()}
    assert config.num_points == published["dec_num_points"]
    assert list(config.pixel_mean) == published["pixel_mean"]
    assert list(config.pixel_std) == published["pixel_std"]
    assert config.drop_path == (published["swin"] or {"drop_path_rate": 0})["drop_path_rate"]
    assert config.num_queries == math.isqrt(published["num_object_queries"]) ** 2  # 200, rounded down to a square


@pytest.mark.parametrize(
    ("preset", "data_set"),
    [("r50_ovis_720", "ovis"), ("r50_ytvis19", "ytvis_2019"), ("swinl_ytvis21", "ytvis_2021")],
)
def test_categories_equal_those_of_the_data_set(shared, preset, data_set):
    published = json.loads((shared / "facts" / "datasets.json").read_text())["categories"][data_set]
    config = MDQEConfig.preset(preset)
    assert config.categories == tuple(category["name"] for category in published)
    assert config.label_ids == tuple(category["id"] for category in published)


def test_categories_of_coco():
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    published = FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"]  # by id, with gaps
    config = MDQEConfig.preset("r101_coco")
    assert config.label_ids == tuple(i for i, name in enumerate(published) if i and name != "N/A")
    assert config.categories == tuple(published[i] for i in config.label_ids)


def test_overrides():
    config = MDQEConfig.preset("r50_ovis_360", window_length=8, test_shorter_edge=None)
    assert (config.window_length, config.test_shorter_edge) == (8, None)
    assert config == MDQEConfig.preset("r50_ovis_360").replace(window_length=8, test_shorter_edge=None)
    assert config.backbone == "resnet50"


def test_mask_channels():
    assert MDQEConfig(hidden_dim=192).mask_dim == 24
    assert MDQEConfig(hidden_dim=64, mask_channels=20).mask_dim == 20


def test_another_number_of_classes_clears_the_categories():
    for config in (
        MDQEConfig.preset("r50_ovis_360", num_classes=3),
        MDQEConfig.preset("r50_ovis_360").replace(num_classes=3),
    ):
        assert (config.categories, config.category_ids, config.label_ids) == ((), (), (1, 2, 3))
    named = MDQEConfig.preset("r50_ovis_360").replace(num_classes=2, categories=("cat", "dog"))
    assert named.categories == ("cat", "dog")
    kept = MDQEConfig.preset("r50_ovis_360").replace(num_classes=25)
    assert kept == MDQEConfig.preset("r50_ovis_360")


@pytest.mark.parametrize("name", PRESETS)
def test_to_json_and_back(name):
    config = MDQEConfig.preset(name, test_shorter_edge=None)
    assert MDQEConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_configs_without_a_new_field():
    old = {name: value for name, value in MDQEConfig().to_dict().items() if not name.startswith("mask_loss")}
    assert MDQEConfig.from_dict(old) == MDQEConfig(mask_loss="inter_instance", mask_loss_iou_threshold=0.1)


def test_configs_are_immutable_and_hashable():
    config = MDQEConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.hidden_dim = 32
    assert hash(MDQEConfig.preset("r50_coco")) == hash(MDQEConfig.preset("r50_coco"))
    assert MDQEConfig(categories=["a", "b"], num_classes=2).categories == ("a", "b")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("hidden_dim", 100, "a multiple of 32 and of num_heads=8"),
        ("hidden_dim", 0, "a whole number from 1 to 65536"),
        ("hidden_dim", 64.0, "a whole number from 1 to 65536"),
        ("num_heads", True, "a whole number from 1 to 65536"),
        ("num_heads", 7, "a multiple of 32 and of num_heads=7"),
        ("num_levels", 2, "a whole number from 3 to 16"),
        ("encoder_layers", -1, "a whole number from 1 to 256"),
        ("grid_size", "14", "a whole number from 1 to 256"),
        ("test_shorter_edge", 0, "a whole number from 1 to 65536 or None"),
        ("test_shorter_edge", "360", "a whole number from 1 to 65536 or None"),
        ("mask_channels", 0, "a whole number from 1 to 65536 or None"),
        ("iou_weight", -1, "numbers of at least 0, not both 0"),
        ("iou_weight", math.nan, "numbers of at least 0, not both 0"),
        ("association_window", 0, "a number above 0, at most 65536"),
        ("association_window", float("nan"), "a number above 0, at most 65536"),
        ("score_threshold", 1.0, "a number of at least 0 and less than 1"),
        ("score_threshold", -0.1, "a number of at least 0 and less than 1"),
        ("score_threshold", float("nan"), "a number of at least 0"),
        ("dropout", None, "a number of at least 0"),
        ("drop_path", 2, "a number of at least 0"),
        ("pixel_mean", (1.0, 2.0), "three numbers"),
        ("pixel_mean", 3.0, "a list or tuple"),
        ("pixel_std", (1.0, 0.0, 1.0), "three positive numbers"),
        ("categories", ("cat", "dog"), "none or num_classes=25"),
        ("categories", "cat", "a list or tuple"),
        ("category_ids", (1,) * 25, "distinct ids"),
        ("clip_stride", 5, "at most test_clip_length=4"),
        ("encoder_layers", 1_000_000_000, "a whole number from 1 to 256"),
        ("hidden_dim", 2**63, "a whole number from 1 to 65536"),
        ("test_shorter_edge", 2**70, "a whole number from 1 to 65536 or None"),
        ("association_window", math.inf, "a number above 0, at most 65536"),
        ("num_points", 10**50, "a whole number from 1 to 256"),
        ("categories", ("cat\n",) * 25, "names of printable characters"),
        ("categories", (1,) * 25, "names of printable characters"),
        ("category_ids", tuple(range(2**63, 2**63 + 25)), "whole numbers of 64 bits"),
        ("decoder", "detr", "one of o2i, i2o"),
        ("mask_loss", "dice", "one of inter_instance, inter_instance_bce, plain"),
        ("backbone", "", "the name of a timm model"),
        ("backbone", None, "the name of a timm model"),
        ("query_initialization", 1, "True or False"),
        ("frozen_batch_norm", "yes", "True or False"),
    ],
)
def test_messages_have_the_field_and_what_is_expected(field, value, expected):
    with pytest.raises(ValueError) as raised:
        MDQEConfig(**{field: value})
    message = str(raised.value)
    assert "hidden_dim" in message if field == "num_heads" and value == 7 else message.startswith(field)
    assert expected in message
    assert "\n" not in message


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown preset 'r50_ovis', expected one of r101_coco, "):
        MDQEConfig.preset("r50_ovis")
    with pytest.raises(ValueError, match=r"^unknown configuration fields heads; did you mean num_heads\?$"):
        MDQEConfig.preset("r50_coco", heads=8)
    with pytest.raises(ValueError, match=r"^unknown configuration fields a, b$"):
        MDQEConfig().replace(b=1, a=2)


def test_every_field_is_documented():
    body = ast.parse(inspect.getsource(config_module)).body
    lines = next(node for node in body if isinstance(node, ast.ClassDef) and node.name == "MDQEConfig").body
    documented = {
        field.target.id
        for field, following in itertools.pairwise(lines)
        if isinstance(field, ast.AnnAssign)
        and isinstance(following, ast.Expr)
        and isinstance(following.value, ast.Constant)
    }
    assert documented == {field.name for field in dataclasses.fields(MDQEConfig)}


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_dim": 65536},
        {"hidden_dim": 16384, "mlp_ratio": 256},
        {"num_heads": 4096, "hidden_dim": 4096, "num_points": 256},
        {"clip_length": 65536},
    ],
)
def test_networks_that_no_machine_can_hold(sizes):
    """Each size is valid alone. A network of them would fill the memory before its weights are read."""
    with pytest.raises(InputError, match=r"is too large together with .*: expected fewer than 2\^32 weights"):
        MDQEConfig(**sizes)


def test_large_networks_are_valid():
    config = MDQEConfig(hidden_dim=2048, encoder_layers=24, decoder_layers=24, num_heads=32, clip_length=16)
    assert config.hidden_dim == 2048
    assert MDQEConfig(encoder_layers=256, decoder_layers=256).encoder_layers == 256
