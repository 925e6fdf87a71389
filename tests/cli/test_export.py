"""`mdqe export` with wrong input: one line, before anything is traced."""

from pathlib import Path

import pytest

from mdqe import MDQE, MDQEConfig
from mdqe.export import export_model, folder

BAD = [
    (("--opset", "11"), "opset is 11, expected 18 to 23"),
    (("--opset", "99"), "opset is 99, expected 18 to 23"),
    (("--opset", "x"), "argument --opset: invalid int value: 'x'"),
    (("--format", "torch", "--opset", "20"), "opset is 20, but format 'torch' has no opset"),
    (("--format", "tflite"), "argument --format: invalid choice: 'tflite'"),
    (("--format", "torch", "--model", "/nowhere/model"), "no such folder: /nowhere/model"),
    (("--format", "torch", "--model", "mdqe:huge"), "no bundled model 'mdqe:huge'"),
]


@pytest.fixture
def installed(monkeypatch) -> None:
    """Pretend that the packages that write ONNX are installed, so that the other errors are reported."""
    monkeypatch.setattr(folder, "find_spec", lambda name: True)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_line(run, tmp_path, arguments, message):
    status, out, err = run("export", *arguments, "-o", tmp_path / "out")
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("absent", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(run, tmp_path, monkeypatch, absent):
    monkeypatch.setattr(folder, "find_spec", lambda name: None if name == absent else True)
    status, _, err = run("export", "-o", tmp_path / "out")
    assert status == 2
    assert err == f"mdqe export: error: ONNX export needs {absent}: pip install 'mdqe[export]'\n"


@pytest.mark.usefixtures("installed")
def test_an_output_that_cannot_be_written(run, tmp_path, tiny_model):
    place = tmp_path / "a file"
    place.write_text("kept")
    for output in (place, place / "folder", Path("/proc/mdqe")):
        status, out, err = run("export", "--model", tiny_model, "--format", "torch", "-o", output)
        assert (status, out) == (2, "")
        assert "cannot write there" in err and str(output) in err
        assert err.count("\n") == 1
    assert place.read_text() == "kept"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("backbone", ["swinv2_tiny_window8_256", "swin_tiny_patch4_window7_224"])
def test_a_swin_backbone_is_rejected(run, tmp_path, backbone):
    model = MDQE(MDQEConfig(backbone=backbone, hidden_dim=32, num_heads=4, encoder_layers=1, decoder_layers=1))
    with pytest.raises(ValueError, match=f"backbone '{backbone}' cannot be exported"):
        export_model(model, tmp_path / "out", format="torch")
    model.save_pretrained(tmp_path / "model")
    status, out, err = run("export", "--model", tmp_path / "model", "-o", tmp_path / "out")
    assert (status, out) == (2, "")
    assert "the shifted windows of a Swin" in err
    assert err.count("\n") == 1
    assert not list((tmp_path / "out").iterdir())
