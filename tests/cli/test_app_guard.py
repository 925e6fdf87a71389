"""The filter in front of Gradio in `mdqe app`: hosts, routes, files, calls."""

import asyncio
import json

import pytest

from mdqe.cli.app_guard import LONGEST_REQUEST, Calls, Guard
from mdqe.cli.app_hosts import Hosts, host_name

OWN = {"host": "127.0.0.1:7860"}
JOIN = "/gradio_api/queue/join"


def ask(
    guard: Guard, path: str, body: bytes = b"", kind: str = "http", query: str = "", headers: dict | None = None
) -> tuple[int | None, dict[bytes, bytes], bytes]:
    """Status, headers and body of a request; (None, {}, b"") if the connection is closed."""
    sent, pieces = [], [body[i : i + 5000] for i in range(0, len(body), 5000)] or [b""]

    async def receive():
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "path": path, "method": "POST" if path == JOIN else "GET", "query_string": query.encode(),
             "headers": [(key.encode(), value.encode()) for key, value in (headers or OWN).items()],
             "server": ("192.0.2.7", 7860)}  # fmt: skip
    asyncio.run(guard(scope, receive, send))
    if sent[0]["type"] == "websocket.close":
        return None, {}, b""
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


async def echo(scope, receive, send):
    """An application that returns the query and the body of the request."""
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["query_string"] + body})


def inputs(number, values):
    """Function 0 takes a file; function 1 takes nothing."""
    return values if number == 1 and values == [] else ([{"path": values[0]["path"]}] if number == 0 else None)


@pytest.fixture
def guard(tmp_path) -> Guard:
    folder = tmp_path / "served"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "clip.mp4").write_bytes(b"clip")
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    calls = Calls(inputs, lambda session: session == "known")
    return Guard(echo, folder, Hosts("127.0.0.1", ["App.example.org"]), calls, 1)


def test_the_page_and_the_files_of_its_folder_are_served(guard):
    for path in ("/", "/config", "/theme.css", "/assets/index.js", "/gradio_api/heartbeat/abc"):
        status, headers, _ = ask(guard, path)
        assert status == 200
        assert b"default-src 'self'" in headers[b"content-security-policy"]
        assert headers[b"cross-origin-resource-policy"] == b"same-origin"
    assert ask(guard, f"/gradio_api/file={guard.folder}/a/clip.mp4")[0] == 200


@pytest.mark.parametrize(
    "file",
    ["/etc/passwd", "//etc/passwd", "etc/passwd", "~/.ssh/id_rsa", "{}/../secret", "{}/a/../../secret", "{}/link", "{}",
     "{}/a", "{}/none", "file:///etc/passwd", "http://127.0.0.1/", "{}/a/clip.mp4\0.jpg", "{}/" + "x" * 5000],
)  # fmt: skip
def test_no_other_file_is_served(guard, file):
    assert ask(guard, "/gradio_api/file=" + file.format(guard.folder))[0] == 403


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/proxy=http://127.0.0.1/", "/gradio_api/run/predict", "/gradio_api/call/predict", "/proxy=x",
     "/file=x", "/gradio_api/component_server", "/gradio_api/vibe-edit", "/gradio_api/deep_link", "/monitoring",
     "/docs", "//", "/gradio_api/custom_component/a/b/c/d", "/gradio_api/queue/status", "/gradio_api", "queue/join",
     "/gradio_api/queue/join/", "/static/../../secret", "/gradio_api/stream/a/1/2/playlist-file", "/gradio_api/mcp/",
     "/gradio_api/heartbeat/../x", "/assets/" + "a" * 300],
)  # fmt: skip
def test_routes_that_the_page_does_not_use_are_blocked(guard, path):
    assert ask(guard, path)[0] == 404


def test_there_is_no_websocket(guard):
    assert ask(guard, "/", kind="websocket")[0] is None


def test_queries(guard):
    assert ask(guard, "/", query="deep_link=x")[2] == b"", "the page takes no query"
    assert ask(guard, "/gradio_api/queue/data", query="session_hash=known&x=y")[2] == b"session_hash=known"
    assert ask(guard, "/gradio_api/queue/data", query="session_hash=other")[0] == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1"}, 200),
        ({"host": "LOCALHOST:1"}, 200),
        ({"host": "[::1]:7860"}, 200),
        ({"host": "[0:0:0:0:0:0:0:1]"}, 200),
        ({"host": "app.example.org."}, 200),
        ({"host": "192.0.2.7:7860"}, 200),  # the address that the request came in at
        ({"host": "192.0.2.8:7860"}, 403),
        ({"host": "example.org"}, 403),
        ({"host": "x.app.example.org"}, 403),
        ({"host": "127.0.0.1.example.org"}, 403),
        ({"host": ""}, 403),
        ({}, 403),
        ({"host": "localhost", "x-forwarded-host": "evil.example"}, 403),
        ({"host": "localhost", "origin": "http://localhost"}, 200),
        ({"host": "localhost:80", "origin": "http://localhost"}, 200),
        ({"host": "app.example.org", "origin": "https://app.example.org"}, 200),
        ({"host": "127.0.0.1:7860", "origin": "https://app.example.org"}, 200),  # a proxy that changes the host
        ({"host": "localhost:8080", "origin": "http://localhost:8081"}, 403),
        ({"host": "localhost", "origin": "null"}, 403),
        ({"host": "localhost", "origin": "file://"}, 403),
        ({"host": "localhost", "origin": "http://evil.example"}, 403),
        ({"host": "localhost", "origin": "http://localhost.evil.example"}, 403),
        ({"host": "localhost", "origin": "http://localhost@evil.example"}, 403),
    ],
)
def test_hosts_and_origins(guard, headers, status):
    answered, _, body = ask(guard, "/", headers=headers or {"accept": "*/*"})
    assert answered == status, body


def test_the_response_names_the_option_for_a_host(guard):
    body = ask(guard, "/", headers={"host": "box.example:80"})[2]
    assert body == b"host box.example is not allowed; the server can allow it with --allow-host box.example"


def test_a_server_on_every_address_answers_for_its_own():
    hosts = Hosts("0.0.0.0")
    for host, own, allowed in (("10.0.0.5", "10.0.0.5", True), ("10.0.0.5", "::ffff:10.0.0.5", True),
                               ("10.0.0.6", "10.0.0.5", False), ("box", "10.0.0.5", False)):  # fmt: skip
        problem = hosts.problem({"headers": [(b"host", host.encode())], "server": (own, 7860)})
        assert (problem is None) == allowed
    assert [host_name(one) for one in ("A.b:1", "[::1]", "::1", "a b", "")] == ["a.b", "::1", None, None, None]


CALL = {"fn_index": 0, "session_hash": "abc", "trigger_id": None, "event_data": None}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({**CALL, "data": [{"path": "{}/a/clip.mp4"}]}, 200),
        ({**CALL, "data": [{"path": "http://169.254.169.254/"}]}, 403),
        ({**CALL, "data": [{"path": "file:///etc/passwd"}]}, 403),
        ({**CALL, "data": [{"path": "{}/../secret"}]}, 403),
        ({**CALL, "data": [{"path": "{}/link"}]}, 403),
        ({**CALL, "data": [], "fn_index": 2}, 400),
        ({**CALL, "data": [], "fn_index": 1, "session_hash": "../x"}, 400),
        ({**CALL, "data": [], "fn_index": 1, "trigger_id": "x"}, 400),
        (b"no JSON", 400),
        (b"[" * 50_000, 400),
        ({"data": ["x" * LONGEST_REQUEST]}, 413),
    ],
)
def test_a_request_may_name_uploaded_files_only(guard, body, status):
    sent = body if isinstance(body, bytes) else json.dumps(body).replace("{}", str(guard.folder)).encode()
    answered, _, echoed = ask(guard, JOIN, sent)
    assert answered == status
    assert status != 200 or json.loads(echoed) == json.loads(sent)


def test_gradio_receives_known_fields_only(guard):
    extra = {**CALL, "fn_index": 1, "data": [], "batched": True, "event_data": {"x": 1}, "request": {"url": "x"}}
    assert json.loads(ask(guard, JOIN, json.dumps(extra).encode())[2]) == {**CALL, "fn_index": 1, "data": []}
