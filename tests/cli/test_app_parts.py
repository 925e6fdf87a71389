"""The parts of `mdqe app` without Gradio: the guard in front of it, the service behind it, the command line."""

import asyncio
import json
import socket
import sys
import threading

import numpy as np
import pytest

from mdqe import MDQE
from mdqe.cli import app_page
from mdqe.cli.app_page import COLUMNS, Response, Service, track_rows
from mdqe.cli.app_server import LONGEST_REQUEST, Guard
from mdqe.results.instances import VideoInstances

# The guard.


def ask(guard: Guard, path: str, body: bytes = b"", kind: str = "http") -> tuple[int | None, dict[bytes, bytes], bytes]:
    """Status, headers and body of a request; (None, {}, b"") if the connection is closed."""
    sent, pieces = [], [body[i : i + 5000] for i in range(0, len(body), 5000)] or [b""]

    async def receive():
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message):
        sent.append(message)

    asyncio.run(guard({"type": kind, "path": path, "headers": []}, receive, send))
    if sent[0]["type"] == "websocket.close":
        return None, {}, b""
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


async def echo(scope, receive, send):
    """An application that returns the body of the request."""
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def guard(tmp_path) -> Guard:
    folder = tmp_path / "served"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "clip.mp4").write_bytes(b"clip")
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    return Guard(echo, folder)


def test_the_page_and_the_files_of_its_folder_are_served(guard):
    for path in ("/", "/config", "/theme.css", "/assets/index.js", "/gradio_api/queue/data", "/gradio_api/upload"):
        status, headers, _ = ask(guard, path)
        assert status == 200
        assert b"default-src 'self'" in headers[b"content-security-policy"]
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
     "/gradio_api/queue/join/", "/static/../../secret", "/gradio_api/stream/a/1/2/playlist-file", "/gradio_api/mcp/"],
)  # fmt: skip
def test_routes_that_the_page_does_not_use_are_blocked(guard, path):
    assert ask(guard, path)[0] == 404


def test_there_is_no_websocket(guard):
    assert ask(guard, "/", kind="websocket")[0] is None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"data": [{"path": "{}/a/clip.mp4", "url": "http://x/gradio_api/file={}/a/clip.mp4"}, "http://x", "/x"]}, 200),
        ({"data": [{"path": "http://169.254.169.254/"}]}, 403),
        ({"data": [{"path": "file:///etc/passwd"}]}, 403),
        ({"data": [{"path": "{}/a/clip.mp4"}, {"path": "/etc/passwd"}]}, 403),
        ({"data": [[{"a": {"video": {"path": "{}/../secret"}}}]]}, 403),
        ({"data": [{"path": "{}/link"}]}, 403),
        ({"data": [{"path": None}]}, 403),
        (b"no JSON", 403),
        (b"[" * 50_000, 403),
        ({"data": ["x" * LONGEST_REQUEST]}, 413),
    ],
)
def test_a_request_may_name_uploaded_files_only(guard, body, status):
    sent = body if isinstance(body, bytes) else json.dumps(body).replace("{}", str(guard.folder)).encode()
    answered, _, echoed = ask(guard, "/gradio_api/queue/join", sent)
    assert answered == status
    assert (echoed == sent) == (status == 200)


# The service.


@pytest.fixture
def service(tiny_model, tmp_path) -> Service:
    return Service({"tiny": MDQE.from_pretrained(tiny_model)}, tmp_path)


def ignore(*progress) -> None:
    pass


def test_the_service_returns_the_result_of_the_library(service, make_clip):
    clip, calls = make_clip(), []
    response = service.segment(str(clip), "tiny", 0.0, "ann", lambda *call: calls.append(call))
    found = VideoInstances.load(response.file)
    expected = service.models["tiny"].segment(clip, score_threshold=0)
    assert np.array_equal(found.masks, expected.masks)
    assert [row[:2] for row in response.table] == [[t, expected.category(i)] for i, t in enumerate(expected.track_ids)]
    assert [row[5] for row in response.table] == expected.present.sum(1).tolist()
    assert response.overlay.exists()
    assert f"{len(expected)} instances in 9 frames" in response.message
    assert calls == [(1, i, 9) for i in range(9)] + [(2, i, 9) for i in range(9)]
    document = json.loads(response.file.read_text())
    assert (document["source"], document["model"]) == ("clip.mp4", "tiny"), "names without folders of the server"


def test_rows_of_tracks():
    masks = np.zeros((2, 6, 4, 4), bool)
    masks[0, [1, 4]] = True
    result = VideoInstances.from_masks([0.98765, 0.5], [1, 0], [7, 3], masks, categories=("cat", "dog"))
    assert len(COLUMNS) == len(track_rows(result)[0])
    assert track_rows(result) == [[7, "dog", 0.988, 1, 4, 2], [3, "cat", 0.5, "", "", 0]]


def test_wrong_requests_get_a_message(service, tmp_path):
    (tmp_path / "clip.mp4").write_text("no video")
    text = str(tmp_path / "clip.mp4")
    for path, name, message in (
        (text, "tiny", "clip.mp4 is not a video, or it is truncated and its frames cannot be located"),
        (None, "tiny", "Choose a video first."),
        ("/etc/passwd", "tiny", "This is not an uploaded file."),
        (text, "/etc", "There is no model '/etc'."),
    ):
        assert service.segment(path, name, 0.3, "ann", ignore) == Response(message)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "/srv/secret/x.json"), "The results could not be written."),
        (MemoryError(), "There is not enough memory for this video; a smaller video may fit."),
    ],
)
def test_messages_for_visitors_have_no_details_of_the_server(service, make_clip, monkeypatch, error, message):
    def failing(*arguments):
        raise error

    monkeypatch.setattr(app_page, "segment_video", failing)
    assert service.segment(str(make_clip()), "tiny", 0.3, "ann", ignore).message == message


def test_a_bug_is_not_hidden(service, make_clip, monkeypatch):
    monkeypatch.setattr(app_page, "segment_video", lambda *arguments: {}["x"])
    with pytest.raises(KeyError):
        service.segment(str(make_clip()), "tiny", 0.3, "ann", ignore)


def test_a_visitor_stops_only_the_own_video(service, make_clip):
    def on_frame(passes, index, count):
        service.stop("bob")
        if index == 3:
            service.stop("ann")

    assert service.segment(str(make_clip()), "tiny", 0.3, "ann", on_frame).message == "Stopped."
    assert "mdqe-read-ahead" not in [thread.name for thread in threading.enumerate()]


def test_the_last_result_of_a_visitor_is_kept(service, make_clip, tmp_path):
    clip = str(make_clip(frames=2))
    first, other, second = [service.segment(clip, "tiny", 0.3, who, ignore) for who in ("ann", "bob", "ann")]
    assert [response.file.exists() for response in (first, other, second)] == [False, True, True]
    service.leave("ann")
    service.leave("nobody")
    assert [path.parent for path in tmp_path.glob("run-*/instances.json")] == [other.file.parent]


# The command line.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--port", "65536"), "'65536' is not a whole number from 0 to 65535"),
        (("--port", "web"), "'web' is not a whole number from 0 to 65535"),
        (("--max-upload", "0"), "'0' is not a whole number from 1 to 1000000"),
        (("--host", "192.0.2.1"), "cannot listen on 192.0.2.1 port 0"),
        (("--host", ""), "--host is empty"),
        (("--host", "a" * 70), "expected an address such as 127.0.0.1"),
    ],
)
def test_bad_options_are_one_line_and_status_2(run, options, says):
    status, out, err = run("app", "--port", "0", *options)
    assert (status, out) == (2, "")
    assert says in err and len(err.splitlines()) == 1


def test_a_port_that_is_in_use(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, out, err = run("app", "--port", port)
    assert (status, out) == (2, "")
    assert err.startswith(f"mdqe app: error: cannot listen on 127.0.0.1 port {port}: Address already in use; choose")
    assert len(err.splitlines()) == 1


def test_without_gradio_the_error_has_the_install_command(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr("mdqe.cli.app._confine_gradio", lambda folder: None)
    status, out, err = run("app", "--port", 0)
    assert (status, out) == (2, "")
    assert err == "mdqe app: error: the web app needs Gradio: pip install 'mdqe[demo]'\n"
