"""The filter in front of Gradio in `mdqe app`: it passes only requests that the page itself sends.

Gradio answers some other requests with files of the server, with a fetched URL, or with a traceback.
"""

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from mdqe.cli.app_hosts import Hosts
from mdqe.errors import InputError
from mdqe.files import parse_json

API = "/gradio_api/"
JOIN, UPLOAD, EVENTS, PROGRESS = API + "queue/join", API + "upload", API + "queue/data", API + "upload_progress"
FILE, HEARTBEAT = API + "file=", API + "heartbeat/"
PAGE = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt")
BELOW = ("/assets/", "/static/")
QUERIES = {EVENTS: "session_hash", PROGRESS: "upload_id", UPLOAD: "upload_id"}
TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")  # ids that the page makes up
BOUNDARY = re.compile(r"multipart/form-data; *boundary=(\"?)([\w'()+,./:=?-]{1,70})\1", re.ASCII | re.IGNORECASE)
RANGE = re.compile(r"bytes=(\d{1,18}-\d{0,18}|-\d{1,18})", re.ASCII)
LONGEST_PATH = 255  # of files of the page; a file system allows no longer name
LONGEST_REQUEST = 64 * 1024  # bytes of a JSON request, and of what an upload adds to its file
POLICY = (  # content security policy: the browser loads nothing from other servers
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class Calls(NamedTuple):
    """What the page may ask Gradio to run."""

    inputs: Callable[[Any, Any], list[Any] | None]
    """Returns the inputs of a function by its number and the inputs of a request; None if the page sends no such."""
    is_waiting: Callable[[str], bool]
    """Whether events of a session are waiting; Gradio fails if the events of another session are requested."""


class Refusal(Exception):
    """A request that is not passed to Gradio, with the status and the text of the response."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status, self.text = status, text


class Guard:
    """An ASGI application in front of Gradio.

    Args:
        app: Gradio.
        folder: the folder of uploads and results. Only its files are served and accepted as inputs.
        hosts: the hosts and origins of requests that are answered.
        calls: what the page may ask Gradio to run.
        max_upload: maximum size of an upload in MB, with all its files.

    Other routes have the status 404: Gradio's proxy, its fetching of URLs, direct calls, its editor. Other files, hosts
    and origins have the status 403.
    """

    def __init__(self, app: Application, folder: Path, hosts: Hosts, calls: Calls, max_upload: int) -> None:
        self.app, self.folder, self.hosts, self.calls = app, folder.resolve(), hosts, calls
        self.longest_upload = max_upload * 2**20 + LONGEST_REQUEST

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        send = _with_headers(send)
        try:
            scope = {**scope, "headers": [one for one in scope["headers"] if _is_passed(*one)]}
            if problem := self.hosts.problem(scope):
                raise Refusal(403, problem)
            scope["query_string"] = self._query(scope)
            receive = await self._body(scope, receive)
        except Refusal as refusal:
            await _respond(refusal, send)
            return
        await self.app(scope, receive, send)

    def _query(self, scope: Message) -> bytes:
        """The query of an allowed request; no query if the route takes none."""
        path, method = scope["path"], scope["method"]
        if path.startswith(FILE):
            if not serves(self.folder, path.removeprefix(FILE)):
                raise Refusal(403, "not allowed")
        elif path.startswith(HEARTBEAT):
            _check(404, TOKEN.fullmatch(path.removeprefix(HEARTBEAT)))
        elif path not in (*PAGE, JOIN, *QUERIES):
            _check(404, path.startswith(BELOW) and len(path.encode()) <= LONGEST_PATH and ".." not in path)
        _check(405, method in (("POST",) if path in (JOIN, UPLOAD) else ("GET", "HEAD")))
        if path not in QUERIES:
            return b""
        pairs = parse_qsl(scope["query_string"].decode("latin-1"))
        values = [value for key, value in pairs if key == QUERIES[path]]
        if path == UPLOAD and not values:
            return b""
        _check(400, len(values) == 1 and TOKEN.fullmatch(values[0]))
        _check(404, path != EVENTS or self.calls.is_waiting(values[0]))
        return f"{QUERIES[path]}={values[0]}".encode()

    async def _body(self, scope: Message, receive: Receive) -> Receive:
        """A `receive` for an allowed request, which checks its body."""
        if scope["path"] == UPLOAD:
            kind = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
            found = BOUNDARY.fullmatch(kind)
            if found is None:
                raise Refusal(400, "expected multipart/form-data")
            from mdqe.cli.app_upload import checked_upload

            return checked_upload(receive, found[2], self.longest_upload)
        if scope["path"] != JOIN:
            return receive
        body = json.dumps(self._call(await _read(receive))).encode()
        scope["headers"] = [one for one in scope["headers"] if one[0] not in (b"content-type", b"content-length")]
        scope["headers"] += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        return _again(body, receive)

    def _call(self, body: bytes) -> dict[str, Any]:
        """The request to run a function, with only the fields that the page sends."""
        try:
            call = parse_json(body, "the request")
        except InputError as error:
            raise Refusal(400, str(error)) from None
        _check(400, isinstance(call, dict))
        session, trigger = call.get("session_hash"), call.get("trigger_id")
        _check(400, isinstance(session, str) and TOKEN.fullmatch(session))
        _check(400, trigger is None or (type(trigger) is int and 0 <= trigger < 2**31))
        values = self.calls.inputs(call.get("fn_index"), call.get("data"))
        if values is None:
            raise Refusal(400, "not a request of the page")
        files = [one["path"] for one in values if isinstance(one, dict)]
        if not all(serves(self.folder, file) for file in files):
            raise Refusal(403, "not allowed")
        names = {"fn_index": call["fn_index"], "session_hash": session, "trigger_id": trigger, "event_data": None}
        return {"data": values, **names}


def serves(folder: Path, file: str) -> bool:
    """Whether a path is a file of a folder."""
    try:
        path = Path(file)
        return path.is_absolute() and path.resolve().is_relative_to(folder) and path.is_file()
    except (OSError, ValueError):  # the path is too long or contains a null byte
        return False


def _is_passed(header: bytes, value: bytes) -> bool:
    """Whether Gradio receives a header. It fails on unusual ranges, which a server may ignore (RFC 9110, 14.2)."""
    return header != b"x-gradio-server" and (header != b"range" or bool(RANGE.fullmatch(value.decode("latin-1"))))


def _check(status: int, allowed: object) -> None:
    if not allowed:
        raise Refusal(status, {400: "not a request of the page", 404: "not found", 405: "method not allowed"}[status])


async def _read(receive: Receive) -> bytes:
    """The complete body of a request."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > LONGEST_REQUEST:
            raise Refusal(413, "too long")
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns a body that has been read already."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def given() -> Message:
        return first.pop() if first else await receive()

    return given


async def _respond(refusal: Refusal, send: Send) -> None:
    text = refusal.text.encode(errors="replace")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def _with_headers(send: Send) -> Send:
    """A `send` that adds the headers by which browsers protect the page."""

    async def adding(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *HEADERS.items()]
        await send(message)

    return adding
