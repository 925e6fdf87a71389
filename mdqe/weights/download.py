"""Downloads that end: a call that makes no progress for a while is abandoned, and damaged files are recognised.

The Hub's client limits the time between two bytes, but not the time of a download: a server that sends a byte every few
seconds, or asks to wait for hours, would never be given up.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import TypeVar

from mdqe.errors import InputError
from mdqe.files import read_json

T = TypeVar("T")
VARIABLE = "MDQE_DOWNLOAD_TIMEOUT"
SECONDS = 300.0  # the Hub's client writes pieces of 10 MB, so this is a speed of 35 kB/s


class StalledError(Exception):
    """A call made no progress for too long."""


class _Abandon(SystemExit):  # which a thread may end with silently
    """Ends the thread of an abandoned call."""


def seconds_without_progress() -> float:
    """The time after which a download without progress is given up.

    Raises:
        InputError: the environment variable is not a positive number.
    """
    text = os.environ.get(VARIABLE) or str(SECONDS)
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII) or not float(text):
        raise InputError(f"{VARIABLE} is {text!r}; expected a number of seconds above 0")
    return float(text)


def call_with_progress(call: Callable[[], T], progress: Callable[[], object], seconds: float) -> T:
    """Return the result of a call that runs in a thread of its own.

    Args:
        call: the call.
        progress: a value that changes while the call makes progress.
        seconds: the time without progress after which the call is abandoned.

    Raises:
        StalledError: there was no progress for so long.
        Exception: the error of the call.
    """
    results: list[T] = []
    errors: list[BaseException] = []
    ended = threading.Event()  # Thread.join is not reliable after Ctrl-C before Python 3.13

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=copy_context().run, args=(run,), name="mdqe-download", daemon=True)
    thread.start()
    try:
        last, changed = progress(), time.monotonic()
        while not ended.wait(min(0.5, seconds)):
            now = progress()
            if now != last:
                last, changed = now, time.monotonic()
            elif time.monotonic() - changed > seconds:
                raise StalledError
    finally:
        if not ended.is_set():
            _abandon(thread)
            ended.wait(2)
    if errors:
        raise errors[0]
    return results[0]


def _abandon(thread: threading.Thread) -> None:
    """End a thread at its next Python instruction, so that it releases its lock and deletes its partial file."""
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Abandon))


def unfinished(cache: Path, repo_id: str = "*") -> list[tuple[int, int, int]]:
    """Sizes and times of the unfinished downloads of a repository, or of all, which change as long as data arrive."""
    found = []
    for path in cache.glob(f"models--{repo_id.replace('/', '--')}/blobs/*.incomplete"):
        try:
            status = path.stat()
        except FileNotFoundError:  # completed in the meantime
            continue
        found.append((status.st_size, status.st_mtime_ns, getattr(status, "st_blocks", 0)))
    return found


def damage(path: Path, since: float) -> str | None:
    """How the content of a file of the Hub's cache is damaged; None if it is not.

    The cache names large files by their SHA-256. It is computed if the file is newer than `since` (seconds since the
    epoch, up to the resolution of file systems), that is, just downloaded.
    """
    if path.suffix == ".json":
        try:
            read_json(path)
        except InputError as error:
            return str(error).removeprefix(f"{path} ")
    file = path.resolve()
    if file.stat().st_mtime < since - 2 or not re.fullmatch("[0-9a-f]{64}", file.name):
        return None
    return None if sha256(file) == file.name else "has another SHA-256 than the repository states"


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
