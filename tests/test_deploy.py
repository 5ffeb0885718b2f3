"""What ``deploy/`` holds fits the server: options, times, ports; and the programs that read it take it."""

from __future__ import annotations

import fnmatch
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
import httpx
from promptgen.serving.settings import DEFAULT_PORT, Limits

from .command_line import Promptgen
from .helpers_dev import ROOT
from .serving_host import picture, serving_here, wait_until

DEPLOY = ROOT / "deploy"
LONGEST_SECONDS = Limits.body_seconds + Limits.seconds  # that a request which was accepted may take
COMMAND = re.compile(r"(?:promptgen(?:\.exe)?\"?,? \"?serve\b|PROMPTGEN_OPTIONS=|^ {4}--)(.*)", re.MULTILINE)
MENTION = re.compile(r"[`(](--[a-z][a-z-]+)")


def text_of(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def seconds_in(name: str, pattern: str) -> list[int]:
    found = [int(number) for number in re.findall(pattern, text_of(name))]
    assert found, f"{name}: nothing like {pattern}"
    return found


@pytest.mark.parametrize("name", ["README.md", "promptgen.service", "Dockerfile", "haproxy.cfg"])
def test_options_that_are_named_exist(
    promptgen: Promptgen, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    known = set(re.findall(r"--[a-z][a-z-]+", promptgen("serve", "--help").stdout))
    assert "--request-timeout" in known
    text = text_of(name)
    named = {
        option for line in COMMAND.findall(text) for option in re.findall(r"--[a-z][a-z-]+", f"--{line}")
    }
    named |= set(MENTION.findall(text))
    assert named <= known
    assert named, "the pattern finds none, though there are some"


def test_whatever_stops_the_server_waits_for_what_it_has_accepted() -> None:
    places = {
        "promptgen.service": r"TimeoutStopSec=(\d+)\n",
        "README.md": r"(?:--stop-timeout |AppStopMethodConsole |read_timeout )(\d+?)(?:000)?(?!\d)",
        "haproxy.cfg": r"timeout server (\d+)s",
        "ray_captions.py": r"graceful_shutdown_timeout_s=(\d+)",
    }
    for name, pattern in places.items():
        assert min(seconds_in(name, pattern)) >= LONGEST_SECONDS, name
    assert len(seconds_in("README.md", places["README.md"])) == 4


def test_all_speak_of_the_same_port() -> None:
    for name in ("promptgen.service", "Dockerfile", "haproxy.cfg", "README.md"):
        ports = re.findall(r"(?<=[:\s])(5\d{4})\b", text_of(name))
        assert set(ports) == {str(DEFAULT_PORT)}, name


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / "promptgen.service"
    program = "/opt/promptgen/bin/promptgen"
    assert f"ExecStart={program} serve" in text_of(unit.name)
    unit.write_text(text_of(unit.name).replace(program, sys.executable), encoding="utf-8")
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, timeout=60)
    if "Failed to" in done.stderr and "initialize manager" in done.stderr:
        pytest.skip(f"systemd-analyze does not work here: {done.stderr}")
    assert (done.returncode, done.stderr) == (0, "")
    version = subprocess.run([analyze, "--version"], capture_output=True, text=True, timeout=60).stdout
    if int(re.search(r"\d+", version)[0]) >= 250:  # type: ignore[index]
        graded = [analyze, "security", "--offline=true", "--no-pager", "--threshold=20", unit]  # tenths
        assert subprocess.run(graded, capture_output=True, timeout=60).returncode == 0


def test_the_image_is_made_of_the_package_alone() -> None:
    patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [pattern for pattern in patterns if pattern and not pattern.startswith("#")]

    def is_left_out(name: str) -> bool:
        parts = name.split("/")
        return any(
            any(fnmatch.fnmatchcase(part, pattern.removeprefix("**/")) for part in parts)
            if pattern.startswith("**/")
            else fnmatch.fnmatchcase(parts[0], pattern)
            for pattern in patterns
        )

    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    names = set(listed.stdout.split("\0")) - {""}
    left = {name for name in names if not is_left_out(name)}
    tops = {name.partition("/")[0] for name in left}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    files = {"__init__.py", "_version.py", "py.typed", "pyproject.toml", "requirements.txt", "setup.py"}
    assert tops == packages | files | {"README.md", "LICENSE", "CHANGELOG.md", "MANIFEST.in"}
    assert all(is_left_out(name) for name in (".git/config", ".venv/bin/python", "cli/__pycache__/app.pyc"))
    assert "models_cache/demo/config.json" in left


@pytest.fixture
def haproxy() -> str:
    found = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if found is None:
        pytest.skip("needs haproxy")
    return found


def test_haproxy_takes_its_configuration(haproxy: str) -> None:
    done = subprocess.run([haproxy, "-c", "-f", DEPLOY / "haproxy.cfg"], capture_output=True, timeout=60)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    assert "WARNING" not in said


@contextmanager
def balancing(haproxy: str, folder: Path, *urls: str) -> Iterator[str]:
    """Our configuration over servers of the test's own. The balancer's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    text, count = re.subn(r"bind :\d+", f"bind {address}", text_of("haproxy.cfg"))
    assert count == 1
    for place, url in zip(("192.168.1.11:54880", "192.168.1.12:54880"), urls, strict=True):
        assert place in text
        text = text.replace(place, url.removeprefix("http://"))
    configuration = folder / "haproxy.cfg"
    configuration.write_text(text, encoding="utf-8")
    process = subprocess.Popen([haproxy, "-f", configuration], stdout=subprocess.DEVNULL)

    def answers() -> bool:
        try:
            return httpx.get(f"http://{address}/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, 60)
        yield f"http://{address}"
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_server_behind_the_balancer_may_end_at_any_time(haproxy: str, tmp_path: Path) -> None:
    """Small pictures and some that HAProxy cannot hold; no request is lost. Small ones are never turned away;
    the others may have to be asked again, where a busy machine is late to see that a server ends."""
    pictures = [picture(), picture(size=900, form="BMP")]
    statuses: list[int] = []
    ended = threading.Event()

    def ask(number: int) -> None:
        with httpx.Client(trust_env=False, timeout=120) as client:
            rest = 3
            while rest:
                large = number % 2
                files = {"image": ("a", pictures[large])}
                answer = client.post(f"{url}/v1/captions", files=files, data={"instructions": "CAPTION"})
                if large and answer.status_code == 503:
                    time.sleep(0.5)
                    continue
                statuses.append(answer.status_code)
                number += 1
                rest -= ended.is_set()  # some more when only one server is left

    with (
        serving_here() as first,
        serving_here() as second,
        balancing(haproxy, tmp_path, first.url, second.url) as url,
    ):
        clients = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for client in clients:
            client.start()
        wait_until(lambda: len(statuses) > 6, 120)  # with the time to load the model
        first.end()
        ended.set()
        for client in clients:
            client.join(120)
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
            assert client.get("/metrics").status_code == 404
            assert client.get("/health").status_code == 200
    assert set(statuses) == {200}
    assert len(statuses) > 6 + 12
