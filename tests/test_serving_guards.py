"""Who may ask a server, and what those are told who may not; health, and the form of failures."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from promptgen.serving.settings import ServerSettings

from .serving_host import LocalServer, check_failure, serving_here


@pytest.fixture(scope="module")
def open_server() -> Iterator[LocalServer]:
    """Without a key; goes by one name of its own."""
    with serving_here(ServerSettings(hosts=("captions.example",))) as server:
        yield server


@pytest.fixture(scope="module")
def closed_server() -> Iterator[LocalServer]:
    """With two keys, and one web page that may use it."""
    settings = ServerSettings(api_keys=("first-key", "second-key"), cors_origins=("https://page.example/",))
    with serving_here(settings) as server:
        yield server


# ---- the form of failures, and what every answer has


def test_what_is_not_there(open_server: LocalServer) -> None:
    answer = httpx.get(f"{open_server.url}/nothing-here")
    assert "/nothing-here" in check_failure(answer, 404, "not_found")
    assert "Server" not in answer.headers


def test_what_is_asked_in_the_wrong_way(open_server: LocalServer) -> None:
    answer = httpx.delete(f"{open_server.url}/ready")
    assert "DELETE" in check_failure(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET"


@pytest.mark.parametrize("path", ["models/no/such/model", "embeddings", "completions", "responses"])
def test_openais_clients_read_an_object(path: str, open_server: LocalServer) -> None:
    body = httpx.get(f"{open_server.url}/v1/{path}").json()
    assert body["error"] == {
        "message": body["detail"],
        "type": "invalid_request_error",
        "param": None,
        "code": body["code"],
    }


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/metrics", "/docs", "/openapi.json"])
def test_head_is_get_without_the_body(path: str, open_server: LocalServer) -> None:
    answer = httpx.head(f"{open_server.url}{path}")
    assert answer.status_code == 200
    assert answer.content == b""
    assert answer.headers["Content-Type"] == httpx.get(f"{open_server.url}{path}").headers["Content-Type"]


@pytest.mark.parametrize(
    ("given", "kept"), [("mine-42", True), ("x" * 200, False), ("caf\xe9", False), (None, False)]
)
def test_requests_have_an_id(given: str | None, kept: bool, open_server: LocalServer) -> None:
    headers = {} if given is None else {"X-Request-Id": given.encode("latin-1")}
    first, second = (
        httpx.get(f"{open_server.url}/ready", headers=headers).headers["X-Request-Id"] for _ in range(2)
    )
    assert (first == given) is kept
    assert (first == second) is kept


# ---- health


def test_ready_says_no_on_the_way_down_and_health_still_yes() -> None:
    with serving_here() as server:
        assert httpx.get(f"{server.url}/ready").json() == {"status": "ready", "waiting": 0}
        server.scheduler.drain()
        answer = httpx.get(f"{server.url}/ready")
        check_failure(answer, 503, "shutting_down")
        assert int(answer.headers["Retry-After"]) > 0
        assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}


def test_ready_says_no_when_the_engine_has_died() -> None:
    with serving_here() as server:
        server.scheduler._engine.stop()
        check_failure(httpx.get(f"{server.url}/ready"), 503, "engine_failed")
        assert httpx.get(f"{server.url}/health").status_code == 200


# ---- keys


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first-key"},
        {"authorization": "bearer second-key"},
        {"X-API-Key": "second-key"},
        {"X-API-Key": "first-key", "Authorization": "Basic Zm9vOmJhcg=="},
    ],
)
def test_a_key_opens(headers: dict[str, str], closed_server: LocalServer) -> None:
    assert httpx.get(f"{closed_server.url}/metrics", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer first-ke"},
        {"Authorization": "Bearer first-key second-key"},
        {"Authorization": "first-key"},
        {"Authorization": "Basic first-key"},
        {"X-API-Key": "FIRST-KEY"},
        {"X-API-Key": ""},
        {"X-API-Key": "sch\xfcssel".encode("latin-1")},
    ],
)
@pytest.mark.parametrize("path", ["/metrics", "/v1/instructions", "/nothing-here"])
def test_without_one_of_the_keys_nothing_opens(
    path: str, headers: dict[str, Any], closed_server: LocalServer
) -> None:
    answer = httpx.get(f"{closed_server.url}{path}", headers=headers)
    said = check_failure(answer, 401, "invalid_api_key")
    assert "Authorization: Bearer KEY" in said
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/docs", "/openapi.json"])
def test_what_says_nothing_of_pictures_is_open(path: str, closed_server: LocalServer) -> None:
    assert httpx.get(f"{closed_server.url}{path}").status_code == 200


def test_a_large_request_without_a_key_gets_its_answer(closed_server: LocalServer) -> None:
    """The client is still sending when it is refused; cutting it off would hide the reason from it."""
    answer = httpx.post(f"{closed_server.url}/v1/captions", content=b"x" * 30_000_000, timeout=60)
    check_failure(answer, 401, "invalid_api_key")


# ---- names and pages


@pytest.mark.parametrize(
    ("host", "goes"),
    [
        ("127.0.0.1:54880", True),
        ("[::1]:54880", True),
        ("192.168.1.20", True),
        ("localhost", True),
        ("LOCALHOST.:1", True),
        ("server.localhost", True),
        (socket.gethostname(), True),
        ("captions.example:54880", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_without_a_key_only_names_that_nobody_can_take(
    host: str, goes: bool, open_server: LocalServer
) -> None:
    answer = httpx.get(f"{open_server.url}/ready", headers={"Host": host})
    if goes:
        assert answer.status_code == 200
    else:
        assert "--allow-host" in check_failure(answer, 403, "forbidden")


def test_with_a_key_any_name_will_do(closed_server: LocalServer) -> None:
    headers = {"Host": "captions.example.com", "X-API-Key": "first-key"}
    assert httpx.get(f"{closed_server.url}/metrics", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("method", "headers", "goes"),
    [
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, True),  # a link to us
        ("GET", {"Sec-Fetch-Site": "none"}, True),
        ("POST", {"Sec-Fetch-Site": "same-origin", "Origin": "https://proxy.example"}, True),
        ("POST", {"Origin": "http://localhost:54880", "Host": "localhost:54880"}, True),
        ("POST", {"Origin": "http://localhost:3000", "Host": "localhost:54880"}, False),
        ("GET", {"Origin": "https://evil.example"}, False),
        ("POST", {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, False),
        ("POST", {"Sec-Fetch-Site": "cross-site"}, False),
        ("POST", {"Origin": "https://a.example", "Sec-Fetch-Site": "same-site"}, False),
        ("POST", {"Origin": "null"}, False),
        ("POST", {"Origin": "http://[half"}, False),
        ("OPTIONS", {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}, False),
    ],
)
def test_pages_of_others_are_refused(
    method: str, headers: dict[str, str], goes: bool, open_server: LocalServer
) -> None:
    path = "/ready" if method == "GET" else "/v1/captions"
    answer = httpx.request(method, f"{open_server.url}{path}", headers=headers)
    assert "Access-Control-Allow-Origin" not in answer.headers
    if goes:
        assert answer.status_code in (200, 400)  # it came as far as to the empty body
    else:
        assert "--cors" in check_failure(answer, 403, "forbidden")


def test_a_page_that_was_named_may_use_it(closed_server: LocalServer) -> None:
    origin = {"Origin": "https://page.example", "Sec-Fetch-Site": "cross-site"}
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    preflight = httpx.options(f"{closed_server.url}/v1/captions", headers={**origin, **asks})  # without a key
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://page.example"
    assert "x-api-key" in preflight.headers["Access-Control-Allow-Headers"].lower()
    refused = httpx.get(f"{closed_server.url}/metrics", headers=origin)
    check_failure(refused, 401, "invalid_api_key")  # which the page may read
    assert refused.headers["Access-Control-Allow-Origin"] == "https://page.example"
    assert (
        httpx.get(f"{closed_server.url}/metrics", headers={**origin, "X-API-Key": "first-key"}).status_code
        == 200
    )
    other = httpx.get(f"{closed_server.url}/ready", headers={"Origin": "https://other.example"})
    assert "Access-Control-Allow-Origin" not in other.headers
    check_failure(other, 403, "forbidden")


def test_any_page_may_if_told_so() -> None:
    with serving_here(ServerSettings(cors_origins=("*",))) as server:
        answer = httpx.get(f"{server.url}/ready", headers={"Origin": "https://any.example"})
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
