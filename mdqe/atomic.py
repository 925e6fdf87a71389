"""Writing files atomically: a file is complete or does not exist.

A file is written beside its final path, under a name that marks it as partial ("overlay.partial.mp4" for
"overlay.mp4"), and renamed when it is complete. The extension stays last, so an interrupted file still opens.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def partial_path(path: str | Path) -> Path:
    """The path that `path` is written under until it is complete."""
    path = Path(path)
    return path.with_name(f"{path.stem}.partial{path.suffix}")


@contextmanager
def whole_file(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield the partial path to write. Afterwards rename it to `path`, or remove it if the block raised an error.

    Args:
        path: the file. An existing file is replaced.
        durable: flush the new file to the disk before it replaces the old one. If the machine loses power, one of the
            two is complete.

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
