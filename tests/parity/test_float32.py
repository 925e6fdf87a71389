"""In float32 the chain amplifies rounding about a thousandfold, so each stage starts from the reference's input."""

import copy
from functools import cache

import golden
import pytest
import torch

from mdqe import MDQE
from mdqe.modeling.preprocess import normalize

TOLERANCE = 2e-4  # of a stage of up to six layers of float32 rounding


@cache
def model32() -> MDQE:
    return copy.deepcopy(golden.model("r50_ovis")).float()


@pytest.fixture
def expected(shared) -> dict[str, torch.Tensor]:
    return golden.full("r50_ovis", shared)


def test_backbone_and_encoder(expected):
    frames = expected["frames"][:2].permute(0, 3, 1, 2)
    mean, std = (torch.tensor(v) for v in (model32().config.pixel_mean, model32().config.pixel_std))
    with torch.inference_mode():
        maps = model32().backbone(normalize(frames, mean, std))
        for i, m in enumerate(maps):
            assert golden.relative_error(m, expected[f"backbone.{i}"]) < TOLERANCE
        maps = [expected[f"backbone.{i}"] for i in range(3)]
        tokens = model32().encoder(maps, 1, (96, 160), [(96, 160)])
    assert tokens.memory.dtype == torch.float32
    assert golden.relative_error(tokens.memory[0], expected["encoder.memory"]) < TOLERANCE


def test_mask_features(expected):
    memory = expected["encoder.memory"][None]
    with torch.inference_mode():
        features = model32().mask_head(memory, tuple(map(tuple, golden.meta("r50_ovis")["spatial_shapes"])))
    assert golden.relative_error(features, expected["mask_features"]) < TOLERANCE


def test_each_decoder_layer(expected):
    model, shapes = model32(), tuple(map(tuple, golden.meta("r50_ovis")["spatial_shapes"]))
    frames = expected["frames"][:4].permute(0, 3, 1, 2)[None]
    with torch.inference_mode():
        memory = golden.model("r50_ovis").encode(frames).memory.float()
        values = model.decoder.project_values(memory)
        for i, (layer, layer_values) in enumerate(zip(model.decoder.layers, values, strict=True)):
            frame_queries, clip_queries = layer(
                expected["decoder.frame_queries"][i][None],
                expected["decoder.clip_queries"][i],
                expected["decoder.boxes_cxcywh"][i][None],
                layer_values,
                shapes,
                model.decoder.position_proj,
            )
            assert golden.relative_error(frame_queries[0], expected["decoder.frame_queries"][i + 1]) < TOLERANCE, i
            assert golden.relative_error(clip_queries, expected["decoder.clip_queries"][i + 1]) < TOLERANCE, i
