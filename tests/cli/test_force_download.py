"""--force-download of every command with --model."""

import pytest

from mdqe import MDQE
from mdqe.data.synthetic_files import write_set
from mdqe.errors import InputError
from mdqe.weights import source


@pytest.fixture
def fetched(monkeypatch, tiny_model):
    """The values of force_download, for the configuration and for the model. Loading ends with an error."""
    values = []
    open_source = source.open_source

    def opened(name, **options):
        values.append(options.get("force_download", False))
        return open_source(tiny_model)

    def load(name, **options):
        values.append(options.get("force_download", False))
        raise InputError("loaded")

    monkeypatch.setattr(source, "open_source", opened)
    monkeypatch.setattr(MDQE, "from_pretrained", load)
    return values


@pytest.mark.parametrize("command", ["segment", "demo", "evaluate", "info", "export", "app"])
@pytest.mark.parametrize("option", [(), ("--force-download",)])
def test_the_option_reaches_the_download(run, fetched, make_clip, tmp_path, monkeypatch, command, option):
    monkeypatch.setattr("mdqe.cli.app._confine_gradio", lambda folder: None)
    monkeypatch.setattr("mdqe.cli.app_server.require_gradio", lambda: None)
    if command == "evaluate":
        list(write_set(tmp_path / "set", videos=1, frames=3, size=(48, 64), difficulty="easy", mp4=False))
    arguments = {
        "segment": (make_clip(), "-o", tmp_path / "out"),
        "demo": ("-o", tmp_path / "out"),
        "evaluate": ("--data", tmp_path / "set", "-o", tmp_path / "out"),
        "export": ("-o", tmp_path / "out", "--format", "torch"),
        "app": ("--port", "0"),
    }.get(command, ())
    status, _, err = run(command, "--model", "someone/model", *arguments, *option)
    assert status == 2 and "error: loaded" in err, err
    assert fetched and set(fetched) == {bool(option)}
