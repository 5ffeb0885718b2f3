"""``promptgen serve`` as a process: how it starts, what it refuses, how it lets go of models, how it ends."""

from __future__ import annotations

import importlib.util
import re
import socket
import sys
import threading
import time
import uuid
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from promptgen.serving.settings import Limits

from .command_line import Promptgen
from .serving_host import ServerProcess, picture, serving_process, wait_until

CLIENTS = 12
KEYS = ("one-key", "another-key")  # of those servers that have any
PICTURES = [picture(shape, colour) for shape in ("circle", "square") for colour in ("red", "green", "blue")]


def ask(*pictures: bytes, instructions: str = "CAPTION", **options: Any) -> dict[str, Any]:
    return {
        "images": [b64encode(one).decode() for one in pictures],
        "instructions": instructions,
        "options": options,
    }


LONG = ask(*PICTURES * 10, instructions="CAPTION,MORE_DETAILED_CAPTION", num_beams=12, min_new_tokens=100)


def metric(url: str, name: str) -> dict[str, float]:
    """The samples of a metric, by their labels."""
    lines = httpx.get(f"{url}/metrics", headers={"X-API-Key": KEYS[0]}).text.splitlines()
    found = [re.fullmatch(rf"promptgen_{name}(?:\{{(.*)\}})? (\S+)", line) for line in lines]
    return {match[1] or "": float(match[2]) for match in found if match}


# ---- starting


def test_it_tells_where_it_listens_and_answers_there(demo_server: ServerProcess) -> None:
    assert any(line.startswith("Serving demo.") for line in demo_server.said)
    assert httpx.get(f"{demo_server.url}/ready").json()["status"] == "ready"
    answer = httpx.post(f"{demo_server.url}/v1/captions", json=ask(picture("circle", "red")), timeout=120)
    assert answer.status_code == 200, answer.text
    [(labels, size)] = metric(demo_server.url, "model_bytes").items()
    assert re.fullmatch(r'device="\w+",dtype="\w+",model="demo",quantization="none"', labels)
    assert size > 1e6


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_public_address_takes_a_key(
    host: str, promptgen: Promptgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROMPTGEN_API_KEY", raising=False)
    ended = promptgen("serve", "--model", "demo", "--port", 0, "--host", host)
    assert ended.status == 2
    assert "PROMPTGEN_API_KEY" in ended.stderr
    assert "--allow-no-key" in ended.stderr


def test_a_taken_port_is_told_before_anything_is_downloaded(promptgen: Promptgen) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = promptgen("serve", "--model", "someone/not-there", "--offline", "--port", port)
    assert ended.status == 1
    assert ended.stderr.startswith(f"error: Cannot listen on port {port} of 127.0.0.1: another program does")


def test_a_missing_library_is_told_with_the_way_to_get_it(
    promptgen: Promptgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    ended = promptgen("serve", "--model", "demo", "--port", 0)
    assert ended.status == 1
    assert "pip install 'promptgen-tagger[server]'" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "no-such-name.invalid"], "no-such-name.invalid"),
        (["--max-body", "plenty"], "--max-body"),
        (["--max-memory", "0"], "--max-memory"),
        (["--request-timeout", "nan"], "--request-timeout"),
        (["--idle-timeout", "-1"], "--idle-timeout"),
        (["--api-key", "with space"], "--api-key"),
        (["--cors", "example.com"], "--cors"),
        (["--model", "demo", "--model", "demo"], "demo"),
        (["--device", "cuda:99"], "cuda:99"),
    ],
)
def test_what_cannot_be_is_refused_at_once(arguments: list[str], said: str, promptgen: Promptgen) -> None:
    ended = promptgen("serve", "--model", "demo", "--port", 0, *arguments)
    assert ended.status in (1, 2)
    assert ended.stderr.startswith("error: ")
    assert said in ended.stderr


# ---- models come and go


@pytest.fixture(scope="module")
def public_server() -> Iterator[ServerProcess]:
    """Open to all, with a model that soon goes, and with as few open files as a service may have at first."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, before[1]), before[1]))
    arguments = ("--host", "0.0.0.0", "--allow-no-key", "--idle-timeout", 1, "--preload", "-v")
    with serving_process(*arguments) as server:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")
        yield server


def test_an_idle_model_is_unloaded_and_loaded_again(public_server: ServerProcess) -> None:
    url = public_server.url
    assert "Loading demo" in public_server.said  # before it listened
    before = httpx.post(f"{url}/v1/captions", json=ask(PICTURES[0]), timeout=120).json()
    wait_until(lambda: not metric(url, "model_bytes"))
    assert httpx.get(f"{url}/ready").status_code == 200  # it takes requests all the same
    again = httpx.post(f"{url}/v1/captions", json=ask(PICTURES[0]), timeout=120).json()
    assert again == before
    loads = [line for line in public_server.said if "Loaded demo on " in line]
    assert len(loads) == 2
    assert metric(url, "answers_total") == {'instruction="CAPTION",model="demo"': 2.0}
    assert metric(url, "http_requests_total")['route="/v1/captions",status="200"'] == 2.0


def test_with_v_each_request_is_a_line_in_the_log(public_server: ServerProcess) -> None:
    httpx.get(f"{public_server.url}/ready", headers={"X-Request-Id": "mine-1"})
    line = re.compile(r".*127\.0\.0\.1 GET /ready 200 \d+ ms mine-1")
    wait_until(lambda: any(line.fullmatch(said) for said in list(public_server.said)))


def test_nobody_writes_the_log_through_a_header(public_server: ServerProcess) -> None:
    forged = {"X-Forwarded-For": "10.0.0.1 GET /all 200 1 ms\x1b[31m", "X-Request-Id": "mine-2"}
    httpx.get(f"{public_server.url}/ready", headers=forged)
    httpx.get(f"{public_server.url}/ready", headers={"X-Forwarded-For": "10.0.0.1", "X-Request-Id": "mine-3"})
    wait_until(lambda: any(said.endswith("mine-3") for said in list(public_server.said)))
    [forged_line, honest_line] = [said for said in public_server.said if said.endswith(("mine-2", "mine-3"))]
    assert re.fullmatch(r".*request_log: - GET /ready 200 \d+ ms mine-2", forged_line)
    assert "10.0.0.1 GET /ready" in honest_line


def test_clients_that_offer_http_2_are_no_news(public_server: ServerProcess) -> None:
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAAP__"}
    answer = httpx.get(f"{public_server.url}/health", headers=offer)
    assert (answer.status_code, answer.http_version) == (200, "HTTP/1.1")
    assert not [said for said in public_server.said if "WebSocket" in said or "pgrade" in said]


def test_it_has_room_for_the_files_of_all_connections(public_server: ServerProcess) -> None:
    [files] = re.findall(r"(?m)^process_max_fds (\S+)$", httpx.get(f"{public_server.url}/metrics").text)
    assert float(files) > Limits().connections + 100


def test_the_work_of_a_client_that_goes_is_dropped(demo_server: ServerProcess) -> None:
    dropped = 'model="demo",outcome="dropped"'
    before = metric(demo_server.url, "requests_total").get(dropped, 0.0)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{demo_server.url}/v1/captions", json=LONG, timeout=httpx.Timeout(30, read=0.5))
    wait_until(lambda: metric(demo_server.url, "requests_total").get(dropped, 0.0) == before + 1)
    assert metric(demo_server.url, "pictures_waiting") == {"": 0.0}
    wait_until(lambda: metric(demo_server.url, "body_bytes") == {"": 0.0})


def test_health_is_answered_while_the_engine_is_at_work(demo_server: ServerProcess) -> None:
    times = []
    with ThreadPoolExecutor(1) as pool, httpx.Client() as client:
        client.get(f"{demo_server.url}/health")
        working = pool.submit(
            httpx.post, f"{demo_server.url}/v1/captions", json=ask(*PICTURES, num_beams=8), timeout=60
        )
        while not working.done():
            started = time.perf_counter()
            assert client.get(f"{demo_server.url}/health").json() == {"status": "ok"}
            times.append(time.perf_counter() - started)
    assert working.result().status_code == 200
    # The median, since the worst are those of a machine that does other things, too.
    assert sorted(times)[len(times) // 2] < 0.1


# ---- the end


class Clients:
    """Several that ask as fast as they are answered, half of them each time on a new connection, until they
    are refused."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.outcomes: dict[str, int | str] = {}  # a status or the name of an exception, by request id
        self.stop = threading.Event()
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._asking = [self._pool.submit(self._ask, number) for number in range(CLIENTS)]

    def end(self) -> None:
        """Wait for the last answers; raises what was wrong with any."""
        self.stop.set()
        for asking in self._asking:
            asking.result(30)
        self._pool.shutdown()

    def count(self, outcome: int | str) -> int:
        return sum(one == outcome for one in list(self.outcomes.values()))

    def _ask(self, number: int) -> None:
        body = ask(PICTURES[number % len(PICTURES)], instructions="CAPTION,GENERATE_TAGS")
        kept = httpx.Limits(max_keepalive_connections=number % 2)
        with httpx.Client(base_url=self._url, timeout=60, limits=kept) as client:
            while not self.stop.is_set() and self._ask_once(client, body):
                pass

    def _ask_once(self, client: httpx.Client, body: dict[str, Any]) -> bool:
        """Whether there was an answer."""
        request_id = uuid.uuid4().hex
        try:
            answer = client.post("/v1/captions", json=body, headers={"X-Request-Id": request_id})
        except httpx.TransportError as error:
            self.outcomes[request_id] = type(error).__name__
            return False
        self.outcomes[request_id] = answer.status_code
        if answer.status_code == 200:
            assert len(answer.json()["images"][0]["results"]) == 2
        else:
            assert answer.json()["code"] == "shutting_down"
            assert int(answer.headers["Retry-After"]) > 0
        return True


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends processes without asking")
def test_sigterm_under_load_loses_nothing_that_was_accepted() -> None:
    with serving_process("-v") as server:
        clients = Clients(server.url)
        wait_until(lambda: clients.count(200) > 2 * CLIENTS, 60)
        assert set(clients.outcomes.values()) == {200}
        server.signal()
        assert server.wait() == 0
        clients.end()
    logged = {
        match[2]: int(match[1])
        for line in server.said
        if (match := re.search(r"POST /v1/captions (\d+) \d+ ms (\w+)$", line))
    }
    assert set(logged.values()) <= {200, 503}  # whatever reached it was answered, or told that it is too late
    assert {key: clients.outcomes[key] for key in logged} == logged  # and got there
    never_came = {clients.outcomes[key] for key in clients.outcomes.keys() - logged.keys()}
    assert never_came <= {"ConnectError", "ReadError", "RemoteProtocolError"}
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends processes without asking")
def test_a_second_signal_ends_it_at_once() -> None:
    with (
        serving_process("--max-memory", "1KB", environment={"PROMPTGEN_API_KEY": " ".join(KEYS)}) as server,
        httpx.Client(base_url=server.url, headers={"X-API-Key": KEYS[1]}, timeout=120) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        assert httpx.post(f"{server.url}/v1/captions", json=LONG).status_code == 401
        assert client.post("/v1/captions", json=ask(PICTURES[0])).status_code == 200
        wait_until(lambda: not metric(server.url, "model_bytes"))  # it is more than may stay in memory
        working = pool.submit(client.post, "/v1/captions", json=LONG)
        wait_until(lambda: metric(server.url, "pictures_waiting")[""] > 0)
        server.signal("SIGINT")
        time.sleep(1)
        assert server.process.poll() is None  # there is something to finish
        server.signal()
        started = time.monotonic()
        assert server.wait() == 130
        assert time.monotonic() - started < 5
        assert isinstance(working.exception(30), httpx.TransportError)
    assert any(line.startswith("Finishing what was accepted.") for line in server.said)
