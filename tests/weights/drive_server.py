"""Google Drive on loopback: files with and without a page of confirmation, pages of refusal, and broken connections."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import parse_qs, urlsplit

WARNING = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<p>Google Drive can't scan this file for viruses.</p><form id="download-form" action="{action}" method="get">
<input type="submit" id="uc-download-link" value="Download anyway"/><input type="hidden" name="id" value="{id}">
<input type="hidden" name="export" value="download"><input type="hidden" name="confirm" value="t">
<input type="hidden" name="uuid" value="5e1f-77"></form></body></html>"""
QUOTA = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-caption">Sorry, you can't view or download this file at this time.</p>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></body></html>"""
DENIED = "<html><head><title>Google Drive: Sign-in</title></head><body>You need access. Request access.</body></html>"
OTHER = "<html><head><title>Error</title><script>var quota = 'quota exceeded'</script></head><body>Hello.</body></html>"


@dataclass
class DriveServer:
    """`with DriveServer() as drive:` serves `drive.files` by id at `drive.base` and records the requests."""

    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)  # ids of files with a page of confirmation
    pages: dict[str, str] = field(default_factory=dict)  # pages that are sent instead of files
    statuses: list[int] = field(default_factory=list)  # of the next requests, which fail
    cut: list[int] = field(default_factory=list)  # numbers of bytes after which the next connections break
    pause: float = 0.0  # seconds after each byte
    ranges: bool = True  # whether a part of a file can be asked for
    requests: list[str | None] = field(default_factory=list)  # the Range header of each request for the bytes of a file

    def __enter__(self) -> DriveServer:
        handler = type("Handler", (_Handler,), {"drive": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self.server.server_port}/download"
        self.thread = Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    drive: DriveServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        drive, query = self.drive, {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
        name = query["id"]
        if drive.statuses:
            self._page(drive.statuses.pop(0), "<html>failure</html>")
        elif name in drive.pages:
            self._page(200, drive.pages[name])
        elif name not in drive.files:
            self._page(404, "<html><body>Sorry, the file you have requested does not exist.</body></html>")
        elif name in drive.large and "uuid" not in query:
            self._page(200, WARNING.format(action=drive.base, id=name))
        else:
            self._file(drive.files[name])

    def _page(self, status: int, text: str) -> None:
        self._send(status, text.encode(), {"Content-Type": "text/html; charset=utf-8"}, None)

    def _file(self, data: bytes) -> None:
        asked = self.headers.get("Range")
        self.drive.requests.append(asked)
        headers = {"Content-Type": "application/octet-stream", "Content-Disposition": 'attachment; filename="a.pth"'}
        first = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.drive.ranges else 0
        if first >= len(data):
            self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"}, None)
            return
        if asked and self.drive.ranges:
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        sent = self.drive.cut.pop(0) if self.drive.cut else None
        self._send(206 if asked and self.drive.ranges else 200, data[first:], headers, sent)

    def _send(self, status: int, data: bytes, headers: dict[str, str], sent: int | None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.drive.pause:
            self._send_slowly(data)
            return
        self.wfile.write(data[:sent])
        self.close_connection = self.close_connection or sent is not None

    def _send_slowly(self, data: bytes) -> None:
        try:
            for i in range(len(data)):
                self.wfile.write(data[i : i + 1])
                Event().wait(self.drive.pause)
        except ConnectionError:  # the client has given up
            self.close_connection = True
