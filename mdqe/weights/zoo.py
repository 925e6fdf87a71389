"""The models that the authors published: they are downloaded once, converted strictly, and kept in a cache."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock

from mdqe.config import zoo_facts
from mdqe.errors import InputError
from mdqe.files import expanded, read_json, whole_file
from mdqe.weights import drive
from mdqe.weights.download import sha256
from mdqe.weights.folder import CONFIG_FILE, WEIGHTS_FILE

RECORD_FILE = "source.json"
WAITING = "waiting for another process that is downloading it"
LICENSE = "apache-2.0"
LICENSE_NAME = "Apache-2.0, as the authors' code"


class ZooModel(NamedTuple):
    """A published model."""

    name: str
    """The name of its preset."""
    file_id: str
    """Of the authors' file on Google Drive."""
    data: str
    """The data set that it was trained on."""
    frames: int
    """Frames of a clip in training."""
    size: str
    """Size of the frames of the published AP; empty if none is published."""
    ap: float | None
    """The published AP in percent."""
    note: str
    """A further published number."""
    megabytes: int
    """Size of the converted weights."""

    @property
    def url(self) -> str:
        """The address of the authors' file."""
        return str(zoo_facts()["url"]).format(id=self.file_id)

    @property
    def published(self) -> str:
        """The published AP in words."""
        if self.ap is None:
            return "none published"
        return f"{self.ap} at {self.size}" + (f", {self.note}" if self.note else "")


def zoo() -> dict[str, ZooModel]:
    """The published models by the names of their presets."""
    return {
        name: ZooModel(
            name, m["id"], m["data"], m["frames"], m.get("size", ""), m.get("AP"), m.get("note", ""), m["megabytes"]
        )
        for name, m in zoo_facts()["models"].items()
    }


def zoo_folder(name: str, cache_dir: str | Path | None = None) -> Path:
    """The folder of a published model: in `cache_dir`, or in the folder "mdqe" beside the cache of the Hub's client."""
    return (Path(constants.HF_HOME) / "mdqe" if cache_dir is None else expanded(cache_dir)) / name


def read_record(folder: Path) -> dict[str, Any] | None:
    """Where the model of a folder comes from, and the SHA-256 of its files; None if the folder has no valid record."""
    try:
        record = read_json(folder / RECORD_FILE, max_bytes=2**20)
    except (OSError, InputError):
        return None
    known = isinstance(record, dict) and isinstance(record.get("files"), dict) and record["files"].keys() >= {
        CONFIG_FILE, WEIGHTS_FILE
    }  # fmt: skip
    return record if known and all(isinstance(record.get(key), str) for key in ("name", "url", "sha256")) else None


def damage_of(folder: Path) -> str | None:
    """What is wrong with the folder of a published model; None if its files are those that were written."""
    if not folder.is_dir():
        return "is not here"
    record = read_record(folder)
    if record is None:
        return f"has no valid {RECORD_FILE}"
    for name, digest in record["files"].items():
        path = folder / Path(name).name
        if not path.is_file():
            return f"has no {path.name}"
        if sha256(path) != digest:
            return f"has another {path.name} than was written (SHA-256)"
    return None


def fetch_zoo(
    name: str,
    *,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> Path:
    """The folder of a published model. The first time, its file is downloaded from Google Drive and converted.

    The files are compared with the SHA-256 that were recorded when they were written. If they differ, the model is
    fetched again, and the authors' file must have the SHA-256 that it had before. Of several processes, one downloads.

    Args:
        name: of the preset.
        cache_dir: the folder in which the model gets a folder; None: "mdqe" beside the cache of the Hub's client.
        local_files_only: do not download.
        force_download: download it again, and accept another file than before.
        say: prints lines about the download.

    Raises:
        FileNotFoundError: it is not in the cache, and downloads are disabled.
        FileExistsError: `cache_dir` has another folder or file of that name.
        PermissionError: Google Drive does not give the file; the message has the link and the command for its file.
        ConnectionError: the download was interrupted or damaged, or the file has changed.
        OSError: the disk is full or cannot be written.
    """
    model, folder = zoo()[name], zoo_folder(name, cache_dir)
    problem = damage_of(folder)
    if problem is None and not force_download:
        return folder
    if local_files_only or constants.HF_HUB_OFFLINE:
        raise FileNotFoundError(f"mdqe:{name}: {folder} {problem}, and downloads are disabled")
    if cache_dir is not None:
        _check_own(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f"{name}.lock", lambda: say(f"mdqe:{name}: {WAITING}")):
        problem = damage_of(folder)  # another process may have fetched it
        if problem is None and not force_download:
            return folder
        if force_download:
            shutil.rmtree(_work(folder), ignore_errors=True)
        if folder.is_dir():
            say(f"mdqe:{name}: {folder} {problem or 'is replaced'}; fetching it again")
        record = read_record(folder)
        _fetch(model, folder, None if force_download or record is None else record["sha256"], say)
    return folder


@contextmanager
def _locked(path: Path, waits: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a file. `waits` is called if another process holds it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(path, timeout=0.2))
        except TimeoutError:
            waits()
            stack.enter_context(WeakFileLock(path))
        yield


def _check_own(folder: Path) -> None:
    """Check that a folder in a place that the user chose is free, or a published model: it will be replaced.

    Raises:
        FileExistsError: it is something else, such as a model that the user converted or trained.
    """
    if folder.is_dir() and ((folder / RECORD_FILE).exists() or not any(folder.iterdir())):
        return
    if folder.exists():
        raise FileExistsError(
            f"{folder} is in the way: it was not written by mdqe fetch (it has no {RECORD_FILE}), so it is not replaced"
        )


def _work(folder: Path) -> Path:
    """The folder for the download and the conversion of a model, beside that of the model."""
    return folder.with_name(f".{folder.name}.fetch")


def _fetch(model: ZooModel, folder: Path, expected: str | None, say: Callable[[str], None]) -> None:
    """Download and convert a model, and replace its folder.

    Args:
        expected: the SHA-256 that the file must have; None: any.
    """
    from mdqe.weights.convert import convert_file  # loads timm

    label, work = f"mdqe:{model.name}", _work(folder)
    file, new, old = work / f"{model.name}.pth", work / "new", work / "old"
    for rest in (new, old):  # of an interrupted call
        shutil.rmtree(rest, ignore_errors=True)
    work.mkdir(exist_ok=True)
    try:
        _download(model, file, label, say)
        digest = sha256(file)
        if expected is not None and digest != expected:
            raise ConnectionError(
                f"{label}: the file has the SHA-256 {digest}, but {expected} when it was fetched before; "
                "--force-download accepts the new one, in Python force_download=True"
            )
        facts = {"data": model.data, "published AP": model.published, "licence": LICENSE_NAME}
        origin = f"{model.url}, sha256 {digest}"
        convert_file(file, new, preset=model.name, facts=facts, license=LICENSE, model_id=label, origin=origin)
        digests = {name: sha256(new / name) for name in (CONFIG_FILE, WEIGHTS_FILE)}
        record = {"name": model.name, "url": model.url, "sha256": digest, "files": digests}
        with whole_file(new / RECORD_FILE) as partial:
            partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        file.unlink()
    except (InputError, ConnectionError):  # another attempt with the same complete file would end the same
        file.unlink(missing_ok=True)
        raise
    finally:
        for rest in (new, old):
            shutil.rmtree(rest, ignore_errors=True)
        with suppress(OSError):  # it has the download for the next attempt
            work.rmdir()


def _download(model: ZooModel, file: Path, label: str, say: Callable[[str], None]) -> None:
    try:
        if not file.exists():  # or it was downloaded, and the disk was full afterwards
            say(f"{label}: downloading {model.url}, once")
            drive.download(model.file_id, file, label)
        drive.check_torch_zip(file, label)
    except drive.RefusedError as error:
        command = f"mdqe convert {model.name}.pth -o models/{model.name} --preset {model.name}"
        raise PermissionError(
            f"{label}: Google Drive did not give the file: {error}. Open {model.url} in a browser, save the file as "
            f"{model.name}.pth, and run: {command}"
        ) from error
