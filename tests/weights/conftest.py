"""A small model, the folder that it is saved in, and a Hub with a client."""

from pathlib import Path

import pytest
from hub_client import SmallModel
from hub_process import Client
from hub_server import HubServer

from mdqe import MDQEConfig


@pytest.fixture
def model() -> SmallModel:
    return SmallModel(MDQEConfig(embed_dim=4, hidden_dim=32, num_classes=3, categories=("cat", "dog", "fish")))


@pytest.fixture
def folder(model: SmallModel, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


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
