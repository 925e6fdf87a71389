"""The authors' models: fetched from a server that plays Google Drive, converted, cached, checked and published."""

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import drive_server
import pytest
import torch
from drive_server import DriveServer
from hub_server import TOKEN
from official_layout import layout, pickled

from mdqe import MDQE, MDQEConfig
from mdqe.checkpoint import dropped
from mdqe.cli import main
from mdqe.weights import drive, zoo
from mdqe.weights.download import sha256
from mdqe.weights.publish import publish

NAME = "r50_ovis_360"


def test_facts(shared):
    facts = json.loads((shared / "facts" / "model_zoo.json").read_text())
    assert list(facts["models"]) == list(zoo.zoo())
    for name, fact in facts["models"].items():
        model = zoo.zoo()[name]
        assert (model.file_id, model.data, model.frames, model.ap) == (
            fact["id"], fact["data"], fact["frames"], fact.get("AP")
        )  # fmt: skip
        assert model.size == fact.get("size", "")[: len(model.size)] and bool(model.size) == ("AP" in fact)
        assert model.url == facts["url"].format(id=fact["id"])


def test_every_model_has_a_preset_of_its_size():
    for name, model in zoo.zoo().items():
        config = MDQEConfig.preset(name)
        assert config.clip_length == model.frames
        shapes = layout(config.backbone, config.hidden_dim, config.num_classes, model.frames)
        unused = set(dropped(shapes))
        numbers = sum(math.prod(shape) for name, shape in shapes.items() if name not in unused)
        assert round(4 * numbers / 1e6) == model.megabytes


@pytest.fixture(scope="module")
def authors_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("drive") / "official.pth"
    torch.save({"model": pickled(layout("resnet50", 256, 25, 4), 0.02)}, path)
    return path.read_bytes()


@pytest.fixture
def google(authors_file, monkeypatch, tmp_path):
    """The Drive with the file of one model, and an empty cache."""
    file_id = zoo.zoo()[NAME].file_id
    with DriveServer({file_id: authors_file}, {file_id}) as google:
        google.file_id = file_id
        monkeypatch.setattr(drive, "BASE", google.base)
        monkeypatch.setattr("mdqe.weights.zoo.constants.HF_HOME", str(tmp_path / "home"))
        yield google


@pytest.fixture(scope="module")
def fetched(authors_file, tmp_path_factory):
    """A cache with the model."""
    home = tmp_path_factory.mktemp("home")
    file_id = zoo.zoo()[NAME].file_id
    with DriveServer({file_id: authors_file}, {file_id}) as google, pytest.MonkeyPatch.context() as patch:
        patch.setattr(drive, "BASE", google.base)
        zoo.fetch_zoo(NAME, cache_dir=home, say=lambda text: None)
    return home


@pytest.fixture
def cached(google, fetched, tmp_path):
    """The folder of the model in the cache, which tests may damage."""
    folder = tmp_path / "home" / "mdqe" / NAME
    shutil.copytree(fetched, folder.parent)
    return folder


def test_the_first_use_downloads_and_converts(fetched, google, authors_file, monkeypatch):
    """And the second one needs no network."""
    assert {path.name for path in fetched.iterdir()} <= {NAME, f"{NAME}.lock"}
    record = json.loads((fetched / NAME / "source.json").read_text())
    digest = zoo.sha256(fetched / NAME / "model.safetensors")
    assert record["files"]["model.safetensors"] == digest
    card = (fetched / NAME / "README.md").read_text()
    for fact in (
        "license: apache-2.0",
        record["sha256"],
        record["url"],
        "30.7 at 360p",
        "{{MDQE}: Mining",
        "mdqe:" + NAME,
    ):
        assert fact in card
    monkeypatch.setattr("mdqe.weights.zoo.constants.HF_HUB_OFFLINE", True)
    model = MDQE.from_pretrained(f"mdqe:{NAME}", cache_dir=fetched, test_shorter_edge=480)
    assert model.config == MDQEConfig.preset(NAME, test_shorter_edge=480)
    assert all(torch.all(parameter == 0.02) for parameter in model.parameters())
    assert google.requests == []


def test_models_that_are_not_here_while_offline(google, monkeypatch):
    monkeypatch.setattr("mdqe.weights.zoo.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=rf"^mdqe:{NAME}: .*{NAME} is not here, and downloads are disabled$"):
        MDQE.from_pretrained(f"mdqe:{NAME}")
    with pytest.raises(FileNotFoundError, match="downloads are disabled"):
        MDQE.from_pretrained(f"mdqe:{NAME}", local_files_only=True)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "source.json", "missing"])
def test_damage_of_the_cache_is_found(cached, name):
    assert zoo.damage_of(cached) is None
    if name == "missing":
        (cached / "model.safetensors").unlink()
    else:
        with (cached / name).open("r+b") as file:
            file.seek(-2, 2)
            file.write(b"x")
    expected = {"source.json": "has no valid source.json", "missing": "has no model.safetensors"}
    assert zoo.damage_of(cached) == expected.get(name, f"has another {name} than was written (SHA-256)")
    with pytest.raises(FileNotFoundError, match="downloads are disabled"):
        zoo.fetch_zoo(NAME, local_files_only=True)


def test_a_damaged_cache_is_fetched_again(cached, google):
    said = []
    (cached / "config.json").write_text("{}")
    (cached / "rest").touch()
    assert zoo.fetch_zoo(NAME, say=said.append) == cached
    assert said[0] == f"mdqe:{NAME}: {cached} has another config.json than was written (SHA-256); fetching it again"
    assert google.requests == [None] and zoo.damage_of(cached) is None
    assert {path.name for path in cached.parent.iterdir()} <= {NAME, f"{NAME}.lock"}


def test_a_changed_file_is_not_accepted(cached, google, authors_file):
    """The SHA-256 of the first download is compared with that of the second."""
    google.files[google.file_id] = authors_file + b"more"  # a zip file may be followed by other bytes
    (cached / "config.json").write_text("{}")
    with pytest.raises(ConnectionError, match=r"has the SHA-256 \w{64}, but \w{64} when .* --force-download accepts"):
        zoo.fetch_zoo(NAME, say=lambda text: None)
    assert (cached / "config.json").read_text() == "{}", "what was there stays"
    assert {path.name for path in cached.parent.iterdir()} <= {NAME, f"{NAME}.lock"}


@pytest.mark.parametrize("case", ["QUOTA", "DENIED"])
def test_refusals_name_the_link_and_a_command_that_works(google, authors_file, tmp_path, monkeypatch, capsys, case):
    google.pages[google.file_id] = getattr(drive_server, case)
    assert main(["fetch", NAME]) == 2
    lines = capsys.readouterr().err.splitlines()
    reason = {"QUOTA": "its download quota is exceeded", "DENIED": "there is no permission to read the file"}[case]
    assert lines[-1].startswith(f"mdqe fetch: error: mdqe:{NAME}: Google Drive did not give the file: {reason}")
    assert f"Open {zoo.zoo()[NAME].url} in a browser, save the file as {NAME}.pth, and run: " in lines[-1]
    command = shlex.split(lines[-1].partition("and run: ")[2])
    if case == "QUOTA":
        monkeypatch.chdir(tmp_path)
        (tmp_path / f"{NAME}.pth").write_bytes(authors_file)
        assert main(command[1:]) == 0
        assert (tmp_path / "models" / NAME / "model.safetensors").is_file()


def test_a_damaged_download_is_not_kept(google, authors_file, tmp_path):
    google.files[google.file_id] = authors_file[: len(authors_file) // 2]
    with pytest.raises(ConnectionError, match=r"is damaged or not a PyTorch file .* it was deleted: try again"):
        zoo.fetch_zoo(NAME, say=lambda text: None)
    assert {path.name for path in (tmp_path / "home" / "mdqe").iterdir()} <= {f"{NAME}.lock"}


def test_a_full_disk_after_the_download(google, tmp_path, monkeypatch):
    """The download is kept for the next attempt; there is no half of a folder."""

    def full(*_, **__):
        raise OSError(28, "No space left on device", "model.safetensors")

    with monkeypatch.context() as patch:
        patch.setattr("mdqe.weights.convert.convert_file", full)
        with pytest.raises(OSError, match="No space left"):
            zoo.fetch_zoo(NAME, say=lambda text: None)
    home = tmp_path / "home" / "mdqe"
    assert {path.name for path in home.iterdir()} - {f"{NAME}.lock"} == {f".{NAME}.fetch"}
    converted = []
    monkeypatch.setattr("mdqe.weights.convert.convert_file", lambda file, new, **_: converted.append(file) or fake(new))
    zoo.fetch_zoo(NAME, say=lambda text: None)
    assert converted == [home / f".{NAME}.fetch" / f"{NAME}.pth"] and len(google.requests) == 1
    assert zoo.damage_of(home / NAME) is None


def test_files_of_the_user_are_not_touched(google, tmp_path, monkeypatch, run_main):
    """In a folder that the user names, beside models and files of the user's own with the same names."""
    monkeypatch.setattr("mdqe.weights.convert.convert_file", lambda file, new, **_: fake(new))
    models, own = tmp_path / "models", tmp_path / "models" / NAME
    fake(own.with_name(f"{NAME}.old"))
    own.with_name(f"{NAME}.pth").write_text("mine")
    fake(own)
    message = f"mdqe fetch: error: {own} is in the way: it was not written by mdqe fetch (it has no source.json), so"
    assert run_main("fetch", NAME, "-o", str(models)).startswith(message)
    assert (own / "model.safetensors").read_text() == "model.safetensors" and google.requests == []
    own.rename(models / "other")
    assert zoo.fetch_zoo(NAME, cache_dir=models, force_download=True, say=lambda text: None) == own
    assert own.with_name(f"{NAME}.pth").read_text() == "mine" and len(list(models.glob("*/model.safetensors"))) == 3


def fake(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text(name)


def test_of_two_that_fetch_at_once_one_downloads(google, monkeypatch):
    """The other one says that it waits, once."""
    waits, found, said = threading.Event(), [], []

    def convert(file: Path, new: Path, **_: object) -> None:
        assert waits.wait(30)
        fake(new)

    def say(text: str) -> None:
        said.append(text)
        if text == f"mdqe:{NAME}: waiting for another process that is downloading it":
            waits.set()

    monkeypatch.setattr("mdqe.weights.convert.convert_file", convert)
    threads = [threading.Thread(target=lambda: found.append(zoo.fetch_zoo(NAME, say=say))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 2 and len(google.requests) == 1
    assert waits.is_set() and len([text for text in said if "waiting" in text]) == 1


@pytest.mark.slow
def test_of_two_processes_one_downloads(google, tmp_path):
    code = f"from mdqe.weights import drive\nfrom mdqe.cli import main\ndrive.BASE = {google.base!r}\n"
    command = [sys.executable, "-c", f"{code}main(['fetch', {NAME!r}, '-o', 'models'])"]
    both = [subprocess.Popen(command, cwd=tmp_path, stdout=-1, text=True) for _ in range(2)]
    assert [process.communicate(timeout=200)[0] for process in both] == [f"models/{NAME}\n"] * 2
    assert len(google.requests) == 1
    assert zoo.damage_of(tmp_path / "models" / NAME) is None


def test_the_list_of_models(cached, capsys):
    assert main(["info", "--models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "data", "frames", "published", "AP", "size", "here"]
    rows = {line.split()[0]: line for line in lines[1:]}
    assert set(rows) == {"mdqe:tiny", *(f"mdqe:{name}" for name in zoo.zoo())}
    assert re.search(rf"OVIS +4 +30\.7 at 360p +195 MB +{re.escape(str(cached))}$", rows[f"mdqe:{NAME}"])
    assert rows["mdqe:swinl_coco"].endswith("838 MB  no")


def test_names(run_main):
    assert "'r50_ovis' is not one of r50_coco, swinl_coco, " in run_main("fetch", "r50_ovis")
    message = run_main("segment", "x.mp4", "-o", "out", "--model", NAME)
    assert f"{NAME} is a preset, a configuration without weights; the published weights are mdqe:{NAME}; in" in message


@pytest.fixture
def run_main(capsys):
    def run(*arguments):
        try:
            assert main(list(arguments)) == 2
        except SystemExit as end:
            assert end.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    return run


# --- publishing -----------------------------------------------------------------------------------------------------


def test_a_published_model_can_be_loaded(hub, client, fetched):
    """With a card that names the source, its SHA-256, the licence, the AP and the paper; the files are not changed."""
    folder = fetched / NAME
    answer = client.ask("publish", "me/mine", folder=str(folder), token=TOKEN)
    repository = hub.repositories["me/mine"]
    assert answer == {"url": f"{hub.endpoint}/me/mine/commit/{repository.refs['main']}"}
    files = repository.commits[repository.refs["main"]]
    assert set(files) == {".gitattributes", "config.json", "model.safetensors", "README.md", "source.json"}
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    card, record = files["README.md"].decode(), json.loads((folder / "source.json").read_text())
    for fact in (
        "license: apache-2.0", record["url"], record["sha256"], sha256(folder / "model.safetensors"), "30.7 at 360p",
        "Apache-2.0, as the authors' code", "@inproceedings{li2023mdqe", 'MDQE.from_pretrained("me/mine")',
    ):  # fmt: skip
        assert fact in card


def test_a_folder_that_does_not_load_is_not_published(tmp_path, fetched):
    shutil.copytree(fetched / NAME, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text((fetched / NAME / "config.json").read_text().replace("256", "192"))
    with pytest.raises(ValueError, match="does not fit the model of its config"):
        publish(str(tmp_path / "model"), "me/mine")


def test_the_record_of_other_weights_is_not_published(tmp_path, fetched, monkeypatch):
    """Of a folder into which a fine-tuned model was saved afterwards: the AP of the authors is not its own."""
    shutil.copytree(fetched / NAME, tmp_path / "model")
    with (tmp_path / "model" / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(bytes(4))
    found = {}

    def upload(folder, *_, **__):
        found.update({path.name: path.read_bytes() for path in folder.iterdir()})
        return ""

    monkeypatch.setattr("mdqe.weights.publish.upload", upload)
    publish(str(tmp_path / "model"), "me/mine")
    assert set(found) == {"config.json", "model.safetensors", "README.md"}
    assert b"published AP" not in found["README.md"] and b"license: apache" not in found["README.md"]
