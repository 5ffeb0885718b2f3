"""The stages of a run on Ray Data, which run in the processes of the cluster: numbers, pictures, records.

A row stands for a chunk of pictures in each stage. Chunks come as they are found, so the first stage is one
task that lasts as long as the run.
"""

from __future__ import annotations

import functools
import logging
import logging.handlers
import pickle
import platform
import threading
import traceback
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ..pictures import ItemPicture
from ..records import Item, Record
from ..sources.patient import bytes_as_file
from .desk import Desk
from .in_process import InProcess
from .suspects import MOST_DEATHS
from .travelling import fail

if TYPE_CHECKING:
    import pyarrow

    from ...captioner import Captioner, CaptionOptions

PACKAGE = __name__.rpartition(".captioning.")[0]

_READERS = 4  # threads in each task that reads
_MOST_BYTES = 1 << 30  # of a chunk; pictures beyond are read where they are captioned


class ClusterError(RuntimeError):
    """A cluster cannot caption; the message says why, and what to do."""


@dataclass(frozen=True)
class Task:
    """All that a worker is told."""

    model: str
    device: str  # as the user gave it; each machine finds out what it means there
    dtype: str
    batch_size: int | None
    threads: int | None  # for computing on the CPU; None: as torch finds right
    instructions: tuple[str, ...]  # canonical names, in order
    options: CaptionOptions
    offline: bool
    version: str  # of this package
    checkpoint: str  # digest of its files
    calls: int  # chunks that a worker is at together
    log_level: int
    loras: tuple[tuple[str, float, str], ...] = ()  # and the digest of each one's files
    quantization: str = "none"


@dataclass(frozen=True)
class Answer:
    """What became of a chunk."""

    chunk: int
    # Of its pictures, in order, without saying how to open them; None for one with which too many workers
    # have died. None for all: the run has not wanted them any more.
    records: tuple[Record | None, ...] | None
    failure: Exception | None  # why the run cannot go on
    worker: int
    log: tuple[logging.LogRecord, ...]  # what the worker has logged meanwhile


# ---- numbers


def chunk_numbers(manifest: Any) -> Iterator[pyarrow.Table]:
    """The number of each chunk, as soon as it is there. The same ones if it is done again."""
    import pyarrow
    import ray

    begun = 0
    while (given := ray.get(manifest.given.remote(begun))) > begun:
        for chunk in range(begun, given):
            yield pyarrow.table({"chunk": [chunk]})
        begun = given


# ---- pictures


def read_chunk(row: pyarrow.Table, manifest: Any) -> pyarrow.Table:
    """The pictures of a chunk, each pickled: as items whose content is in memory.

    If that was tried before, it has cost a process its life, or its result was lost. The items are then
    handed on as they are: where they are captioned, it is found out which of them is to blame.
    """
    import ray

    chunk = row["chunk"][0].as_py()
    content, tries = ray.get(manifest.content.remote(chunk))
    items = [] if content is None else pickle.loads(content)
    return _row(chunk, [pickle.dumps(item) for item in (_read(items) if tries == 1 else items)])


def _read(items: Sequence[Item]) -> list[Item]:
    room = _Room(_MOST_BYTES)
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(functools.partial(_read_one, room=room), items))


class _Room:
    """Bytes of memory that threads share."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Take so many, if they are there."""
        with self._lock:
            fits = size <= self._left
            self._left -= size if fits else 0
        return fits


def _read_one(item: Item, room: _Room) -> Item:
    try:
        content = ItemPicture(item).read()
    except OSError as error:
        return replace(item, open=functools.partial(fail, error))
    if not room.take(len(content)):
        return item
    return replace(item, open=functools.partial(bytes_as_file, content, item.name))


# ---- records


class Captioning:
    """A worker: one captioner, whose model stays loaded from chunk to chunk."""

    def __init__(self, task: Task, manifest: Any) -> None:
        self._task = task
        self._manifest = manifest
        self._number = uuid.uuid4().int
        self._log = _collected_log(task.log_level)
        self._turns = _Turns(task.calls)
        self._making = threading.Lock()
        self._made: Desk | None = None

    def __call__(self, row: pyarrow.Table) -> pyarrow.Table:
        """The :class:`Answer` of a chunk. Called by several threads."""
        chunk = row["chunk"][0].as_py()
        try:
            records = self._records(chunk, row["content"][0])
            answer = Answer(chunk, records, None, self._number, self._logged())
        except Exception as error:  # noqa: BLE001 - it is raised where the run is
            answer = Answer(chunk, None, _portable(error), self._number, self._logged())
        return _row(chunk, answer)

    def _records(self, chunk: int, content: pyarrow.Scalar) -> tuple[Record | None, ...] | None:
        """See :class:`Answer`."""
        import ray

        desk = self._desk()
        starts = ray.get(self._manifest.begin.remote(chunk))
        if not starts:
            return None
        pickled: list[bytes] = pickle.loads(content.as_py())
        records: Sequence[Record | None]
        if starts == 1:
            with self._turns.one():
                records = desk.ask([pickle.loads(one) for one in pickled])
        else:  # it was at a worker that has died; perhaps it will do it again
            with self._turns.all():
                records = [self._alone(desk, chunk, *one) for one in enumerate(pickled)]
        return tuple(record and replace(record, open=None) for record in records)

    def _alone(self, desk: Desk, chunk: int, number: int, pickled: bytes) -> Record | None:
        import ray

        starts = ray.get(self._manifest.begin_alone.remote(chunk, number))
        if starts >= MOST_DEATHS:  # with the death that has brought it here
            return None
        return desk.ask([pickle.loads(pickled)])[0]

    def _desk(self) -> Desk:
        with self._making:
            if self._made is None:
                task = self._task
                self._made = Desk(InProcess(_ready_captioner(task), task.instructions, task.options))
            return self._made

    def _logged(self) -> tuple[logging.LogRecord, ...]:
        return tuple(self._log.get() for _ in range(self._log.qsize()))


class _Turns:
    """Lets several threads work together, or one alone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._free = threading.Semaphore(most)
        self._entry = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Together with others."""
        with self._taken(1):
            yield

    @contextmanager
    def all(self) -> Iterator[None]:
        """Alone."""
        with self._taken(self._most):
            yield

    @contextmanager
    def _taken(self, count: int) -> Iterator[None]:
        with self._entry:
            for _ in range(count):
                self._free.acquire()
        try:
            yield
        finally:
            self._free.release(count)


def _ready_captioner(task: Task) -> Captioner:
    """A captioner whose model is loaded, of the same checkpoint as everywhere else.

    Raises:
        ClusterError: this machine has another version of the package, or of the checkpoint.
        ValueError: the device or the number format is not to be had here.
        ModelFilesError, CheckpointError: the checkpoint is not here, or cannot be loaded.
    """
    from ...._version import __version__
    from ....inference import resolve_device, resolve_dtype
    from ....models_cache import checkpoint_digest, ensure_checkpoint, family_of_model
    from ...captioner import Captioner

    if __version__ != task.version:
        raise ClusterError(other_version(platform.node(), __version__, task.version))
    folder = ensure_checkpoint(task.model, offline=task.offline, progress=False)
    if checkpoint_digest(folder) != task.checkpoint:
        raise ClusterError(
            f"The files of the checkpoint {task.model} in {folder} on {platform.node()} are not those of the "
            "machine that the run was started on. Remove one of the two, and start again."
        )
    if task.threads is not None:
        import torch

        torch.set_num_threads(task.threads)
    device = resolve_device(task.device)
    dtype = resolve_dtype(task.dtype, device, family_of_model(task.model))
    captioner = Captioner(
        task.model, device=device, dtype=dtype, batch_size=task.batch_size, loras=_ready_loras(task),
        quantization=task.quantization,
    )  # fmt: skip
    with captioner.loaded():
        pass  # what hinders it is known before there are pictures
    return captioner


def _ready_loras(task: Task) -> list[tuple[str, float]]:
    """The same adapters as everywhere else, on this machine.

    Raises:
        ClusterError: another adapter has the name here.
        ModelFilesError: one is not here.
    """
    from ....models_cache import adapter_digest, ensure_adapter

    for name, _, digest in task.loras:
        folder = ensure_adapter(name, offline=task.offline, progress=False)
        if adapter_digest(folder) != digest:
            raise ClusterError(
                f"The files of the LoRA {name} in {folder} on {platform.node()} are not those of the machine "
                "that the run was started on. Remove one of the two, and start again."
            )
    return [(name, strength) for name, strength, _ in task.loras]


def other_version(machine: str, there: str, here: str) -> str:
    """What to tell where two machines do not have the same version of the package."""
    return (
        f"{machine} has promptgen-tagger {there}, but the run was started with {here}. "
        f"Install the same version on all machines of the cluster."
    )


def _collected_log(level: int) -> SimpleQueue[logging.LogRecord]:
    """What is logged in this process, for the process of the run."""
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    logging.captureWarnings(True)
    for name in (PACKAGE, "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers = [logging.handlers.QueueHandler(records)]
        logger.propagate = False
    logging.getLogger(PACKAGE).setLevel(level)
    return records


def _portable(error: Exception) -> Exception:
    """The error as it can travel, with its traceback."""
    note = f"In a worker on {platform.node()}:\n{''.join(traceback.format_exception(error))}"
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever hinders it
        error = ClusterError(f"{type(error).__name__}: {error}")
    error.__notes__ = [*getattr(error, "__notes__", ()), note]  # type: ignore[attr-defined] # from Python 3.11
    return error


def _row(chunk: int, content: Any) -> pyarrow.Table:
    import pyarrow

    pickled = pyarrow.array([pickle.dumps(content)], pyarrow.large_binary())
    return pyarrow.table({"chunk": [chunk], "content": pickled})
