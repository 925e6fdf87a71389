"""`mdqe app` and requests that its page never sends: from other sites, too large, or malformed."""

import socket
import time
from collections.abc import Iterator

import pytest
from hostile_requests import ALLOWED, HOSTILE, MULTIPART, UPLOAD, mutations, part, request
from running_app import Server, ask, running_app, send, wait_for

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'mdqe[demo]'")
RANGES = (
    "bytes=0-3",
    "bytes=5-1",
    "bytes=99-",
    "bytes=x-y",
    "items=0-1",
    "bytes=0-1,3-4",
    "bytes=",
    "bytes=0-" + "9" * 50,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    with running_app(tmp_path_factory.mktemp("temporary"), "--allow-host", "app.example.org") as server:
        yield server


@pytest.fixture(autouse=True)
def no_traceback(server):
    before = len(server.errors)
    yield
    time.sleep(0.05)
    assert "Traceback" not in "".join(server.errors[before:])


def stored(server: Server) -> set:
    return {path for path in server.folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ALLOWED)
def test_requests_of_the_page_are_answered(server, name):
    expected, data = ALLOWED[name]
    assert send(server, data.replace(b"HOST", server.host.encode())) == expected


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_requests_have_a_status(server, name):
    expected, data = HOSTILE[name]
    assert send(server, data.replace(b"HOST", server.host.encode())) == expected


def test_mutated_requests_cause_no_failure(server):
    statuses = [send(server, data.replace(b"HOST", server.host.encode()), 0.3) for data in mutations(200)]
    assert not [one for one in statuses if one and one >= 500]
    assert {200, 400, 403, 404, 405} <= set(statuses)
    assert ask(f"{server.address}/config")[0] == 200


def test_ranges_of_a_file(server):
    data = request("POST", UPLOAD, MULTIPART, body=part(content=b"hello world") + b"--edge--\r\n")
    send(server, data.replace(b"HOST", server.host.encode()))
    (path,) = [one for one in stored(server) if one.read_bytes() == b"hello world"][:1]
    found = []
    for one in RANGES:
        asked = request("GET", f"/gradio_api/file={path}", f"Range: {one}")
        found.append(send(server, asked.replace(b"HOST", server.host.encode())))
    assert found == [206, 206, 416, 200, 200, 200, 200, 200], "unusual ranges are ignored"


def test_an_upload_that_is_not_completed_is_not_kept(server):
    before = stored(server)
    host, port = server.host.split(":")
    head = request("POST", UPLOAD, MULTIPART, "Content-Length: 900000").replace(b"HOST", server.host.encode())
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head + part(content=b"x" * 100_000))
        wait_for(lambda: stored(server) - before, 20)
    wait_for(lambda: stored(server) == before, 20)
