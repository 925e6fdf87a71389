"""All stages of the model equal the released code in float64: backbone, encoder, queries, decoder and heads."""

from functools import cache

import golden
import pytest
import torch

from mdqe.inference.frame_buffer import EncodedFrames, encode_frames
from mdqe.modeling.encoder import level_masks, sine_position
from mdqe.modeling.preprocess import normalize

# The reference files are float32, with a rounding error of 3e-8.
TOLERANCE = 1e-6
VIDEOS = ["r50_ovis", "swinl_ovis"]


@cache
def stages(name: str) -> dict[str, torch.Tensor]:
    """All intermediate results for the first clip of a video, by their names in the reference files."""
    model = golden.model(name)
    length = model.config.test_clip_length
    frames = golden.core(name)["frames"][:length].permute(0, 3, 1, 2)  # (T, 3, H, W)
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (model.config.pixel_mean, model.config.pixel_std))
    out = {}
    with torch.inference_mode():
        for i, m in enumerate(model.backbone(normalize(frames, mean, std))):
            out[f"backbone.{i}"] = m
        tokens = model.encode(frames[None])
        assert tokens.padding_mask is None
        size = (frames.shape[-2], frames.shape[-1])
        for i, mask in enumerate(level_masks(size, [size], tokens.spatial_shapes, 3, frames.device)[:3]):
            out[f"padding.{i}"] = mask
            out[f"position.{i}"] = sine_position(mask, model.config.hidden_dim, torch.float64).permute(0, 3, 1, 2)
        out["encoder.memory"] = tokens.memory[0]
        out["mask_features"] = model.mask_head(tokens.memory, tokens.spatial_shapes)
        queries = model.query_init.select(tokens.memory, tokens.spatial_shapes)
        associated = model.associate(queries, model.config.association_window / 2)
        out["query_init.grid_coords"] = queries.coords[0]
        out["query_init.coords"], out["query_init.content"] = associated.coords[0], associated.content[0]
        values = model.decoder.project_values(tokens.memory, tokens.padding_mask)
        states = model.decoder(associated.content, associated.coords, values, tokens.spatial_shapes)
        out["decoder.frame_queries"] = torch.cat([s.frame_queries for s in states])
        out["decoder.clip_queries"] = torch.stack([s.clip_queries for s in states])
        out["decoder.boxes_cxcywh"] = torch.cat([s.boxes for s in states])
    return out


@pytest.mark.parametrize("name", VIDEOS)
def test_every_stage_of_the_first_clip(name, reference):
    expected = reference(name)
    computed = stages(name)
    keys = [key for key in computed if key in expected]
    assert len(keys) >= 5
    for key in keys:
        want, got = expected[key], computed[key]
        if key == "mask_features":
            got = got[:, :, : want.shape[2]]
        elif got.shape != want.shape:
            got = got[: len(want)]
        if key.startswith("padding"):
            assert torch.equal(got, want.bool()), key
        else:
            assert golden.relative_error(got, want) < TOLERANCE, key


@cache
def encoded(name: str) -> EncodedFrames:
    frames = golden.core(name)["frames"].permute(0, 3, 1, 2)
    with torch.inference_mode():
        return encode_frames(golden.model(name), frames, 0)


@pytest.mark.parametrize("name", VIDEOS)
def test_heads_of_every_clip(name, reference):
    expected, model = reference(name), golden.model(name)
    compared = 0
    for i, clip in enumerate(golden.meta(name)["clips"]):
        if f"clip{i:03d}.cls" not in expected:
            continue
        frames = encoded(name).clip(clip["frames"][0], clip["frames"][-1] + 1)
        with torch.inference_mode():
            _, prediction = model.decode(frames.queries, frames.values, frames.spatial_shapes)
        got = {
            "cls": prediction.class_logits[0].sigmoid(),
            "mask_coeff": prediction.mask_coefficients[0],
            "query_embed": prediction.embeddings[0],
        }
        for part, value in got.items():
            key = f"clip{i:03d}.{part}"
            if key in expected:
                assert golden.relative_error(value, expected[key]) < TOLERANCE, key
                compared += 1
    assert compared > 0


def test_training_clips(shared):
    """A batch of two clips with the association window of training: heads of all layers and inputs of the losses."""
    expected, model = golden.full("train_r50", shared), golden.model("train_r50")
    frames = expected["frames"].permute(0, 3, 1, 2).unflatten(0, (2, 3))
    with torch.inference_mode():
        out = model(frames, association_window=model.config.association_window)
    x, y, w, h = torch.stack([p.boxes for p in out.layers]).transpose(2, 3).unbind(-1)
    got = {
        "out.cls": torch.stack([p.class_logits for p in out.layers]),
        "out.mask_coeff": torch.stack([p.mask_coefficients for p in out.layers]),
        "out.boxes": torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1),
        "out.proto": out.mask_features,
        "out.query_init_embed": out.queries.embeddings,
        "out.rpn_sem_cls": out.queries.activation.permute(0, 1, 3, 4, 2),
    }
    for key, value in got.items():
        assert golden.relative_error(value, expected[key]) < TOLERANCE, key


def test_official_parameter_count():
    assert sum(p.numel() for p in golden.model("r50_ovis").parameters()) == 48_574_396
