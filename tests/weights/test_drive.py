"""Downloads from a server that plays Google Drive: confirmed, refused, cut off and resumed."""

import io
import os
import random
import time
import zipfile

import drive_server
import pytest
import torch
from drive_server import DriveServer

from mdqe.weights import drive
from mdqe.weights.drive import RefusedError, check_torch_zip, download

DATA = random.Random(0).randbytes(300_000)


@pytest.fixture
def server(monkeypatch):
    with DriveServer({"small": DATA, "large": DATA}, {"large"}) as server:
        monkeypatch.setattr(drive, "BASE", server.base)
        monkeypatch.setattr(drive.time, "sleep", lambda seconds: None)
        yield server


@pytest.mark.parametrize("name", ["small", "large"])
def test_a_file(server, tmp_path, name):
    download(name, tmp_path / "x.pth", "x")
    assert (tmp_path / "x.pth").read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]
    assert server.requests == [None]


@pytest.mark.parametrize("name", ["small", "large"])
def test_a_connection_that_breaks_is_resumed(server, tmp_path, name):
    server.cut = [100_000, 0, 50_000]
    download(name, tmp_path / "x.pth", "x")
    assert (tmp_path / "x.pth").read_bytes() == DATA
    assert server.requests == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-"]


def test_a_download_continues_in_the_next_call(server, tmp_path):
    server.cut = [100_000] + [0] * 10
    with pytest.raises(ConnectionError, match=r"download of x was interrupted after 0\.1 MB \(100,000 of 300,000"):
        download("large", tmp_path / "x.pth", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x.partial.pth"]
    server.cut, server.requests = [], []
    download("large", tmp_path / "x.pth", "x")
    assert (tmp_path / "x.pth").read_bytes() == DATA
    assert server.requests == ["bytes=100000-"]


def test_a_server_that_sends_no_parts(server, tmp_path):
    server.ranges, server.cut = False, [100_000]
    download("small", tmp_path / "x.pth", "x")
    assert (tmp_path / "x.pth").read_bytes() == DATA


def test_a_partial_file_that_was_complete_or_too_long(server, tmp_path):
    (tmp_path / "x.partial.pth").write_bytes(DATA)
    download("small", tmp_path / "x.pth", "x")
    assert (tmp_path / "x.pth").read_bytes() == DATA
    server.requests.clear()
    (tmp_path / "y.partial.pth").write_bytes(DATA + b"more")
    download("small", tmp_path / "y.pth", "y")
    assert (tmp_path / "y.pth").read_bytes() == DATA


@pytest.mark.parametrize("status", [429, 500, 503])
def test_failures_of_the_server(server, tmp_path, status):
    server.statuses = [status]
    with pytest.raises(ConnectionError, match=rf"cannot get it from 127\.0\.0\.1:\d+ \(status {status}\)"):
        download("small", tmp_path / "x.pth", "x")
    server.cut, server.statuses = [1000], []
    assert list(tmp_path.iterdir()) == []


REFUSALS = {
    "quota": (drive_server.QUOTA, "its download quota is exceeded"),
    "denied": (drive_server.DENIED, "there is no permission to read the file"),
    "other": (drive_server.OTHER, "a page came instead of the file"),
    "missing": (None, "there is no such file any more"),
    "elsewhere": (drive_server.WARNING.format(action="http://example.org/download", id="x"), "a page came instead"),
    "other scheme": (
        drive_server.WARNING.format(action="ftp://drive.google.com/download", id="x"),
        "a page came instead",
    ),
    "no address": (drive_server.WARNING.format(action="http://[/download", id="x"), "a page came instead"),
    "loop": (drive_server.WARNING.format(action="/download", id="loop"), "a page came instead"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_pages_instead_of_a_file(server, tmp_path, case):
    page, reason = REFUSALS[case]
    if page is not None:
        server.pages[case] = page
    with pytest.raises(RefusedError, match=reason):
        download(case, tmp_path / "x.pth", "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_status_of_no_permission(server, tmp_path, status):
    server.statuses = [status]
    with pytest.raises(RefusedError, match="there is no permission"):
        download("small", tmp_path / "x.pth", "x")


def test_a_server_that_cannot_be_reached(monkeypatch, tmp_path):
    monkeypatch.setattr(drive, "BASE", "http://127.0.0.1:9/download")
    with pytest.raises(ConnectionError, match=r"download of x: cannot get it from 127\.0\.0\.1:9 \(.*refused"):
        download("small", tmp_path / "x.pth", "x")


def test_a_full_disk_in_the_middle(server, tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large.*x\.partial\.pth"):
            download("large", tmp_path / "x.pth", "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
    download("large", tmp_path / "x.pth", "x")
    assert (tmp_path / "x.pth").read_bytes() == DATA


def test_a_disk_without_room(server, tmp_path, monkeypatch):
    monkeypatch.setattr(drive.shutil, "disk_usage", lambda folder: os.terminal_size((0, 0)) and Room())
    with pytest.raises(OSError, match=r"No space left on device: 1 MB are needed, 0 MB are free"):
        download("small", tmp_path / "x.pth", "x")
    assert list(tmp_path.iterdir()) == []


class Room:
    free = 200_000


def test_a_download_without_progress(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MDQE_DOWNLOAD_TIMEOUT", "0.0000001")
    monkeypatch.setattr(drive, "_open", lambda opener, url, start: Slow())
    with pytest.raises(ConnectionError, match=r"^download of x made no progress for 1e-07 s; try again$"):
        download("small", tmp_path / "x.pth", "x")


@pytest.mark.parametrize("page", [False, True])
def test_a_server_that_sends_a_byte_now_and_then(server, tmp_path, monkeypatch, page):
    monkeypatch.setenv("MDQE_DOWNLOAD_TIMEOUT", "0.3")
    server.pause = 0.05
    server.pages = {"small": drive_server.QUOTA} if page else {}
    began = time.monotonic()
    with pytest.raises(RefusedError if page else ConnectionError):
        download("small", tmp_path / "x.pth", "x")
    assert time.monotonic() - began < 5


class Slow:
    status, url = 200, ""

    def __init__(self):
        self.headers = drive.Message()
        self.headers["Content-Type"] = "application/octet-stream"

    def read1(self, most):
        return b"x"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize("data", [b"<html>", b"PK\x03\x04" + bytes(100), b""])
def test_files_that_are_no_weights(tmp_path, data):
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(ConnectionError, match=r"what Google Drive sent for x is damaged or not a PyTorch file \("):
        check_torch_zip(tmp_path / "x.pth", "x")
    assert list(tmp_path.iterdir()) == []


def test_parts_of_two_files_are_found(server, tmp_path):
    """A download that continues after the file has changed on the Drive: PyTorch would read it without an error."""
    old, new = io.BytesIO(), io.BytesIO()
    torch.save({"weight": torch.zeros(10_000)}, old)
    torch.save({"weight": torch.ones(10_000)}, new)
    (tmp_path / "x.partial.pth").write_bytes(old.getvalue()[:20_000])
    server.files["small"] = new.getvalue()
    download("small", tmp_path / "x.pth", "x")
    assert torch.load(tmp_path / "x.pth", weights_only=True)["weight"].unique().numel() > 1
    with pytest.raises(ConnectionError, match=r"for x is damaged: \w+/data/0 has another checksum; it was deleted"):
        check_torch_zip(tmp_path / "x.pth", "x")
    assert list(tmp_path.iterdir()) == []


def test_compressed_files_are_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(10**6))
    with pytest.raises(ConnectionError, match=r"for x is a compressed file, which torch\.save does not write"):
        check_torch_zip(tmp_path / "x.pth", "x")


def test_connections_that_break_without_end(server, tmp_path):
    server.ranges, server.cut = False, [1000 + i % 2 for i in range(100)]
    with pytest.raises(ConnectionError, match="download of x was interrupted after 0"):
        download("small", tmp_path / "x.pth", "x")
    assert len(server.requests) < 10


def test_a_server_that_denies_the_whole_range(server, tmp_path):
    server.statuses = [416]
    with pytest.raises(ConnectionError, match=r"cannot get it from .* \(status 416\)"):
        download("small", tmp_path / "x.pth", "x")
