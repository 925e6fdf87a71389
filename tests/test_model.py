"""The whole model: sizes, variants, batches, types, gradients, and side effects of inference."""

import copy
import math
import random

import numpy as np
import pytest
import torch
from official_layout import layout
from small_models import moving_squares, small_model
from torch import Tensor

from mdqe import MDQE, MDQEConfig
from mdqe.inference.image import filter_image
from mdqe.modeling.network import ClipOutput

VARIANTS = {
    "object to instance": {},
    "instance to object": {"decoder": "i2o"},
    "no initialisation": {"query_initialization": False},
    "no association": {"query_association": False},
    "no temporal attention": {"temporal_cross_attention": False},
    "none of the paper": {
        "decoder": "i2o", "query_initialization": False, "query_association": False, "temporal_cross_attention": False,
    },
    "three levels": {"num_levels": 3},
    "five levels": {"num_levels": 5},
    "norms that train": {"frozen_batch_norm": False},
}  # fmt: skip


def clips(number: int = 2, frames: int = 3) -> Tensor:
    """(B, T, 3, H, W) uint8."""
    return torch.stack([moving_squares(frames, seed=i) for i in range(number)]).permute(0, 1, 4, 2, 3)


def tensors(out: ClipOutput) -> dict[str, Tensor]:
    """Every tensor of an output by name."""
    named = {f"{i}.{name}": value for i, layer in enumerate(out.layers) for name, value in layer._asdict().items()}
    named |= {"mask_features": out.mask_features} | out.queries._asdict()
    return {name: value for name, value in named.items() if value is not None}


def assert_equal(result: ClipOutput, expected: ClipOutput, tolerance: float = 1e-9) -> None:
    a, b = tensors(result), tensors(expected)
    assert a.keys() == b.keys()
    for name in b:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("name", MDQEConfig.presets())
def test_presets_have_the_official_number_of_parameters(name):
    config = MDQEConfig.preset(name)
    with torch.device("meta"):
        model = MDQE(config)
    official = layout(config.backbone, config.hidden_dim, config.num_classes, config.clip_length)
    counted = 0
    for key, shape in official.items():
        frozen = config.backbone.startswith("resnet") and key.startswith("detr.backbone") and ".norm." in key
        constant = key.endswith(("scales", "relpos_grid", "coords_table", "position_index", ".sampling_offsets"))
        second_name = key.startswith(tuple(f"detr.transformer_dec.{n}" for n in ("decoder_norm", "bbox", "point2pos")))
        counted += 0 if frozen or constant or second_name else math.prod(shape)
    assert sum(p.numel() for p in model.parameters()) == counted
    if name == "r50_ovis_360":
        assert counted == 48_574_396


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_state_dicts_transfer_between_models(options):
    there = small_model(**options)
    here = MDQE(there.config).double().eval()
    frames = clips(1)
    with torch.no_grad():
        assert not torch.equal(here(frames).mask_features, there(frames).mask_features)
        here.load_state_dict(there.state_dict(), strict=True)
        assert_equal(here(frames), there(frames), tolerance=0)
    assert len({p.data_ptr() for p in here.parameters()}) == len(list(here.parameters()))


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_shapes_and_gradients_of_every_variant(options):
    """Every parameter affects the supervised outputs, except biases that a softmax or norm removes."""
    model = small_model(hidden_dim=64, clip_length=3, test_clip_length=3, dropout=0.0, **options).train()
    out = model(clips(2), association_window=5)
    c = model.config
    assert len(out.layers) == c.decoder_layers + 1
    for layer in out.layers:
        assert layer.class_logits.shape == (2, 16, 3)
        assert layer.mask_coefficients.shape == (2, 16, 8)
        assert layer.mask_coefficients.abs().max() <= 1
        assert layer.boxes.shape == (2, 3, 16, 4)
        assert ((layer.boxes > 0) & (layer.boxes < 1)).all()
        assert layer.embeddings.shape == (2, 16, 64)
    assert out.mask_features.shape == (2, 8, 3, 16, 24)
    mask_logits = torch.einsum("bqm,bmthw->bqthw", out.layers[-1].mask_coefficients, out.mask_features)
    torch.testing.assert_close(out.mask_logits, mask_logits, rtol=1e-12, atol=1e-12)
    sum((value * torch.randn_like(value)).sum() for value in tensors(out).values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    unused = {name for name, p in model.named_parameters() if p.grad.abs().max() < 1e-11}
    assert {name for name in unused if ".bn" not in name} == {
        "decoder.layers.0.time_weights.bias", "decoder.layers.1.time_weights.bias",
        "mask_head.project.0.bias", "mask_head.project.1.bias",  # before a GroupNorm with one channel per group
    }  # fmt: skip
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("options", [{}, {"query_initialization": False}, {"num_levels": 5}])
def test_clips_of_different_sizes_together(options):
    """The output of each clip is its output alone, cropped or not; pixels in the padding have no effect."""
    model, frames, sizes = small_model(**options), clips(3), [(50, 70), (64, 96), (33, 96)]
    with torch.no_grad():
        together = model(frames, sizes)
        for i, (height, width) in enumerate(sizes):
            alone = model(frames[i : i + 1], [(height, width)])
            cropped = model(frames[i : i + 1, ..., :height, :width])
            cleared = frames[i : i + 1].clone()
            cleared[..., height:, :] = 0
            cleared[..., width:] = 0
            for single in (alone, cropped, model(cleared, [(height, width)])):
                for name, value in tensors(single).items():
                    torch.testing.assert_close(tensors(together)[name][i : i + 1], value, rtol=1e-9, atol=1e-9)
        assert_equal(model(frames), model(frames, [(64, 96)]), tolerance=0)


def test_padding_is_not_a_black_area():
    """A frame that ends at the padding differs from a frame that is black there."""
    model, frames = small_model(), clips(1)
    frames[..., 64:] = 0
    with torch.no_grad():
        assert not torch.allclose(model(frames).layers[-1].boxes, model(frames, [(64, 64)]).layers[-1].boxes)


@pytest.mark.parametrize(
    ("shape", "sizes", "message"),
    [
        ((2, 3, 64, 96), None, r"frames is \(2, 3, 64, 96\), expected \(B, T, 3, H, W\)"),
        ((1, 2, 64, 96, 3), None, r"frames is \(1, 2, 64, 96, 3\), expected \(B, T, 3, H, W\)"),
        ((2, 1, 3, 64, 96), [(64, 96)] * 3, "sizes has 3 entries, expected 1 or one for each of 2 clips"),
        ((1, 1, 3, 64, 96), [(64, 97)], r"sizes has \(64, 97\), expected at most the frames' \(64, 96\)"),
        ((1, 1, 3, 64, 96), [(0, 96)], r"sizes has \(0, 96\), expected at most"),
    ],
)
def test_wrong_clips(shape, sizes, message):
    with pytest.raises(ValueError, match=message):
        small_model()(torch.zeros(shape), sizes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_frames_of_any_type(dtype):
    model = small_model()
    with torch.no_grad():
        assert_equal(model(clips(1).to(dtype)), model(clips(1)), tolerance=0)


def test_double_throughout():
    model = small_model()
    assert (model.dtype, model.device) == (torch.float64, torch.device("cpu"))
    with torch.no_grad():
        out = model(clips(1))
        rounded = copy.deepcopy(model).float()(clips(1))
    for name, value in tensors(out).items():
        assert value.dtype == torch.float64, name
    for name, value in tensors(rounded).items():
        assert value.dtype == torch.float32, name
    # The effect of rounding depends on the random weights; the parity tests measure it with fixed weights.
    assert (out.mask_features - rounded.mask_features).norm() / out.mask_features.norm() < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs(dtype):
    """Boxes and points stay in float32; videos and images have finite results."""
    model = small_model().to(dtype)
    with torch.no_grad():
        out = model(clips(1))
    wide = {name for name, value in tensors(out).items() if value.dtype == torch.float32}
    assert wide == {"coords"} | {f"{i}.boxes" for i in range(3)}
    assert {value.dtype for name, value in tensors(out).items() if name not in wide} == {dtype}
    assert all(value.isfinite().all() for value in tensors(out).values())
    video = moving_squares(10)
    result = model.segment(video, score_threshold=0)
    assert len(result) > 0
    assert result.masks.any()
    assert len(list(model.stream(video))) == 2
    image = model.segment_image(video[0])
    assert len(image) > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_frames_are_rounded_after_normalisation(dtype):
    model, seen = small_model(), []
    model.backbone.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.no_grad():
        model(clips(1))
        model.to(dtype)(clips(1))
    wide, half = seen
    assert half.dtype == dtype
    assert torch.equal(half, wide.float().to(dtype))


@pytest.mark.parametrize("options", [{}, {"decoder": "i2o"}])
def test_autocast(options):
    """Matrix products in bfloat16, boxes in float32: forward, backward and a whole video."""
    model = small_model(dropout=0.1, **options).float().train()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(clips(2), [(60, 90), (64, 96)])
        loss = sum((value.float() * torch.randn(value.shape)).sum() for value in tensors(out).values())
    assert out.layers[-1].class_logits.dtype == torch.bfloat16
    assert out.layers[-1].boxes.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert len(model.segment(moving_squares(7), score_threshold=0)) > 0
        assert len(model.segment_image(moving_squares(1)[0])) > 0


def test_compiles_in_one_graph():
    model = small_model(decoder_layers=1)
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert_equal(compiled(clips(1)), model(clips(1)))


def test_inference_ignores_and_keeps_the_training_mode():
    """Also if a part of the model is in evaluation mode, and if inference fails."""
    model, video = small_model(dropout=0.5), moving_squares(5)
    expected, expected_image = model.segment(video, score_threshold=0), model.segment_image(video[0])
    model.train()
    model.backbone.eval()
    modes = {name: m.training for name, m in model.named_modules()}
    assert set(modes.values()) == {True, False}
    result, image = model.segment(video, score_threshold=0), model.segment_image(video[0])
    np.testing.assert_array_equal(result.masks, expected.masks)
    np.testing.assert_array_equal(result.scores, expected.scores)
    np.testing.assert_array_equal(image.scores, expected_image.scores)
    next(iter(model.stream(moving_squares(20))))
    with pytest.raises(ValueError, match="frames"):
        model.segment([video[0], video[0, :9]])
    assert {name: m.training for name, m in model.named_modules()} == modes


def test_inference_uses_no_random_numbers_and_no_graph():
    model, video = small_model().requires_grad_(True), moving_squares(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first, image = model.segment(video, score_threshold=0), model.segment_image(video[0])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    torch.manual_seed(123)
    np.testing.assert_array_equal(first.masks, model.segment(video, score_threshold=0).masks)
    np.testing.assert_array_equal(image.masks, model.segment_image(video[0]).masks)
    assert all(p.grad is None for p in model.parameters())
    model(clips(1)).mask_features.sum().backward()  # fails for tensors of inference mode
    assert model.mask_head.upsample.weight.grad.any()


@pytest.mark.parametrize("options", [{}, {"test_shorter_edge": 48, "test_longer_edge": 70}, {"decoder": "i2o"}])
def test_image(options):
    """One frame through `forward`, and the rows of `filter_image`."""
    model, image = small_model(clip_length=1, **options), moving_squares(1, (60, 90))[0]
    size = (47, 70) if "test_shorter_edge" in options else (60, 90)
    result = model.segment_image(image, output_size=(33, 44))
    resized = torch.nn.functional.interpolate(
        image.permute(2, 0, 1)[None].float(), size=size, mode="bilinear", antialias=True
    ).round()
    with torch.no_grad():
        out = model(resized[None])
    found = filter_image(out.layers[-1].class_logits[0].sigmoid(), out.mask_logits[0, :, 0], size, (33, 44))
    assert len(result) == len(found.scores) > 0
    assert result.masks.shape == (len(result), 1, 33, 44)
    np.testing.assert_allclose(result.scores, found.scores, rtol=0.05 if options else 1e-9)  # two roundings of uint8
    np.testing.assert_array_equal(result.labels, found.labels)
    assert (result.masks[:, 0] != found.masks.numpy()).mean() < (0.02 if options else 1e-9)
    assert result.track_ids.tolist() == list(range(len(result)))
    assert model.segment_image(image).size == (60, 90)


def test_invalid_images():
    with pytest.raises(ValueError, match=r"frame 0 is \(4, 60, 90, 3\) uint8, expected \(height, width, 3\) uint8"):
        small_model().segment_image(moving_squares(4, (60, 90)))
