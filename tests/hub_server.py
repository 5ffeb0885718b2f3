"""A Hugging Face Hub on 127.0.0.1, in the layout that the real client asks for, with faults on demand.

Large files are answered as the Hub does, with a redirect to another address that honours ranges. Every
request is written down.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

BLOCK = 2**16


@dataclass
class Request:
    """One request that came in: ``first`` byte asked for and ``sent`` bytes of the body.

    ``authorised`` says whether a token came with it.
    """

    method: str
    path: str
    authorised: bool = False
    first: int = 0
    sent: int = 0


@dataclass
class Repository:
    files: Mapping[str, bytes]
    commit: str
    gated: bool = False
    refusal: int = 403  # what those get who may not read it; the Hub says 401 to whoever has no token

    def is_large(self, name: str) -> bool:
        return name.endswith((".safetensors", ".bin"))


@dataclass
class FakeHub:
    """The hub's contents and faults. All faults are used up one by one, in the order of the requests."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    cuts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """file -> after how many bytes of the body the connection is cut"""
    wrong: dict[str, int] = field(default_factory=dict)
    """file -> how many times it is sent with a byte changed"""
    status: int | None = None
    """answer everything with this"""
    token: str | None = None
    """opens what is gated"""
    hold: dict[str, int] = field(default_factory=dict)
    """file -> after how many bytes the answer stops until ``released``"""
    held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    data_url: str = ""
    """where large files are: another host, as far as the client can tell"""

    def add(self, hub_id: str, files: Mapping[str, bytes], *, gated: bool = False) -> Repository:
        """Put a repository there, or a new commit of it."""
        digest = hashlib.sha1(usedforsecurity=False)
        for name, content in sorted(files.items()):
            digest.update(name.encode() + hashlib.sha256(content).digest())
        self.repositories[hub_id] = Repository(dict(files), digest.hexdigest(), gated)
        return self.repositories[hub_id]

    def resolved(self) -> set[str]:
        """The names of all files that were asked for."""
        return {request.path.rpartition("/")[2] for request in self.requests if "/resolve/" in request.path}

    def transfers(self) -> list[Request]:
        """The requests for the contents of large files."""
        return [request for request in self.requests if request.path.startswith("/data/")]


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """A hub that runs for the length of a ``with`` block."""
    hub = FakeHub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    hub.data_url = f"http://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.request_note = Request(self.command, path, bool(self.token))
        self.hub.requests.append(self.request_note)
        if self.hub.status is not None:
            self._error(self.hub.status, None, "out of order")
            return
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._api("/".join(parts[2:4]), parts[4:])
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        elif len(parts) == 4 and parts[0] == "data":
            self._data("/".join(parts[1:3]), parts[3])
        else:
            self._error(404, None, "no such page")

    def _api(self, hub_id: str, rest: list[str]) -> None:
        repository = self._repository(hub_id, allow_gated=True)
        if repository is None:
            return
        if rest[:1] in (["revision"], ["tree"]) and rest[1] not in ("main", repository.commit):
            self._error(404, "RevisionNotFound", "no such revision")
            return
        if rest[:1] == ["tree"]:
            self._json([_tree_entry(repository, name) for name in repository.files])
            return
        self._json(
            {
                "_id": "1", "id": hub_id, "modelId": hub_id, "sha": repository.commit, "private": False,
                "gated": "auto" if repository.gated else False, "disabled": False, "downloads": 0, "likes": 0,
                "tags": [], "siblings": [_sibling(repository, name) for name in repository.files],
            }
        )  # fmt: skip

    def _resolve(self, hub_id: str, revision: str, name: str) -> None:
        repository = self._repository(hub_id)
        if repository is None:
            return
        if revision not in ("main", repository.commit):
            self._error(404, "RevisionNotFound", "no such revision")
        elif name not in repository.files:
            self._error(404, "EntryNotFound", "no such file", {"X-Repo-Commit": repository.commit})
        elif repository.is_large(name):
            content = repository.files[name]
            self._head(
                302,
                {
                    "Location": f"{self.hub.data_url}/data/{hub_id}/{name}",
                    "X-Repo-Commit": repository.commit,
                    "X-Linked-Size": str(len(content)),
                    "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                    "Content-Length": "0",
                },
            )
        else:
            self._send(name, repository.files[name], {"X-Repo-Commit": repository.commit})

    def _data(self, hub_id: str, name: str) -> None:
        repository = self._repository(hub_id, allow_gated=True)  # whoever was sent here has been let in
        if repository is not None:
            self._send(name, repository.files[name], {})

    def _repository(self, hub_id: str, *, allow_gated: bool = False) -> Repository | None:
        repository = self.hub.repositories.get(hub_id)
        if repository is None:  # without a token, the Hub does not tell private from absent
            self._error(401, "RepoNotFound", "Invalid username or password.")
        elif (
            repository.gated and not allow_gated and (self.hub.token is None or self.token != self.hub.token)
        ):
            told = repository.refusal == 403 or not self.token
            self._error(repository.refusal, "GatedRepo" if told else None, "Access is restricted.")
        else:
            return repository
        return None

    def _send(self, name: str, content: bytes, headers: dict[str, str]) -> None:
        asked = self.headers.get("Range")
        first = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        if first >= len(content) > 0:
            self._error(416, None, "out of range")
            return
        if self.command == "GET" and self.hub.wrong.get(name, 0) > 0:
            self.hub.wrong[name] -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        body = content[first:]
        headers = {
            **headers,
            "ETag": f'"{_git_sha1(content)}"',
            "Accept-Ranges": "bytes",
            "Content-Length": str(len(body)),
        }
        if asked:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self.request_note.first = first
        self._head(206 if asked else 200, headers)
        if self.command == "HEAD":
            return
        cut = self.hub.cuts[name].pop(0) if self.hub.cuts[name] else None
        hold = self.hub.hold.pop(name, None)
        for start in range(0, len(body), BLOCK):
            if cut is not None and start >= cut:
                self.close_connection = True
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if hold is not None and start >= hold:
                self.wfile.flush()
                self.hub.held.set()
                self.hub.released.wait(20)
                hold = None
            block = body[start : start + BLOCK]
            try:
                self.wfile.write(block)
            except OSError:  # the client has gone away
                self.close_connection = True
                return
            self.request_note.sent += len(block)

    def _json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(
        self, status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        body = json.dumps({"error": message}).encode()
        codes = {"X-Error-Code": code, "X-Error-Message": message} if code else {}
        length = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        self._head(status, {**codes, **(headers or {}), **length})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _sibling(repository: Repository, name: str) -> dict[str, Any]:
    content = repository.files[name]
    entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": _git_sha1(content)}
    if repository.is_large(name):
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
    return entry


def _tree_entry(repository: Repository, name: str) -> dict[str, Any]:
    content = repository.files[name]
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": _git_sha1(content)}
    if repository.is_large(name):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
