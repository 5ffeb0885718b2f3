"""How much a server takes, and how slowly; and what becomes of clients that do not care."""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from promptgen.serving.bodies import parse_json
from promptgen.serving.connections import TOLD_CONNECTIONS
from promptgen.serving.errors import BadRequestError
from promptgen.serving.settings import Limits, ServerSettings

from .serving_host import LocalServer, check_failure, serving_here, wait_until

SMALL = Limits(body_bytes=100_000, held_bytes=150_000, connections=8, body_seconds=1.5)


@pytest.fixture(scope="module")
def open_server() -> Iterator[LocalServer]:
    """With small limits."""
    with serving_here(ServerSettings(limits=SMALL)) as server:
        yield server


def connect(server: LocalServer) -> socket.socket:
    address = urlsplit(server.url)
    return socket.create_connection((address.hostname or "", address.port or 0), timeout=20)


def head(path: str = "/v1/captions", length: int | None = None, **headers: str) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        *(f"{key}: {value}" for key, value in headers.items()),
    ]
    lines += ["Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode()


def received(connection: socket.socket) -> tuple[int, Mapping[str, Any]]:
    """Status and JSON of the answer on a bare connection that the server closes after it, or keeps."""
    with closing(connection.makefile("rb")) as stream:
        status = int(stream.readline().split()[1])
        length = 0
        while line := stream.readline().strip():
            name, _, value = line.decode().partition(":")
            length = int(value) if name.lower() == "content-length" else length
        return status, json.loads(stream.read(length))


def is_closed(connection: socket.socket) -> bool:
    """Waits for more bytes, or for the end."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


# ---- bodies


def test_a_body_that_says_it_is_too_large(open_server: LocalServer) -> None:
    answer = httpx.post(f"{open_server.url}/v1/captions", content=b"x" * 100_001)
    said = check_failure(answer, 413, "too_large")
    assert "100000 bytes" in said
    assert "--max-body" in said


def test_a_body_that_turns_out_to_be_too_large(open_server: LocalServer) -> None:
    answer = httpx.post(f"{open_server.url}/v1/captions", content=iter([b"x" * 60_000] * 2))
    check_failure(answer, 413, "too_large")


def test_a_body_of_just_the_limit(open_server: LocalServer) -> None:
    answer = httpx.post(f"{open_server.url}/v1/captions", content=b"x" * 100_000)
    check_failure(answer, 400, "bad_request")  # it was read, and is no JSON


@pytest.mark.parametrize("sent", [b"", b'{"images": ['])
def test_a_body_that_does_not_come(sent: bytes, open_server: LocalServer) -> None:
    started = time.monotonic()
    with connect(open_server) as slow:
        slow.sendall(head(length=1000) + sent)
        status, body = received(slow)
    assert (status, body["code"]) == (408, "body_timeout")
    assert 1 < time.monotonic() - started < 10


def test_a_body_that_drips(open_server: LocalServer) -> None:
    with connect(open_server) as slow:
        slow.sendall(head())
        slow.settimeout(0.2)
        for _ in range(50):
            slow.sendall(b"1\r\n \r\n")
            try:
                answer = slow.recv(12)
                break
            except TimeoutError:
                continue
    assert answer == b"HTTP/1.1 408"


def test_bodies_that_together_take_too_much(open_server: LocalServer) -> None:
    limits = dataclasses.replace(SMALL, body_seconds=20.0)
    with (
        serving_here(ServerSettings(limits=limits)) as server,
        connect(server) as one,
        connect(server) as two,
    ):
        one.sendall(head(length=99_000) + b"x" * 98_000)
        wait_until(lambda: "promptgen_body_bytes 98000.0" in httpx.get(f"{server.url}/metrics").text)
        two.sendall(head(length=99_000) + b"x" * 98_000)
        status, body = received(two)
        assert (status, body["code"]) == (429, "queue_full")
        one.sendall(b"x" * 1_000)
        assert received(one)[0] == 400  # the first has lost nothing
        wait_until(lambda: "promptgen_body_bytes 0.0" in httpx.get(f"{server.url}/metrics").text)
        answer = httpx.post(f"{server.url}/v1/captions", content=b"x" * 90_000)
        check_failure(answer, 400, "bad_request")


def test_a_client_that_goes_in_the_middle_of_its_body(open_server: LocalServer) -> None:
    with connect(open_server) as hasty:
        hasty.sendall(head(length=99_000) + b"x" * 50_000)
        wait_until(lambda: "promptgen_body_bytes 50000.0" in httpx.get(f"{open_server.url}/metrics").text)
    wait_until(lambda: "promptgen_body_bytes 0.0" in httpx.get(f"{open_server.url}/metrics").text)


def test_a_body_that_is_not_there_yet_does_not_hold_up_the_end() -> None:
    with serving_here(ServerSettings(limits=Limits(body_seconds=60))) as server, connect(server) as slow:
        slow.sendall(head(length=1000) + b"{")
        wait_until(lambda: "promptgen_body_bytes 1.0" in httpx.get(f"{server.url}/metrics").text)
        started = time.monotonic()
        server.end()
        assert time.monotonic() - started < 5
        status, body = received(slow)
        assert (status, body["code"]) == (503, "shutting_down")


# ---- connections


def test_headers_that_do_not_come(open_server: LocalServer) -> None:
    with connect(open_server) as silent, connect(open_server) as slow:
        slow.sendall(b"GET /ready HTTP/1.1\r\nHost: loc")
        started = time.monotonic()
        assert is_closed(silent)
        assert is_closed(slow)
        assert 1 < time.monotonic() - started < 10


def test_headers_without_an_end(open_server: LocalServer) -> None:
    with connect(open_server) as endless:
        endless.sendall(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nX-Much: ")
        try:
            for _ in range(100):
                endless.sendall(b"x" * 10_000)
        except ConnectionError:
            return
        assert received(endless)[0] == 400


def test_answers_that_are_not_read(open_server: LocalServer) -> None:
    """Asking on and on without reading fills what lies between server and client; then it is cut off."""
    with connect(open_server) as deaf:
        deaf.settimeout(0.5)
        requests = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5_000
        started = time.monotonic()

        def ask_on() -> None:
            while time.monotonic() - started < 30:
                with suppress(TimeoutError):
                    deaf.sendall(requests)

        with pytest.raises(ConnectionError):
            ask_on()
        assert time.monotonic() - started > 1


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET\r\n\r\n"])
def test_what_is_not_http(garbage: bytes, open_server: LocalServer) -> None:
    with connect(open_server) as confused:
        confused.sendall(garbage)
        status, body = received(confused)
        assert (status, body["code"]) == (400, "bad_request")
        assert is_closed(confused)


def test_garbage_in_the_middle_of_a_body(open_server: LocalServer) -> None:
    with connect(open_server) as confused:
        confused.sendall(head() + b"5\r\nhello\r\nnot a length\r\n")
        assert received(confused)[0] == 400
        assert is_closed(confused)
    assert httpx.get(f"{open_server.url}/ready").status_code == 200


def test_more_connections_than_there_may_be() -> None:
    with serving_here(ServerSettings(limits=Limits(connections=3))) as server, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(server))
        check_failure(httpx.get(f"{server.url}/ready"), 503, "too_many_connections")
        assert httpx.get(f"{server.url}/health").status_code == 200  # it lives
        many = [stack.enter_context(connect(server)) for _ in range(TOLD_CONNECTIONS + 1)]
        assert is_closed(many[-1])  # not even told why
        stack.close()
        wait_until(lambda: httpx.get(f"{server.url}/ready").status_code == 200)


# ---- JSON


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_as_powershell_may_send_it(encoding: str) -> None:
    assert parse_json('{"prompt": "Käse 🧀"}'.encode(encoding)) == {"prompt": "Käse 🧀"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{", "not valid JSON"),
        (b'{"a": 1}}', "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"[1e999]", "1e999"),
        (b"1" * 10_000, "a number has 10000 digits"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" + b"[]," * 200_000 + b"[]]", "commas and brackets"),
        (b"[" + b'{"":0},' * 200_000 + b"0]", "commas and brackets"),
        (b'{"a": "' + b"," * 8_000_000 + b'"}', "8000001 commas and brackets"),
        (b'"\xff"', "no Unicode.*UTF-8"),
        (b'"\xed\xa0\x80"', "no Unicode"),
        (b'{"a": "\\ud800"}', "no Unicode"),
        (b'{"\\udc00": 1}', "no Unicode"),
        (b"\x00", "not valid JSON"),
    ],
)
def test_what_is_no_json(body: bytes, said: str) -> None:
    with pytest.raises(BadRequestError, match=said):
        parse_json(body)


def test_pairs_of_surrogates_are_characters() -> None:
    assert parse_json(b'"\\ud83e\\uddc0"') == "🧀"
