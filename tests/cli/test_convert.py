"""`mdqe convert` on checkpoints of the released layout."""

import hashlib
import re
import shlex
from pathlib import Path

import pytest
import torch
from official_layout import layout, pickled
from safetensors import safe_open
from safetensors.torch import load_file

from mdqe import MDQE, MDQEConfig
from mdqe.checkpoint import convert_official
from mdqe.cli import say
from mdqe.weights.convert import configure


@pytest.fixture
def checkpoint(tmp_path):
    """Write a checkpoint of the released layout, with a different value in each tensor."""

    def write(*sizes):
        state = {
            name: torch.full((1,), 1e-3 * i).expand(shape) for i, (name, shape) in enumerate(layout(*sizes).items())
        }
        torch.save({"model": state, "iteration": 1}, tmp_path / "official.pth")
        return tmp_path / "official.pth"

    return write


R50_OVIS = ("resnet50", 256, 25, 4)


def test_converted_model_loads_with_every_value(run, checkpoint, tmp_path):
    path = checkpoint(*R50_OVIS)
    status, out, err = run("convert", path, "-o", tmp_path / "model")
    assert (status, out) == (0, f"{tmp_path / 'model'}\n"), "only the result goes to stdout"
    assert "detected preset r50_ovis_360; r50_ovis_720 has the same shapes and other test settings" in err
    assert "762 tensors: " in err
    assert "decoder.layers.*.cross_attn.lvl_spatial_scales" in err, "unused tensors are listed"

    model = MDQE.from_pretrained(tmp_path / "model")
    assert model.config == MDQEConfig.preset("r50_ovis_360")
    expected = convert_official(torch.load(path, weights_only=True), model.config)
    state = model.state_dict()
    assert set(state) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor.to(state[name].dtype)), name
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        source = file.metadata()["source"]
    assert source == f"official.pth, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert source in (tmp_path / "model" / "README.md").read_text()

    before = (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns
    status, out, err = run("convert", path, "-o", tmp_path / "model")
    assert (status, out) == (
        2,
        "",
    ) and "already exists; choose a new folder, or replace the model in it: --force" in err
    assert (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns == before


def configured(path, preset=None, clip_length=None):
    return configure(torch.load(path, weights_only=True)["model"], preset, clip_length, say)


def test_a_named_preset_decides_the_settings(checkpoint):
    path = checkpoint(*R50_OVIS)
    assert configured(path) == MDQEConfig.preset("r50_ovis_360")
    assert configured(path, "r50_ovis_720") == MDQEConfig.preset("r50_ovis_720")


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        (("resnet50", 256, 40, 4), "r50_ytvis19 and r50_ytvis21"),
        (("swinv2_large_window12_192", 192, 40, 3), "swinl_ytvis19 and swinl_ytvis21"),
    ],
)
def test_presets_with_other_categories_must_be_named(checkpoint, sizes, names):
    path = checkpoint(*sizes)
    with pytest.raises(ValueError, match=f"{names} have the same shapes but other categories: name the right one"):
        configured(path)
    second = names.split()[-1]
    assert configured(path, second) == MDQEConfig.preset(second)


def test_presets_that_do_not_fit_are_rejected(checkpoint):
    path = checkpoint(*R50_OVIS)
    with pytest.raises(ValueError, match="preset r101_ytvis19 has backbone resnet101 and 256 channels, the checkpoint"):
        configured(path, "r101_ytvis19")


def test_own_categories_and_clips(checkpoint, capsys):
    path = checkpoint("resnet50", 256, 7, 6)
    message = "no preset has backbone=resnet50, hidden_dim=256, num_classes=7, clip_length=6: name the nearest one"
    with pytest.raises(ValueError, match=message):
        configured(path)
    config = configured(path, "r50_ovis_360")
    assert (config.num_classes, config.categories, config.clip_length) == (7, (), 6)
    assert "7 categories instead of the 25 of r50_ovis_360; their names are unknown" in capsys.readouterr().err
    with pytest.raises(ValueError, match="the checkpoint attends over 6 frames, not 4; only 1 can be repeated"):
        configured(path, "r50_ovis_360", clip_length=4)


def test_image_checkpoints_become_video_models_on_request(run, checkpoint, tmp_path):
    path = checkpoint("resnet50", 256, 80, 1)
    assert configured(path) == MDQEConfig.preset("r50_coco")
    assert configured(path, clip_length=3) == MDQEConfig.preset("r50_coco", clip_length=3)
    assert configured(path, "r50_ytvis21").clip_length == 4
    with pytest.raises(ValueError, match="clip_length is 0, expected a whole number from 1 to 65536"):
        configured(path, clip_length=0)
    status, _, err = run("convert", path, "-o", tmp_path / "model", "--clip-length", 3)
    assert status == 0 and "temporal attention of single frames, repeated for 3 frames" in err
    model = MDQE.from_pretrained(tmp_path / "model")
    assert model.decoder.layers[0].clip.cross_attn.num_frames == 3


def test_saved_image_models_take_clips_when_they_are_loaded(tmp_path):
    config = MDQEConfig(
        "test_resnet", hidden_dim=32, num_heads=4, encoder_layers=1, decoder_layers=2, grid_size=4, clip_length=1
    )
    image = MDQE(config)
    torch.nn.init.normal_(image.decoder.layers[1].clip.cross_attn.attention_weights.weight)
    image.save_pretrained(tmp_path)
    video = MDQE.from_pretrained(tmp_path, clip_length=3)
    single, repeated = (m.decoder.layers[1].clip.cross_attn.attention_weights.weight for m in (image, video))
    assert torch.equal(repeated.view(4, 3, 4, 32), single.view(4, 1, 4, 32).expand(-1, 3, -1, -1))  # (H, T, P, C)
    video.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"8 with a different shape: decoder\.layers\.0\.clip\.cross_attn"):
        MDQE.from_pretrained(tmp_path, clip_length=5)  # trained on 3 frames: not repeated


def test_checkpoint_with_a_missing_tensor(run, tmp_path):
    state = pickled(layout(*R50_OVIS))
    del state["detr.transformer_dec.mask_head.gn2.bias"]
    torch.save(state, tmp_path / "x.pth")
    status, out, err = run("convert", tmp_path / "x.pth", "-o", tmp_path / "model")
    assert (status, out) == (2, "")
    assert "x.pth does not fit the model of its config; 1 missing: mask_head.fuse.1.1.bias" in err.splitlines()[-1]
    assert not (tmp_path / "model").exists()


def test_bad_input_is_one_line_and_status_2(run, checkpoint, tmp_path):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html>")
    (tmp_path / "taken").write_text("")
    path = checkpoint(*R50_OVIS)
    for file, output, options, message in (
        ("absent.pth", "m", (), "no such file: "),
        ("page.pth", "m", (), "was not written by torch.save: it begins with b'<!DOCTYPE html>'"),
        (path, "m", ("--clip-length", 0), "'0' is not a whole number of at least 1"),
        (path, "m", ("--preset", "r50"), "r50_ovis_360"),
        (path, "taken", ("--preset", "r50_ovis_360"), "taken is a file, expected a folder"),
    ):
        status, out, err = run("convert", tmp_path / file, "-o", tmp_path / output, *options)
        assert (status, out) == (2, "")
        assert err.splitlines()[-1].startswith("mdqe convert: error: ") and message in err.splitlines()[-1]


def test_an_existing_folder_needs_force(run, checkpoint, tiny_model, tmp_path):
    folder = tmp_path / "model"
    (folder / "notes").mkdir(parents=True)
    (folder / "README.md").write_text("mine")
    path = write_run(tiny_model, tmp_path / "run")
    status, out, err = run("convert", path, "-o", folder)
    assert (status, out) == (2, "")
    assert (
        err
        == f"mdqe convert: error: {folder} already exists; choose a new folder, or replace the model in it: --force\n"
    )
    assert sorted(one.name for one in folder.iterdir()) == ["README.md", "notes"]
    status, out, err = run("convert", path, "-o", folder, "--force")
    assert (status, out) == (0, f"{folder}\n")
    assert f"{folder / 'README.md'} is kept as it was" in err and (folder / "README.md").read_text() == "mine"
    assert sorted(one.name for one in folder.iterdir()) == ["README.md", "config.json", "model.safetensors", "notes"]


def write_run(model: Path, folder: Path, average: bool = False) -> Path:
    """A checkpoint as a training run writes it."""
    trained = MDQE.from_pretrained(model)
    averages = {name: parameter.detach() / 2 for name, parameter in trained.named_parameters()}
    state = {
        "step": 7, "batch": 1, "config": trained.config.to_dict(), "model": dict(trained.state_dict()), "optimizer": {},
        "scaler": {}, "average": averages if average else None, "random": [], "interval": {},
    }  # fmt: skip
    folder.mkdir()
    torch.save(state, folder / "checkpoint.pt")
    return folder / "checkpoint.pt"


@pytest.mark.parametrize("average", [False, True])
def test_a_stopped_run_is_converted_as_the_message_says(run, tiny_model, tmp_path, average):
    path = write_run(tiny_model, tmp_path / "run", average)
    status, _, err = run("info", "--model", tmp_path / "run")
    assert status == 2
    command = re.search(r"mdqe (convert \S+/checkpoint\.pt -o FOLDER)\n$", err)[1]
    status, out, err = run(*shlex.split(command.replace("FOLDER", str(tmp_path / "model"))))
    assert (status, out) == (0, f"{tmp_path / 'model'}\n")
    assert "checkpoint of mdqe train after step 7" in err
    old, new = MDQE.from_pretrained(tiny_model), MDQE.from_pretrained(tmp_path / "model")
    assert new.config == old.config
    expected = dict(old.state_dict())
    expected |= {name: parameter / 2 for name, parameter in old.named_parameters()} if average else {}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in new.state_dict().items())
    status, _, err = run("convert", path, "-o", tmp_path / "other", "--preset", "r50_coco")
    assert status == 2 and "a checkpoint of mdqe train has its own configuration; omit --preset" in err


def test_what_training_writes_is_what_convert_reads(run, tiny_model, tmp_path):
    """The model at the end of a run is the one that its last checkpoint gives, moving average included."""
    options = ("--data", "synthetic", "--size", "64x48", "--steps", 1, "--batch", 1, "--ema", "0.5", "--device", "cpu")
    assert run("train", "--init", tiny_model, "--reset-classes", *options, "-o", tmp_path / "run")[0] == 0
    assert run("convert", tmp_path / "run" / "checkpoint.pt", "-o", tmp_path / "model")[0] == 0
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("run", "model")]
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
