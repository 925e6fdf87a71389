"""Downloads from a Hub that fails, stalls, sends damaged files or cannot be reached."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_client import digest
from hub_process import Client

from mdqe.errors import InputError
from mdqe.weights.download import StalledError, call_with_progress, seconds_without_progress
from mdqe.weights.source import BUNDLED_FOLDER, open_source

INTERRUPTED = "download of model.safetensors of 'someone/model' was interrupted, try again ("


def test_short_downloads_are_not_kept(hub, client, model):
    hub.short["model.safetensors"] = 1000
    assert client.error("ConnectionError").startswith(INTERRUPTED)
    hub.short.clear()
    assert client.load()["digest"] == digest(model)


def test_interrupted_downloads_are_resumed(hub, client, model):
    """By the client itself or, for older clients, by the next call."""
    hub.cut["model.safetensors"] = [100, 200]
    answers = [client.load()]
    while "error" in answers[-1] and len(answers) < 4:
        assert answers[-1]["error"] == "ConnectionError"
        assert answers[-1]["message"].startswith(INTERRUPTED)
        answers.append(client.load())
    assert answers[-1]["digest"] == digest(model)
    assert hub.downloads("model.safetensors") == 3


def test_connection_that_always_breaks(hub, client):
    hub.cut["model.safetensors"] = [100] + [0] * 20
    assert client.error("ConnectionError").startswith(INTERRUPTED)


def test_truncated_file_in_the_cache(hub, client):
    client.load()
    weights = next(Path(client.cache).rglob("model.safetensors")).resolve()
    weights.write_bytes(weights.read_bytes()[:1000])
    os.utime(weights, (0, 0))
    message = client.error("OSError")
    assert "truncated or damaged (1,000 bytes" in message
    assert message.endswith("download it again with --force-download, in Python force_download=True")
    assert "digest" in client.load(force_download=True)


def test_local_files_only(hub, client, model):
    message = client.error("FileNotFoundError", local_files_only=True)
    looked = "no folder 'someone/model' here; looked for a Hub model 'someone/model'"
    assert (
        message
        == f"{looked}: config.json of 'someone/model' is not in the cache {client.cache}, and downloads are disabled"
    )
    client.load()
    hub.requests.clear()
    assert client.load(local_files_only=True)["digest"] == digest(model)
    assert hub.requests == []
    message = client.error("InputError", local_files_only=True, force_download=True)
    assert message == "force_download=True and local_files_only=True cannot be combined"


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (429, "429 (Too Many Requests): wait before you try again"),
        (500, "500 (Internal Server Error): a fault of the server, try again later"),
        (502, "502 (Bad Gateway): a fault of the server, try again later"),
        (503, "503 (Service Unavailable): a fault of the server, try again later"),
        (504, "504 (Gateway Timeout): a fault of the server, try again later"),
        (418, "418 (I'm a Teapot)"),
        (599, "599"),
    ],
)
def test_failing_hub(hub, client, model, status, meaning):
    client.load()
    hub.failing = status
    assert client.load()["digest"] == digest(model), "from the cache"
    message = client.error("ConnectionError", force_download=True)
    assert message == f"download of config.json of 'someone/model': {hub.endpoint} returned status {meaning}"


def test_failing_host_of_large_files(hub, client, model):
    hub.failing, hub.failing_paths = 503, "/cdn"
    message = client.error("ConnectionError")
    assert message.startswith("download of model.safetensors of 'someone/model'")
    assert message.endswith("returned status 503 (Service Unavailable): a fault of the server, try again later")
    hub.failing = 0
    assert client.load()["digest"] == digest(model)


@pytest.mark.parametrize("status", [429, 503])
def test_the_status_of_a_hub_that_asks_to_wait_for_an_hour(hub, hasty, status):
    hub.failing, hub.retry_after = status, "3600"
    start = time.monotonic()
    assert f"{hub.endpoint} returned status {status} (" in hasty.error("ConnectionError")
    assert time.monotonic() - start < 20
    hub.failing = 0
    assert "digest" in hasty.load()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("pause", [0.2, 30])
def test_a_server_that_drips_or_stalls(hub, hasty, model, name, pause):
    """The connection is given up after 2 s without progress here, and nothing of it prevents the next call."""
    hub.pauses[name] = pause
    start = time.monotonic()
    message = hasty.error("ConnectionError")
    assert time.monotonic() - start < 20
    assert message.startswith(f"download of {name} of 'someone/model' made no progress for 2 s; try again, or set ")
    hub.pauses.clear()
    time.sleep(2 if pause > 1 else 0)  # until the client's own limit for a read ends the abandoned thread
    assert hasty.load()["digest"] == digest(model)
    assert list(Path(hasty.cache).rglob("*.incomplete")) == []


def test_a_slow_download_with_progress_is_not_given_up(tmp_path):
    sizes = iter(range(1000))
    assert call_with_progress(lambda: time.sleep(1) or "done", lambda: next(sizes), 0.2) == "done"
    with pytest.raises(StalledError):
        call_with_progress(lambda: time.sleep(1), lambda: 0, 0.2)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_ends_a_download_and_keeps_nothing_of_it(hub, tmp_path):
    hub.add("someone/tiny", {path.name: path.read_bytes() for path in (BUNDLED_FOLDER / "tiny").iterdir()})
    hub.pauses["model.safetensors"] = 0.2
    env = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "NO_PROXY": "*"}
    command = [sys.executable, "-m", "mdqe", "info", "--model", "someone/tiny"]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.incomplete")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors.splitlines()[-1]) == (1, "mdqe info: interrupted")
    assert "Traceback" not in errors
    assert list(tmp_path.rglob("*.incomplete")) == []


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "1e3"])
def test_invalid_limit(monkeypatch, value):
    monkeypatch.setenv("MDQE_DOWNLOAD_TIMEOUT", value)
    with pytest.raises(InputError, match=f"MDQE_DOWNLOAD_TIMEOUT is '{value}'; expected a number of seconds above 0"):
        seconds_without_progress()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_damaged_downloads_are_not_kept(hub, client, files, model, name):
    content = files[name]
    hub.broken[name] = content[: len(content) // 2] + bytes(len(content) - len(content) // 2)
    message = client.error("ConnectionError")
    assert message.startswith(f"{name} of 'someone/model' ") and "deleted from the cache: try again" in message
    assert client.error("ConnectionError") == message
    hub.broken.clear()
    assert client.load()["digest"] == digest(model)


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch):
    class ConnectError(Exception):
        pass

    def refuse(*_, **options):
        assert options["timeout"] <= 2
        raise ConnectError("Name or service not known")

    monkeypatch.setattr("mdqe.weights.source.get_hf_file_metadata", refuse)
    monkeypatch.setattr("mdqe.weights.source.hf_hub_download", None)
    with pytest.raises(ConnectionError) as raised:
        open_source("models/r50")("config.json")
    looked = "no folder 'models/r50' here; looked for a Hub model 'models/r50'"
    message = f"{looked}: cannot reach https://huggingface.co (Name or service not known); is the network up?"
    assert str(raised.value) == message


def test_offline_machine(hub, client, model, tmp_path):
    """HF_HUB_OFFLINE is set and no server listens at the endpoint."""
    client.load()
    offline = Client("http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    offline.cache = client.cache
    assert offline.load()["digest"] == digest(model), "from the cache"
    assert offline.error("FileNotFoundError", "someone/other").endswith("and downloads are disabled")
    offline.close()
