"""Files that are whole or not there.

A file is written beside its place under a name that says so ("overlay.partial.mp4" for "overlay.mp4") and takes its
name when it is complete. The extension stays last, so what an interruption left behind still opens.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def partial_path(path: str | Path) -> Path:
    """Where `path` is written until it is whole."""
    path = Path(path)
    return path.with_name(f"{path.stem}.partial{path.suffix}")


@contextmanager
def whole_file(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield the partial path to write; afterwards it is renamed to `path`, or removed if the block raised.

    Args:
        path: the file; what has that name is replaced.
        durable: wait until the file is on the disk before it replaces the old one, so that a machine that loses its
            power keeps one of the two.

    Raises:
        OSError: the file cannot be written or renamed; names `path`.
    """
    path, partial = Path(path), partial_path(path)
    try:
        yield partial
        if durable:
            _flush(partial, os.O_RDWR)
        partial.replace(path)
        if durable and os.name == "posix":
            _flush(path.parent, os.O_RDONLY)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def check_writable(folder: Path) -> None:
    """Make the folder if it does not exist, and try whether a file can be written there, before long work.

    Raises:
        OSError: it cannot; names the folder.
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
