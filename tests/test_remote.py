"""The client of a server, and ``promptgen remote caption|prompts|model``, against real servers."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from promptgen.captioning import Captioner, CaptionOptions, GenerationOptions, VisionOptions
from promptgen.captioning.runs.settings import settings_digest
from promptgen.cli.question_flags import QuestionFlags
from promptgen.cli.remote_flags import options_to_send
from promptgen.serving.client import RemoteCaptioner, RemoteError

from .command_line import Promptgen
from .serving_host import ServerProcess, picture, serving_here, wait_until

pytest.importorskip("fastapi")

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.png"))
QUICK = {"num_beams": 1, "max_new_tokens": 12}
QUICK_HERE = CaptionOptions(GenerationOptions(num_beams=1, max_new_tokens=12))
LOCAL = ("--model", "demo", "--device", "cpu")  # the number format that a server takes, too
TEXT = b"a text, and no picture"


@pytest.fixture
def remote(demo_server: ServerProcess) -> Iterator[RemoteCaptioner]:
    with RemoteCaptioner(demo_server.url) as client:
        yield client


# The client ---------------------------------------------------------------------------------


def test_answers_are_the_engines(remote: RemoteCaptioner) -> None:
    asked = ["GENERATE_TAGS", "od"]
    images = [(path.name, path.read_bytes()) for path in EXAMPLES]
    answers = remote.caption(images, asked, {**QUICK, "scores": True})
    options = CaptionOptions(QUICK_HERE.generation, vision=VisionOptions(scores=True))
    expected = Captioner("demo", device="cpu").caption(list(EXAMPLES), asked, options)
    assert [answer.name for answer in answers] == [path.name for path in EXAMPLES]
    for answer, here in zip(answers, expected, strict=True):
        assert (answer.size, answer.error) == (here.size, None)
        assert list(answer.results) == [result.to_dict() for result in here.results]


def test_a_broken_picture_has_its_reason_and_stops_no_other(remote: RemoteCaptioner) -> None:
    broken, good = remote.caption([('a\n"b".png', TEXT), ("é.png", picture())], ["CAPTION"], QUICK)
    assert (broken.name, broken.error, broken.results) == ('a\n"b".png', "a text file, not an image", ())
    assert (good.name, good.error, good.size) == ("é.png", None, (96, 96))
    (alone,) = remote.caption([("x", TEXT)], ["CAPTION"], QUICK)
    assert alone.error == "a text file, not an image"


def test_what_the_server_has_is_told(remote: RemoteCaptioner) -> None:
    assert remote.model() == "demo"
    (model,) = remote.models()
    assert model.name == "demo"
    assert "OD" in model.instructions
    assert "<GENERATE_TAGS>" in remote.prompts()
    assert remote.health()


def test_the_digest_is_that_of_a_run_here(remote: RemoteCaptioner) -> None:
    here = Captioner("demo", device="cpu")
    assert remote.digest(["CAPTION"], QUICK) == settings_digest(here, ["CAPTION"], QUICK_HERE)
    assert remote.digest(["CAPTION"], {}) == settings_digest(here, ["CAPTION"], CaptionOptions())


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"num_beams": 2, "max_new_tokens": 9, "min_new_tokens": 2, "do_sample": True, "temperature": 0.5,
         "top_k": 7, "top_p": 0.5, "repetition_penalty": 1.5, "length_penalty": 0.5,
         "no_repeat_ngram_size": 4, "early_stopping": "never", "seed": 3},
        {"early_stopping": "true", "do_sample": False, "prefix": "p", "suffix": "ü", "background": "#010203"},
        {"exclude": ["x,y", "z"], "replace": ["a:b", "c:"], "underscores": "spaces", "deduplicate": True,
         "escape_parentheses": False},
        {"scores": True, "threshold": 0.25, "max_regions": 3, "nms": 0.5},
        {"tile": "auto"},
        {"tile": " Auto ", "tiles_only": True},
        {"tile": "500", "tile_overlap": 0.4, "tiles_only": True, "text_input": "a red (ball)"},
    ],
    ids=lambda given: next(iter(given), "nothing"),
)  # fmt: skip
def test_options_mean_there_what_they_mean_here(given: dict[str, Any]) -> None:
    from promptgen.cli.choices import EarlyStopping, Underscores
    from promptgen.serving.options import AnswerOptions
    from promptgen.serving.strict import read_object

    words = {"early_stopping": EarlyStopping, "underscores": Underscores}
    flags = QuestionFlags(**{name: words.get(name, lambda x: x)(value) for name, value in given.items()})
    sent = json.loads(json.dumps(options_to_send(flags)))
    assert set(sent) == set(given)
    assert read_object(AnswerOptions, sent).caption_options() == flags.caption_options()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"instructions": ["NO_SUCH"]}, "NO_SUCH"),
        ({"options": {"num_beans": 1}}, "num_beams"),
        ({"options": {"num_beams": 0}}, "num_beams"),
        ({"instructions": ["CAPTION_TO_PHRASE_GROUNDING"]}, "text"),
    ],
)
def test_what_the_server_refuses_is_told_in_its_words(
    remote: RemoteCaptioner, asked: dict[str, Any], said: str
) -> None:
    request = {"instructions": ["CAPTION"], "options": QUICK} | asked
    with pytest.raises(RemoteError, match=said) as caught:
        remote.caption([("x", picture())], **request)
    assert remote.shown_url in str(caught.value)
    assert not caught.value.retryable
    with pytest.raises(RemoteError, match=said):
        remote.digest(**request)


def test_a_model_that_is_not_served_is_told_with_those_that_are(demo_server: ServerProcess) -> None:
    with RemoteCaptioner(demo_server.url, model="nope") as client:
        with pytest.raises(RemoteError, match=r"nope.*demo") as caught:
            client.caption([("x", picture())], ["CAPTION"], QUICK)
        assert caught.value.code == "model_not_found"


def test_urls_may_be_written_in_several_ways(demo_server: ServerProcess) -> None:
    host = demo_server.url.removeprefix("http://")
    for url in (host, f" {demo_server.url}/ ", f"{demo_server.url}/v1", f"{demo_server.url}/v1/"):
        with RemoteCaptioner(url) as client:
            assert client.model() == "demo"


@pytest.mark.parametrize(
    "url", ["", "ftp://host", "http://", "http://host:99999", "http://h/?a=b", "http://[::1"]
)
def test_what_is_no_url_is_told(url: str) -> None:
    with pytest.raises(RemoteError, match="is no URL"):
        RemoteCaptioner(url, retries=0).model()


def test_a_proxy_is_not_asked_for_this_machine(
    demo_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with RemoteCaptioner(demo_server.url, retries=0) as client:
        assert client.model() == "demo"


def test_keys() -> None:
    from promptgen.serving.settings import ServerSettings

    with serving_here(ServerSettings(api_keys=("right",))) as server:
        for key in (None, "wrong"):
            with RemoteCaptioner(server.url, api_key=key) as client:
                with pytest.raises(RemoteError, match=r"--api-key.*PROMPTGEN_API_KEY") as caught:
                    client.caption([("x", picture())], ["CAPTION"], QUICK)
                assert (caught.value.status, caught.value.retryable) == (401, False)
        with RemoteCaptioner(server.url, api_key="right") as client:
            assert client.caption([("x", picture())], ["CAPTION"], QUICK)[0].results
    with pytest.raises(RemoteError, match="API key"):
        RemoteCaptioner(server.url, api_key="two words")


def test_what_is_too_large_is_about_the_pictures() -> None:
    from promptgen.serving.settings import Limits, ServerSettings

    with (
        serving_here(ServerSettings(limits=Limits(body_bytes=100_000))) as server,
        RemoteCaptioner(server.url) as client,
    ):
        with pytest.raises(RemoteError, match=r"100000|100 000|0\.1|98|97") as caught:
            client.caption([("x", b"0" * 5_000_000)], ["CAPTION"], QUICK)
        assert (caught.value.about_pictures, caught.value.retryable) == (True, False)


def test_to_cancel_drops_the_work_on_the_server() -> None:
    with serving_here() as server, RemoteCaptioner(server.url) as client:
        images = [(str(number), picture(size=64 + number)) for number in range(64)]
        future = client.submit(images, ["GENERATE_TAGS", "CAPTION", "MIXED_CAPTION_PLUS"], {})
        wait_until(lambda: server.scheduler.waiting)
        assert future.cancel()
        wait_until(lambda: not server.scheduler.waiting)


def test_to_close_drops_what_is_in_flight() -> None:
    with serving_here() as server:
        client = RemoteCaptioner(server.url)
        future = client.submit([(str(n), picture(size=64 + n)) for n in range(64)], ["MIXED_CAPTION"], {})
        wait_until(lambda: server.scheduler.waiting)
        client.close()
        assert future.cancelled()
        wait_until(lambda: not server.scheduler.waiting)
        assert client.model() == "demo"  # it may be used again
        client.close()


# What is not there, and what is something else ----------------------------------------------


Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def answering(*answers: Answer, context: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[float]]]:
    """Something that is no server of ours: its URL, and when it was asked. The last answer is repeated."""
    asked: list[float] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def do_GET(self) -> None:
            asked.append(time.monotonic())
            status, headers, body = answers[min(len(asked), len(answers)) - 1]
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def said_of(url: str, retries: int = 0) -> RemoteError:
    with RemoteCaptioner(url, retries=retries) as client, pytest.raises(RemoteError) as caught:
        client.model()
    return caught.value


HTML = (200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>It works!</html>")
MODEL = (200, {"Content-Type": "application/json"}, b'"demo"')


def busy(status: int = 429, retry_after: str = "1") -> Answer:
    body = json.dumps({"detail": "wait", "error": "wait", "code": "queue_full"}).encode()
    return status, {"Retry-After": retry_after, "Content-Type": "application/json"}, body


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def test_nobody_is_there() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    error = said_of(url)
    assert error.retryable
    assert url in str(error)
    assert "promptgen serve" in str(error)


def test_the_host_is_not_known() -> None:
    error = said_of("http://no-such-host.invalid:1")
    assert "no-such-host.invalid" in str(error)
    assert "is not known" in str(error)


@pytest.mark.parametrize(
    "answer", [HTML, (404, *HTML[1:]), (200, {}, b'{"model": "x"}'), (200, {}, b"\xff"), (500, {}, b"")]
)
def test_something_else_is_there(answer: Answer) -> None:
    with answering(answer) as (url, asked):
        error = said_of(url, retries=3)
    assert "no PromptGen server" in str(error)
    assert not error.retryable
    assert len(asked) == 1


def test_a_redirect_is_told_with_where_it_leads() -> None:
    with answering((301, {"Location": "https://elsewhere/"}, b"")) as (url, _):
        assert "https://elsewhere/" in str(said_of(url))


def test_a_proxy_whose_server_is_down_is_tried_again() -> None:
    with answering((502, *HTML[1:]), MODEL) as (url, asked):
        with RemoteCaptioner(url) as client:
            assert client.model() == "demo"
        assert len(asked) == 2


def test_a_proxy_that_takes_no_such_picture_is_told_of_the_picture() -> None:
    with answering((413, *HTML[1:])) as (url, asked), RemoteCaptioner(url) as client:
        with pytest.raises(RemoteError, match="takes no request that large") as caught:
            client.caption([("a.png", b"x")], ["CAPTION"], {})
        assert caught.value.about_pictures
    assert len(asked) == 1


@pytest.mark.parametrize("image", [{"width": 1, "height": 1, "results": []}, {"results": ["x"]}, "x"])
def test_an_answer_without_results_is_no_answer(image: Any) -> None:
    body = json.dumps({"model": "demo", "images": [image]}).encode()
    with (
        answering((200, MODEL[1], body)) as (url, _),
        RemoteCaptioner(url) as client,
        pytest.raises(RemoteError, match="PromptGen server"),
    ):
        client.caption([("a.png", b"x")], ["CAPTION"], {})


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    with answering(busy(429, "2"), busy(503, "1"), MODEL) as (url, asked), RemoteCaptioner(url) as client:
        assert client.model() == "demo"
    assert asked[1] - asked[0] >= 2
    assert asked[2] - asked[1] >= 1


def test_a_busy_server_is_not_asked_for_ever() -> None:
    with answering(busy()) as (url, asked):
        error = said_of(url, retries=2)
    assert (error.status, error.retryable, error.code) == (429, True, "queue_full")
    assert str(error) == f"{url} says: wait"
    assert len(asked) == 3


def test_a_connection_that_breaks_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(10)
            connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        error = said_of(f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert "broke" in str(error)
    assert error.retryable


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptgen.serving.client._GRACE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            RemoteCaptioner(url, timeout=0.3, retries=0) as client,
            pytest.raises(RemoteError, match=r"no answer within 0\.5 s") as caught,
        ):
            client.model()
    assert caught.value.retryable


def certificate(folder: Path) -> Path:
    """Of 127.0.0.1, signed by itself, with its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ours")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "certificate.pem"
    path.write_bytes(pem)
    return path


def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    with answering(MODEL, context=context) as (url, _):
        error = said_of(url, retries=3)
        assert "is not trusted: self-signed certificate" in str(error).replace("self signed", "self-signed")
        assert "SSL_CERT_FILE" in str(error)
        assert not error.retryable
        assert "https://" in str(said_of(url.replace("https", "http")))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        with RemoteCaptioner(url) as client:
            assert client.model() == "demo"


def test_https_where_there_is_none_is_told(demo_server: ServerProcess) -> None:
    error = said_of(demo_server.url.replace("http", "https"))
    assert "write http://" in str(error)


def test_passwords_are_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    error = said_of(f"http://user:secret@127.0.0.1:{free_port()}/x")
    assert "secret" not in str(error)
    with answering(MODEL) as (url, _), RemoteCaptioner(url.replace("//", "//user:secret@")) as client:
        assert client.model() == "demo"
    assert url in caplog.text  # httpx says what it asks for
    assert "secret" not in caplog.text


def test_a_login_of_a_proxy_leaves_room_for_the_key() -> None:
    from promptgen.serving.settings import ServerSettings

    with serving_here(ServerSettings(api_keys=("the-key",))) as server:
        url = server.url.replace("//", "//user:pass%20word@")
        with RemoteCaptioner(url, api_key="the-key") as client:
            assert client.model() == "demo"


@pytest.mark.parametrize("host", ["[::1]", "127.0.0.2", "localhost"])
def test_every_name_of_this_machine_is_asked_directly(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(HTML) as (proxy, asked):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("http_proxy", proxy)
        error = said_of(f"http://{host}:{free_port()}")
    assert error.retryable  # nobody is there
    assert not asked


# The command --------------------------------------------------------------------------------


@pytest.fixture
def both(promptgen: Promptgen, demo_server: ServerProcess) -> Callable[..., Any]:
    """Runs ``caption`` here and on the server; that both end alike, to the byte, is the test."""

    def run(*arguments: object) -> Any:
        here = promptgen("caption", *arguments, *LOCAL)
        there = promptgen("remote", "caption", *arguments, "--url", demo_server.url, "--model", "demo")
        assert there == here
        return there

    return run


@pytest.mark.parametrize("form", ["text", "json", "jsonl"])
def test_captions_are_those_of_the_local_command(both: Callable[..., Any], form: str) -> None:
    asked = ("-i", "CAPTION,OD,analyze", "--scores", "--num-beams", 2, "--max-new-tokens", 20)
    ended = both(*EXAMPLES, EXAMPLES[0], *asked, "--format", form)
    assert ended.status == 0
    assert ended.stdout.count("OD") >= len(EXAMPLES) + 1


def test_tags_are_edited_and_large_pictures_tiled_as_here(both: Callable[..., Any]) -> None:
    both(EXAMPLES[0], "--prefix", "an übung", "--exclude", "simple*", "--underscores", "underscores")
    both(EXAMPLES[0], "-i", "OD", "--tile", "100", "--format", "json", "--num-beams", "1")
    both(EXAMPLES[0], "-i", "REGION_TO_CATEGORY", "--text-input", "10,10,90,90", "--num-beams", "1")


def test_pictures_that_cannot_be_read_are_told_as_here(both: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_bytes(TEXT)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(picture()[:200])
    broken = sorted(tmp_path.iterdir())
    ended = both(*broken, tmp_path / "none.png", EXAMPLES[0], "--num-beams", "1", "--format", "jsonl")
    assert ended.status == 1
    assert "no such file" in ended.stderr
    assert "1 of 5 images captioned, 4 failed." in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["none-*.png"],
        [EXAMPLES[0], "-i", "NO_SUCH"],
        [EXAMPLES[0], "--num-beams", "0"],
        [EXAMPLES[0], "--threshold", "2"],
        [EXAMPLES[0], "--output", "/dev/null"],
    ],
)
def test_wrong_usage_is_told_as_here(both: Callable[..., Any], arguments: list[object]) -> None:
    assert both(*arguments).status == 2


def test_the_server_may_be_named_in_the_environment(
    promptgen: Promptgen, demo_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTGEN_URL", demo_server.url)
    assert promptgen("remote", "model") == (0, "demo\n", "")
    assert promptgen("remote", "model", "--all") == (0, "demo\n", "")
    prompts = promptgen("remote", "prompts")
    assert prompts.status == 0
    assert "<GENERATE_TAGS>" in prompts.stdout.splitlines()


def test_a_server_that_is_not_there_is_one_clear_message(promptgen: Promptgen, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    file = tmp_path / "out.jsonl"
    ended = promptgen("remote", "caption", EXAMPLES[0], "--url", url, "--output", file)
    assert ended.status == 1
    assert ended.stderr.startswith(f"error: Nobody can be reached at {url}")
    assert list(tmp_path.iterdir()) == []
    assert promptgen("remote", "caption", EXAMPLES[0], "--url", "ftp://x").stderr.count("\n") == 1


def test_nothing_heavy_is_loaded(demo_server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    heavy = (
        "torch",
        "torchvision",
        "transformers",
        "timm",
        "safetensors",
        "tokenizers",
        "fastapi",
        "uvicorn",
    )
    for command in (["remote", "caption", str(tmp_path / "a.png")], ["remote", "folder", str(tmp_path)]):
        code = f"""
import sys
for name in {heavy}:
    sys.modules[name] = None  # importing it now raises ModuleNotFoundError
sys.argv = ["promptgen", *{command}, "--url", {demo_server.url!r}]
from promptgen.cli import main
main()
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=120
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.txt").exists()
