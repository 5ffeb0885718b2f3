"""Chats while the model takes its time: what a stream says meanwhile, how it fails, and who gives up."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")

import httpx  # noqa: E402
from promptgen.models_cache import ModelManager  # noqa: E402
from promptgen.models_cache.families import load_family  # noqa: E402
from promptgen.serving.settings import Limits, ServerSettings  # noqa: E402

from .serving_host import LocalServer, picture, serving_here, wait_until  # noqa: E402
from .test_serving_openai import ask, client_of, image, text, user  # noqa: E402


class SlowLoading:
    """Loads a model once it may."""

    def __init__(self) -> None:
        self.may = threading.Event()

    def __call__(self, *arguments: Any) -> Any:
        assert self.may.wait(60)
        return load_family(*arguments)


@contextmanager
def slow_server(**limits: Any) -> Iterator[tuple[LocalServer, Any, threading.Event]]:
    """A server, a client of it, and what lets it load its model."""
    loading = SlowLoading()
    settings = ServerSettings(limits=Limits(**limits))
    try:
        with (
            serving_here(settings, manager=ModelManager(loader=loading)) as server,
            client_of(server.url) as client,
        ):
            try:
                yield server, client, loading.may
            finally:
                loading.may.set()
    finally:
        loading.may.set()


def test_a_stream_begins_at_once_and_stays_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptgen.serving.openai_face._KEEP_ALIVE_SECONDS", 0.2)
    body = {"model": "demo", "messages": [user("CAPTION", image())], "stream": True}
    with slow_server() as (server, client, may_load):
        start = time.monotonic()
        with httpx.stream(
            "POST", f"{server.url}/v1/chat/completions", json=body, trust_env=False
        ) as response:
            lines = (line for line in response.iter_lines() if line)
            assert '"role":"assistant"' in next(lines)
            assert time.monotonic() - start < 5
            assert [next(lines), next(lines)] == [": waiting"] * 2
            may_load.set()
            rest = [line for line in lines if line != ": waiting"]
        assert len(rest) == 3
        assert rest[-1] == "data: [DONE]"
        # OpenAI's client passes over the comments
        assert text(ask(client, "CAPTION", image())) in rest[0]


def test_who_stops_listening_has_the_work_dropped() -> None:
    with slow_server() as (server, client, _):
        stream = ask(client, "CAPTION", image(), image(), stream=True)
        with closing(stream.response):
            next(iter(stream))
            assert server.scheduler.waiting == 2
        wait_until(lambda: server.scheduler.waiting == 0)
        with pytest.raises(openai.APITimeoutError):
            ask(client, "CAPTION", image(), timeout=0.5)
        wait_until(lambda: server.scheduler.waiting == 0)


def test_a_failure_in_the_middle_of_a_stream_is_an_error_of_the_client() -> None:
    with slow_server(seconds=1) as (_, client, _):
        stream = iter(ask(client, "CAPTION", image(), stream=True))
        assert next(stream).choices[0].delta.role == "assistant"
        with pytest.raises(openai.APIError, match="no answer within 1 seconds") as raised:
            list(stream)
        assert raised.value.type == "server_error"
        assert raised.value.code == "deadline"


def test_a_refusal_has_its_status_also_where_a_stream_was_asked_for() -> None:
    with slow_server(queued=1, images=2) as (server, client, _):
        with ask(client, "CAPTION", image(), stream=True) as first:
            next(iter(first))
            for stream in (False, True):
                with pytest.raises(openai.RateLimitError) as raised:
                    ask(client, "CAPTION", image(), stream=stream)
                assert int(raised.value.response.headers["Retry-After"]) >= 1
                assert raised.value.code == "queue_full"
        wait_until(lambda: server.scheduler.waiting == 0)
        with pytest.raises(openai.APIStatusError, match="3 images") as raised:
            ask(client, "CAPTION", image(), image(), image(), stream=True)
        assert raised.value.status_code == 413


def test_a_model_that_cannot_be_loaded() -> None:
    def fail(*_: Any) -> Any:
        raise ValueError("these are no weights")

    with serving_here(manager=ModelManager(loader=fail)) as server, client_of(server.url) as client:
        for stream in (False, True):
            with pytest.raises(openai.APIError) as raised:
                list(ask(client, "CAPTION", image(), stream=stream))
            assert raised.value.code == "engine_failed"


def test_a_key() -> None:
    with serving_here(ServerSettings(api_keys=("secret",))) as server:
        with client_of(server.url, "guess") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()
        with client_of(server.url, "secret") as client:
            assert client.models.list().data[0].id == "demo"


# Pictures by address --------------------------------------------------------------------


@contextmanager
def web() -> Iterator[int]:
    """A web server with a picture; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = picture("square", "blue")
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_a_picture_by_address(monkeypatch: pytest.MonkeyPatch) -> None:
    from promptgen.serving import remote_pictures

    with web() as port:
        settings = ServerSettings(url_hosts=(f"localhost:{port}",))
        there = {"type": "image_url", "image_url": {"url": f"http://localhost:{port}/square.png"}}
        with serving_here(settings) as server, client_of(server.url) as client:
            with pytest.raises(openai.BadRequestError, match="not public"):
                ask(client, "CAPTION", there)
            with pytest.raises(openai.BadRequestError, match=f"only from localhost:{port}"):
                ask(
                    client, "CAPTION", {"type": "image_url", "image_url": {"url": "http://example.com/a.png"}}
                )
            # as if this machine were on the internet
            public = ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1")
            monkeypatch.setattr(
                remote_pictures, "is_public", lambda address: any(address in one for one in public)
            )
            alone = [
                text(ask(client, "CAPTION", image(picture(*one))))
                for one in (("circle", "red"), ("square", "blue"))
            ]
            completion = ask(client, "CAPTION", image(), there, image())
            assert text(completion) == f"Image 1: {alone[0]}\n\nImage 2: {alone[1]}\n\nImage 3: {alone[0]}"
