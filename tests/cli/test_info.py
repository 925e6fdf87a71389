"""`mdqe info`."""

import re

import pytest
import torch
from torch import nn

import mdqe
from mdqe.cli import info
from mdqe.cli.info import FLOPS_PER_SAMPLE, flops_by_part, parameters_by_part


def test_the_installation(run):
    status, stdout, stderr = run("info")
    assert (status, stderr) == (0, "")
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in stdout.strip().splitlines())
    assert rows["mdqe"].startswith(mdqe.__version__)
    assert rows["torch"] == torch.__version__
    assert rows["CPU kernels"] in (mdqe.ops.kernel_status().cpu,)
    assert "CUDA kernels" in rows
    assert "bundled models" in rows


def test_missing_packages_name_their_install(run, monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("mdqe.cli.info.version", missing)
    assert "not installed: pip install 'mdqe[video]'" in run("info")[1]


def test_a_model(run, tiny_model):
    status, stdout, stderr = run("info", "--model", tiny_model, "--device", "cpu")
    assert status == 0, stderr
    total = sum(p.numel() for p in mdqe.MDQE.from_pretrained(tiny_model).parameters())
    assert f"{total:,}" in stdout
    assert re.search(r"weights +\S+model\.safetensors \(\d+\.\d MB\)", stdout)
    assert re.search(r"from +a test", stdout)
    assert "2: cat, dog" in stdout
    assert "for a frame of 114x64" in stdout


def test_an_unknown_model_is_one_line(run, tmp_path):
    status, stdout, stderr = run("info", "--model", tmp_path / "none")
    assert (status, stdout) == (2, "")
    assert len(stderr.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def model():
    from mdqe import MDQE, MDQEConfig

    small = {"encoder_layers": 1, "decoder_layers": 1, "hidden_dim": 64, "num_classes": 3}
    return MDQE(MDQEConfig(backbone="resnet18", clip_length=3, test_clip_length=3, **small)).eval()


def test_parts_add_up_to_the_model(model):
    counts = parameters_by_part(model)
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert counts["backbone"] == sum(p.numel() for p in model.backbone.parameters())


def test_operations_of_the_backbone_follow_from_the_shapes_of_its_convolutions(model):
    expected = []

    def count(module, inputs, output):
        taps = module.weight[0].numel()
        expected.append(2 * taps * output[0].numel())

    hooks = [m.register_forward_hook(count) for m in model.backbone.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        model.backbone(torch.zeros(1, 3, 96, 128))
    for hook in hooks:
        hook.remove()
    assert flops_by_part(model, (96, 128))["backbone"] == sum(expected)


def test_operations_follow_size_and_stride(model):
    small, large = flops_by_part(model, (96, 128)), flops_by_part(model, (192, 256))
    assert large["backbone"] == 4 * small["backbone"]
    # The biases of the last step are computed for 9 × 9 positions at any size, once for all frames of a clip.
    biases = 2 * 81 * model.config.hidden_dim * model.config.mask_dim / model.config.test_clip_length
    assert large["mask head"] - biases == pytest.approx(4 * (small["mask head"] - biases), abs=4)
    assert large["heads"] == small["heads"]
    sparse = model.config.replace(clip_stride=3)
    original, model.config = model.config, sparse
    try:
        assert flops_by_part(model, (96, 128))["heads"] == round(small["heads"] / 3)
    finally:
        model.config = original


def test_the_samples_of_deformable_attention_are_counted(model, monkeypatch):
    """An encoder layer samples the channels of every token at each level and point."""
    config, tokens = model.config, 12 * 16 + 6 * 8 + 3 * 4 + 2 * 2
    sampled = tokens * config.hidden_dim * config.num_levels * config.num_points * FLOPS_PER_SAMPLE
    with_sampling = flops_by_part(model, (96, 128))["encoder"]
    monkeypatch.setattr(info, "FLOPS_PER_SAMPLE", 0)
    without = flops_by_part(model, (96, 128))["encoder"]
    assert with_sampling - without == pytest.approx(sampled, abs=1)
