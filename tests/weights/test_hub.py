"""Loading from the Hugging Face Hub and pushing to it: the Hub's own client against a server on loopback."""

import pytest
import torch
from hub_client import SmallModel, digest
from hub_server import READ_ONLY_TOKEN, TOKEN

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
    assert client.error("InputError", num_classes=5).startswith("someone/model has 3 categories, not 5: ")
    assert "embed.weight is (32, 4), expected (32, 5)" in client.error("InputError", embed_dim=5)


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


@pytest.mark.parametrize("subfolder", [None, "snapshots/small"])
def test_cache_inside_a_folder_named_like_a_part_of_it(hub, client, files, model, tmp_path, subfolder):
    """The commit is found in the path of a file, in which "snapshots" may occur several times."""
    client.cache = str(tmp_path / "snapshots" / "cache")
    prefix = f"{subfolder}/" if subfolder else ""
    hub.add("someone/several", {prefix + name: data for name, data in files.items()})
    assert client.load("someone/several", subfolder=subfolder)["digest"] == digest(model)


@pytest.mark.parametrize("token", [None, TOKEN])
def test_missing_model(hub, client, token):
    message = client.error("FileNotFoundError", "someone/nothing", token=token)
    assert message.startswith(
        "no folder 'someone/nothing' here; looked for a Hub model 'someone/nothing': there is none at "
    )
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


def test_subfolders(hub, client, files, model):
    hub.add("someone/several", {f"small/{name}": data for name, data in files.items()})
    assert client.load("someone/several", subfolder="small")["digest"] == digest(model)
    assert (
        client.error("FileNotFoundError", "someone/several")
        == "'someone/several' has no config.json: not an mdqe model"
    )


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

    monkeypatch.setattr("mdqe.weights.source.get_hf_file_metadata", lambda *_, **__: None)
    monkeypatch.setattr("mdqe.weights.source.hf_hub_download", broken)
    with pytest.raises(TypeError, match=r"^unexpected keyword argument$"):
        SmallModel.from_pretrained("someone/model")


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
