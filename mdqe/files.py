"""Reading JSON files and writing files atomically: a file that is written is complete or does not exist.

A file is written beside its final path, under a name that marks it as partial ("overlay.partial.mp4" for
"overlay.mp4"), and renamed when it is complete. The extension stays last, so an interrupted file still opens.
"""

import errno
import io
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

from mdqe.errors import InputError

MAX_BYTES = 256 * 2**20

Hook = Callable[[dict[str, Any]], Any]


def read_json(path: str | Path, *, max_bytes: int | None = MAX_BYTES, hook: Hook | None = None) -> Any:
    """The document in a JSON file.

    Args:
        path: a regular file.
        max_bytes: largest size of the file; None for no limit.
        hook: replaces every object while the file is parsed.

    Raises:
        OSError: the file cannot be read.
        InputError: a device or a pipe, too large, or not JSON; names the file.
    """
    path = Path(path)
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):  # reading a pipe could wait for ever
        raise InputError(f"{path} is not a regular file; expected a JSON file")
    if max_bytes is not None and status.st_size > max_bytes:
        raise InputError(f"{path} has {status.st_size:,} bytes; a file of this kind has at most {max_bytes:,}")
    return parse_json(path.read_bytes(), str(path), hook)


def parse_json(text: str | bytes, name: str, hook: Hook | None = None) -> Any:
    """The document in a JSON text; messages call it `name`. See `read_json`.

    Raises:
        InputError: not JSON, nested too deeply, or an object has a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> Any:
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for k, key in enumerate(keys) if key in keys[:k])
            raise InputError(f"{name} is ambiguous: an object has the key {twice[:40]!r} twice")
        return hook(values) if hook else values

    try:
        if isinstance(text, bytes):  # replaced, so that a large file is not in memory twice
            text = text.decode(json.detect_encoding(text), "surrogatepass")
        return json.loads(text, object_pairs_hook=unique)
    except InputError:
        raise
    except ValueError as error:  # of JSON or of UTF-8
        raise InputError(f"{name} is not JSON: {error}") from None
    except RecursionError:
        raise InputError(f"{name} is not JSON that can be read: it is nested too deeply") from None


def expanded(path: str | PathLike[str]) -> Path:
    """A path with the home folder in place of "~"; unchanged if there is no such user, where pathlib would fail."""
    return Path(os.path.expanduser(path))


def partial_path(path: str | Path) -> Path:
    """The path that `path` is written under until it is complete."""
    path = Path(path)
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def new_partial(path: str | Path) -> Path:
    """The partial path of `path` for a new file. A file or link there, as of an interrupted run, is removed.

    Raises:
        OSError: there is a folder, a device, a pipe or a socket, or the file cannot be removed.
    """
    partial = partial_path(path)
    if not partial.is_symlink():
        regular_target(partial)
    partial.unlink(missing_ok=True)  # writing through a link would change another file
    return partial


@contextmanager
def whole_file(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield the partial path to write. Afterwards rename it to `path`, or remove it if the block raised an error.

    Args:
        path: the file. An existing file is replaced. A symbolic link stays, and the file that it points to is replaced.
        durable: flush the new file to the disk before it replaces the old one. If the machine loses power, one of the
            two is complete.

    Raises:
        OSError: the file cannot be written or renamed, or `path` is a folder, a device or a pipe; names `path`.
    """
    target = regular_target(path)
    partial = new_partial(target)
    try:
        yield partial
        if durable:
            _flush(partial, os.O_RDWR)
        partial.replace(target)
        if durable and os.name == "posix":
            _flush(target.parent, os.O_RDONLY)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def whole_binary_file(path: str | Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """As `whole_file`, but yield the open file, for writers of torch.

    The file raises no OSError before the end of the block: after one, a writer of torch raises a RuntimeError or aborts
    the process.
    """
    with whole_file(path, durable=durable) as partial:
        file = _LateErrors(partial, "wb")
        with io.BufferedWriter(file) as buffered:
            yield buffered
        if file.error is not None:
            raise file.error


class _LateErrors(io.FileIO):
    """A file that keeps its first OSError, and from then on discards what is written."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                return super().write(data) or 0
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes


@contextmanager
def named_errors(path: str | Path) -> Iterator[None]:
    """Add the path to an OSError of the block that names no file."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from error


def regular_target(path: str | Path) -> Path:
    """The file that writing to `path` replaces: `path`, or what a symbolic link points to.

    Raises:
        OSError: a folder, a device, a pipe or a socket, which a rename would destroy.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:  # a new file, or a link to one
        return Path(os.path.realpath(path)) if path.is_symlink() else path
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder; expected the path of a file", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is a device, a pipe or a socket; expected the path of a regular file", str(path))
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def check_writable(folder: Path) -> None:
    """Create the folder if it does not exist, and check that files can be written there. Call it before long work.

    Raises:
        OSError: the folder cannot be created or written; names the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"cannot write there ({error.strerror})", str(folder)) from error


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
