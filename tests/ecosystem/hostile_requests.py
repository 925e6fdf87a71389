"""Requests to `mdqe app` that its page never sends, each with the status of the right response."""

import json
import random
from typing import Any

HOST = b"HOST"  # stands for the host and port of the server
JOIN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"
KIND, MULTIPART = "Content-Type: application/json", "Content-Type: multipart/form-data; boundary=edge"
END = b"--edge--\r\n"


def request(method: str, path: str, *headers: str, body: bytes = b"", host: bytes = b"Host: HOST\r\n") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\n".encode("latin-1") + host
    lines = list(headers)
    if body and not any("Transfer-Encoding" in one or "Content-Length" in one for one in headers):
        lines.append(f"Content-Length: {len(body)}")
    return head + b"".join(one.encode("latin-1") + b"\r\n" for one in lines) + b"\r\n" + body


def join(*headers: str, **changes: Any) -> bytes:
    """A request to segment nothing, as the page sends it, with changes."""
    call = {"data": [None, "mdqe:tiny", 0.3], "fn_index": 0, "session_hash": "abc", "trigger_id": 8, "event_data": None}
    return request("POST", JOIN, KIND, *headers, body=json.dumps({**call, **changes}).encode())


def part(name: str = "files", filename: str | None = "x.mp4", content: bytes = b"x", extra: str = "") -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    head = f'--edge\r\nContent-Disposition: form-data; name="{name}"{file}\r\n{extra}\r\n'
    return head.encode("utf-8", "surrogateescape") + content + b"\r\n"


def upload(body: bytes, *headers: str, query: str = "") -> bytes:
    return request("POST", UPLOAD + query, *(headers or (MULTIPART,)), body=body)


def chunked(body: bytes) -> bytes:
    pieces = [body[i : i + 50_000] for i in range(0, len(body), 50_000)]
    return b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in pieces) + b"0\r\n\r\n"


def posted(body: bytes) -> bytes:
    return request("POST", JOIN, KIND, body=body)


def get(path: str, *headers: str, host: bytes = b"Host: HOST\r\n") -> bytes:
    return request("GET", path, *headers, host=host)


def file(path: object) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


LARGE = 600_000  # two of these are more than the limit of 1 MB
ALLOWED: dict[str, tuple[int, bytes]] = {
    "the page": (200, get("/")),
    "localhost": (200, get("/", host=b"Host: localhost\r\n")),
    "localhost, tunnel": (200, get("/", host=b"Host: LocalHost.:8080\r\n")),
    "IPv6 loopback": (200, get("/", host=b"Host: [::1]:7860\r\n")),
    "allowed name": (200, get("/", host=b"Host: app.example.org\r\n")),
    "allowed name behind a proxy": (200, get("/", "X-Forwarded-Host: app.example.org", "X-Forwarded-Proto: https")),
    "own origin": (200, get("/config", "Origin: http://HOST")),
    "origin of a proxy": (200, join("Origin: https://app.example.org")),
    "origin of a tunnel": (200, get("/", "Origin: http://localhost", host=b"Host: localhost:80\r\n")),
    "segment nothing": (200, join()),
    "a file": (200, upload(part() + END)),
    "a file in chunks": (200, upload(chunked(part() + END), MULTIPART, "Transfer-Encoding: chunked")),
    "unknown fields are dropped": (200, join(request={"url": "http://x/"}, batched=True, event_data="x")),
}
HOSTILE: dict[str, tuple[int, bytes]] = {
    # The host and the origin.
    "DNS rebinding": (403, get("/", host=b"Host: evil.example\r\n")),
    "DNS rebinding, own port": (403, get("/config", host=b"Host: evil.example:7860\r\n")),
    "host that contains an allowed one": (403, get("/", host=b"Host: localhost.evil.example\r\n")),
    "host with a user": (403, get("/", host=b"Host: evil@127.0.0.1\r\n")),
    "host of another address": (403, get("/", host=b"Host: 192.0.2.1\r\n")),
    "empty host": (403, get("/", host=b"Host: \r\n")),
    "malformed address": (403, get("/config", host=b"Host: [::1\r\n")),
    "malformed port": (403, get("/config", host=b"Host: 127.0.0.1:99999999\r\n")),
    "host that is no ASCII": (403, get("/config", host=b"Host: \x80\r\n")),
    "no host": (400, get("/config", host=b"")),
    "two hosts": (400, get("/config", host=b"Host: HOST\r\nHost: evil.example\r\n")),
    "host of a proxy": (403, get("/config", "X-Forwarded-Host: evil.example")),
    "second host of a proxy": (403, get("/config", "X-Forwarded-Host: localhost, evil.example")),
    "malformed host of a proxy": (403, get("/config", "X-Forwarded-Host: a b:99999999:x[")),
    "malformed header of Gradio": (200, get("/config", "X-Gradio-Server: http://[bad")),
    "post of another site": (403, join("Origin: http://evil.example")),
    "upload of another site": (403, upload(part() + END, MULTIPART, "Origin: http://evil.example")),
    "post of another port": (403, join("Origin: http://127.0.0.1:1")),
    "post of a sandbox": (403, join("Origin: null")),
    "malformed origin": (403, join("Origin: http://[")),
    "preflight": (403, request("OPTIONS", JOIN, "Origin: http://evil.example", "Access-Control-Request-Method: POST")),
    # Calls of a function.
    "no body": (400, request("POST", JOIN, KIND, "Content-Length: 0")),
    "no JSON": (400, posted(b"\x00\xff")),
    "deep JSON": (400, posted(b"[" * 30_000)),
    "a key twice": (400, posted(b'{"data":[],"data":[],"fn_index":0,"session_hash":"a"}')),
    "a long number": (400, posted(b'{"fn_index":' + b"1" * 5000 + b"}")),
    "not a number": (400, posted(b'{"fn_index":NaN,"session_hash":"a","data":[]}')),
    "a list": (400, posted(b"[]")),
    "null": (400, posted(b"null")),
    "long JSON": (413, posted(b'"' + b"x" * 100_000 + b'"')),
    "no inputs": (400, join(data=[])),
    "too many inputs": (400, join(data=[1] * 50)),
    "inputs that are no list": (400, join(data={})),
    "wrong types": (400, join(data=[1, 2, "x"])),
    "deep inputs": (400, join(data=[None, {"a": [1]}, {"b": 1}])),
    "score of infinity": (400, join(data=[None, "mdqe:tiny", float("inf")])),
    "score above 1": (400, join(data=[None, "mdqe:tiny", 9])),
    "score of null": (400, join(data=[None, "mdqe:tiny", None])),
    "unknown model": (400, join(data=[None, "/etc", 0.3])),
    "list of models": (400, join(data=[None, ["mdqe:tiny"], 0.3])),
    "unknown function": (400, join(fn_index=99)),
    "negative function": (400, join(fn_index=-1)),
    "huge function": (400, join(fn_index=2**70)),
    "true as a function": (400, join(fn_index=True)),
    "function of the server": (400, join(fn_index=2, data=[])),
    "no session": (400, join(session_hash=None)),
    "session that is a number": (400, join(session_hash=5)),
    "long session": (400, join(session_hash="a" * 50_000)),
    "control characters": (400, join(session_hash="\0\n")),
    "lone surrogate": (400, join(session_hash="\ud800")),
    "negative trigger": (400, join(trigger_id=-5)),
    "file of the server": (403, join(data=[file("/etc/passwd"), "mdqe:tiny", 0.3])),
    "address as a file": (403, join(data=[file("http://127.0.0.1:9/"), "mdqe:tiny", 0.3])),
    "file with a null": (403, join(data=[file("/\0"), "mdqe:tiny", 0.3])),
    "number as a file": (400, join(data=[file(3), "mdqe:tiny", 0.3])),
    "file without a path": (400, join(data=[{}, "mdqe:tiny", 0.3])),
    "get of a post": (405, get(JOIN)),
    # Events and ids.
    "events of no session": (400, get("/gradio_api/queue/data")),
    "events of an unknown session": (404, get("/gradio_api/queue/data?session_hash=zzz")),
    "events of two sessions": (400, get("/gradio_api/queue/data?session_hash=a&session_hash=b")),
    "events of a malformed session": (400, get("/gradio_api/queue/data?session_hash=%ff%00")),
    "heartbeat of a malformed session": (404, get("/gradio_api/heartbeat/%00")),
    "progress of an unknown upload": (404, get("/gradio_api/upload_progress?upload_id=zz")),
    # Uploads.
    "two files above the limit": (413, upload(part(content=b"x" * LARGE) + part(content=b"y" * LARGE) + END)),
    "chunks above the limit": (
        413, upload(chunked(part(content=b"x" * 2 * LARGE) + END), MULTIPART, "Transfer-Encoding: chunked"),
    ),
    "empty files": (400, upload(part(content=b"") * 1200 + END)),
    "upload without a type": (400, request("POST", UPLOAD, body=b"x")),
    "upload without a boundary": (400, upload(b"x", "Content-Type: multipart/form-data")),
    "long boundary": (400, upload(b"x", f"Content-Type: multipart/form-data; boundary={'e' * 5000}")),
    "unknown charset": (400, upload(part() + END, "Content-Type: multipart/form-data; charset=nope; boundary=edge")),
    "no parts": (400, upload(b"\0\xff" * 100)),
    "truncated upload": (400, upload(part())),
    "field that is no file": (400, upload(part(filename=None) + END)),
    "large field": (400, upload(part(filename=None, content=b"z" * LARGE) + END)),
    "field with progress": (400, upload(part(filename=None) + END, query="?upload_id=q")),
    "other field": (400, upload(part(name="x") + END)),
    "part without a name": (400, upload(b"--edge\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END)),
    "long header of a part": (400, upload(part(extra="X: " + "y" * 20_000 + "\r\n") + END)),
    "many headers of a part": (400, upload(part(extra="X: y\r\n" * 3000) + END)),
    "name of a folder": (400, upload(part(filename="..") + END)),
    "two ids": (400, upload(part() + END, query="?upload_id=a&upload_id=b")),
    "two lengths": (400, request("POST", UPLOAD, MULTIPART, "Content-Length: 1", "Content-Length: 2")),
    "negative length": (400, request("POST", UPLOAD, MULTIPART, "Content-Length: -1")),
    # Paths and methods.
    "long path of an asset": (404, get("/assets/" + "a" * 5000)),
    "null in a path": (404, get("/static/%00")),
    "long path of a file": (403, get("/gradio_api/file=" + "/a" * 3000)),
    "whole address as a path": (404, get("http://evil.example/config")),
    "no path": (404, get("*")),
    "post to the page": (405, request("POST", "/", body=b"x")),
    "unknown method": (405, request("FOO", "/")),
    "websocket": (403, get("/gradio_api/queue/data", "Connection: Upgrade", "Upgrade: websocket",
                           "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")),
    "no HTTP": (400, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"),
}  # fmt: skip


def mutations(number: int, seed: int = 0) -> list[bytes]:
    """Allowed requests in which a few bytes are changed, removed, repeated or inserted."""
    chance, found = random.Random(seed), []
    for _ in range(number):
        data = bytearray(chance.choice([one for _, one in ALLOWED.values()]))
        for _ in range(chance.randint(1, 4)):
            at, length = chance.randrange(len(data)), chance.randint(1, 12)
            piece = bytes(chance.choice(b'\x00\xff"[]{}:,;=/.%-\r\n09aZ') for _ in range(length))
            change = chance.randrange(4)
            data[at : at + (0 if change == 3 else length)] = (
                piece, b"", bytes(data[at : at + length]) * 2, piece
            )[change]  # fmt: skip
        found.append(bytes(data))
    return found
