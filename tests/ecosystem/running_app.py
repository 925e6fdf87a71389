"""`mdqe app` in a process of its own, and requests to it."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

# The command in a process that prints every connection to another machine and every host name that it resolves.
PROGRAM = """
import sys
def note(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", None):
        print("NETWORK", arguments[0], file=sys.stderr, flush=True)
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in ("127.0.0.1", "::1"):
        print("NETWORK", arguments[1], file=sys.stderr, flush=True)
sys.addaudithook(note)
from mdqe.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Server(NamedTuple):
    process: subprocess.Popen
    address: str
    errors: list[str]
    """The lines of stderr."""
    folder: Path
    """The folder of temporary folders."""

    @property
    def host(self) -> str:
        return self.address.removeprefix("http://")


@contextmanager
def running_app(folder: Path, *options: str) -> Iterator[Server]:
    command = [sys.executable, "-c", PROGRAM, "app", "--port", "0", "--max-upload", "1", "--device", "cpu", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(folder)}
    )
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(iter(process.stderr.readline, "")), daemon=True)
    reader.start()
    address = process.stdout.readline().strip()
    try:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address), "".join(errors)
        wait_for(lambda: ask(f"{address}/config")[0] == 200)
        yield Server(process, address, errors, folder)
    finally:
        process.kill()
        process.wait()


def wait_for(found: Callable[[], Any], seconds: float = 180) -> Any:
    """The value of `found()`, as soon as it is true."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if value := found():
                return value
        except Exception:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.2)


def ask(url: str, data: bytes | None = None, kind: str = "application/json") -> tuple[int, bytes]:
    """The status and the body of a response."""
    request = urllib.request.Request(url, data, {"Content-Type": kind} if data is not None else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def upload(address: str, name: str, content: bytes) -> tuple[int, bytes]:
    body = f'--edge\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    return ask(
        f"{address}/gradio_api/upload", body + content + b"\r\n--edge--\r\n", "multipart/form-data; boundary=edge"
    )


def send(server: Server, request: bytes, seconds: float = 20) -> int | None:
    """The status of the response to the bytes of a request; None if there is none in time."""
    host, port = server.host.split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        start = b""
        try:
            connection.sendall(request)
            while len(start) < 12:
                piece = connection.recv(4096)
                if not piece:
                    return None
                start += piece
        except (ConnectionError, TimeoutError):
            return None
        found = re.match(rb"HTTP/1\.1 (\d{3})", start)
        assert found, start
        return int(found[1])
