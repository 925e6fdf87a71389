"""What a model's name refers to: a folder, "mdqe:NAME" (bundled or published), or a repository on the Hub."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path, PurePosixPath

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mdqe.config import MDQEConfig
from mdqe.errors import InputError
from mdqe.files import expanded
from mdqe.weights.download import (
    VARIABLE,
    StalledError,
    call_with_progress,
    damage,
    seconds_without_progress,
    unfinished,
)
from mdqe.weights.folder import CONFIG_FILE
from mdqe.weights.zoo import fetch_zoo, zoo

BUNDLED_PREFIX = "mdqe:"  # Hub ids cannot contain a colon
BUNDLED_FOLDER = Path(__file__).parents[1] / "models"
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
PROGRAMMING_ERRORS = (AssertionError, AttributeError, NameError, TypeError)
"""Errors that are bugs, here or in the Hub's client. They are not reported as failures of the network."""

CONNECTION_SECONDS = 2.0  # for the first request for a file that is not in the cache
PROBE_SECONDS = 10.0  # for a request that asks a server why it sent nothing

Fetch = Callable[[str], Path]
"""Returns the local path of one of a model's files, by its name. Downloads the file if necessary."""


def bundled_models() -> tuple[str, ...]:
    """Names of the models in the package."""
    return tuple(sorted(BUNDLED_PREFIX + path.parent.name for path in BUNDLED_FOLDER.glob(f"*/{CONFIG_FILE}")))


def open_source(
    id_or_folder: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str | None = None,
) -> Fetch:
    """Find what a model's name refers to. An existing folder takes precedence over the Hub.

    Args: as in `MDQE.from_pretrained`. `revision` and `token` apply only to the Hub, `subfolder` also to folders, and
        the others also to published models, which are downloaded here.

    Raises:
        FileNotFoundError: no such folder, bundled or published model.
        ValueError: the name of a file instead of a folder, or conflicting arguments.
    """
    if force_download and local_files_only:
        raise InputError("force_download=True and local_files_only=True cannot be combined")
    inside = PurePosixPath(subfolder or "")
    if inside.is_absolute() or ".." in inside.parts:
        raise InputError(f"subfolder is {subfolder!r}, expected a folder inside the model's, such as 'models/small'")
    if not isinstance(id_or_folder, str | Path) or not str(id_or_folder):
        raise InputError(f"the model is {id_or_folder!r}, expected a folder, a Hub id or {BUNDLED_PREFIX}NAME")
    name = str(id_or_folder)
    if name.startswith(BUNDLED_PREFIX) and inside.parts:
        raise InputError(f"subfolder is {subfolder!r}, but {name} has no folders inside")
    if name.startswith(BUNDLED_PREFIX) and name not in bundled_models():
        published = name.removeprefix(BUNDLED_PREFIX)
        if published not in zoo():
            raise FileNotFoundError(
                f"no bundled model {name!r}; there are: {', '.join(bundled_models()) or 'none'}; models that are "
                f"downloaded: {', '.join(BUNDLED_PREFIX + one for one in zoo())}"
            )
        folder = fetch_zoo(
            published, cache_dir=cache_dir, local_files_only=local_files_only, force_download=force_download
        )
        return partial(_find_in, folder)
    if name.startswith(BUNDLED_PREFIX):
        return partial(_find_in, BUNDLED_FOLDER / name.removeprefix(BUNDLED_PREFIX))
    path = expanded(name)
    if path.is_dir():
        return partial(_find_in, path / inside)
    if path.is_file():
        hint = _conversion(path) if path.suffix in PICKLES else f"pass its folder, {path.parent}"
        raise InputError(f"{name} is a file, expected a folder, a Hub id or {BUNDLED_PREFIX}NAME: {hint}")
    if isinstance(id_or_folder, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"no such folder: {name}")
    if name in MDQEConfig.presets():
        published = f"the published weights are {BUNDLED_PREFIX}{name}" if name in zoo() else "none are published"
        raise InputError(
            f"{name} is a preset, a configuration without weights; {published}; in Python, "
            f"MDQE(MDQEConfig.preset({name!r})) has random ones"
        )
    return _Repository(name, revision, token, cache_dir, local_files_only, force_download, str(inside)).fetch


def _conversion(path: Path) -> str:
    """Return the command that converts a checkpoint."""
    return f"mdqe convert {shlex.quote(str(path))} -o FOLDER"


def _find_in(folder: Path, filename: str) -> Path:
    path = folder / filename
    if path.is_file():
        return path
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    pickles = sorted(p for p in folder.iterdir() if p.suffix in PICKLES)
    hint = f"; only safetensors weights can be loaded: {_conversion(pickles[0])}" if pickles else ""
    raise FileNotFoundError(f"{folder} has no {filename}{hint}")


@dataclass
class _Repository:
    repo_id: str
    revision: str | None
    token: str | bool | None
    cache_dir: str | Path | None
    local_files_only: bool
    force_download: bool
    subfolder: str = "."
    commit: str | None = None  # of the first file; the other files are fetched from the same commit

    def fetch(self, filename: str) -> Path:
        cache = expanded(self.cache_dir or constants.HF_HUB_CACHE)
        began, seconds = time.time(), seconds_without_progress()
        filename = str(PurePosixPath(self.subfolder, filename))
        if self.commit is None:
            self._check_connection(filename)
        download = partial(
            hf_hub_download,
            self.repo_id,
            filename,
            revision=self.commit or self.revision,
            token=self.token,
            cache_dir=self.cache_dir,
            local_files_only=self.local_files_only,
            force_download=self.force_download,
            library_name="mdqe",
        )
        try:
            path = Path(call_with_progress(download, lambda: unfinished(cache, self.repo_id), seconds))
        except PROGRAMMING_ERRORS:
            raise
        except StalledError as error:
            raise self._stalled(filename, seconds) from error
        except Exception as error:  # the HTTP library below the client has errors of its own in every version
            raise self._explained(error, filename) from error
        if problem := damage(path, began):
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            problem = f"{filename} of {self.repo_id!r} {problem}"
            raise ConnectionError(f"{problem}; it was deleted from the cache: try again to download it anew")
        self.commit = path.parts[-1 - len(PurePosixPath(filename).parts)]  # snapshots/COMMIT/FILE
        return path

    def _check_connection(self, filename: str) -> None:
        """Ask once for a file that is not in the cache: the client would repeat the request for half a minute.

        Raises:
            ConnectionError: the Hub cannot be reached.
        """
        if self.local_files_only or constants.HF_HUB_OFFLINE:
            return
        try:
            cached = try_to_load_from_cache(self.repo_id, filename, cache_dir=self.cache_dir, revision=self.revision)
            if not isinstance(cached, str) or self.force_download:
                url = hf_hub_url(self.repo_id, filename, revision=self.revision)
                get_hf_file_metadata(url, token=self.token, timeout=CONNECTION_SECONDS)
        except PROGRAMMING_ERRORS:
            raise
        except Exception as error:  # a response, an invalid name and a slow server are left to the download
            if "connect" in type(error).__name__.lower() and "timeout" not in type(error).__name__.lower():
                raise ConnectionError(f"{self._looked}: {_unreachable(error)}") from error

    @property
    def _looked(self) -> str:
        return f"no folder {self.repo_id!r} here; looked for a Hub model {self.repo_id!r}"

    def _stalled(self, filename: str, seconds: float) -> Exception:
        """The error of a download without progress. The client may have waited because of a status of the server."""
        url = hf_hub_url(self.repo_id, filename, revision=self.commit or self.revision)
        ask = partial(get_hf_file_metadata, url, token=self.token, timeout=PROBE_SECONDS)
        problem = f"download of {filename} of {self.repo_id!r}"
        try:
            call_with_progress(ask, lambda: None, 1.5 * PROBE_SECONDS)
        except PROGRAMMING_ERRORS:
            raise
        except HfHubHTTPError as error:
            return explain_hub_error(error, problem)
        except Exception as error:
            problem += f" ({_first_line(error)})" if str(error) else ""
        problem += f" made no progress for {seconds:g} s"
        return ConnectionError(f"{problem}; try again, or set {VARIABLE} to more seconds")

    def _explained(self, error: Exception, filename: str) -> Exception:
        """The error of a download, with a message of one line."""
        repo, at = f"{self.repo_id!r}", f" at revision {self.revision!r}" if self.revision else ""
        if isinstance(error, HFValidationError):
            return InputError(f"{repo} is neither a folder nor a Hub id such as 'user/model'")
        if isinstance(error, LocalEntryNotFoundError) and (self.local_files_only or constants.HF_HUB_OFFLINE):
            cache = self.cache_dir or constants.HF_HUB_CACHE
            problem = f"{filename} of {repo}{at} is not in the cache {cache}, and downloads are disabled"
            return FileNotFoundError(problem if self.commit else f"{self._looked}: {problem}")
        # The client raises a ValueError with a cause if force_download is set and the Hub cannot be reached.
        if isinstance(error, LocalEntryNotFoundError) or (isinstance(error, ValueError) and error.__cause__):
            response = failed_response(error)
            if response is None:
                return ConnectionError(f"download of {filename} of {repo}{at}: {_unreachable(error.__cause__)}")
            return explain_hub_error(response, f"download of {filename} of {repo}{at}")
        if isinstance(error, GatedRepoError):
            return PermissionError(
                f"{repo} is gated: accept its conditions at {constants.ENDPOINT}, and pass a token "
                "(token=… or `hf auth login`)"
            )
        if isinstance(error, RepositoryNotFoundError):
            return FileNotFoundError(
                f"{self._looked}: there is none at {constants.ENDPOINT}; "
                "a private model needs a token (token=… or `hf auth login`)"
            )
        if isinstance(error, RevisionNotFoundError):
            return FileNotFoundError(f"{repo} has no revision {self.revision!r}")
        if isinstance(error, EntryNotFoundError):
            hint = "not an mdqe model" if filename == CONFIG_FILE else "only safetensors weights can be loaded"
            return FileNotFoundError(f"{repo}{at} has no {filename}: {hint}")
        return explain_hub_error(error, f"download of {filename} of {repo}{at}")


def _unreachable(error: BaseException | None) -> str:
    reason = "" if error is None else f" ({_first_line(error)})"
    return f"cannot reach {constants.ENDPOINT}{reason}; is the network up?"


def explain_hub_error(error: Exception, action: str) -> Exception:
    """An error of the Hub's client or of the HTTP library below it, with a message of one line.

    Args:
        action: what failed, such as "upload to 'user/model'".
    """
    if isinstance(error, HFValidationError):
        return InputError(f"{action}: {_first_line(error)}")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            return PermissionError(f"{action}: {constants.ENDPOINT} denied access (status {status}); check the token")
        return ConnectionError(f"{action}: {constants.ENDPOINT} returned status {_described(status)}")
    if isinstance(error, OSError) and error.errno is not None:  # of this machine, such as a full disk
        return error
    return ConnectionError(f"{action} was interrupted, try again ({_first_line(error)})")


def _described(status: int | None) -> str:
    """A status of HTTP with its meaning and what to do."""
    if status not in list(HTTPStatus):
        return str(status)
    advice = ": wait before you try again" if status == 429 else ": a fault of the server, try again later"
    return f"{status} ({HTTPStatus(status).phrase}){advice if status == 429 or status >= 500 else ''}"


def failed_response(error: BaseException | None) -> HfHubHTTPError | None:
    """The error of the Hub's client with a response, in a chain of causes."""
    while error is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
