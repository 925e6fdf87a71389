"""Downloads of public files from Google Drive: confirmed, resumed after a break, and checked to be what they should be.

The Drive sends a small file at once. For a large one it first sends a page that warns of viruses, with a form whose
hidden fields confirm the download. A file that may not be read, or was read too often, gives a page as well.
"""

from __future__ import annotations

import errno
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
from mdqe.errors import printable
from mdqe.files import named_errors, partial_path
from mdqe.weights.download import StalledError, seconds_without_progress

BASE = "https://drive.usercontent.google.com/download"
PIECE = 2**18
PROGRESS_BYTES = 10**7  # as the Hub's client: less than this in the time without progress is a stall
ATTEMPTS = 5  # with less than a new piece
MAX_PAGE = 2**16
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
    before = most = _size(partial)
    attempts = 0
    while True:
        try:
            with named_errors(partial):
                _receive(opener, file_id, partial, label)
            break
        except _LongerError:
            partial.unlink()
        except _BrokenError as error:
            done = _size(partial)
            attempts = attempts + 1 if done < most + PIECE else 0
            most = max(most, done)
            if attempts >= ATTEMPTS or done == before == 0:
                raise _broken(error, partial, label) from error
            time.sleep(min(8, 2**attempts) / 4)
        except StalledError as error:
            seconds = seconds_without_progress()
            raise ConnectionError(f"download of {label} made no progress for {seconds:g} s; try again") from error
        except OSError:  # of the disk
            partial.unlink(missing_ok=True)
            raise
    partial.replace(path)


def check_torch_zip(path: Path, label: str) -> None:
    """Check that a file is a complete zip file of `torch.save`, without reading a pickle; delete it otherwise.

    PyTorch does not compare the checksums in the file. They differ if the file changed on the Drive between two parts.

    Raises:
        ConnectionError: it is not.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                problem = "is a zip file without weights"
            elif any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                problem = "is a compressed file, which torch.save does not write"
            elif broken := archive.testzip():
                problem = f"is damaged: {printable(broken)} has another checksum"
            else:
                return
    except (zipfile.BadZipFile, EOFError, RuntimeError, OSError, ValueError):
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
            page = _page(response)
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
        if error.code == 416 and start and error.headers.get("Content-Range", "").endswith(f"/{start}"):
            return None
        if error.code == 416 and start:
            raise _LongerError from error
        if error.code in (401, 403, 404):
            raise RefusedError(_reason(_page(error), error.url or url, error.code)) from error
        raise _BrokenError(f"status {error.code}") from error
    except (URLError, OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise _BrokenError((str(reason).strip() or type(reason).__name__).splitlines()[0]) from error


def _write(response: Any, partial: Path, start: int, label: str) -> None:
    from tqdm import tqdm

    start, total = _range(response.headers, response.status, start)
    if total is not None:
        _check_room(partial, total - start, total)
    seconds, marked, mark = seconds_without_progress(), start, time.monotonic()
    bar = tqdm(desc=label, total=total, initial=start, unit="B", unit_scale=True, disable=None, file=sys.stderr)
    done = start
    with bar, partial.open("r+b" if start else "wb", buffering=0) as file:
        file.seek(start)
        file.truncate()
        while piece := _read(response, PIECE if total is None else min(PIECE, total - done)):
            view = memoryview(piece)
            while view:
                view = view[file.write(view) :]
            bar.update(len(piece))
            done += len(piece)
            if done - marked >= PROGRESS_BYTES:
                marked, mark = done, time.monotonic()
            elif time.monotonic() - mark > seconds:
                raise StalledError
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
        needed = f"{(missing + total) / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed}", str(partial.parent))


def _page(response: Any) -> str:
    """The beginning of a page, as far as it arrives in time."""
    page, size, ends = b"", MAX_PAGE, time.monotonic() + seconds_without_progress()
    if isinstance(length := getattr(response, "length", None), int):
        size = min(size, length)
    while time.monotonic() < ends and (piece := _read(response, size - len(page))):
        page += piece
    return page.decode("utf-8", "replace")


def _read(response: Any, most: int) -> bytes:
    """What has arrived of the next bytes, at least one; none at the end. `read` would wait until all are there."""
    try:
        return response.read1(most) if most else b""
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
    try:
        target = urljoin(url, form.action)
        scheme, host = urlsplit(target).scheme, urlsplit(target).hostname or ""
    except ValueError:
        return None
    if host != urlsplit(BASE).hostname and not host.endswith((".google.com", ".googleusercontent.com")):
        return None
    if scheme != urlsplit(BASE).scheme:
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
