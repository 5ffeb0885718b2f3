"""From a model's name to a folder that holds all of it, whole.

A model is a catalogue name, a Hub id or a folder. It is looked for in the folders that a host registered, in
``$PROMPTGEN_MODELS``, then in the Hugging Face cache; otherwise it is downloaded. Nothing that is half there
or damaged is ever handed out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .checks import ADAPTER, CHECKPOINT, Contents, checkpoint_files, file_digest, folder_problems
from .download import CachePlace, DownloadProgress, PlainPlace, Progress, download
from .errors import (
    DamagedCheckpointError,
    DownloadError,
    ModelFilesError,
    ModelNotFoundError,
    Problem,
)
from .folders import (
    Reference,
    cached_repository,
    candidates,
    download_folder,
    is_of_another,
    local_checkpoints,
    register_folder,
    resolve,
    search_folders,
    unregister_folder,
)
from .hub import HubError, HubListing, cache_folder, is_offline, list_files
from .records import STATE_FOLDER, read_record, record_problems, snapshot_commit

__all__ = [
    "DamagedCheckpointError", "DownloadError", "DownloadProgress", "ModelFilesError", "ModelNotFoundError",
    "Problem", "checkpoint_problems", "download_folder", "ensure_checkpoint", "find_checkpoint",
    "local_checkpoints", "register_folder", "search_folders", "unregister_folder", "verify_checkpoint",
]  # fmt: skip

logger = logging.getLogger(__name__)


def find_checkpoint(model: str | os.PathLike[str]) -> Path | None:
    """The folder that holds ``model``, whole; None if it is not on this computer or not whole. No network.

    Raises:
        ModelNotFoundError: the name stands for nothing.
        CatalogueError: the user's catalogue cannot be understood.
    """
    whole, _broken = search(resolve(model), CHECKPOINT)
    return whole


def ensure_checkpoint(
    model: str | os.PathLike[str], *, offline: bool = False, progress: Progress = True
) -> Path:
    """The folder that holds ``model``, whole; downloaded or mended first if need be.

    A checkpoint that is there and whole is handed out at once, without a look at the network. Several threads
    and processes may ask for one model at the same time: one downloads, the others wait.

    Args:
        offline: never ask the Hub (``HF_HUB_OFFLINE`` does the same).
        progress: show a bar on standard error; or a function of :class:`DownloadProgress` to call instead.

    Raises:
        ModelNotFoundError: the name stands for nothing, or for a folder that is not there.
        DownloadError: files are missing and cannot be fetched; the message names them, where they go, and
            the command that fetches them elsewhere.
        DamagedCheckpointError: files are missing or damaged and nothing says where they came from.
        CatalogueError: the user's catalogue cannot be understood.
    """
    return ensure(resolve(model), CHECKPOINT, offline=offline, progress=progress)


def ensure(reference: Reference, contents: Contents, *, offline: bool, progress: Progress) -> Path:
    """:func:`ensure_checkpoint` for what has been resolved, and for any kind of contents."""
    whole, broken = search(reference, contents)
    if whole is not None:
        return whole
    if reference.hub_id is None:
        raise _beyond_repair(reference, contents, broken)
    if offline or is_offline():
        cause = "HF_HUB_OFFLINE is set" if is_offline() else "the network is not to be used"
        raise _unavailable(reference, contents, broken, cause + ".")
    target, revision, make_place = _target(reference, reference.hub_id, broken)
    try:
        with _locked(target):
            whole, _ = search(reference, contents)  # another thread or process may have been faster
            if whole is not None:
                return whole
            download(reference.hub_id, make_place, revision=revision, progress=progress, contents=contents)
    except DownloadError as error:
        raise _unavailable(reference, contents, broken, str(error)) from error
    whole, broken = search(reference, contents)
    if whole is None:
        raise _unavailable(reference, contents, broken, "The Hub's copy lacks files that are needed.")
    return whole


def verify_checkpoint(model: str | os.PathLike[str], *, offline: bool = False) -> list[Problem]:
    """Read every file of ``model`` and compare it with what was verified when it came, or with the Hub.

    Without a record and without a network only the structure of the files is checked, and one problem of kind
    ``unchecked`` says so.

    Returns:
        What is wrong, an empty list if nothing is.

    Raises:
        ModelNotFoundError: the name stands for nothing, or is not on this computer at all.
        CatalogueError: the user's catalogue cannot be understood.
    """
    reference = resolve(model)
    whole, broken = search(reference, CHECKPOINT)
    folder = whole or next(iter(broken), None)
    if folder is None:
        raise ModelNotFoundError(
            f"{reference.model} is not on this computer. Searched: {_searched(reference)}.",
            model=reference.model,
        )
    problems = folder_problems(folder)
    record = read_record(folder)
    if record is not None:
        problems += record_problems(folder, rehash=True)
        if record.complete:
            problems = [problem for problem in problems if problem.kind != "unfinished"]
    elif snapshot_commit(folder) is not None and (folder / "config.json").is_symlink():
        problems += _differing(folder, _blob_digests(folder), "damaged")
    elif reference.hub_id is not None:
        problems += _compare_with_hub(folder, reference.hub_id, offline or is_offline())
    return list(dict.fromkeys(problems))


def checkpoint_problems(folder: Path, contents: Contents = CHECKPOINT) -> list[Problem]:
    """Why ``folder`` cannot be used as a checkpoint; an empty list if it can. Fast: changed files are hashed,
    others are not."""
    problems = folder_problems(folder, contents)
    record = read_record(folder)
    if record is not None and record.complete:
        problems = [problem for problem in problems if problem.kind != "unfinished"]
    if not problems:
        problems = record_problems(folder)
    return problems


def search(reference: Reference, contents: Contents) -> tuple[Path | None, dict[Path, list[Problem]]]:
    """The first whole folder, and those before it that are not whole, with what is wrong with them."""
    broken: dict[Path, list[Problem]] = {}
    for folder in candidates(reference, cache_folder(), contents):
        problems = checkpoint_problems(folder, contents)
        if not problems:
            for passed, why in broken.items():
                if snapshot_commit(passed) is None:
                    logger.warning("%s is passed over: %s", passed, "; ".join(map(str, why)))
            return folder, broken
        broken[folder] = problems
    return None, broken


_MakePlace = Callable[[HubListing], "PlainPlace | CachePlace"]


def _target(
    reference: Reference, hub_id: str, broken: dict[Path, list[Problem]]
) -> tuple[Path, str | None, _MakePlace]:
    """Where a download goes: the folder to lock, the commit to fetch, and how to make the place."""
    for folder in broken:
        if not os.access(folder, os.W_OK):
            logger.warning("%s is not whole and cannot be written to, so it cannot be mended.", folder)
            continue
        if (commit := snapshot_commit(folder)) is not None:
            return _cache_target(folder.parent.parent, commit)
        record = read_record(folder)
        return _plain_target(folder, None if record is None else record.commit)
    if reference.folder is not None:
        return _plain_target(reference.folder, None)
    if (parent := download_folder()) is not None:
        return _plain_target(_folder_in(parent, reference), None)
    return _cache_target(cached_repository(cache_folder(), hub_id), None)


def _folder_in(parent: Path, reference: Reference) -> Path:
    """The folder of its own that it gets in ``parent``."""
    folder = parent / reference.names[0]
    if reference.hub_id is not None and is_of_another(folder, reference.hub_id):
        return parent / reference.hub_id.replace("/", "--")
    return folder


def _plain_target(folder: Path, commit: str | None) -> tuple[Path, str | None, _MakePlace]:
    return folder, commit, lambda listing: PlainPlace(folder)


def _cache_target(repository: Path, commit: str | None) -> tuple[Path, str | None, _MakePlace]:
    def make(listing: HubListing) -> CachePlace:
        return CachePlace(repository, listing.commit, is_main=commit is None)

    return repository, commit, make


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One download into ``folder`` at a time, among all threads and processes of this computer."""
    from huggingface_hub.utils import WeakFileLock

    state = folder / STATE_FOLDER
    is_new = not state.exists()
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(f"{state} cannot be made: {error.strerror}.") from error
    try:
        with WeakFileLock(state / "lock"):
            yield
    except BaseException:
        if is_new and [path.name for path in state.iterdir()] == ["lock"]:  # nothing came: leave no trace
            with suppress(OSError):
                (state / "lock").unlink()
                state.rmdir()
                folder.rmdir()
        raise


def _blob_digests(folder: Path) -> dict[str, str]:
    """What the files of a cache snapshot must hash to: the cache names its blobs by it."""
    digests = {}
    for name in checkpoint_files(folder):
        blob = (folder / name).resolve().name
        kind = {64: "sha256", 40: "git"}.get(len(blob))
        if kind is not None:
            digests[name] = f"{kind}:{blob}"
    return digests


def _compare_with_hub(folder: Path, hub_id: str, offline: bool) -> list[Problem]:
    try:
        if offline:
            raise HubError("the network is not to be used.")
        listing = list_files(hub_id, snapshot_commit(folder))
    except HubError as error:
        return [Problem("all files", "unchecked", f"whole as far as can be seen, but not compared: {error}")]
    digests = {name: file.digest for name, file in listing.files.items()}
    return _differing(folder, digests, "differs")


def _differing(folder: Path, digests: dict[str, str], kind: str) -> list[Problem]:
    problems = []
    for name in checkpoint_files(folder):
        digest = digests.get(name)
        if digest is not None and file_digest(folder / name, digest.partition(":")[0]) != digest:
            damaged = kind == "damaged"
            detail = "its contents are not those that were downloaded" if damaged else "not the Hub's copy"
            problems.append(Problem(name, "damaged" if damaged else "differs", detail))
    return problems


def _beyond_repair(
    reference: Reference, contents: Contents, broken: dict[Path, list[Problem]]
) -> ModelFilesError:
    if not broken:
        return ModelNotFoundError(
            f"The folder {reference.folder} of model {reference.model} is not there.", model=reference.model
        )
    folder, problems = next(iter(broken.items()))
    other = {CHECKPOINT: ADAPTER, ADAPTER: CHECKPOINT}[contents]
    if (folder / other.config).is_file() and not (folder / contents.config).is_file():
        way_out = "Add it to a checkpoint by --lora" if other is ADAPTER else "Name it by --model"
        told = f"{folder} is a {other.what}, not a {contents.what}. {way_out}."
        return DamagedCheckpointError(told, model=reference.model, problems=problems)
    lines = [f"{folder} is not a whole {contents.what}:", *_listed(problems)]
    lines.append("Nothing says which repository it came from: copy these files there again from your source.")
    return DamagedCheckpointError("\n".join(lines), model=reference.model, problems=problems)


def _unavailable(
    reference: Reference, contents: Contents, broken: dict[Path, list[Problem]], cause: str
) -> DownloadError:
    """The error for files that are needed and cannot be had now, with what to do about it."""
    hub_id = reference.hub_id or reference.model
    plain = {folder: problems for folder, problems in broken.items() if snapshot_commit(folder) is None}
    if broken:
        folder, problems = next(iter((plain or broken).items()))
        lines = [f"{hub_id} is not whole on this computer, in {folder}:", *_listed(problems)]
        lines.append(f"They could not be fetched: {cause}")
    else:
        problems = [Problem(name, "missing", "missing") for name in contents.usual_files]
        lines = [f"{hub_id} is not on this computer and could not be downloaded: {cause}"]
        lines.append(f"Searched: {_searched(reference)}.")
        lines.append(f"Files it needs: {', '.join(contents.usual_files)}.")
    name = reference.names[0]
    lines.append("To bring it from a computer with a network, run there one of")
    lines.append(f"  hf download {hub_id} --exclude '*.py' --local-dir {name}")
    lines.append(f"  promptgen models download {hub_id}{' --lora' if contents is ADAPTER else ''}")
    lines.append(f"and put the files into {_where_to_put(reference, list(plain))}")
    return DownloadError("\n".join(lines), model=reference.model, problems=problems)


def _where_to_put(reference: Reference, plain: list[Path]) -> str:
    name = reference.names[0]
    if plain:
        return f"{plain[0]}."
    if reference.folder is not None:
        return f"{reference.folder}."
    folders = search_folders()
    if folders:
        return f"{_folder_in(download_folder() or folders[0], reference)}."
    return (
        f"a folder called {name} wherever you like; then name it by its path, or set PROMPTGEN_MODELS "
        "to the folder that holds it."
    )


def _listed(problems: Sequence[Problem]) -> list[str]:
    return [f"  {problem}" for problem in problems]


def _searched(reference: Reference) -> str:
    if reference.folder is not None:
        return str(reference.folder)
    return ", ".join(map(str, [*search_folders(), cache_folder()]))
