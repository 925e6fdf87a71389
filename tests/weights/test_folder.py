"""Saving models to folders, and strict loading."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hub_client import SmallModel, digest
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

import mdqe
from mdqe import MDQE, MDQEConfig
from mdqe.config import FORMAT_VERSION

NAMES = {"embed.weight", "embed.bias", "classify.weight", "classify.bias", "scale", "mean"}
FILES = {"config.json", "model.safetensors", "README.md"}


def edit_config(folder, **changes):
    values = json.loads((folder / "config.json").read_text())
    values.update(changes)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def edit_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def assert_rejected(folder, message, error=ValueError, **options):
    """Loading raises an error of one line that matches `message`; returns the text."""
    with pytest.raises(error, match=message) as raised:
        SmallModel.from_pretrained(folder, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- saving and loading ---------------------------------------------------------------------------------------------


def test_loaded_model_equals_the_saved_one(model, folder):
    loaded = SmallModel.from_pretrained(folder)
    assert loaded.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(loaded.table, model.table)  # a buffer that is not saved
    assert loaded.again is loaded.embed
    assert not loaded.training


def test_folder_contains_config_weights_and_card(folder):
    assert {path.name for path in folder.iterdir()} == FILES
    values = json.loads((folder / "config.json").read_text())
    assert values["model_type"] == "mdqe"
    assert values["format_version"] == FORMAT_VERSION
    assert set(load_file(folder / "model.safetensors")) == NAMES  # the shared layer once, under its first name
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1, "all files have the same permissions"
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n")
    for text in ("library_name: mdqe", f'MDQE.from_pretrained("{folder}")', "cat, dog, fish"):
        assert text in card


def test_source_of_the_weights_is_saved(model, tmp_path):
    model.save_pretrained(tmp_path, source="converted from x.pth")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata()["source"] == "converted from x.pth"
    assert "converted from x.pth" in (tmp_path / "README.md").read_text()


def test_saving_again_replaces_weights_and_keeps_the_card(model, folder):
    (folder / "README.md").write_text("written by the user")
    with torch.no_grad():
        model.scale.fill_(7)
    model.save_pretrained(folder)
    assert SmallModel.from_pretrained(folder).scale.tolist() == [7, 7, 7]
    assert (folder / "README.md").read_text() == "written by the user"


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_failed_saving_keeps_the_old_model(model, folder, monkeypatch, error):
    before = digest(SmallModel.from_pretrained(folder))

    def full(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise error

    monkeypatch.setattr("mdqe.weights.folder.save_file", full)
    with torch.no_grad():
        model.scale.fill_(7)
    with pytest.raises(OSError, match=r"No space left on device: '.*model\.safetensors'") as raised:
        model.save_pretrained(folder)
    assert raised.value.errno == 28
    assert {path.name for path in folder.iterdir()} == FILES
    assert digest(SmallModel.from_pretrained(folder)) == before


def test_saving_to_the_name_of_a_file_fails(model, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(NotADirectoryError, match="taken is a file, expected a folder"):
        model.save_pretrained(tmp_path / "taken")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_are_cast_to_the_default_type(model, tmp_path, dtype):
    model.to(dtype).save_pretrained(tmp_path)
    loaded = SmallModel.from_pretrained(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.embed.weight, model.embed.weight.float())


def test_dtype(folder, model):
    loaded = SmallModel.from_pretrained(folder, dtype=torch.bfloat16, device="cpu")
    assert {t.dtype for t in [*loaded.parameters(), loaded.table]} == {torch.bfloat16}
    assert torch.equal(loaded.embed.weight, model.embed.weight.bfloat16())
    assert_rejected(folder, r"dtype is torch\.int8, expected a floating-point type", dtype=torch.int8)


def test_bfloat16_on_a_slow_cpu_is_warned_about(folder, model, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(_is_mkldnn_bf16_supported=lambda: False))
    model.bfloat16().save_pretrained(tmp_path / "half")
    for path, dtype in ((folder, "bfloat16"), (tmp_path / "half", "auto")):
        with pytest.warns(UserWarning, match="bfloat16 is several times slower than float32 on this CPU"):
            SmallModel.from_pretrained(path, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SmallModel.from_pretrained(tmp_path / "half")  # in float32


def test_names_of_dtypes_as_in_transformers(folder, model):
    for options in ({"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}, {"torch_dtype": torch.bfloat16}):
        assert SmallModel.from_pretrained(folder, **options).embed.weight.dtype == torch.bfloat16
    model.half().save_pretrained(folder)
    assert SmallModel.from_pretrained(folder, dtype="auto").embed.weight.dtype == torch.float16
    assert SmallModel.from_pretrained(folder).embed.weight.dtype == torch.float32
    assert_rejected(folder, r"dtype is 'bf16', expected a floating-point type such as", dtype="bf16")
    assert_rejected(folder, r"expected one of them", dtype="float16", torch_dtype="bfloat16")


def test_subfolders(folder, model):
    inside = folder.parent / "all" / "small" / "one"
    inside.parent.mkdir(parents=True)
    folder.rename(inside)
    assert digest(SmallModel.from_pretrained(folder.parent / "all", subfolder="small/one")) == digest(model)
    assert_rejected(folder.parent / "all", "no such folder: .*all/two", FileNotFoundError, subfolder="two")
    for outside in ("../saved", "/saved"):
        assert_rejected(folder.parent / "all", "expected a folder inside the model's", subfolder=outside)


def test_presets_are_not_models():
    message = "^r101_coco is a preset, a configuration without weights; "
    assert_rejected("r101_coco", message)
    with pytest.raises(ValueError, match=message) as raised:
        SmallModel.from_pretrained("r101_coco")
    statement = re.search(r"MDQE\(.*\)\)", str(raised.value))[0]
    assert eval(statement, {"MDQE": lambda config: config, "MDQEConfig": MDQEConfig}) == MDQEConfig.preset("r101_coco")


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:99", "mps", "xpu", "meta"])
def test_absent_devices(folder, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    if torch.accelerator.is_available() and torch.accelerator.current_accelerator().type == device:
        pytest.skip(f"this machine has {device}")
    cuda = "which torch .* cannot use" if torch.cuda.is_available() else "but torch .* finds no CUDA device"
    expected = {"gpu": "expected one such as", "cuda": cuda, "cuda:99": cuda}
    assert_rejected(folder, f"device is '{device}', {expected.get(device, '')}", device=device)


def test_overrides_change_the_config(folder, model):
    loaded = SmallModel.from_pretrained(folder, window_length=7, test_shorter_edge=None)
    assert loaded.config == model.config.replace(window_length=7, test_shorter_edge=None)
    assert_rejected(
        folder, "^from_pretrained has no argument 'windowlength'; did you mean 'window_length'\\?$", windowlength=7
    )
    assert_rejected(folder, "^from_pretrained has no argument 'x'$", x=7)
    assert_rejected(folder, r"has 3 categories, not 5: .* reset_classes=True", num_classes=5)
    assert_rejected(folder, r"embed\.weight is \(32, 4\), expected \(32, 5\)", embed_dim=5)


def test_loading_draws_no_random_values(folder, model, monkeypatch):
    drawn = []
    draw = torch.nn.init.kaiming_uniform_
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *a, **k: drawn.append(self) or self)
    SmallModel(model.config)
    assert drawn, "the constructor draws random values"
    drawn.clear()
    state = torch.random.get_rng_state()
    SmallModel.from_pretrained(folder)
    assert not drawn
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.nn.init.kaiming_uniform_ is draw


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "swinv2_tiny_window8_256"])
def test_loaded_mdqe_equals_the_saved_one(tmp_path, backbone):
    """Includes the buffers that are not saved but computed by the backbone's constructor."""
    config = MDQEConfig(
        backbone, hidden_dim=32, num_heads=4, encoder_layers=1, decoder_layers=1, grid_size=4, num_classes=3,
        test_shorter_edge=None,
    )  # fmt: skip
    model = MDQE(config).eval()
    model.save_pretrained(tmp_path)
    loaded = MDQE.from_pretrained(tmp_path)
    assert loaded.config == config
    own = dict(loaded.named_parameters()) | dict(loaded.named_buffers())
    assert all(torch.equal(own[name], tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()])
    frames = torch.rand(1, 2, 3, 64, 64) * 255  # (B, T, 3, H, W)
    with torch.inference_mode():
        expected, got = model(frames), loaded(frames)
    assert torch.equal(got.mask_logits, expected.mask_logits)
    assert torch.equal(got.layers[-1].class_logits, expected.layers[-1].class_logits)


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": None}, "config of another model: model_type is None, expected 'mdqe'"),
        ({"model_type": "detr"}, "config of another model: model_type is 'detr', expected 'mdqe'"),
        ({"format_version": None}, "format_version is None, expected a whole number"),
        ({"format_version": FORMAT_VERSION + 1}, "reads up to 1: update mdqe"),
        ({"hidden_dims": 32}, "unknown configuration fields hidden_dims"),
        ({"num_heads": 0}, "num_heads is 0, expected a whole number from 1 to 65536"),
    ],
)
def test_invalid_configs(folder, changes, message):
    edit_config(folder, **changes)
    assert str(folder / "config.json") in assert_rejected(folder, message)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"mdqe"'])
def test_configs_of_another_format(folder, text):
    (folder / "config.json").write_text(text)
    assert_rejected(folder, r"config\.json is (not JSON|the config of another model)")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: (t.pop("scale"), t.pop("embed.bias")), r"2 missing: scale, embed\.bias$"),
        (lambda t: t.update(extra=torch.zeros(2), table=torch.zeros(4)), r"2 unexpected: extra, table$"),
        (
            lambda t: t.update(scale=torch.zeros(4), **{"embed.weight": torch.zeros(4, 32)}),
            r"2 with a different shape: scale is \(4,\), expected \(3,\), "
            r"embed\.weight is \(4, 32\), expected \(32, 4\)$",
        ),
        (
            lambda t: t.update({f"extra{i:02}": torch.zeros(1) for i in range(30)}),
            r"30 unexpected: extra00, .*, extra09 and 20 more$",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_listed(folder, change, message):
    edit_weights(folder, change)
    assert_rejected(folder, message)


@pytest.mark.parametrize("size", [0, 5, 60, 1000])
def test_truncated_weights(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert_rejected(folder, rf"model\.safetensors is truncated or damaged \({size:,} bytes", OSError)


def test_folder_without_config_or_weights(folder):
    (folder / "model.safetensors").unlink()
    assert_rejected(folder, r"saved has no model\.safetensors$", FileNotFoundError)
    (folder / "config.json").unlink()
    assert_rejected(folder, r"saved has no config\.json$", FileNotFoundError)


def test_errors_for_pickles_have_the_command_that_converts_them(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "official.pth")
    message = r"only safetensors weights can be loaded: mdqe convert .*official\.pth -o FOLDER"
    assert_rejected(folder, message, FileNotFoundError)
    assert_rejected(folder / "official.pth", r"official\.pth is a file, expected a folder.*: mdqe convert")


@pytest.mark.parametrize(
    "name", ["./runs/last", "/runs/last", "~/runs/last", "a/b/c", "~no-such-user/a", Path("runs/last")]
)
def test_paths_are_not_searched_on_the_hub(name):
    assert_rejected(name, "no such folder: ", FileNotFoundError)


def test_name_of_a_file_instead_of_its_folder(folder):
    assert_rejected(folder / "model.safetensors", f"is a file, expected a folder.*: pass its folder, {folder}$")


def test_home_folder_is_expanded(folder, model, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert SmallModel.from_pretrained("~/saved").config == model.config


# --- bundled models -------------------------------------------------------------------------------------------------


def test_bundled_models(model, tmp_path, monkeypatch):
    monkeypatch.setattr("mdqe.weights.source.BUNDLED_FOLDER", tmp_path)
    assert_rejected("mdqe:tiny", "no bundled model 'mdqe:tiny'; there are: none", FileNotFoundError)
    model.save_pretrained(tmp_path / "tiny")
    model.save_pretrained(tmp_path / "small")
    assert digest(SmallModel.from_pretrained("mdqe:tiny")) == digest(model)
    for name in ("mdqe:big", "mdqe:", "mdqe:../tiny", "mdqe:tiny/"):
        assert_rejected(name, r"no bundled model .*; there are: mdqe:small, mdqe:tiny; models that", FileNotFoundError)


def test_names_of_bundled_models_are_not_hub_ids():
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    with pytest.raises(HFValidationError):
        validate_repo_id("mdqe:tiny")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1j])
def test_weights_that_are_not_finite_numbers(folder, value):
    tensors = load_file(folder / "model.safetensors")
    names = [name for name in tensors if tensors[name].is_floating_point()][:2]
    for name in names:
        dtype = torch.complex64 if isinstance(value, complex) else tensors[name].dtype
        tensors[name] = tensors[name].to(dtype)
        tensors[name].view(-1)[-1] = value
    save_file(tensors, folder / "model.safetensors")
    text = assert_rejected(folder, "has 2 tensors with complex, NaN or infinite values: ")
    assert all(name in text for name in names)


WRITE = r"""
import sys, torch
from pathlib import Path
from mdqe.weights.folder import write_tensors
names = ["b", "a", "ü.weight", "c", "\x7f\x1b"]
tensors = {name: torch.full((2, 3), float(len(name))) for name in (names if sys.argv[2] == "0" else names[::-1])}
tensors |= {"half": torch.ones(3, dtype=torch.float16), "count": torch.tensor(3)}
metadata = {"format": "pt", "source": "é\n\"x\"", "z": "1", "a": "2", "m": "3", "b": "4"}
write_tensors(tensors, Path(sys.argv[1]), metadata if sys.argv[2] == "0" else dict(reversed(metadata.items())))
"""


def test_the_same_weights_are_the_same_bytes(tmp_path):
    """In processes with other hash seeds, and from dictionaries in another order."""
    written = []
    for seed in ("0", "1", "7"):
        path = tmp_path / f"{seed}.safetensors"
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(mdqe.__file__).parents[1])}
        subprocess.run([sys.executable, "-c", WRITE, str(path), seed], check=True, env=environment)
        written.append(path.read_bytes())
    assert written[0] == written[1] == written[2]
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "source": 'é\n"x"', "z": "1", "a": "2", "m": "3", "b": "4"}
        assert torch.equal(file.get_tensor("ü.weight"), torch.full((2, 3), 8.0)) and file.get_tensor("count") == 3


def test_saving_twice_gives_the_same_bytes(model, tmp_path):
    for name in ("one", "two"):
        model.save_pretrained(tmp_path / name, source="a test")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("name", ["", None, 3])
def test_names_that_are_none(name):
    with pytest.raises(ValueError, match=r"^the model is .*, expected a folder, a Hub id or mdqe:NAME$"):
        MDQE.from_pretrained(name)


def test_bundled_models_have_no_folders_inside():
    with pytest.raises(ValueError, match="subfolder is 'small', but mdqe:tiny has no folders inside"):
        MDQE.from_pretrained("mdqe:tiny", subfolder="small")
