"""Pictures by address: a web server on 127.0.0.1 under names of our own, and what must not be reached."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from promptgen.serving.body_limits import HeldBytes
from promptgen.serving.errors import BadRequestError, BodyTooLargeError, QueueFullError
from promptgen.serving.remote_pictures import RemotePictures, is_public
from promptgen.serving.settings import Limits

from .command_line import Promptgen

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
PICTURE = b"\x89PNG and so on" * 100


@dataclass
class Web:
    """A web server, and what it was asked for."""

    port: int
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    routes: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)

    def url(self, path: str, host: str = "pictures.test", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


def _send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    if "Content_Length" not in headers:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _serve(certificate: Path | None = None) -> tuple[ThreadingHTTPServer, Web]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            web.routes.get(self.path, lambda handler: _send(handler, b"none", 404))(self)

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # the client went, as it should
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    web = Web(server.server_address[1])
    web.routes["/cat.png"] = lambda handler: _send(handler, PICTURE)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server, web


@pytest.fixture
def web() -> Iterator[Web]:
    server, web = _serve()
    yield web
    server.shutdown()
    server.server_close()


@dataclass
class Names:
    """A resolver: addresses by host, those of the next question after those of this one."""

    answers: dict[str, list[list[str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        answers = self.answers.get(host, [["127.0.0.1"]])
        return answers.pop(0) if len(answers) > 1 else answers[0]


def fetch(
    *urls: str,
    hosts: tuple[str, ...],
    resolve: Any = None,
    reachable: Any = LOOPBACK,
    held: HeldBytes | None = None,
    body_bytes: int = 1 << 20,
    seconds: float = 10.0,
) -> list[bytes]:
    """The pictures. They count as held while they are used, and no longer."""
    held = held or HeldBytes()
    before = held.count

    async def run() -> list[bytes]:
        limits = Limits(body_bytes=body_bytes, held_bytes=2 * body_bytes)
        remote = RemotePictures(
            hosts, limits, held, resolve=resolve or Names(), reachable=reachable, seconds=seconds
        )
        async with remote.fetch(urls) as pictures:
            assert held.count == before + sum(map(len, pictures))
            return pictures

    try:
        return asyncio.run(run())
    finally:
        assert held.count == before


def fetch_as_ever(url: str, host: str) -> None:
    """Without anything of the tests' own."""

    async def run() -> None:
        async with RemotePictures([host], Limits(), HeldBytes()).fetch([url]):
            pass

    asyncio.run(run())


# What is fetched ------------------------------------------------------------------------


def test_a_picture_comes_from_a_listed_host(web: Web) -> None:
    names = Names()
    found = fetch(web.url("/cat.png#x"), hosts=(f"pictures.test:{web.port}",), resolve=names)
    assert found == [PICTURE]
    [(path, headers)] = web.seen
    assert path == "/cat.png"
    assert headers["host"] == f"pictures.test:{web.port}"
    assert headers["accept-encoding"] == "identity"
    assert "cookie" not in headers
    assert "authorization" not in headers
    assert names.asked == ["pictures.test"]  # once


def test_several_come_in_order(web: Web) -> None:
    for number in range(12):
        body = bytes([number]) * 10
        web.routes[f"/{number}"] = lambda handler, body=body: _send(handler, body)  # type: ignore[misc]
    found = fetch(*(web.url(f"/{number}") for number in range(12)), hosts=(f"*.test:{web.port}",))
    assert found == [bytes([number]) * 10 for number in range(12)]


@pytest.mark.parametrize("host", ["PICTURES.test", "pictures.test.", "Pictures.Test."])
def test_a_host_is_known_in_any_spelling(web: Web, host: str) -> None:
    assert fetch(web.url("/cat.png", host), hosts=(f"Pictures.TEST:{web.port}",)) == [PICTURE]


def test_a_host_beyond_ascii(web: Web) -> None:
    names = Names()
    assert fetch(web.url("/cat.png", "bücher.test"), hosts=(f"Bücher.test:{web.port}",), resolve=names)
    assert names.asked == ["xn--bcher-kva.test"]


def test_the_next_address_is_tried_where_one_does_not_answer(web: Web) -> None:
    names = Names({"pictures.test": [["127.0.0.2", "127.0.0.1"]]})
    assert fetch(web.url("/cat.png"), hosts=(f"pictures.test:{web.port}",), resolve=names) == [PICTURE]


def test_redirects_are_followed_a_few_times(web: Web) -> None:
    web.routes["/a"] = lambda handler: _send(handler, b"", 302, Location="/b")
    web.routes["/b"] = lambda handler: _send(handler, b"", 307, Location=web.url("/cat.png", "other.test"))
    web.routes["/loop"] = lambda handler: _send(handler, b"", 301, Location="/loop")
    hosts = (f"pictures.test:{web.port}", f"other.test:{web.port}")
    names = Names()
    assert fetch(web.url("/a"), hosts=hosts, resolve=names) == [PICTURE]
    assert names.asked == ["pictures.test", "pictures.test", "other.test"]  # each step is looked at anew
    with pytest.raises(BadRequestError, match="more than 3 redirects"):
        fetch(web.url("/loop"), hosts=hosts)
    assert [path for path, _ in web.seen].count("/loop") == 4


def test_proxies_and_passwords_of_the_environment_are_not_used(
    web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert fetch(web.url("/cat.png"), hosts=(f"pictures.test:{web.port}",)) == [PICTURE]
    assert "authorization" not in web.seen[0][1]


# What is not ----------------------------------------------------------------------------


def test_nothing_is_fetched_unless_the_server_was_told_of_hosts(web: Web) -> None:
    names = Names()
    with pytest.raises(BadRequestError, match="data URI"):
        fetch(web.url("/cat.png"), hosts=(), resolve=names)
    assert not names.asked
    assert not web.seen


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.test:{port}/cat.png",
        "http://pictures.test.evil.test:{port}/cat.png",
        "http://evilpictures.test:{port}/cat.png",
        "http://pictures.test/cat.png",  # another port: 80
        "http://pictures.test:1/cat.png",
        "http://127.0.0.1:{port}/cat.png",
        "http://[::1]:{port}/cat.png",
        "http://2130706433:{port}/cat.png",
        "http://0x7f000001:{port}/cat.png",
        "http://below.test:{port}/cat.png",  # *.below.test is what is below it
        "http://evilbelow.test:{port}/cat.png",
        "http://evil.test:{port}\\@pictures.test:{port}/cat.png",
        "http://me:secret@pictures.test:{port}/cat.png",
        "http://me@pictures.test:{port}/cat.png",
        "http://pictures.test:{port}@evil.test:{port}/cat.png",
        "ftp://pictures.test:{port}/cat.png",
        "file:///etc/passwd",
        "file://pictures.test/etc/passwd",
        "//pictures.test:{port}/cat.png",
        "/cat.png",
        "pictures.test/cat.png",
        "http://",
        "http://:{port}/",
        "http://[pictures.test:{port}/",
        "http://pictures.test:99999/",
        "http://pictures.test:x/",
        "http://pictures.test:{port}/\n",
        "javascript:alert(1)",
        "http://" + "a" * 70000,
    ],
)  # fmt: skip
def test_other_places_are_refused_unasked(web: Web, url: str) -> None:
    names = Names()
    with pytest.raises(BadRequestError) as raised:
        fetch(
            url.replace("{port}", str(web.port)),
            hosts=(f"pictures.test:{web.port}", f"*.below.test:{web.port}"),
            resolve=names,
        )
    assert not names.asked
    assert not web.seen
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254",
        "100.64.0.1", "192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
        "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "fe80::1%1", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1",
        "100::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808",
        "64:ff9b:1::7f00:1", "2002:7f00:1::1", "2002:808:808::1", "2001:0:7f00:1::1", "2001:10::1", "3fff::1",
    ],
)  # fmt: skip
def test_no_address_but_a_public_one_is_connected_to(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    for found in ([address], ["8.8.8.8", address]):
        with pytest.raises(BadRequestError, match="not public"):
            fetch(
                "http://pictures.test/cat.png",
                hosts=("pictures.test",),
                resolve=Names({"pictures.test": [found]}),
                reachable=(),
            )


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"]
)
def test_public_addresses_are(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_a_literal_address_on_the_list_is_checked_too() -> None:
    with pytest.raises(BadRequestError, match="not public"):
        fetch_as_ever("http://127.0.0.1/cat.png", "127.0.0.1")


def test_a_name_of_this_machine_is_refused_as_the_system_resolves_it() -> None:
    with pytest.raises(BadRequestError, match="not public"):
        fetch_as_ever("http://localhost/cat.png", "localhost")


def test_a_name_that_changes_its_address_gains_nothing(web: Web) -> None:
    """DNS rebinding: the connection goes to the address that was checked, here one where nobody answers."""
    names = Names({"pictures.test": [["127.0.0.2"], ["127.0.0.1"]]})
    with pytest.raises(BadRequestError, match="cannot be reached"):
        fetch(
            web.url("/cat.png"),
            hosts=(f"pictures.test:{web.port}",),
            resolve=names,
            reachable=(ipaddress.ip_network("127.0.0.2"),),
        )
    assert names.asked == ["pictures.test"]
    assert not web.seen


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/cat.png",
        "http://evil.test:{port}/cat.png",
        "http://inside.test:{port}/cat.png",
        "file:///etc/passwd",
        "http://me:secret@pictures.test:{port}/cat.png",
        "http://[",
    ],
)
def test_a_redirect_is_checked_as_the_address_itself(web: Web, location: str) -> None:
    location = location.replace("{port}", str(web.port))
    web.routes["/away"] = lambda handler: _send(handler, b"", 302, Location=location)
    with pytest.raises(BadRequestError):
        fetch(
            web.url("/away"),
            hosts=(f"pictures.test:{web.port}", f"inside.test:{web.port}"),
            resolve=Names({"inside.test": [["127.0.0.3"]]}),
            reachable=(ipaddress.ip_network("127.0.0.1"),),
        )
    assert [path for path, _ in web.seen] == ["/away"]


@pytest.mark.parametrize(
    "host", ["http://a.test", "*", "a/b", "", "[::1]", "a:0", "a:99999", "a..b", "*.*.test"]
)
def test_a_list_that_cannot_be_read_is_refused_at_the_start(host: str) -> None:
    with pytest.raises(ValueError, match=r"write example\.com"):
        RemotePictures([host], Limits(), HeldBytes())


def test_the_command_says_so(promptgen: Promptgen) -> None:
    ended = promptgen("serve", "--model", "demo", "--port", "0", "--allow-urls", "a.test,http://b.test")
    assert ended.status == 2
    assert ended.stderr.startswith("error: --allow-urls: 'http://b.test'")


# What goes wrong ------------------------------------------------------------------------


def test_what_cannot_be_had_is_said(web: Web) -> None:
    hosts = (f"pictures.test:{web.port}",)
    with pytest.raises(BadRequestError, match="404"):
        fetch(web.url("/none"), hosts=hosts)
    with pytest.raises(BadRequestError, match="has no address"):
        fetch_as_ever("http://nowhere.invalid/cat.png", "nowhere.invalid")
    web.routes["/cut"] = lambda handler: _send(handler, b"abc", Content_Length="10")
    with pytest.raises(BadRequestError, match="cannot be had"):
        fetch(web.url("/cut"), hosts=hosts)
    web.routes["/zip"] = lambda handler: _send(handler, gzip.compress(b"0" * 1000), Content_Encoding="gzip")
    with pytest.raises(BadRequestError, match="compressed"):
        fetch(web.url("/zip"), hosts=hosts)


def _endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"0" * 50_000)


def _dripping(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"0")
        time.sleep(0.05)


def test_what_is_too_large_is_not_fetched_to_its_end(web: Web) -> None:
    hosts = (f"pictures.test:{web.port}",)
    web.routes["/endless"] = _endless
    with pytest.raises(BodyTooLargeError, match="100000 bytes"):
        fetch(web.url("/endless"), hosts=hosts, body_bytes=100_000)
    web.routes["/announced"] = lambda handler: _send(handler, b"", Content_Length="100001")
    with pytest.raises(BodyTooLargeError):
        fetch(web.url("/announced"), hosts=hosts, body_bytes=100_000)
    web.routes["/half"] = lambda handler: _send(handler, b"0" * 50_000)
    assert len(fetch(*[web.url("/half")] * 2, hosts=hosts, body_bytes=100_000)) == 2
    with pytest.raises(BodyTooLargeError):  # together
        fetch(*[web.url("/half")] * 3, hosts=hosts, body_bytes=100_000)


def test_pictures_take_their_part_of_the_memory_for_all_requests(web: Web) -> None:
    held = HeldBytes()
    held.count = 150_000  # of other requests
    web.routes["/half"] = lambda handler: _send(handler, b"0" * 50_000)
    hosts = (f"pictures.test:{web.port}",)
    assert fetch(web.url("/half"), hosts=hosts, held=held, body_bytes=100_000)
    with pytest.raises(QueueFullError):
        fetch(*[web.url("/half")] * 2, hosts=hosts, held=held, body_bytes=100_000)


def test_what_takes_too_long_is_given_up(web: Web) -> None:
    web.routes["/dripping"] = _dripping
    start = time.monotonic()
    with pytest.raises(BadRequestError, match=r"longer than 0\.5 s"):
        fetch(web.url("/dripping"), hosts=(f"pictures.test:{web.port}",), seconds=0.5)
    assert time.monotonic() - start < 5


# TLS ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for pictures.test, signed by itself."""
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-subj", "/CN=pictures.test", "-addext", "subjectAltName=DNS:pictures.test", "-keyout", file,
            "-out", file.with_suffix(".crt"),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    with file.open("ab") as whole:
        whole.write(file.with_suffix(".crt").read_bytes())
    return file


def test_the_certificate_must_be_that_of_the_name(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, web = _serve(certificate)
    hosts = (f"pictures.test:{web.port}", f"other.test:{web.port}")
    try:
        with pytest.raises(BadRequestError, match="CERTIFICATE"):  # nobody vouches for it
            fetch(web.url("/cat.png", scheme="https"), hosts=hosts)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_suffix(".crt")))
        assert fetch(web.url("/cat.png", scheme="https"), hosts=hosts) == [PICTURE]
        with pytest.raises(BadRequestError, match="CERTIFICATE"):
            fetch(web.url("/cat.png", "other.test", scheme="https"), hosts=hosts)
    finally:
        server.shutdown()
        server.server_close()
    assert [path for path, _ in web.seen] == ["/cat.png"]
