"""What a model's name means: a folder, a bundled model ("mdqe:NAME") or a repository on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mdqe.errors import InputError
from mdqe.weights.folder import CONFIG_FILE

BUNDLED_PREFIX = "mdqe:"  # a colon is not allowed in a Hub id
BUNDLED_FOLDER = Path(__file__).parents[1] / "models"
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")

Fetch = Callable[[str], Path]
"""From the name of one of a model's files to where it lies on this machine, downloaded if need be."""


def bundled_models() -> tuple[str, ...]:
    """Names of the models inside the package."""
    return tuple(sorted(BUNDLED_PREFIX + path.parent.name for path in BUNDLED_FOLDER.glob(f"*/{CONFIG_FILE}")))


def open_source(
    id_or_folder: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Fetch:
    """Decide what the name means. An existing folder comes before the Hub.

    Args: as in `MDQE.from_pretrained`; all but the first concern the Hub alone.

    Raises:
        FileNotFoundError: no such folder or bundled model.
        ValueError: a file instead of its folder, or contradicting arguments.
    """
    if force_download and local_files_only:
        raise InputError("force_download=True and local_files_only=True exclude each other")
    name = str(id_or_folder)
    if name.startswith(BUNDLED_PREFIX):
        if name not in bundled_models():
            raise FileNotFoundError(f"no bundled model {name!r}; there are: {', '.join(bundled_models()) or 'none'}")
        return _Folder(BUNDLED_FOLDER / name.removeprefix(BUNDLED_PREFIX)).fetch
    path = Path(name).expanduser()
    if path.is_dir():
        return _Folder(path).fetch
    if path.is_file():
        hint = f"mdqe convert {path} -o FOLDER" if path.suffix in PICKLES else f"name its folder, {path.parent}"
        raise InputError(f"{name} is a file, expected a folder, a Hub id or {BUNDLED_PREFIX}NAME: {hint}")
    if isinstance(id_or_folder, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"no such folder: {name}")
    return _Repository(name, revision, token, cache_dir, local_files_only, force_download).fetch


@dataclass(frozen=True)
class _Folder:
    path: Path

    def fetch(self, filename: str) -> Path:
        path = self.path / filename
        if path.is_file():
            return path
        pickles = sorted(p for p in self.path.iterdir() if p.suffix in PICKLES)
        hint = f"; weights are read from safetensors alone: mdqe convert {pickles[0]} -o FOLDER" if pickles else ""
        raise FileNotFoundError(f"{self.path} has no {filename}{hint}")


@dataclass
class _Repository:
    repo_id: str
    revision: str | None
    token: str | bool | None
    cache_dir: str | Path | None
    local_files_only: bool
    force_download: bool
    commit: str | None = None  # of the first file: the others come from the same

    def fetch(self, filename: str) -> Path:
        try:
            path = hf_hub_download(
                self.repo_id,
                filename,
                revision=self.commit or self.revision,
                token=self.token,
                cache_dir=self.cache_dir,
                local_files_only=self.local_files_only,
                force_download=self.force_download,
                library_name="mdqe",
            )
        except Exception as error:  # also those of the client's HTTP library, which differ between its versions
            raise self._explained(error, filename) from error
        self.commit = Path(path).parent.name  # snapshots/COMMIT/FILE
        return Path(path)

    def _explained(self, error: Exception, filename: str) -> Exception:
        """The client's error as one line of ours."""
        repo, at = f"{self.repo_id!r}", f" at revision {self.revision!r}" if self.revision else ""
        if isinstance(error, HFValidationError):
            return InputError(f"{repo} is neither a folder nor a Hub id such as 'user/model'")
        if isinstance(error, LocalEntryNotFoundError) and (self.local_files_only or constants.HF_HUB_OFFLINE):
            cache = self.cache_dir or constants.HF_HUB_CACHE
            return FileNotFoundError(f"{filename} of {repo}{at} is not in the cache {cache}, and downloads are off")
        if isinstance(error, LocalEntryNotFoundError) or (isinstance(error, ValueError) and error.__cause__):
            return ConnectionError(f"cannot reach {constants.ENDPOINT} for {filename} of {repo}; is the network up?")
        if isinstance(error, GatedRepoError):
            return PermissionError(
                f"{repo} asks to accept its conditions at {constants.ENDPOINT} first, and for a token"
            )
        if isinstance(error, RepositoryNotFoundError):
            return FileNotFoundError(
                f"{repo} is neither a folder here nor a model at {constants.ENDPOINT}; "
                "a private one needs a token (token=… or `hf auth login`)"
            )
        if isinstance(error, RevisionNotFoundError):
            return FileNotFoundError(f"{repo} has no revision {self.revision!r}")
        if isinstance(error, EntryNotFoundError):
            hint = "not an mdqe model" if filename == CONFIG_FILE else "weights are read from safetensors alone"
            return FileNotFoundError(f"{repo}{at} has no {filename}: {hint}")
        return explain_hub_error(error, f"download of {filename} of {repo}{at}")


def explain_hub_error(error: Exception, action: str) -> Exception:
    """One line on what the Hub refused or what broke, for an error of its client or of the HTTP library below."""
    if isinstance(error, HFValidationError):
        return InputError(f"{action}: {_first_line(error)}")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            return PermissionError(f"{action}: {constants.ENDPOINT} refused (status {status}); check the token")
        return ConnectionError(f"{action}: {constants.ENDPOINT} answered with status {status}")
    if isinstance(error, OSError) and error.errno is not None:  # of this machine: disk full, not writable
        return error
    return ConnectionError(f"{action} broke off, try again ({_first_line(error)})")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
