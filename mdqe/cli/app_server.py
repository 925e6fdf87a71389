"""The server of `mdqe app`: its socket, and Gradio in it."""

import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from mdqe.errors import DependencyError, InputError


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


def serve(page: Any, guard: Callable[[Any], Any], listening: socket.socket, max_upload: int) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        page: Gradio Blocks.
        guard: puts a filter in front of an ASGI application.
        listening: the socket from `listen`.
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
    config = uvicorn.Config(_once_answered(guard(app)), log_level="warning", timeout_graceful_shutdown=2)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the temporary folder is deleted
    with suppress(KeyboardInterrupt):  # the normal end
        uvicorn.Server(config).run(sockets=[listening])


STYLE = """
@media (min-width: 700px) { /* with two columns, the input and the result fit on one screen */
  #title h1 { display: inline; margin-right: 1rem }
  #title p { display: inline }
  #overlay { height: max(240px, calc(100vh - 400px)) !important }
}
#tracks { contain: inline-size; overflow-x: auto } /* on a phone the table scrolls, not the page */
"""


def _once_answered(app: Any) -> Any:
    """An ASGI application whose late responses are dropped.

    Uvicorn responds itself with status 400 and closes the connection if the body of a request is malformed. The
    application may be about to respond at this moment; Uvicorn then fails with a traceback.
    """
    from h11 import LocalProtocolError

    async def answering(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        is_open = True

        async def send_if_open(message: Any) -> None:
            nonlocal is_open
            try:
                if is_open:
                    await send(message)
            except LocalProtocolError as error:
                if not str(error).endswith(("MUST_CLOSE", "CLOSED", "ERROR")):  # states of the connection
                    raise
                is_open = False

        await app(scope, receive, send_if_open)

    return answering
