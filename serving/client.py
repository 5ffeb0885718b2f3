"""A caption server as seen from a program that calls it. Needs httpx, and nothing of the engine."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, wait
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from .remote_answers import (
    Answer,
    RemoteImage,
    RemoteModel,
    has_images,
    read_images,
    read_json,
    read_models,
    read_value,
)
from .remote_errors import RemoteError, connection_error, refusal

if TYPE_CHECKING:
    import httpx

__all__ = ["RemoteCaptioner", "RemoteError", "RemoteImage", "RemoteModel"]

_CONNECT_SECONDS = 10.0
_GRACE_SECONDS = 10.0  # for the server to say itself that it was too late
_KEPT_SECONDS = 2.0  # an idle connection; servers close theirs after 5
_FIRST_PAUSE = 0.5  # seconds before the first retry; doubles with each
_LONGEST_PAUSE = 8.0
_MOST_ASKED_FOR = 120.0  # seconds that a server may have us wait
_POLL_SECONDS = 0.2  # in which Ctrl-C is noticed on every system


class RemoteCaptioner:
    """Captions pictures on a server. Any thread may call it, several at a time.

    All calls are answered by one thread of its own, so that those that wait cost nothing, and those that are
    cancelled end at once, at the server too.

    Args:
        url: such as ``http://192.168.1.5:54880``; ``http://`` may be left out.
        model: one of the server's models; its first by default.
        api_key: if the server wants one.
        timeout: seconds to wait for an answer, from when the request is sent.
        retries: how often a request is tried again when nobody answers, or the server is busy or starting.

    Raises:
        RemoteError: the URL or the key cannot be one.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float = 300.0,
        retries: int = 3,
    ) -> None:
        given = _base_url(url)
        self.url = self.shown_url = _without_password(given)  # httpx logs what it asks for
        self._login = _login(given)
        self._headers = _headers(api_key)
        self._model = model
        self._timeout = timeout
        self._retries = retries
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: httpx.AsyncClient | None = None

    # ---- what the server can be asked

    def caption(
        self, images: Sequence[tuple[str, bytes]], instructions: Sequence[str], options: Mapping[str, Any]
    ) -> list[RemoteImage]:
        """Caption the pictures in one request, and wait for the answers.

        Args:
            images: name, and the bytes of the picture's file, of any format that the server reads.
            instructions: names in any case.
            options: by the names of the command line's options, such as ``num_beams``; those that are left
                out have the server's defaults, which are the command line's.

        Returns:
            One per picture, in order; of one that cannot be read, the reason.

        Raises:
            RemoteError: the server cannot be reached, refuses, or fails.
        """
        return self._wait(self.submit(images, instructions, options))

    def submit(
        self,
        images: Sequence[tuple[str, bytes]],
        instructions: Sequence[str],
        options: Mapping[str, Any],
        *,
        retries: int | None = None,
    ) -> Future[list[RemoteImage]]:
        """Like :meth:`caption`, without waiting. To cancel the future drops the work, also on the server.

        Args:
            retries: in place of this captioner's.
        """
        names = [name for name, _ in images]
        # The server gets names of ours: those of files may hold what cannot be sent.
        parts = [("images", (f"image {number}", content)) for number, (_, content) in enumerate(images, 1)]
        fields = {"instructions": ",".join(instructions), "options": json.dumps(dict(options))}
        fields["timeout"] = f"{max(1, self._timeout):g}"  # servers take no less
        if self._model is not None:
            fields["model"] = self._model

        def read(response: httpx.Response) -> list[RemoteImage]:
            return read_images(self._object(response), names, self.shown_url)

        return self._start(self._ask("POST", "/v1/captions", read, retries=retries, data=fields, files=parts))

    def digest(self, instructions: Sequence[str], options: Mapping[str, Any]) -> str:
        """What tells apart runs whose answers may differ; equal to that of a local run with these settings.

        Raises:
            RemoteError: as :meth:`caption`.
        """
        return self._wait(self.submit_digest(instructions, options))

    def submit_digest(
        self, instructions: Sequence[str], options: Mapping[str, Any], *, retries: int | None = None
    ) -> Future[str]:
        """Like :meth:`digest`, without waiting."""
        asked = {"model": self._model, "instructions": list(instructions), "options": dict(options)}

        def read(response: httpx.Response) -> str:
            return read_value(self._object(response), "digest", str, self.shown_url)

        return self._start(self._ask("POST", "/v1/captions/digest", read, retries=retries, json=asked))

    def models(self) -> list[RemoteModel]:
        """The checkpoints that the server has, its default first.

        Raises:
            RemoteError: as :meth:`caption`.
        """
        return read_models(self._call("GET", "/v1/models", self._object), self.shown_url)

    def default_instruction(self) -> str | None:
        """What the model is asked where a request names nothing; None if the server is too old to tell.

        Raises:
            RemoteError: as :meth:`caption`; also if the server does not have the model.
        """
        if self._model is None:
            return next((model.default_instruction for model in self.models()), None)
        told = self._call("GET", f"/v1/models/{quote(self._model)}", self._object).get("default_instruction")
        return None if told is None else str(told)

    def prompts(self) -> list[str]:
        """The default model's instructions that need no input, in brackets.

        Raises:
            RemoteError: as :meth:`caption`.
        """
        return [
            str(prompt)
            for prompt in self._call(
                "GET", "/prompts", lambda response: read_json(response, list, self.shown_url)
            )
        ]

    def model(self) -> str:
        """The Hub id, or the name, of the server's default model.

        Raises:
            RemoteError: as :meth:`caption`.
        """
        return self._call("GET", "/model", lambda response: read_json(response, str, self.shown_url))

    def health(self) -> dict[str, Any]:
        """What the server says about itself, if it is well.

        Raises:
            RemoteError: as :meth:`caption`.
        """
        return self._call("GET", "/health", self._object)

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        return read_json(response, dict, self.shown_url)

    # ---- its thread

    def close(self) -> None:
        """Drop what is in flight, and the connections. It may be used again."""
        with self._starting:
            loop, thread, client = self._loop, self._thread, self._client
            self._loop = self._thread = self._client = None
        if loop is None or thread is None:
            return

        async def end() -> None:
            try:
                others = asyncio.all_tasks() - {asyncio.current_task()}
                for task in others:
                    task.cancel()
                await asyncio.gather(*others, return_exceptions=True)
                if client is not None:
                    await client.aclose()
            finally:
                loop.stop()

        asyncio.run_coroutine_threadsafe(end(), loop)
        thread.join()

    def __enter__(self) -> RemoteCaptioner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, work: Coroutine[Any, Any, Answer]) -> Future[Answer]:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_run_loop, args=(self._loop,), name="promptgen-remote", daemon=True
                )
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait(self, future: Future[Answer]) -> Answer:
        try:
            while not wait([future], _POLL_SECONDS).done:
                pass
        except BaseException:
            future.cancel()
            raise
        return future.result()

    def _call(self, method: str, path: str, read: Callable[[httpx.Response], Answer], **sent: Any) -> Answer:
        return self._wait(self._start(self._ask(method, path, read, **sent)))

    async def _ask(
        self,
        method: str,
        path: str,
        read: Callable[[httpx.Response], Answer],
        *,
        retries: int | None = None,
        **sent: Any,
    ) -> Answer:
        """Send a request, several times if need be, and make of the answer what ``read`` does."""
        return await _with_retries(
            lambda: self._ask_once(method, path, read, **sent), self._retries if retries is None else retries
        )

    async def _ask_once(
        self, method: str, path: str, read: Callable[[httpx.Response], Answer], **sent: Any
    ) -> Answer:
        import httpx

        if self._client is None:
            self._client = self._new_client()
        try:
            response = await self._client.request(method, self.url + path, **sent)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise connection_error(self.shown_url, error, self._timeout + _GRACE_SECONDS) from error
        if response.is_success or (response.status_code == 422 and has_images(response)):
            return read(response)
        raise refusal(self.shown_url, response)

    def _new_client(self) -> httpx.AsyncClient:
        import httpx

        host = urlsplit(self.url).hostname or ""
        # A proxy for the way out of the house does not lead to this machine.
        place = f"[{host}]" if ":" in host else host
        direct = {f"all://{place}": None} if is_this_computer(host) else {}
        return httpx.AsyncClient(
            headers=self._headers,
            auth=self._login,
            timeout=httpx.Timeout(self._timeout + _GRACE_SECONDS, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEPT_SECONDS),
            mounts=direct,
        )


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()


async def _with_retries(attempt: Callable[[], Awaitable[Answer]], retries: int) -> Answer:
    """Try again what may succeed later, after as long a pause as the server asks for, within bounds."""
    for tried in range(retries):
        try:
            return await attempt()
        except RemoteError as error:
            if not error.retryable:
                raise
            await asyncio.sleep(pause_after(error, tried))
    return await attempt()


def pause_after(error: RemoteError, tried: int) -> float:
    """Seconds to wait after an attempt that failed.

    Args:
        tried: how many have failed before it, in a row.
    """
    pause = _FIRST_PAUSE * 2 ** min(tried, 16) * random.uniform(0.75, 1.25)  # not all clients at once
    return max(min(pause, _LONGEST_PAUSE), min(error.retry_after or 0.0, _MOST_ASKED_FOR))


def _base_url(url: str) -> str:
    """``url`` with its scheme, and without what requests put behind it."""
    given = url.strip()
    if "://" not in given:
        given = f"http://{given}"
    try:
        parts = urlsplit(given)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment:
        raise RemoteError(
            f"{url!r} is no URL of a server. Write it like http://127.0.0.1:54880 or https://host/path."
        )
    return given.rstrip("/").removesuffix("/v1").rstrip("/")


def is_this_computer(host: str) -> bool:
    """Whether a host's name or address stands for the machine that asks."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _login(url: str) -> tuple[str, str] | None:
    """Name and password of a URL, for a proxy that wants them."""
    parts = urlsplit(url)
    return None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    user, at, host = rest.partition("/")[0].rpartition("@")
    return f"{scheme}://{rest[len(user) + 1 :]}" if at and host else url


def _headers(api_key: str | None) -> dict[str, str]:
    if not api_key:
        return {}
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
        raise RemoteError("The API key holds characters that no key has, such as spaces or line breaks.")
    # a login takes the place of the first
    return {"Authorization": f"Bearer {api_key}", "X-API-Key": api_key}
