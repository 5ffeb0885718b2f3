"""The scripts in ``clients/``, run by every shell that is here, against the server and against worse ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from promptgen.captioning import Captioner
from promptgen.serving.settings import ServerSettings

from .helpers_dev import ROOT
from .serving_host import ServerProcess, picture, serving_here, wait_until

CLIENTS = ROOT / "clients"
SHELLS = {
    "bash": (["bash"], ".sh"),
    "dash": (["dash"], ".sh"),
    "busybox": (["busybox", "sh"], ".sh"),
    "pwsh": (["pwsh", "-NoProfile", "-File"], ".ps1"),  # PowerShell 7
    "powershell": (["powershell", "-NoProfile", "-ExecutionPolicy", "Bypass", "-File"], ".ps1"),  # 5.1
}
HERE = [name for name, (command, _) in SHELLS.items() if shutil.which(command[0])]
SUMMARY = "{} captioned, {} kept, {} without a caption."

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")


@dataclass(frozen=True)
class Ended:
    """How a script ended. What PowerShell puts at the end of lines does not matter."""

    status: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        return self.stdout + self.stderr


@dataclass(frozen=True)
class Scripts:
    """Both scripts, as one shell runs them."""

    shell: str

    def command(self, script: str, *arguments: object) -> list[str]:
        run, extension = SHELLS[self.shell]
        return [*run, str(CLIENTS / f"{script}{extension}"), *map(str, arguments)]

    def run(self, command: list[str], url: str, folder: Path | None = None, key: str = "") -> Ended:
        done = subprocess.run(
            command, cwd=folder, env=environment(url, key), stdin=subprocess.DEVNULL, capture_output=True,
            timeout=100,
        )  # fmt: skip
        stdout, stderr = (text.decode().replace("\r\n", "\n") for text in (done.stdout, done.stderr))
        return Ended(done.returncode, stdout, stderr)

    def ask(self, url: str, *arguments: object, folder: Path | None = None, key: str = "") -> Ended:
        return self.run(self.command("vision-client", *arguments), url, folder, key)

    def caption(self, url: str, *arguments: object, folder: Path | None = None, key: str = "") -> Ended:
        return self.run(self.command("vision-caption-folder-images", *arguments), url, folder, key)


def environment(url: str, key: str = "") -> dict[str, str]:
    return {**os.environ, "PROMPTGEN_URL": url, "PROMPTGEN_API_KEY": key, "no_proxy": "*", "TZ": "UTC"}


@pytest.fixture(params=HERE)
def scripts(request: pytest.FixtureRequest) -> Scripts:
    return Scripts(request.param)


@pytest.fixture
def sh(scripts: Scripts) -> Scripts:
    if SHELLS[scripts.shell][1] != ".sh":
        pytest.skip("of shells of Unix alone")
    return scripts


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner("demo", device="cpu")


def text_of(captioner: Captioner, path: Path, prompt: str) -> str:
    [found] = captioner.caption(path, prompt)
    [answer] = found.results
    return answer.text


@dataclass
class Asked:
    """A request that came to a server of the test's own."""

    number: int  # from 1
    path: str
    body: Any
    headers: dict[str, str]


Answer = tuple[int, bytes, dict[str, str]]


@contextmanager
def answering(answer: Callable[[Asked], Answer]) -> Iterator[tuple[str, list[Asked]]]:
    """A server that says what ``answer`` does: status, body, headers. Its address, and what it was asked."""
    asked: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            given = json.loads(body) if body else None
            asked.append(Asked(len(asked) + 1, self.path, given, dict(self.headers)))
            status, content, headers = answer(asked[-1])
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = respond  # noqa: N815 - the base class's names

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def result(text: str) -> Answer:
    return 200, json.dumps({"result": text}).encode(), {"Content-Type": "application/json"}


def fill(folder: Path, *names: str) -> Path:
    """``folder`` with pictures of these names."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture())
    return folder


def captions_in(folder: Path, extension: str = "txt") -> dict[str, str]:
    """Caption files below a folder, and everything else there that is no picture of the test."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    leftovers = [path for path in found if ".tmp" in path.name or "promptgen" in path.name]
    assert not leftovers
    captions = [path for path in found if path.suffix == f".{extension}"]
    return {path.relative_to(folder).as_posix(): path.read_bytes().decode() for path in captions}


# ---- one picture


@pytest.mark.parametrize("prompt", ["CAPTION", "<caption>", "Mixed_Caption"])
def test_a_picture_has_the_text_that_the_engine_gives(
    scripts: Scripts, demo_server: ServerProcess, captioner: Captioner, tmp_path: Path, prompt: str
) -> None:
    fill(tmp_path, "a red circle [1].png")
    done = scripts.ask(f"{demo_server.url}/", prompt, "a red circle [1].png", folder=tmp_path)
    expected = text_of(captioner, tmp_path / "a red circle [1].png", prompt)
    assert done == Ended(0, expected + "\n", "")


def test_what_may_be_asked_and_who_answers(scripts: Scripts, demo_server: ServerProcess) -> None:
    prompts = scripts.ask(demo_server.url, "prompts").stdout.split()
    assert {"GENERATE_TAGS", "CAPTION", "MIXED_CAPTION"} <= set(prompts)
    assert scripts.ask(demo_server.url, "model") == Ended(0, "demo\n", "")


def test_a_key_is_sent_and_its_absence_told(scripts: Scripts, tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png")
    with serving_here(ServerSettings(api_keys=("a-secret",))) as server:
        assert scripts.ask(server.url, "CAPTION", tmp_path / "a.png", key="a-secret").status == 0
        refused = scripts.caption(server.url, "CAPTION", "txt", tmp_path, key="wrong")
    assert refused.status == 3
    assert refused.said.count("PROMPTGEN_API_KEY") == 1  # it did not go on to the second picture
    assert not captions_in(tmp_path)


@pytest.mark.parametrize("as_ascii", [True, False])
def test_any_text_comes_through(scripts: Scripts, tmp_path: Path, as_ascii: bool) -> None:
    """With or without a charset, as servers write JSON."""
    text = (
        'a "sign": \\o/ C:\\new\\table \\0101 %d\n\ttwo / lines, é 漢字 😀 "result": "no"\x01\x7f 2024-01-01'
    )
    body = json.dumps({"other": "x", "result": text}, ensure_ascii=as_ascii, indent=2).encode()
    fill(tmp_path, "a.png")
    with answering(lambda asked: (200, body, {"Content-Type": "application/json"})) as (url, asked):
        done = scripts.caption(url, "Caption", ".txt", tmp_path)
    assert done.status == 0, done
    assert (tmp_path / "a.txt").read_bytes() == text.encode() + b"\n"
    assert asked[0].path == "/process_image"
    assert asked[0].body["prompt"] == "<CAPTION>"
    assert asked[0].headers["Content-Type"].startswith("application/json")


def test_half_a_character_does_not_break_the_others(scripts: Scripts, tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    with answering(lambda asked: (200, rb'{"result":"a \ud83d b \uDE00 c \/"}', {})) as (url, _):
        assert scripts.ask(url, "CAPTION", tmp_path / "a.png").stdout == "a � b � c /\n"


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (400, b'{"detail":"No such prompt.","error":"No such prompt."}', "No such prompt."),
        (400, b'{"error":"Invalid \\"prompt\\""}', 'Invalid "prompt"'),
        (422, b'{"detail":[{"type":"missing","loc":["body"],"msg":"Field required"}]}', "Field required"),
        (500, b"Internal Server Error", "Internal Server Error"),
        (200, b'{"error":"out of memory"}', "out of memory"),
        (200, b"<html>Welcome</html>", "<html>Welcome</html>"),
        (200, b'{"result":null}', "null"),
        (200, b'{"result":" "}', "empty"),
    ],
)
def test_a_failure_is_told_and_never_saved(
    scripts: Scripts, tmp_path: Path, status: int, body: bytes, told: str
) -> None:
    fill(tmp_path, "a.png", "b.png")
    with answering(lambda asked: (status, body, {}) if asked.number == 1 else result("two")) as (url, asked):
        done = scripts.caption(url, "CAPTION", "txt", tmp_path)
    assert done.status == 1
    assert "a.png" in done.stderr
    assert told in done.stderr
    assert SUMMARY.format(1, 0, 1) in done.said
    assert captions_in(tmp_path) == {"b.txt": "two\n"}
    assert len(asked) == 2  # what will not pass is not tried again


def test_a_busy_server_is_asked_again_when_it_says_so(scripts: Scripts, tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    busy: list[Answer] = [(429, b"{}", {"Retry-After": "1"}), (503, b"{}", {"retry-after": "1"})]
    with answering(lambda asked: [*busy, result("late")][asked.number - 1]) as (url, asked):
        begun = time.monotonic()
        done = scripts.ask(url, "CAPTION", tmp_path / "a.png")
    assert (done.status, done.stdout, len(asked)) == (0, "late\n", 3)
    assert 2 <= time.monotonic() - begun < 6  # with pauses of its own it would be 6


@pytest.mark.slow
def test_a_server_that_is_down_ends_the_run(tmp_path: Path) -> None:
    """All shells at a time, since they mostly wait for it to come up."""
    fill(tmp_path, "a.png", "b.png")
    with answering(lambda asked: result("")) as (url, _):
        pass  # and now nobody listens there
    with ThreadPoolExecutor() as pool:
        ended = list(pool.map(lambda name: Scripts(name).caption(url, "CAPTION", "txt", tmp_path), HERE))
    for done in ended:
        assert done.status == 3
        assert url in done.stderr
        assert done.stderr.count("vision-client") == 1
    assert not captions_in(tmp_path)


def test_wrong_usage_is_told(scripts: Scripts, tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    url = "http://127.0.0.1:9"
    for arguments in ((), ("CAPTION",), ("CAPTION", "txt"), ("CAPTION", "jpg", "."), ("CAPTION", "a/b", ".")):
        assert scripts.caption(url, *arguments, folder=tmp_path).status == 2
    assert scripts.caption(url, "CAPTION", "txt", "absent", folder=tmp_path).status == 2
    assert scripts.ask(url).status == 2
    assert scripts.ask(url, "CAPTION").status == 2
    absent = scripts.ask(url, "CAPTION", "absent.png", folder=tmp_path)
    assert absent.status == 1
    assert "absent.png" in absent.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


# ---- folders


def test_every_picture_of_a_folder_has_its_caption(
    scripts: Scripts, demo_server: ServerProcess, captioner: Captioner, tmp_path: Path
) -> None:
    names = [
        "a b.PNG",
        "deep/[x] it's $HOME & 100%.WebP",
        "deep/er/-dash.jpeg",
        "deep/日本語 é.Jpg",
        "two.dots.png",
    ]
    if os.name == "posix":
        names += ['say "hi" `ls`.png', "*.gif", "back\\slash.bmp", "new\nline.png", "-x/--help.png"]
    fill(tmp_path, *names, ".hidden.png", "@eaDir/thumbnail.png", ".cache/a.png")
    (tmp_path / "notes.md").write_text("no picture")
    for _ in range(2):  # the second time there is nothing to do
        done = scripts.caption(demo_server.url, "caption", "txt", ".", folder=tmp_path)
        assert done.status == 0, done
    expected = text_of(captioner, tmp_path / names[0], "CAPTION")
    assert captions_in(tmp_path) == {
        f"{name.rpartition('.')[0]}.txt": f"{expected}\n" for name in names
    }  # as `promptgen folder` writes them: UTF-8, no mark in front, one line feed
    assert SUMMARY.format(0, len(names), 0) in done.said


@pytest.mark.parametrize("folder", ["-x", "-x/", "./-x"])
def test_a_folder_may_be_called_anything(sh: Scripts, tmp_path: Path, folder: str) -> None:
    fill(tmp_path, "-x/a.png")
    with answering(lambda asked: result("one")) as (url, _):
        assert sh.caption(url, "CAPTION", "tags", folder, folder=tmp_path).status == 0
    assert captions_in(tmp_path, "tags") == {"-x/a.tags": "one\n"}


def test_captions_that_are_there_are_kept_and_damaged_ones_told(scripts: Scripts, tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png", "c.png", "d.png", "e.png")
    kept = {"a.txt": "my own", "b.txt": "null", "c.txt": "", "d.txt": " \n"}
    for name, text in kept.items():
        (tmp_path / name).write_bytes(text.encode())
    with answering(lambda asked: result("new")) as (url, _):
        done = scripts.caption(url, "CAPTION", "txt", tmp_path)
    assert captions_in(tmp_path) == {**kept, "e.txt": "new\n"}
    assert done.status == 1
    assert SUMMARY.format(1, 1, 3) in done.said
    assert all(f"{name}:" in done.stderr for name in ("b.txt", "c.txt", "d.txt"))


def test_pictures_that_ask_for_one_file_are_told(scripts: Scripts, tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "a.png", "a.b.png", "c.png", "c.txt.png")
    with answering(lambda asked: result("new")) as (url, _):
        done = scripts.caption(url, "CAPTION", "txt", tmp_path)
    assert captions_in(tmp_path) == {"a.b.txt": "new\n", "c.txt": "new\n", "c.txt.txt": "new\n"}
    assert done.status == 1
    assert SUMMARY.format(3, 0, 2) in done.said
    assert "a.jpg" in done.stderr


def test_broken_pictures_among_good_ones(
    scripts: Scripts, demo_server: ServerProcess, tmp_path: Path
) -> None:
    fill(tmp_path, "good.png", "later.png")
    (tmp_path / "broken.png").write_bytes(picture()[:100])
    (tmp_path / "empty.jpg").touch()
    done = scripts.caption(demo_server.url, "CAPTION", "txt", tmp_path)
    assert set(captions_in(tmp_path)) == {"good.txt", "later.txt"}
    assert done.status == 1
    assert "broken.png" in done.stderr
    assert "empty.jpg" in done.stderr
    assert SUMMARY.format(2, 0, 2) in done.said


@pytest.mark.skipif(os.name != "posix", reason="signals are of Unix")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stopped_run_leaves_nothing_half_and_goes_on(sh: Scripts, tmp_path: Path, name: str) -> None:
    fill(tmp_path / "pictures", "a.png", "b.png", "c.png")
    (tmp_path / "tmp").mkdir()
    asked_for_b = threading.Event()
    release = threading.Event()

    def answer(asked: Asked) -> Answer:
        if asked.number == 2:
            asked_for_b.set()
            release.wait(60)
        return result("done")

    with answering(answer) as (url, _):
        process = subprocess.Popen(
            sh.command("vision-caption-folder-images", "CAPTION", "txt", tmp_path / "pictures"),
            env={**environment(url), "TMPDIR": str(tmp_path / "tmp")},
            start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert asked_for_b.wait(60)
        os.killpg(process.pid, getattr(signal, name))  # what a terminal does, and `timeout`
        said = process.communicate(timeout=60)[1].decode()
        release.set()
        assert process.returncode == 128 + getattr(signal, name)
        assert SUMMARY.format(1, 0, 1) in said or SUMMARY.format(1, 0, 0) in said
        wait_until(lambda: not list((tmp_path / "tmp").iterdir()))
        assert captions_in(tmp_path) == {"pictures/a.txt": "done\n"}
        assert sh.caption(url, "CAPTION", "txt", tmp_path / "pictures").status == 0
        assert set(captions_in(tmp_path / "pictures")) == {"a.txt", "b.txt", "c.txt"}


def test_a_large_picture_is_no_longer_than_arguments_may_be(scripts: Scripts, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "large.png").write_bytes(content)
    with answering(lambda asked: result(str(len(asked.body["image"])))) as (url, _):
        done = scripts.ask(url, "CAPTION", tmp_path / "large.png")
    assert done.stdout == "4000000\n"


def test_scripts_for_powershell_are_ascii() -> None:
    """Windows PowerShell 5.1 takes what has no mark in front for text in the system's old encoding."""
    for path in CLIENTS.glob("*.ps1"):
        assert path.read_bytes().isascii(), path


@pytest.mark.skipif(os.name != "posix", reason="modes are of Unix")
def test_scripts_for_shells_can_be_run_as_they_are() -> None:
    for path in CLIENTS.glob("*.sh"):
        assert os.access(path, os.X_OK), path


def test_powershell_ran_them_too() -> None:
    if not {"pwsh", "powershell"} & set(HERE):
        pytest.skip("no PowerShell is here, so its scripts were only read")
