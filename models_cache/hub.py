"""Talking to the Hugging Face Hub: which files a repository holds, and fetching one of them.

Transfers go through ``huggingface_hub.file_download.http_get``, which is in every version from 0.26 to 2.x,
rather than ``hf_hub_download``: since 1.x the latter throws away what it has when it is stopped, and none of
its versions checks what arrived against the Hub's sha256.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)

# Seconds before each further attempt at a transfer that broke off and brought nothing new.
RETRY_WAITS = (1.0, 3.0)
_LISTING_TIMEOUT = 20.0


@dataclass(frozen=True)
class HubFile:
    """One file of a repository: its size in bytes and ``sha256:HEX`` (large files) or ``git:HEX`` (small)."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class HubListing:
    """The files at the root of a repository at one commit."""

    hub_id: str
    commit: str
    files: dict[str, HubFile]


class StoppedError(Exception):
    """Carries what a caller's function raised to stop a transfer, whatever it is, past all handling here."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class HubError(Exception):
    """The Hub could not be asked or did not answer as it should; the message is one sentence for people."""


def list_files(hub_id: str, revision: str | None = None) -> HubListing:
    """What the Hub has of ``hub_id`` at ``revision`` (a commit or branch; None: the main branch).

    Raises:
        HubError: no network, no such repository, no access, or a server that is out of order.
    """
    huggingface_hub = _client()
    try:
        info = huggingface_hub.HfApi().model_info(
            hub_id, revision=revision, files_metadata=True, timeout=_LISTING_TIMEOUT
        )
    except _errors() as error:
        raise HubError(_explain(error, hub_id)) from error
    files = {}
    for sibling in info.siblings or []:
        if "/" in sibling.rfilename or sibling.size is None:
            continue
        digest = f"sha256:{sibling.lfs.sha256}" if sibling.lfs is not None else f"git:{sibling.blob_id}"
        files[sibling.rfilename] = HubFile(sibling.rfilename, sibling.size, digest)
    if not info.sha:
        raise HubError(
            f"{_endpoint()} names no commit for {hub_id}: it is no Hub that can be downloaded from."
        )
    return HubListing(hub_id, info.sha, files)


def fetch(listing: HubListing, file: HubFile, part: Path, on_bytes: Callable[[int], None]) -> None:
    """Bring the file's bytes into ``part``, going on where a former attempt stopped.

    Args:
        part: where the bytes are gathered; what it already holds is kept and only the rest asked for.
        on_bytes: called with the number of bytes that ``part`` holds, after each piece. What it raises stops
            the transfer.

    Raises:
        HubError: the transfer broke off and could not be taken up again; ``part`` keeps what came.
        StoppedError: ``on_bytes`` raised; ``part`` keeps what came.
        OSError: ``part`` cannot be written to.
    """
    huggingface_hub = _client()
    url = huggingface_hub.hf_hub_url(listing.hub_id, file.name, revision=listing.commit)
    headers = huggingface_hub.utils.build_hf_headers(library_name="promptgen-tagger")
    headers["Accept-Encoding"] = "identity"  # so that sizes and ranges count the file's own bytes
    tell = _cancelling(on_bytes)
    failures = surpluses = 0
    while True:
        held = part.stat().st_size if part.exists() else 0
        if held > file.size:
            part.unlink()
            held, surpluses = 0, surpluses + 1
            if surpluses > 1:
                raise HubError(f"{_endpoint()} sends more bytes of {file.name} than it states.")
        tell(held)
        if held == file.size and part.exists():
            return
        try:
            _transfer(url, headers, file, part, held, tell)
        except _WriteError as error:
            raise error.cause from None
        except _errors() as error:
            grown = part.exists() and part.stat().st_size > held
            failures = 0 if grown else failures + 1
            if failures > len(RETRY_WAITS) or not _worth_retrying(error):
                raise HubError(_explain(error, listing.hub_id)) from error
            wait = RETRY_WAITS[max(failures - 1, 0)]
            logger.info("%s broke off (%s); going on in %s s", file.name, error, wait)
            time.sleep(wait)


def _transfer(
    url: str, headers: dict[str, str], file: HubFile, part: Path, held: int, on_bytes: Callable[[int], None]
) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    # One bar for the whole checkpoint is shown by the caller, so the client's own bar per file is put away.
    group = "huggingface_hub.http_get"
    quiet = are_progress_bars_disabled(group)
    if not quiet:
        disable_progress_bars(group)
    try:
        with open(part, "ab") as opened:
            http_get(
                url,
                _Watched(opened, on_bytes),  # type: ignore[arg-type]
                resume_size=held,
                headers=headers,
                expected_size=file.size,
                displayed_filename=file.name,
            )
    finally:
        if not quiet:
            enable_progress_bars(group)


def _cancelling(on_bytes: Callable[[int], None]) -> Callable[[int], None]:
    def tell(nbytes: int) -> None:
        try:
            on_bytes(nbytes)
        except Exception as error:
            raise StoppedError(error) from error

    return tell


class _WriteError(Exception):
    """Carries a failure to write, which is none of the network's, past the handling of its failures."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Watched:
    """A file that tells how many bytes it holds after each write."""

    def __init__(self, file: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self._file = file
        self._on_bytes = on_bytes
        self.name = file.name

    def write(self, data: bytes) -> int:
        try:
            written = self._file.write(data)
        except OSError as error:
            raise _WriteError(error) from error
        self._on_bytes(self._file.tell())
        return written

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def truncate(self, size: int | None = None) -> int:
        return self._file.truncate(size)

    def flush(self) -> None:
        self._file.flush()


def cache_folder() -> Path:
    """The Hugging Face cache, as ``HF_HUB_CACHE`` and ``HF_HOME`` place it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids asking the Hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def progress_is_unwanted() -> bool:
    """Whether ``HF_HUB_DISABLE_PROGRESS_BARS`` or the host has turned the client's progress bars off."""
    from huggingface_hub.utils import are_progress_bars_disabled

    return bool(are_progress_bars_disabled())


def _client():  # type: ignore[no-untyped-def]
    import huggingface_hub
    import huggingface_hub.utils

    return huggingface_hub


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _errors() -> tuple[type[BaseException], ...]:
    """What the client raises when the far side fails; it has used requests, httpx and httpx2 in its time."""
    found: list[type[BaseException]] = [OSError]  # requests' errors and the Hub's own are OSErrors
    for module in ("httpx", "httpx2"):
        if module in sys.modules:
            found.append(sys.modules[module].HTTPError)
    return tuple(found)


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _worth_retrying(error: BaseException) -> bool:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return False
    status = _status(error)
    return status is None or status == 429 or status >= 500


def _explain(error: BaseException, hub_id: str) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the Hub was not asked."
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{hub_id} is gated: accept its terms at {_endpoint()}/{hub_id}, then log in with "
            "`hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{_endpoint()} has no model {hub_id}, or it is private. Check the spelling; for a private one "
            "log in with `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{_endpoint()} no longer has this version of {hub_id}."
    status = _status(error)
    if status in (401, 403):
        return (
            f"{_endpoint()} does not let the token that is set read {hub_id} (status {status}). Log in anew "
            "with `hf auth login`, or set HF_TOKEN to one that may read it; a fine-grained token needs the "
            "right to read gated repositories."
        )
    if status is not None:
        return f"{_endpoint()} answered with status {status}. Try again later."
    text = str(error).strip().splitlines()
    return f"{_endpoint()} could not be reached ({type(error).__name__}{': ' + text[0] if text else ''})."
