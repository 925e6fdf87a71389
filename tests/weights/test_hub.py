"""Loading from the Hugging Face Hub and pushing to it: the Hub's own client against a server on loopback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hub_client import SmallModel, digest
from hub_server import READ_ONLY_TOKEN, TOKEN, HubServer

from mdqe.errors import InputError
from mdqe.weights.download import StalledError, call_with_progress, seconds_without_progress
from mdqe.weights.source import BUNDLED_FOLDER

INTERRUPTED = "download of model.safetensors of 'someone/model' was interrupted, try again ("


class Client:
    """A process of hub_client.py. Models are loaded through the cache folder `cache`."""

    def __init__(self, endpoint: str, folder: Path, **environment: str) -> None:
        env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder), "NO_PROXY": "*", **environment}
        env = {key: value for key, value in env.items() if key not in ("HF_TOKEN", "HF_HUB_CACHE")}
        script = Path(__file__).with_name("hub_client.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], env=env, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.cache = ""

    def ask(self, call: str, name: str, **options: object) -> dict:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"call": call, "name": name, "options": options}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert "\n" not in answer.get("message", ""), "errors are one line"
        return answer

    def load(self, name: str = "someone/model", **options: object) -> dict:
        return self.ask("load", name, cache_dir=self.cache, **options)

    def error(self, expected: str, name: str = "someone/model", **options: object) -> str:
        """The message of the expected error of `load`."""
        answer = self.load(name, **options)
        assert answer.get("error") == expected, answer
        return answer["message"]

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(20) == 0


@pytest.fixture(scope="module")
def server():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def process(server, tmp_path_factory):
    client = Client(server.endpoint, tmp_path_factory.mktemp("client"))
    yield client
    client.close()


@pytest.fixture
def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(server, files):
    """A Hub with the model "someone/model" and without faults."""
    server.repositories.clear()
    server.requests.clear()
    server.short.clear()
    server.cut.clear()
    server.broken.clear()
    server.pauses.clear()
    server.failing, server.failing_paths, server.retry_after = 0, "", ""
    server.add("someone/model", files)
    return server


@pytest.fixture
def client(process, tmp_path):
    """A client with an empty cache."""
    process.cache = str(tmp_path / "cache")
    return process


@pytest.fixture(scope="module")
def hasty_process(server, tmp_path_factory):
    limits = {"MDQE_DOWNLOAD_TIMEOUT": "2", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    client = Client(server.endpoint, tmp_path_factory.mktemp("hasty"), **limits)
    yield client
    client.close()


@pytest.fixture
def hasty(hasty_process, tmp_path):
    """A client that gives up soon, with an empty cache."""
    hasty_process.cache = str(tmp_path / "cache")
    return hasty_process


# --- loading --------------------------------------------------------------------------------------------------------


def test_models_are_downloaded_once(hub, client, model):
    loaded = client.load()
    assert loaded == {"digest": digest(model), "num_classes": 3, "training": False}
    assert hub.downloads("model.safetensors") == 1
    assert client.load() == loaded
    assert hub.downloads("model.safetensors") == 1
    assert client.load(force_download=True) == loaded
    assert hub.downloads("model.safetensors") == 2


def test_overrides(hub, client):
    assert "classify.weight is (3, 32), expected (5, 32)" in client.error("InputError", num_classes=5)


def test_revisions(hub, client, model, tmp_path):
    repository = hub.repositories["someone/model"]
    first = repository.refs["main"]
    with torch.no_grad():
        model.scale.fill_(7)
    model.save_pretrained(tmp_path / "newer")
    repository.commit({path.name: path.read_bytes() for path in (tmp_path / "newer").iterdir()})
    repository.refs["v1"] = first
    old, new = (client.load(revision=revision)["digest"] for revision in ("v1", "main"))
    assert new == digest(model)
    assert old != new
    assert client.load(revision=first)["digest"] == old
    assert client.error("FileNotFoundError", revision="v2") == "'someone/model' has no revision 'v2'"


def test_both_files_come_from_one_commit(hub, client):
    """If the branch moves between the two downloads, the weights are still those of the config."""
    first = hub.repositories["someone/model"].refs["main"]
    assert client.load()["num_classes"] == 3
    assert ("HEAD", f"/someone/model/resolve/{first}/model.safetensors") in hub.requests


@pytest.mark.parametrize("token", [None, TOKEN])
def test_missing_model(hub, client, token):
    message = client.error("FileNotFoundError", "someone/nothing", token=token)
    assert message.startswith("'someone/nothing' is neither a local folder nor a model at http://127.0.0.1")
    assert "a private model needs a token" in message


def test_missing_files(hub, client, files):
    hub.add("someone/other", {"model.bin": b""})
    hub.add("someone/pickle", {"config.json": files["config.json"], "pytorch_model.bin": b""})
    message = client.error("FileNotFoundError", "someone/other")
    assert message == "'someone/other' has no config.json: not an mdqe model"
    message = client.error("FileNotFoundError", "someone/pickle")
    assert message == "'someone/pickle' has no model.safetensors: only safetensors weights can be loaded"


def test_weights_of_another_model_are_not_downloaded(hub, client, files):
    hub.add("someone/detr", {**files, "config.json": b'{"model_type": "detr"}'})
    assert "config of another model: model_type is 'detr'" in client.error("InputError", "someone/detr")
    assert hub.downloads("model.safetensors") == 0


def test_private_model_needs_the_token(hub, client, files, model):
    hub.add("someone/private", files, private=True)
    assert "a private model needs a token" in client.error("FileNotFoundError", "someone/private")
    message = client.error("PermissionError", "someone/private", token="hf_wrong")
    assert "denied access (status 401); check the token" in message
    assert client.load("someone/private", token=TOKEN)["digest"] == digest(model)


def test_gated_model(hub, client, files, model):
    hub.add("someone/gated", files, gated=True)
    for token in (None, READ_ONLY_TOKEN):
        message = client.error("PermissionError", "someone/gated", token=token)
        assert message.startswith("'someone/gated' is gated: accept its conditions at ")
    assert client.load("someone/gated", token=TOKEN)["digest"] == digest(model)


def test_invalid_names(hub, client):
    message = client.error("InputError", "some one/model")
    assert message == "'some one/model' is neither a folder nor a Hub id such as 'user/model'"


def test_bugs_are_not_reported_as_network_failures(monkeypatch):
    def broken(*_, **__):
        raise TypeError("unexpected keyword argument")

    monkeypatch.setattr("mdqe.weights.source.hf_hub_download", broken)
    with pytest.raises(TypeError, match=r"^unexpected keyword argument$"):
        SmallModel.from_pretrained("someone/model")


# --- faults of the network ------------------------------------------------------------------------------------------


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
    assert message == f"config.json of 'someone/model' is not in the cache {client.cache}, and downloads are disabled"
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


def test_offline_machine(hub, client, model, tmp_path):
    """HF_HUB_OFFLINE is set and no server listens at the endpoint."""
    client.load()
    offline = Client("http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    offline.cache = client.cache
    assert offline.load()["digest"] == digest(model), "from the cache"
    assert offline.error("FileNotFoundError", "someone/other").endswith("and downloads are disabled")
    offline.close()


# --- pushing --------------------------------------------------------------------------------------------------------


def test_pushed_model_can_be_loaded(hub, client, folder, model):
    url = client.ask("push", "me/mine", folder=str(folder), token=TOKEN)["url"]
    repository = hub.repositories["me/mine"]
    assert url == f"{hub.endpoint}/me/mine/commit/{repository.refs['main']}"
    files = repository.commits[repository.refs["main"]]
    assert set(files) == {".gitattributes", "config.json", "model.safetensors", "README.md"}
    assert b'MDQE.from_pretrained("me/mine")' in files["README.md"]
    assert client.load("me/mine")["digest"] == digest(model)


def test_push_keeps_an_existing_card(hub, client, folder, files):
    hub.add("me/mine", {"README.md": b"written by the user"})
    client.ask("push", "me/mine", folder=str(folder), token=TOKEN)
    repository = hub.repositories["me/mine"]
    now = repository.commits[repository.refs["main"]]
    assert now["README.md"] == b"written by the user"
    assert now["model.safetensors"] == files["model.safetensors"]


@pytest.mark.parametrize(("token", "status"), [(None, 401), (READ_ONLY_TOKEN, 403)])
def test_push_without_permission(hub, client, folder, token, status):
    answer = client.ask("push", "me/mine", folder=str(folder), token=token)
    assert answer["error"] == "PermissionError"
    assert answer["message"] == f"upload to 'me/mine': {hub.endpoint} denied access (status {status}); check the token"


def test_push_to_an_invalid_name(hub, client, folder):
    answer = client.ask("push", "m e/mine", folder=str(folder))
    assert answer["error"] == "InputError"
    assert "'m e/mine'" in answer["message"]
