"""To which servers the remote node gives the key of the environment. Nothing of ComfyUI takes part."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Iterator

import pytest
from promptgen.nodes.remote_access import Server
from promptgen.serving.client import RemoteError


class Listener(http.server.ThreadingHTTPServer):
    """Answers every request as ``/health`` does, and keeps what came as authorization."""

    def __init__(self) -> None:
        self.keys: list[str | None] = []
        super().__init__(("127.0.0.1", 0), _Answer)

    @property
    def port(self) -> int:
        port: int = self.server_address[1]
        return port


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Listener)
        self.server.keys.append(self.headers.get("Authorization"))
        body = json.dumps({"status": "ok"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):  # a proxy would take the requests elsewhere
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("PROMPTGEN_URL", raising=False)
    monkeypatch.setenv("PROMPTGEN_API_KEY", "sesame")


def sent_key(listener: Listener, url: str, api_key: str = "") -> str | None:
    with Server(url.format(port=listener.port), api_key, "", 5).connect() as client:
        client.health()
    return listener.keys[-1]


ELSEWHERE = pytest.mark.skipif(os.name == "nt", reason="Windows connects to no 0.0.0.0")


@pytest.mark.parametrize(
    ("url", "has_it"),
    [
        ("http://127.0.0.1:{port}", True),
        ("http://localhost:{port}/", True),
        ("127.0.0.1:{port}", True),
        # Reaches the listener, though it is no address of this computer by its looks.
        pytest.param("http://0.0.0.0:{port}", False, marks=ELSEWHERE),
    ],
)
def test_without_an_address_of_its_own_it_stays_on_this_computer(
    listener: Listener, url: str, has_it: bool
) -> None:
    assert sent_key(listener, url) == ("Bearer sesame" if has_it else None)


@pytest.mark.parametrize(
    ("own", "url", "has_it"),
    [
        ("http://127.0.0.1:{port}", "http://127.0.0.1:{port}", True),
        ("http://127.0.0.1:{port}/some/path", "127.0.0.1:{port}/v1/", True),
        ("http://127.0.0.1:{port}", "", True),
        ("http://127.0.0.1:{port}", "http://localhost:{port}", False),  # another name
        ("http://127.0.0.1:1", "http://127.0.0.1:{port}", False),
        ("https://127.0.0.1:{port}", "http://127.0.0.1:{port}", False),
        ("https://captions.example", "http://127.0.0.1:{port}", False),
        pytest.param("http://0.0.0.0:{port}", "http://0.0.0.0:{port}", True, marks=ELSEWHERE),
    ],
)
def test_with_an_address_it_goes_there_alone(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, own: str, url: str, has_it: bool
) -> None:
    monkeypatch.setenv("PROMPTGEN_URL", own.format(port=listener.port))
    assert sent_key(listener, url) == ("Bearer sesame" if has_it else None)


@ELSEWHERE
def test_a_key_that_is_connected_goes_where_the_workflow_says(listener: Listener) -> None:
    assert sent_key(listener, "http://0.0.0.0:{port}", "open") == "Bearer open"
    assert sent_key(listener, "http://127.0.0.1:{port}", "open") == "Bearer open"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1@captions.example",
        "http://127.0.0.1:80@captions.example",
        "http://127.0.0.1\\@captions.example",
        "http://127.0.0.1%2ecaptions.example",
        "http://captions.example/127.0.0.1",
        "http://127.0.0.1.captions.example",
        "http://localhost.captions.example",
    ],
)
def test_no_address_passes_for_this_computer(url: str) -> None:
    assert not Server(url, "", "", 5).may_have_the_key()


def test_no_address_at_all_says_so() -> None:
    with pytest.raises(ValueError, match="PROMPTGEN_URL"):
        Server(" ", "", "", 5).connect()


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1", "file:///etc/passwd", "http://", "http://host/?q=1", "http://host/#x"]
)
def test_what_is_no_address_of_a_server_says_so(url: str) -> None:
    with pytest.raises(RemoteError, match="no URL of a server"):
        Server(url, "", "", 5).connect()
