"""A Hub on loopback: the HTTP requests that the Hugging Face Hub's client sends to load and to push a model."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "a" * 34
READ_ONLY_TOKEN = "hf_" + "b" * 34


@dataclass
class Repository:
    """Commits by id, and the branches and tags that refer to them."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Add files to a branch; returns the id of the commit."""
        files = {**self.commits.get(self.refs.get(ref, ""), {}), **files}
        commit = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[commit] = files
        self.refs[ref] = commit
        return commit


class HubServer:
    """`with HubServer() as hub:` serves `hub.repositories` at `hub.endpoint` and records `hub.requests`."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []
        self.short: dict[str, int] = {}  # number of bytes after which a file ends, as its Content-Length also states
        self.cut: dict[str, list[int]] = {}  # numbers of bytes after which the connection breaks, one for each request
        self.broken: dict[str, bytes] = {}  # contents that are sent instead of those of files, of the same length
        self.pauses: dict[str, float] = {}  # seconds between the bytes of a file
        self.failing = 0  # the status of every request
        self.failing_paths = ""  # beginning of the paths that fail
        self.retry_after = ""  # a header of failures

    def __enter__(self) -> HubServer:
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def add(self, repo_id: str, files: dict[str, bytes], **options: Any) -> Repository:
        self.repositories[repo_id] = repository = Repository(**options)
        repository.commit(files)
        return repository

    def downloads(self, name: str) -> int:
        """Number of requests for the content of a file."""
        return sum(method == "GET" and path.endswith(name) for method, path in self.requests)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self._begin()
        if path is None:
            return
        if match := re.fullmatch(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", path):
            self._resolve(match["repo"], unquote(match["revision"]), match["file"])
        elif match := re.fullmatch(r"/cdn/(?P<repo>[^/]+/[^/]+)/(?P<commit>\w+)/(?P<file>.+)", path):
            data = self.hub.repositories[match["repo"]].commits[match["commit"]][match["file"]]
            self._send_data(match["file"], data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'})
        elif match := re.fullmatch(r"/api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?", path):
            if found := self._find(match["repo"], match["revision"] or "main"):
                repository, commit = found
                siblings = [{"rfilename": name} for name in repository.commits[commit]]
                self._send(200, {"id": match["repo"], "sha": commit, "siblings": siblings, "tags": []})
        else:
            self._send(404, {"error": f"not served here: {path}"})

    def do_POST(self) -> None:
        path = self._begin()
        if path is None:
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif self._token() != TOKEN:
            self._refuse(403 if self._token() == READ_ONLY_TOKEN else 401, "", "You may not write here")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", path):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self._send(200, {"files": files})
        elif match := re.fullmatch(r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", path):
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                v["path"]: base64.b64decode(v["content"]) for v in (x["value"] for x in lines if x["key"] == "file")
            }
            commit = self.hub.repositories[match["repo"]].commit(files, unquote(match["revision"]))
            url = f"{self.hub.endpoint}/{match['repo']}/commit/{commit}"
            self._send(200, {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})
        else:
            self._send(404, {"error": f"not served here: {path}"})

    def _begin(self) -> str | None:
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path))
        if self.hub.failing and path.startswith(self.hub.failing_paths):
            headers = {"Retry-After": self.hub.retry_after} if self.hub.retry_after else {}
            self._send(self.hub.failing, {"error": "down"}, headers)
            return None
        return path

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _create(self, wanted: dict[str, Any]) -> None:
        repo_id = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        exists = repo_id in self.hub.repositories
        if not exists:
            self.hub.add(repo_id, {".gitattributes": b""}, private=wanted.get("visibility") == "private")
        self._send(409 if exists else 200, {"url": f"{self.hub.endpoint}/{repo_id}", "name": repo_id, "id": repo_id})

    def _find(self, repo_id: str, revision: str) -> tuple[Repository, str] | None:
        """The repository and commit, or None after the error was sent."""
        repository, token = self.hub.repositories.get(repo_id), self._token()
        if token not in ("", TOKEN, READ_ONLY_TOKEN):
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if repository is None or (repository.private and not token):
            return self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        if repository.gated and token != TOKEN:
            return self._refuse(403 if token else 401, "GatedRepo", "Access to this model is restricted")
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit

    def _resolve(self, repo_id: str, revision: str, name: str) -> None:
        found = self._find(repo_id, revision)
        if found is None:
            return
        repository, commit = found
        headers = {"X-Repo-Commit": commit}
        if name not in repository.commits[commit]:
            self._refuse(404, "EntryNotFound", "Entry not found", headers)
            return
        data = repository.commits[commit][name]
        if name.endswith(".safetensors"):  # large files are on another host
            headers["X-Linked-Size"] = str(len(data))
            headers["X-Linked-ETag"] = f'"{hashlib.sha256(data).hexdigest()}"'
            headers["Location"] = f"http://localhost:{self.server.server_port}/cdn/{repo_id}/{commit}/{name}"
            self._send(302, {}, headers)
        else:
            self._send_data(name, data, {**headers, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

    def _send_data(self, name: str, data: bytes, headers: dict[str, str]) -> None:
        data = self.hub.broken.get(name, data)
        status, data = 200, data[: self.hub.short.get(name, len(data))]
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            status, first = 206, int(match[1])
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            data = data[first:]
        cuts = self.hub.cut.get(name)
        if name in self.hub.pauses and self.command == "GET":
            self._drip(name, data, headers)
        elif cuts and self.command == "GET":
            self._send(status, data, headers, sent=cuts.pop(0))
            self.close_connection = True
        else:
            self._send(status, data, headers)

    def _drip(self, name: str, data: bytes, headers: dict[str, str]) -> None:
        self._send(200, data, headers, sent=0)
        self.close_connection = True
        for i in range(len(data)):
            if name not in self.hub.pauses:
                return
            time.sleep(self.hub.pauses[name])
            try:
                self.wfile.write(data[i : i + 1])
            except OSError:  # the client has gone
                return

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, {"error": message}, {**(headers or {}), "X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None, sent: int | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:sent])
