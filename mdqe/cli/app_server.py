"""The server of `mdqe app`: a socket, and a filter in front of Gradio that passes only the requests of the page."""

import json
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mdqe.errors import DependencyError, InputError

API = "/gradio_api/"
ALLOWED = ("/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt")
ALLOWED_BELOW = ("/assets/", "/static/", API + "heartbeat/")
ALLOWED_API = ("queue/join", "queue/data", "upload", "upload_progress")
LONGEST_REQUEST = 64 * 1024  # bytes; uploads have a limit of their own
POLICY = (  # content security policy: the browser loads nothing from other servers
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


def require_gradio() -> None:
    """Import Gradio.

    Raises:
        DependencyError: Gradio is not installed.
    """
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise DependencyError("the web app needs Gradio: pip install 'mdqe[demo]'") from None


def listen(host: str, port: int) -> socket.socket:
    """Open a socket that listens on an address and a port.

    Raises:
        InputError: the address is malformed.
        OSError: the port is in use or not allowed, or there is no such address.
    """
    if not host:
        raise InputError("--host is empty; expected an address such as 127.0.0.1")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
    except UnicodeError:
        raise InputError(f"--host is {host!r}; expected an address such as 127.0.0.1") from None
    except OSError as error:
        raise OSError(f"--host is {host}: {error.strerror}") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen()
    except OSError as error:
        made.close()
        raise OSError(f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port") from None
    return made


def serve(page: Any, listening: socket.socket, folder: Path, max_upload: int) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        page: Gradio Blocks.
        listening: the socket from `listen`.
        folder: the folder of uploads and results; files are served only from it.
        max_upload: maximum size of an upload in MB.
    """
    import gradio
    import uvicorn
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    fonts: dict[str, Any] = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}
    app = gradio.mount_gradio_app(
        app,
        page,
        path="/",
        allowed_paths=[],
        show_error=False,  # the page shows the errors that a visitor can fix
        max_file_size=f"{max_upload}mb",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gradio.themes.Default(**fonts),
        css=STYLE,
    )
    config = uvicorn.Config(Guard(app, folder), log_level="warning", timeout_graceful_shutdown=2)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the temporary folder is deleted
    with suppress(KeyboardInterrupt):  # the normal end
        uvicorn.Server(config).run(sockets=[listening])


STYLE = """
.gradio-container { max-width: 1200px !important; margin: 0 auto !important }
#tracks { contain: inline-size; overflow-x: auto } /* on a phone the table scrolls, not the page */
"""


class Guard:
    """An ASGI application in front of Gradio. It blocks the Gradio routes that the page does not use.

    Unused routes return status 404: Gradio's proxy, its fetching of URLs, direct calls, its editor. Only files of the
    temporary folder are served and accepted as uploads. Other paths and URLs in a request return status 403; without
    the filter, Gradio would read or fetch them.
    """

    def __init__(self, app: Application, folder: Path) -> None:
        self.app, self.folder = app, folder.resolve()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        status = self._status(scope)
        if status is None and scope["path"] == API + "queue/join":
            body = await _body(receive)
            status = 413 if body is None else None if all(map(self.serves, _files(body))) else 403
            receive = _again(body or b"", receive)
        if status is not None:
            await _refuse(status, send)
            return
        await self.app(scope, receive, _with_policy(send))

    def _status(self, scope: Message) -> int | None:
        """The status of a request that is rejected; None if the request is allowed."""
        path = scope["path"]
        if path in ("/", *ALLOWED) or path.startswith(ALLOWED_BELOW):
            return 404 if ".." in path else None
        if path.startswith(API + "file="):
            file = Path(path.removeprefix(API + "file="))
            return None if self.serves(file) else 403
        return None if path.removeprefix(API) in ALLOWED_API and path.startswith(API) else 404

    def serves(self, file: Path) -> bool:
        """Whether a path is a file of the temporary folder."""
        try:
            return file.is_absolute() and file.resolve().is_relative_to(self.folder) and file.is_file()
        except (OSError, ValueError):  # the path is too long or contains a null byte
            return False


async def _body(receive: Receive) -> bytes | None:
    """The complete body of a request; None if it is too long."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > LONGEST_REQUEST:
            return None
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns a body that has been read already."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def given() -> Message:
        return first.pop() if first else await receive()

    return given


def _files(body: bytes) -> list[Path]:
    """The paths of uploads in a request. A malformed body gives an empty path, which is rejected."""
    files = []
    try:
        waiting = [json.loads(body)]
    except (ValueError, RecursionError):
        return [Path()]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            files += [Path(str(value["path"]))] if "path" in value else []
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return files


async def _refuse(status: int, send: Send) -> None:
    text = {403: b"not allowed", 404: b"not found", 413: b"too long"}[status]
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def _with_policy(send: Send) -> Send:
    """A `send` that adds the content security policy."""

    async def adding(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [(b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff"),
                     (b"referrer-policy", b"no-referrer")]  # fmt: skip
            message["headers"] = [*message.get("headers", []), *added]
        await send(message)

    return adding
