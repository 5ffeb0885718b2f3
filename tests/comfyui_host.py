"""A real ComfyUI, started on a base directory of its own with only this pack in it.

The fixtures are ``comfyui_checkout`` (once per ComfyUI that is found) and ``host`` (one of it, running, for
the whole session); see ``conftest.py``. A test that needs other arguments or models starts its own::

    with start_host(comfyui_checkout, tmp_path, arguments=["--lowvram"]) as own:
        entry = own.run({"1": {"class_type": "LoadImage", "inputs": {"image": own.upload(picture)}}, ...})
        assert entry.texts("2") == ["1girl, solo"]
"""

from __future__ import annotations

import contextlib
import json
import mimetypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import websocket

from .helpers_dev import ROOT, load_dev

START_SECONDS = 180.0
STOP_SECONDS = 10.0
NEEDED = ("aiohttp", "alembic", "av", "comfyui_frontend_package", "einops", "requests", "torchsde", "yaml")
"""Modules whose absence says that an interpreter was never made ready for a host."""

WATCHDOG = """
import os, signal, sys
sys.stdin.read()
try:
    os.killpg(int(sys.argv[1]), signal.SIGKILL)
except ProcessLookupError:
    pass
"""


class HostError(AssertionError):
    """The host did not start, refused a request, or ended; the message holds the end of its log."""


class UnavailableError(Exception):
    """There is no host to test with, for the reason given: a test skips."""


@dataclass(frozen=True)
class Checkout:
    """A ComfyUI source folder."""

    folder: Path
    version: str
    dev: ModuleType = field(repr=False, compare=False)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version for comparisons: ``(0, 8, 0)``."""
        return tuple(int(number) for number in re.findall(r"\d+", self.version)[:3])

    def interpreter(self) -> str:
        """The interpreter of the overlay venv that ``dev.py`` makes, or ours if that has what is needed.

        Raises:
            UnavailableError: with what to do about it.
        """
        ready: str | None = self.dev.host_interpreter(self)
        if ready is not None:
            return ready
        advice = "'python dev.py test' makes the environment it needs"
        failure = self.dev.host_failure(self)
        if failure:
            raise UnavailableError(f"the environment for ComfyUI {self.version} could not be made: {failure}")
        find = "import importlib.util as u, sys; print(*(n for n in sys.argv[1:] if not u.find_spec(n)))"
        done = subprocess.run(
            [sys.executable, "-c", find, *NEEDED], capture_output=True, encoding="utf-8", check=True
        )
        if done.stdout.strip():
            missing = ", ".join(done.stdout.split())
            raise UnavailableError(
                f"ComfyUI {self.version} needs {missing}, not in {sys.executable}; {advice}"
            )
        return sys.executable

    @property
    def venv(self) -> Path:
        venv: Path = self.dev.HostCheckout(self.folder, self.version).venv
        return venv

    @property
    def byte_code(self) -> Path:
        byte_code: Path = self.dev.HostCheckout(self.folder, self.version).byte_code
        return byte_code

    def forget_byte_code(self, base: Path) -> None:
        """Remove what was compiled of the packs under ``base``, which nobody will use again."""
        shutil.rmtree(self.byte_code / base.resolve().relative_to(base.resolve().anchor), ignore_errors=True)


def find_checkouts() -> list[Checkout]:
    """All ComfyUI checkouts on this machine, one per version.

    Raises:
        UnavailableError: there is none.
    """
    dev = load_dev()
    try:
        found = dev.find_hosts()
    except dev.StepError as failure:
        raise UnavailableError(str(failure)) from failure
    if not found:
        raise UnavailableError("no ComfyUI in $COMFYUI_PATH, ~/comfy/ComfyUI or ~/comfy/ComfyUI-*")
    return [Checkout(host.folder, host.version, dev) for host in found]


class Entry(dict[str, Any]):
    """What the host's history says of one prompt."""

    @property
    def outputs(self) -> dict[str, Any]:
        """node -> what its ``ui`` held"""
        outputs: dict[str, Any] = self["outputs"]
        return outputs

    @property
    def succeeded(self) -> bool:
        return bool(self["status"]["status_str"] == "success")

    @property
    def error(self) -> dict[str, Any] | None:
        """``node_id``, ``node_type``, ``exception_type``, ``exception_message``, ``traceback``, or None."""
        return self._message("execution_error")

    @property
    def interrupted(self) -> bool:
        return self._message("execution_interrupted") is not None

    @property
    def cached(self) -> set[str]:
        """The nodes that did not run again."""
        return set((self._message("execution_cached") or {"nodes": ()})["nodes"])

    def texts(self, node: str) -> list[str]:
        """The texts that a node shows on itself."""
        texts: list[str] = self.outputs[node]["text"]
        return texts

    def _message(self, name: str) -> dict[str, Any] | None:
        return next((data for kind, data in self["status"]["messages"] if kind == name), None)


@dataclass(frozen=True)
class Event:
    """A websocket message; ``time`` is ``time.monotonic()`` when it came."""

    time: float
    type: str
    data: dict[str, Any]


class Events:
    """Collects what the host tells one client, in a thread."""

    def __init__(self, url: str, client_id: str) -> None:
        self.client_id = client_id
        self._seen: list[Event] = []
        self._change = threading.Condition()
        self._socket = websocket.create_connection(f"{url}/ws?clientId={client_id}", timeout=30)
        self._socket.settimeout(None)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                message = self._socket.recv()
            except (websocket.WebSocketException, OSError):
                return
            now = time.monotonic()
            if not isinstance(message, str) or not message:
                continue  # pictures come as bytes
            content = json.loads(message)
            with self._change:
                self._seen.append(Event(now, content["type"], content.get("data") or {}))
                self._change.notify_all()

    def all(self, kind: str | None = None, prompt_id: str | None = None) -> list[Event]:
        """What has come so far, of one kind or of one prompt if so asked."""
        with self._change:
            seen = list(self._seen)
        return [
            event
            for event in seen
            if kind in (None, event.type) and prompt_id in (None, event.data.get("prompt_id"))
        ]

    def wait_for(self, wanted: str | Callable[[Event], bool], timeout: float = 60) -> Event:
        """The first event of that kind, or for which the function is true; it may have come already."""
        test = (lambda event: event.type == wanted) if isinstance(wanted, str) else wanted
        deadline = time.monotonic() + timeout
        looked_at = 0
        with self._change:
            while True:
                for event in self._seen[looked_at:]:
                    if test(event):
                        return event
                looked_at = len(self._seen)
                left = deadline - time.monotonic()
                if left <= 0 or not self._change.wait(left):
                    kinds = [event.type for event in self._seen]
                    raise HostError(f"no such event in {timeout} s: {wanted}; there were {kinds}")

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the host has ended
            self._socket.sock.shutdown(socket.SHUT_RDWR)  # wakes the thread, which closing does not
        self._thread.join(10)
        self._socket.shutdown()


class Host:
    """A running ComfyUI. Made by :func:`start_host`."""

    def __init__(
        self, checkout: Checkout, base: Path, port: int, process: subprocess.Popen[bytes], log_file: Path
    ) -> None:
        self.checkout = checkout
        self.version = checkout.version
        self.base = base
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.process = process
        self.log_file = log_file
        self.client_id = uuid.uuid4().hex
        self.started_in = 0.0
        """seconds until it answered"""

    @property
    def input_dir(self) -> Path:
        return self.base / "input"

    @property
    def output_dir(self) -> Path:
        return self.base / "output"

    @property
    def temp_dir(self) -> Path:
        return self.base / "temp"

    @property
    def models_dir(self) -> Path:
        return self.base / "models"

    def log(self) -> str:
        """All that it has written so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    # Requests

    def request(self, path: str, body: bytes | None = None, content_type: str = "application/json") -> Any:
        """GET ``path``, or POST ``body`` to it: parsed if it is JSON, else bytes.

        Raises:
            HostError: the host answered with an error status or not at all.
        """
        request = urllib.request.Request(f"{self.url}{path}", data=body)
        if body is not None:
            request.add_header("Content-Type", content_type)
        try:
            with _OPENER.open(request, timeout=60) as response:
                content: bytes = response.read()
                is_json = response.headers.get_content_type() == "application/json"
        except urllib.error.HTTPError as failure:
            answer = failure.read().decode(errors="replace")
            raise HostError(f"{path}: {failure.code} {failure.reason}: {answer}") from failure
        except OSError as failure:
            raise HostError(f"{path}: {failure}{self._end_of_log()}") from failure
        return json.loads(content) if is_json else content

    def get(self, path: str) -> Any:
        return self.request(path)

    def post(self, path: str, content: Any) -> Any:
        return self.request(path, json.dumps(content).encode())

    def object_info(self, node: str) -> dict[str, Any]:
        """What the page is told of a node type.

        Raises:
            HostError: the host does not know it.
        """
        answer = self.get(f"/object_info/{urllib.parse.quote(node)}")
        if node not in answer:
            raise HostError(f"the host knows no node {node}{self._end_of_log()}")
        info: dict[str, Any] = answer[node]
        return info

    def upload(self, picture: Path, *, kind: str = "input", subfolder: str = "", name: str = "") -> str:
        """Send a picture as the page does; the name to give to LoadImage."""
        boundary = uuid.uuid4().hex
        fields = {"type": kind, "subfolder": subfolder, "overwrite": "true"}
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
            for key, value in fields.items()
        )
        content_type = mimetypes.guess_type(picture.name)[0] or "application/octet-stream"
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; '
            f'filename="{name or picture.name}"\r\nContent-Type: {content_type}\r\n\r\n'
        )
        body = head.encode() + picture.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        answer = self.request("/upload/image", body, f"multipart/form-data; boundary={boundary}")
        place = "/".join(part for part in (answer["subfolder"], answer["name"]) if part)
        return place if kind == "input" else f"{place} [{kind}]"

    def queue(self, prompt: Mapping[str, Any], client_id: str | None = None) -> str:
        """Queue a prompt in the API's format; its id.

        Raises:
            HostError: the host refused it, with its reasons.
        """
        answer = self.post("/prompt", {"prompt": prompt, "client_id": client_id or self.client_id})
        prompt_id: str = answer["prompt_id"]
        return prompt_id

    def wait(self, prompt_id: str, timeout: float = 120) -> Entry:
        """The history entry of a prompt when it has ended, well or not."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = self.get(f"/history/{prompt_id}")
            if prompt_id in found:
                return Entry(found[prompt_id])
            time.sleep(0.05)
        self.interrupt()
        raise HostError(f"the prompt was not done in {timeout} s{self._end_of_log()}")

    def run(self, prompt: Mapping[str, Any], timeout: float = 120, client_id: str | None = None) -> Entry:
        """Queue a prompt and wait until it has ended. A failed node is in ``.error``, not raised."""
        return self.wait(self.queue(prompt, client_id), timeout)

    @contextlib.contextmanager
    def events(self, client_id: str | None = None) -> Iterator[Events]:
        """What the host tells a client meanwhile; without an id, this object's own (that of ``run``)."""
        events = Events(self.url.replace("http", "ws", 1), client_id or self.client_id)
        try:
            yield events
        finally:
            events.close()

    def interrupt(self) -> None:
        self.request("/interrupt", b"")

    def free(self, unload_models: bool = True, free_memory: bool = False) -> None:
        """Ask the host to unload models; it does so by itself, before prompts that are queued later."""
        self.post("/free", {"unload_models": unload_models, "free_memory": free_memory})
        # A busy host may take up one more prompt before it heeds that.
        size = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
        picture = {"class_type": "EmptyImage", "inputs": size}
        self.run({"1": picture, "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}})

    def import_seconds(self) -> str:
        """What the host's own log says of the time that this pack's import took, such as ``0.0``."""
        _, _, times = self.log().partition("Import times for custom nodes:")
        found = re.search(rf"([\d.]+) seconds.*: .*{re.escape(self.checkout.dev.PACK_NAME)}$", times, re.M)
        if found is None:
            raise HostError(f"no import time in the log{self._end_of_log()}")
        return found[1]

    # Start and end

    def wait_until_ready(self, timeout: float = START_SECONDS) -> None:
        start = time.monotonic()
        while time.monotonic() - start < timeout:
            if self.process.poll() is not None:
                raise HostError(f"it ended with {self.process.returncode} at the start{self._end_of_log()}")
            with contextlib.suppress(OSError), _OPENER.open(f"{self.url}/system_stats", timeout=10):
                self.started_in = time.monotonic() - start
                return
            time.sleep(0.1)
        raise HostError(f"it did not answer in {timeout} s{self._end_of_log()}")

    def stop(self) -> None:
        """End it, gently if it heeds that; its children, too."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        if os.name != "nt":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()
        self.process.wait()

    def _end_of_log(self, lines: int = 40) -> str:
        end = "\n".join(self.log().splitlines()[-lines:])
        return f"\n--- the end of its log:\n{end}"


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # 127.0.0.1 is behind no proxy


@contextlib.contextmanager
def start_host(
    checkout: Checkout,
    base: Path,
    *,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    pack: Path = ROOT,
    cpu: bool = True,
    keep_byte_code: bool = False,
) -> Iterator[Host]:
    """Start ``checkout`` with ``pack`` alone on the folder ``base``; it is gone when the block ends.

    Put models under ``base / "models"`` before. ``arguments`` go to the host (``--lowvram``,
    ``--extra-model-paths-config``, FILE); ``cpu=False`` leaves ``--cpu`` out.
    The pack is compiled anew at each start, since its path is new, unless the last start on the same ``base``
    had ``keep_byte_code``.

    Raises:
        UnavailableError: there is no interpreter for it.
        HostError: it did not start.
    """
    interpreter = checkout.interpreter()
    for name in ("input", "models"):
        (base / name).mkdir(parents=True, exist_ok=True)
    port = _free_port()
    command = [
        *checkout.dev.host_command(
            checkout, base, port, database="sqlite:///:memory:", interpreter=interpreter
        ),
        *checkout.dev.link_pack(base, pack),
        *(["--cpu"] if cpu else []),
        *arguments,
    ]
    whole_environment = {
        **checkout.dev.host_environment(checkout),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        **(environment or {}),
    }
    log_file = base / "host.log"
    with open(log_file, "wb") as log:
        process = subprocess.Popen(
            command,
            cwd=base,
            env=whole_environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    host = Host(checkout, base, port, process, log_file)
    with _watchdog(process.pid):
        try:
            host.wait_until_ready()
            yield host
        finally:
            host.stop()
            if not keep_byte_code:
                checkout.forget_byte_code(base)


@contextlib.contextmanager
def _watchdog(group: int) -> Iterator[None]:
    """Kill the process group ``group`` if we are killed ourselves and cannot."""
    if os.name == "nt":
        yield
        return
    with subprocess.Popen(
        [sys.executable, "-S", "-c", WATCHDOG, str(group)], stdin=subprocess.PIPE, start_new_session=True
    ) as dog:
        try:
            yield
        finally:
            dog.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
