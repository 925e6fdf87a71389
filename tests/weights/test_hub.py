"""Loading and saving: folders, bundled models, and the Hub's client against a server on loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_client import SmallModel, digest
from hub_server import READ_ONLY_TOKEN, TOKEN, HubServer
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mdqe import MDQE, MDQEConfig
from mdqe.config import FORMAT_VERSION

CONFIG = MDQEConfig(embed_dim=4, hidden_dim=32, num_classes=3, categories=("cat", "dog", "fish"))
NAMES = {"embed.weight", "embed.bias", "classify.weight", "classify.bias", "scale", "mean"}


@pytest.fixture
def model():
    return SmallModel(CONFIG)


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def edit_config(folder, **changes):
    values = json.loads((folder / "config.json").read_text())
    values.update(changes)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def edit_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


# --- a folder -------------------------------------------------------------------------------------------------------


def test_what_is_saved_loads_with_equal_values(model, folder):
    loaded = SmallModel.from_pretrained(folder)
    assert loaded.config == CONFIG
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(loaded.table, model.table)  # a buffer that is not saved
    assert loaded.again is loaded.embed
    assert not loaded.training


def test_folder_holds_config_weights_and_card(folder):
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    values = json.loads((folder / "config.json").read_text())
    assert values["model_type"] == "mdqe"
    assert values["format_version"] == FORMAT_VERSION
    assert set(load_file(folder / "model.safetensors")) == NAMES  # the shared layer once, by its first name
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1, "who may read one file may read them all"
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n")
    assert "library_name: mdqe" in card
    assert f'MDQE.from_pretrained("{folder}")' in card
    assert "cat, dog, fish" in card


def test_source_of_weights_is_kept(model, tmp_path):
    model.save_pretrained(tmp_path, source="converted from x.pth")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata()["source"] == "converted from x.pth"
    assert "converted from x.pth" in (tmp_path / "README.md").read_text()


def test_saving_again_replaces_weights_and_keeps_the_card(model, folder):
    (folder / "README.md").write_text("written by hand")
    with torch.no_grad():
        model.scale.fill_(7)
    model.save_pretrained(folder)
    assert SmallModel.from_pretrained(folder).scale.tolist() == [7, 7, 7]
    assert (folder / "README.md").read_text() == "written by hand"


def test_failed_saving_leaves_the_old_model_whole(model, folder, monkeypatch):
    before = digest(SmallModel.from_pretrained(folder))

    def full(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mdqe.weights.folder.save_file", full)
    with torch.no_grad():
        model.scale.fill_(7)
    with pytest.raises(OSError, match=r"No space left on device: '.*model\.safetensors'"):
        model.save_pretrained(folder)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert digest(SmallModel.from_pretrained(folder)) == before


def test_safetensors_errors_keep_their_number(model, folder, monkeypatch):
    from safetensors import SafetensorError

    def full(tensors, path, metadata):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("mdqe.weights.folder.save_file", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        model.save_pretrained(folder)
    assert raised.value.errno == 28


def test_saving_into_a_file_is_refused(model, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(NotADirectoryError, match="taken is a file, expected a folder"):
        model.save_pretrained(tmp_path / "taken")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_file_of_another_type_is_cast(model, tmp_path, dtype):
    model.to(dtype).save_pretrained(tmp_path)
    loaded = SmallModel.from_pretrained(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.embed.weight, model.embed.weight.float())


def test_dtype_and_device(folder, model):
    loaded = SmallModel.from_pretrained(folder, dtype=torch.bfloat16, device="cpu")
    assert {t.dtype for t in [*loaded.parameters(), loaded.table]} == {torch.bfloat16}
    assert torch.equal(loaded.embed.weight, model.embed.weight.bfloat16())
    with pytest.raises(ValueError, match=r"dtype is torch\.int8, expected a floating-point type"):
        SmallModel.from_pretrained(folder, dtype=torch.int8)
    with pytest.raises(ValueError, match="device is 'gpu', expected one such as"):
        SmallModel.from_pretrained(folder, device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_absent_cuda_is_said(folder):
    with pytest.raises(ValueError, match=r"device is 'cuda', but torch .* finds no CUDA device"):
        SmallModel.from_pretrained(folder, device="cuda")


@pytest.mark.parametrize("device", ["mps", "xpu", "meta"])
def test_devices_that_cannot_hold_it_are_said(folder, device):
    if torch.accelerator.is_available() and torch.accelerator.current_accelerator().type == device:
        pytest.skip(f"this machine has {device}")
    with pytest.raises(ValueError, match=f"device is '{device}'") as error:
        SmallModel.from_pretrained(folder, device=device)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_number_that_no_cuda_device_has_is_said(folder):
    with pytest.raises(ValueError, match=r"device is 'cuda:99', which torch .* cannot use"):
        SmallModel.from_pretrained(folder, device="cuda:99")


def test_overrides_change_the_config(folder):
    loaded = SmallModel.from_pretrained(folder, window_length=7, test_shorter_edge=None)
    assert loaded.config == CONFIG.replace(window_length=7, test_shorter_edge=None)
    with pytest.raises(ValueError, match="unknown configuration fields windowlength"):
        SmallModel.from_pretrained(folder, windowlength=7)
    with pytest.raises(ValueError, match=r"classify\.weight is \(3, 32\), expected \(5, 32\)"):
        SmallModel.from_pretrained(folder, num_classes=5)


def test_loading_spends_no_time_on_random_values(folder, monkeypatch):
    drawn = []
    draw = torch.nn.init.kaiming_uniform_
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *a, **k: drawn.append(self) or self)
    SmallModel(CONFIG)
    assert drawn, "the model draws random values when it is built"
    drawn.clear()
    state = torch.random.get_rng_state()
    SmallModel.from_pretrained(folder)
    assert not drawn
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.nn.init.kaiming_uniform_ is draw


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "swinv2_tiny_window8_256"])
def test_the_real_model_comes_back_whole(tmp_path, backbone):
    """Also the buffers that are not saved: what the backbone computes when it is built."""
    config = MDQEConfig(
        backbone, hidden_dim=32, num_heads=4, encoder_layers=1, decoder_layers=1, grid_size=4, num_classes=3,
        test_shorter_edge=None,
    )  # fmt: skip
    model = MDQE(config).eval()
    model.save_pretrained(tmp_path)
    loaded = MDQE.from_pretrained(tmp_path)
    assert loaded.config == config
    for whole in (dict(model.named_parameters()), dict(model.named_buffers())):
        own = dict(loaded.named_parameters()) | dict(loaded.named_buffers())
        assert all(torch.equal(own[name], tensor) for name, tensor in whole.items())
    frames = torch.rand(1, 2, 3, 64, 64) * 255  # (B, T, 3, H, W)
    with torch.inference_mode():
        expected, got = model(frames), loaded(frames)
    assert torch.equal(got.mask_logits, expected.mask_logits)
    assert torch.equal(got.layers[-1].class_logits, expected.layers[-1].class_logits)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": None}, "config of another model: model_type is None, expected 'mdqe'"),
        ({"model_type": "detr"}, "config of another model: model_type is 'detr', expected 'mdqe'"),
        ({"format_version": None}, "format_version is None, expected a whole number"),
        ({"format_version": FORMAT_VERSION + 1}, "reads up to 1: update mdqe"),
        ({"hidden_dims": 32}, "unknown configuration fields hidden_dims"),
        ({"num_heads": 0}, "num_heads is 0, expected a positive whole number"),
    ],
)
def test_wrong_configs(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=message) as raised:
        SmallModel.from_pretrained(folder)
    assert str(folder / "config.json") in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"mdqe"'])
def test_configs_that_are_no_configs(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is (not JSON|the config of another model)"):
        SmallModel.from_pretrained(folder)


def test_missing_tensors_are_listed(folder):
    edit_weights(folder, lambda t: (t.pop("scale"), t.pop("embed.bias")))
    with pytest.raises(ValueError, match=r"2 missing: scale, embed\.bias$"):
        SmallModel.from_pretrained(folder)


def test_unexpected_tensors_are_listed(folder):
    edit_weights(folder, lambda t: t.update(extra=torch.zeros(2), table=torch.zeros(4)))
    with pytest.raises(ValueError, match=r"2 unexpected: extra, table$"):
        SmallModel.from_pretrained(folder)


def test_misshapen_tensors_are_listed_with_both_shapes(folder):
    edit_weights(folder, lambda t: t.update(scale=torch.zeros(4), **{"embed.weight": torch.zeros(4, 32)}))
    with pytest.raises(ValueError) as raised:
        SmallModel.from_pretrained(folder)
    assert "2 of another shape: " in str(raised.value)
    assert "embed.weight is (4, 32), expected (32, 4)" in str(raised.value)
    assert "scale is (4,), expected (3,)" in str(raised.value)


def test_long_lists_are_shortened(folder):
    edit_weights(folder, lambda t: t.update({f"extra{i:02}": torch.zeros(1) for i in range(30)}))
    with pytest.raises(ValueError, match=r"30 unexpected: extra00, .*, extra09 and 20 more$"):
        SmallModel.from_pretrained(folder)


@pytest.mark.parametrize("size", [0, 5, 60, 1000])
def test_truncated_weights_are_named(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(OSError, match=rf"model\.safetensors is truncated or damaged \({size:,} bytes"):
        SmallModel.from_pretrained(folder)


def test_folder_without_config_or_weights(folder):
    (folder / "model.safetensors").rename(folder / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"saved has no model\.safetensors$"):
        SmallModel.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"saved has no config\.json$"):
        SmallModel.from_pretrained(folder)


def test_pickles_are_refused_with_what_to_do(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "official.pth")
    with pytest.raises(FileNotFoundError, match=r"safetensors alone: mdqe convert .*official\.pth -o FOLDER"):
        SmallModel.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"official\.pth is a file, expected a folder.*: mdqe convert"):
        SmallModel.from_pretrained(folder / "official.pth")


@pytest.mark.parametrize("name", ["./runs/last", "/runs/last", "~/runs/last", "a/b/c", Path("runs/last")])
def test_what_looks_like_a_folder_is_not_looked_for_on_the_hub(name):
    with pytest.raises(FileNotFoundError, match="no such folder: "):
        SmallModel.from_pretrained(name)


def test_file_instead_of_its_folder(folder):
    with pytest.raises(ValueError, match=f"is a file, expected a folder.*: name its folder, {folder}$"):
        SmallModel.from_pretrained(folder / "model.safetensors")


def test_home_folder_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert SmallModel.from_pretrained("~/saved").config == CONFIG


# --- bundled models -------------------------------------------------------------------------------------------------


def test_bundled_model_loads_by_name(model, tmp_path, monkeypatch):
    monkeypatch.setattr("mdqe.weights.source.BUNDLED_FOLDER", tmp_path)
    model.save_pretrained(tmp_path / "tiny")
    model.save_pretrained(tmp_path / "small")
    assert digest(SmallModel.from_pretrained("mdqe:tiny")) == digest(model)
    for name in ("mdqe:big", "mdqe:", "mdqe:../tiny", "mdqe:tiny/"):
        with pytest.raises(FileNotFoundError, match=r"no bundled model .*; there are: mdqe:small, mdqe:tiny$"):
            SmallModel.from_pretrained(name)


def test_no_bundled_models(tmp_path, monkeypatch):
    monkeypatch.setattr("mdqe.weights.source.BUNDLED_FOLDER", tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="no bundled model 'mdqe:tiny'; there are: none"):
        SmallModel.from_pretrained("mdqe:tiny")


def test_bundled_name_is_no_hub_id():
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    with pytest.raises(HFValidationError):
        validate_repo_id("mdqe:tiny")


# --- the Hub --------------------------------------------------------------------------------------------------------


class Client:
    """Asks the process of hub_client.py."""

    def __init__(self, endpoint: str, folder: Path, **environment: str) -> None:
        env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder), "NO_PROXY": "*", **environment}
        env = {key: value for key, value in env.items() if key not in ("HF_TOKEN", "HF_HUB_CACHE")}
        script = Path(__file__).with_name("hub_client.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], env=env, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, call: str, name: str, **options: object) -> dict:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"call": call, "name": name, "options": options}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert "\n" not in answer.get("message", ""), "errors are one line"
        return answer

    def load(self, name: str, **options: object) -> dict:
        return self.ask("load", name, **options)

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(20) == 0


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    client = Client(hub.endpoint, tmp_path_factory.mktemp("client"))
    yield client
    client.close()


@pytest.fixture
def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def fresh(hub, tmp_path):
    """A Hub without repositories and faults, and an empty cache."""
    hub.repositories.clear()
    hub.requests.clear()
    hub.short.clear()
    hub.cut.clear()
    hub.failing = False
    return str(tmp_path / "cache")


def test_model_loads_from_the_hub_and_then_from_the_cache(hub, client, fresh, files, model):
    hub.add("someone/model", files)
    loaded = client.load("someone/model", cache_dir=fresh)
    assert loaded == {"digest": digest(model), "num_classes": 3, "training": False}
    assert hub.asked_for("model.safetensors") == 1
    assert client.load("someone/model", cache_dir=fresh) == loaded
    assert hub.asked_for("model.safetensors") == 1
    assert client.load("someone/model", cache_dir=fresh, force_download=True) == loaded
    assert hub.asked_for("model.safetensors") == 2


def test_overrides_reach_a_model_of_the_hub(hub, client, fresh, files):
    hub.add("someone/model", files)
    answer = client.load("someone/model", cache_dir=fresh, num_classes=5)
    assert answer["error"] == "ValueError"
    assert "classify.weight is (3, 32), expected (5, 32)" in answer["message"]


def test_revisions(hub, client, fresh, files, model):
    repository = hub.add("someone/model", files)
    first = repository.refs["main"]
    with torch.no_grad():
        model.scale.fill_(7)
    model.save_pretrained(Path(fresh).parent / "newer")
    newer = {path.name: path.read_bytes() for path in (Path(fresh).parent / "newer").iterdir()}
    repository.commit(newer)
    repository.refs["v1"] = first
    old, new = (client.load("someone/model", cache_dir=fresh, revision=r)["digest"] for r in ("v1", "main"))
    assert new == digest(model)
    assert old != new
    assert client.load("someone/model", cache_dir=fresh, revision=first)["digest"] == old
    answer = client.load("someone/model", cache_dir=fresh, revision="v2")
    assert answer == {"error": "FileNotFoundError", "message": "'someone/model' has no revision 'v2'"}


def test_both_files_come_from_one_commit(hub, client, fresh, files):
    """The branch moves between the two downloads: the weights are still those of the config."""
    repository = hub.add("someone/model", files)
    first = repository.refs["main"]
    assert client.load("someone/model", cache_dir=fresh)["num_classes"] == 3
    assert ("HEAD", f"/someone/model/resolve/{first}/model.safetensors") in hub.requests


@pytest.mark.parametrize("token", [None, TOKEN])
def test_missing_model(client, fresh, token):
    answer = client.load("someone/nothing", cache_dir=fresh, token=token)
    assert answer["error"] == "FileNotFoundError"
    assert answer["message"].startswith("'someone/nothing' is neither a folder here nor a model at http://127.0.0.1")
    assert "a private one needs a token" in answer["message"]


def test_missing_files(hub, client, fresh, files):
    hub.add("someone/other", {"model.bin": b""})
    hub.add("someone/pickle", {"config.json": files["config.json"], "pytorch_model.bin": b""})
    answer = client.load("someone/other", cache_dir=fresh)
    assert answer["error"] == "FileNotFoundError"
    assert answer["message"] == "'someone/other' has no config.json: not an mdqe model"
    answer = client.load("someone/pickle", cache_dir=fresh)
    assert answer["error"] == "FileNotFoundError"
    assert answer["message"] == "'someone/pickle' has no model.safetensors: weights are read from safetensors alone"


def test_another_models_weights_are_not_even_downloaded(hub, client, fresh, files):
    hub.add("someone/detr", {**files, "config.json": b'{"model_type": "detr"}'})
    answer = client.load("someone/detr", cache_dir=fresh)
    assert answer["error"] == "ValueError"
    assert "config of another model: model_type is 'detr'" in answer["message"]
    assert hub.asked_for("model.safetensors") == 0


def test_private_model_needs_the_token(hub, client, fresh, files, model):
    hub.add("someone/private", files, private=True)
    answer = client.load("someone/private", cache_dir=fresh)
    assert answer["error"] == "FileNotFoundError"
    assert "a private one needs a token" in answer["message"]
    answer = client.load("someone/private", cache_dir=fresh, token="hf_wrong")
    assert answer["error"] == "PermissionError"
    assert "refused (status 401); check the token" in answer["message"]
    assert client.load("someone/private", cache_dir=fresh, token=TOKEN)["digest"] == digest(model)


def test_gated_model(hub, client, fresh, files, model):
    hub.add("someone/gated", files, gated=True)
    for token in (None, READ_ONLY_TOKEN):
        answer = client.load("someone/gated", cache_dir=fresh, token=token)
        assert answer["error"] == "PermissionError"
        assert answer["message"].startswith("'someone/gated' asks to accept its conditions at ")
    assert client.load("someone/gated", cache_dir=fresh, token=TOKEN)["digest"] == digest(model)


def test_download_that_ends_early(hub, client, fresh, files, model):
    hub.add("someone/model", files)
    hub.short["model.safetensors"] = 1000
    answer = client.load("someone/model", cache_dir=fresh)
    assert answer["error"] == "ConnectionError"
    assert answer["message"].startswith("download of model.safetensors of 'someone/model' broke off, try again (")
    hub.short.clear()
    assert client.load("someone/model", cache_dir=fresh)["digest"] == digest(model), "nothing of it stays in the cache"


def test_broken_connection_is_resumed(hub, client, fresh, files, model):
    """By the client itself or, where it is an older one that gives up, by the next call."""
    hub.add("someone/model", files)
    hub.cut["model.safetensors"] = [100, 200]
    answers = [client.load("someone/model", cache_dir=fresh)]
    while "error" in answers[-1] and len(answers) < 4:
        assert answers[-1]["error"] == "ConnectionError"
        assert "download of model.safetensors of 'someone/model' broke off, try again" in answers[-1]["message"]
        answers.append(client.load("someone/model", cache_dir=fresh))
    assert answers[-1]["digest"] == digest(model)
    assert hub.asked_for("model.safetensors") == 3


def test_connection_that_breaks_every_time(hub, client, fresh, files):
    hub.add("someone/model", files)
    hub.cut["model.safetensors"] = [100] + [0] * 20
    answer = client.load("someone/model", cache_dir=fresh)
    assert answer["error"] == "ConnectionError"
    assert answer["message"].startswith("download of model.safetensors of 'someone/model' broke off, try again (")


def test_truncated_file_in_the_cache_is_named(hub, client, fresh, files):
    hub.add("someone/model", files)
    client.load("someone/model", cache_dir=fresh)
    weights = next(Path(fresh).rglob("model.safetensors")).resolve()
    weights.write_bytes(weights.read_bytes()[:1000])
    answer = client.load("someone/model", cache_dir=fresh)
    assert answer["error"] == "OSError"
    assert "truncated or damaged (1,000 bytes" in answer["message"]
    assert "force_download" in answer["message"]
    assert "digest" in client.load("someone/model", cache_dir=fresh, force_download=True)


def test_local_files_only(hub, client, fresh, files, model):
    hub.add("someone/model", files)
    answer = client.load("someone/model", cache_dir=fresh, local_files_only=True)
    assert answer["error"] == "FileNotFoundError"
    assert answer["message"] == f"config.json of 'someone/model' is not in the cache {fresh}, and downloads are off"
    client.load("someone/model", cache_dir=fresh)
    hub.requests.clear()
    assert client.load("someone/model", cache_dir=fresh, local_files_only=True)["digest"] == digest(model)
    assert hub.requests == []
    answer = client.load("someone/model", cache_dir=fresh, local_files_only=True, force_download=True)
    assert answer["message"] == "force_download=True and local_files_only=True exclude each other"


def test_hub_out_of_order(hub, client, fresh, files, model):
    hub.add("someone/model", files)
    client.load("someone/model", cache_dir=fresh)
    hub.failing = True
    assert client.load("someone/model", cache_dir=fresh)["digest"] == digest(model), "the cache serves"
    answer = client.load("someone/model", cache_dir=fresh, force_download=True)
    assert answer["error"] == "ConnectionError"
    assert answer["message"].startswith("cannot reach http://127.0.0.1")


def test_offline_machine(hub, client, fresh, files, model, tmp_path):
    """Nothing listens at the endpoint and HF_HUB_OFFLINE is set: the cache serves, what it lacks is an error."""
    hub.add("someone/model", files)
    client.load("someone/model", cache_dir=fresh)
    offline = Client("http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert offline.load("someone/model", cache_dir=fresh)["digest"] == digest(model)
    answer = offline.load("someone/other", cache_dir=fresh)
    assert answer["error"] == "FileNotFoundError"
    assert answer["message"].endswith("and downloads are off")
    offline.close()


def test_names_that_no_hub_knows(client, fresh):
    answer = client.load("some one/model", cache_dir=fresh)
    assert answer["error"] == "ValueError"
    assert answer["message"] == "'some one/model' is neither a folder nor a Hub id such as 'user/model'"


def test_push_and_load_back(hub, client, fresh, folder, model):
    url = client.ask("push", "me/mine", folder=str(folder), token=TOKEN)["url"]
    repository = hub.repositories["me/mine"]
    assert url == f"{hub.endpoint}/me/mine/commit/{repository.refs['main']}"
    files = repository.commits[repository.refs["main"]]
    assert set(files) == {".gitattributes", "config.json", "model.safetensors", "README.md"}
    assert b'MDQE.from_pretrained("me/mine")' in files["README.md"]
    assert client.load("me/mine", cache_dir=fresh)["digest"] == digest(model)


def test_push_keeps_the_card_that_is_there(hub, client, fresh, folder, files):
    hub.add("me/mine", {"README.md": b"written by hand"})
    client.ask("push", "me/mine", folder=str(folder), token=TOKEN)
    repository = hub.repositories["me/mine"]
    now = repository.commits[repository.refs["main"]]
    assert now["README.md"] == b"written by hand"
    assert now["model.safetensors"] == files["model.safetensors"]


@pytest.mark.parametrize(("token", "status"), [(None, 401), (READ_ONLY_TOKEN, 403)])
def test_push_without_permission(hub, client, fresh, folder, token, status):
    answer = client.ask("push", "me/mine", folder=str(folder), token=token)
    assert answer["error"] == "PermissionError"
    assert answer["message"] == f"upload to 'me/mine': {hub.endpoint} refused (status {status}); check the token"


def test_push_to_an_impossible_name(client, fresh, folder):
    answer = client.ask("push", "m e/mine", folder=str(folder))
    assert answer["error"] == "ValueError"
    assert "'m e/mine'" in answer["message"]
