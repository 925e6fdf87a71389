"""Downloads of public files from Google Drive: confirmed, resumed after a break, and checked to be what they should be.

The Drive sends a small file at once. For a large one it first sends a page that warns of viruses, with a form whose
hidden fields confirm the download. A file that may not be read, or was read too often, gives a page as well.
"""

from __future__ import annotations

import os
import re
import shutil
import ssl
import sys
import time
import zipfile
from email.message import Message
from html.parser import HTMLParser
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import HTTPCookieProcessor, HTTPSHandler, OpenerDirector, Request, build_opener

import mdqe
from mdqe.files import named_errors, partial_path
from mdqe.weights.download import seconds_without_progress

BASE = "https://drive.usercontent.google.com/download"
PIECE = 2**18
PROGRESS_BYTES = 10**7  # as the Hub's client: less than this in the time without progress is a stall
ATTEMPTS = 5  # without a new byte
MAX_PAGE = 2**20
QUOTA = re.compile(r"quota exceeded|too many users have (viewed|downloaded)|download quota", re.IGNORECASE)
DENIED = re.compile(r"you need access|request access|access denied|sign in|permission", re.IGNORECASE)


class RefusedError(Exception):
    """The Drive sent a page instead of the file; the message is the reason."""


class _BrokenError(Exception):
    """The connection broke or the server failed, and a new attempt may succeed."""


class _LongerError(_BrokenError):
    """The partial file is longer than the file: it belongs to another one."""


def download(file_id: str, path: Path, label: str) -> None:
    """Download a file; continue a download that was interrupted before.

    Args:
        file_id: the id of a public file.
        path: the new file. Until it is complete, its name has the part ".partial".
        label: of the progress bar and of messages.

    Raises:
        RefusedError: the Drive does not give the file: a quota, no permission, no such file, or another page.
        ConnectionError: the Drive cannot be reached, or the connection broke or made no progress.
        OSError: the disk is full, or the file cannot be written. What was downloaded is deleted.
    """
    partial, opener = partial_path(path), _opener()
    before, attempts = _size(partial), 0
    while True:
        start = _size(partial)
        try:
            with named_errors(partial):
                _receive(opener, file_id, partial, label)
            break
        except _LongerError:
            partial.unlink()
        except _BrokenError as error:
            attempts = attempts + 1 if _size(partial) == start else 0
            if attempts >= ATTEMPTS or _size(partial) == before == 0:
                raise _broken(error, partial, label) from error
            time.sleep(min(8, 2**attempts) / 4)
        except OSError as error:
            if not isinstance(error, ConnectionError):  # the disk
                partial.unlink(missing_ok=True)
            raise
    partial.replace(path)


def check_torch_zip(path: Path, label: str) -> None:
    """Check that a file is a complete zip file of `torch.save`, without reading a pickle; delete it otherwise.

    Raises:
        ConnectionError: it is not.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/data.pkl") for name in archive.namelist()):
                return
        problem = "is a zip file without weights"
    except (zipfile.BadZipFile, OSError, ValueError):
        problem = f"is damaged or not a PyTorch file ({path.stat().st_size:,} bytes)"
    path.unlink()
    raise ConnectionError(f"what Google Drive sent for {label} {problem}; it was deleted: try again")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _broken(error: _BrokenError, partial: Path, label: str) -> ConnectionError:
    done = _size(partial)
    if not done:
        return ConnectionError(f"download of {label}: cannot get it from {urlsplit(BASE).netloc} ({error})")
    return ConnectionError(
        f"download of {label} was interrupted after {done / 1e6:.1f} MB ({error}); the next attempt continues there"
    )


def _opener() -> OpenerDirector:
    context = ssl.create_default_context()
    try:
        import certifi  # of the Hub's client; some Python installations have no certificates of their own

        context.load_verify_locations(certifi.where())
    except ImportError:
        pass
    return build_opener(HTTPSHandler(context=context), HTTPCookieProcessor())


def _receive(opener: OpenerDirector, file_id: str, partial: Path, label: str) -> None:
    """Append to the partial file what is missing of it."""
    url = f"{BASE}?{urlencode({'id': file_id, 'export': 'download', 'confirm': 't'})}"
    for _ in range(3):  # a page of confirmation, and another in case the first has expired
        start = _size(partial)
        response = _open(opener, url, start)
        if response is None:  # the file is complete
            return
        with response:
            if response.headers.get_content_type() != "text/html":
                _write(response, partial, start, label)
                return
            page = _read(response, MAX_PAGE).decode("utf-8", "replace")
        confirmed = _confirmation(page, response.url)
        if confirmed is None or confirmed == url:
            break
        url = confirmed
    raise RefusedError(_reason(page, response.url))


def _open(opener: OpenerDirector, url: str, start: int) -> Any:
    """The response to a request for the bytes from `start` on; None if there are none."""
    request = Request(url, headers={"User-Agent": f"mdqe/{mdqe.__version__}"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        return opener.open(request, timeout=min(60.0, seconds_without_progress()))
    except HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range", "").endswith(f"/{start}"):
            return None
        if error.code == 416:
            raise _LongerError from error
        if error.code in (401, 403, 404):
            page = _read(error, MAX_PAGE).decode("utf-8", "replace")
            raise RefusedError(_reason(page, error.url or url, error.code)) from error
        raise _BrokenError(f"status {error.code}") from error
    except (URLError, OSError, HTTPException) as error:
        raise _BrokenError(str(getattr(error, "reason", error)).splitlines()[0]) from error


def _write(response: Any, partial: Path, start: int, label: str) -> None:
    from tqdm import tqdm

    start, total = _range(response.headers, response.status, start)
    if total is not None:
        _check_room(partial, total - start, total)
    seconds, marked, mark = seconds_without_progress(), start, time.monotonic()
    bar = tqdm(desc=label, total=total, initial=start, unit="B", unit_scale=True, disable=None, file=sys.stderr)
    with bar, partial.open("r+b" if start else "wb", buffering=0) as file:
        file.seek(start)
        file.truncate()
        while piece := _read(response, PIECE):
            view = memoryview(piece)
            while view:
                view = view[file.write(view) :]
            bar.update(len(piece))
            if file.tell() - marked >= PROGRESS_BYTES:
                marked, mark = file.tell(), time.monotonic()
            elif time.monotonic() - mark > seconds:
                raise ConnectionError(f"download of {label} made no progress for {seconds:g} s; try again")
        done = file.tell()
    if total is not None and done != total:
        raise _BrokenError(f"{done:,} of {total:,} bytes arrived")


def _range(headers: Message, status: int, start: int) -> tuple[int, int | None]:
    """The position of the first byte of a response, and the size of the whole file if it is stated."""
    found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", headers.get("Content-Range", ""))
    if status == 206 and found and int(found[1]) == start:
        return start, None if found[2] == "*" else int(found[2])
    if status == 206:
        raise _BrokenError("another part of the file was sent than was asked for")
    length = headers.get("Content-Length", "")
    return 0, int(length) if re.fullmatch(r"\d{1,18}", length) else None


def _check_room(partial: Path, missing: int, total: int) -> None:
    """Check that the disk has room for the rest of the file and for the converted model.

    Raises:
        OSError: it has not.
    """
    free = shutil.disk_usage(partial.parent).free
    if free < missing + total:
        number = 28  # ENOSPC
        text = f"{os.strerror(number)}: {(missing + total) / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free"
        raise OSError(number, text, str(partial.parent))


def _read(response: Any, most: int) -> bytes:
    try:
        return response.read(most)
    except (OSError, HTTPException) as error:
        raise _BrokenError(str(error) or type(error).__name__) from error


class _Form(HTMLParser):
    """The form of the page that confirms a download."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form" and (values.get("id") == "download-form" or "/download" in values.get("action", "")):
            self.action, self._inside = values.get("action", ""), True
        elif tag == "input" and self._inside and values.get("type") == "hidden" and "name" in values:
            self.fields[values["name"]] = values.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "form"


def _confirmation(page: str, url: str) -> str | None:
    """The address that a page of confirmation leads to; None for another page."""
    form = _Form()
    form.feed(page)
    if form.action is None:
        return None
    target = urljoin(url, form.action)
    host = urlsplit(target).hostname or ""
    if host != urlsplit(BASE).hostname and not host.endswith((".google.com", ".googleusercontent.com")):
        return None
    return f"{target}{'&' if urlsplit(target).query else '?'}{urlencode(form.fields)}" if form.fields else target


def _reason(page: str, url: str, status: int = 200) -> str:
    text = re.sub(r"\s+", " ", re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL))
    if QUOTA.search(text):
        return "its download quota is exceeded; it is often free again after a day"
    if status == 404:
        return "there is no such file any more"
    if status in (401, 403) or (urlsplit(url).hostname or "").startswith("accounts.") or DENIED.search(text):
        return "there is no permission to read the file"
    return "a page came instead of the file"
