"""Captions on a cluster, by Ray Data: tasks read pictures, and actors that hold the model caption them.

Ray Data starts lost actors anew and does their work again, any number of times.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import pickle
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from ..records import Item, Record
from .ray_cluster import Share, check_machines, connected, first_line, share_of
from .ray_manifest import Manifest
from .ray_stages import PACKAGE, Answer, Captioning, ClusterError, Task, chunk_numbers, read_chunk
from .suspects import MOST_DEATHS
from .telling import OnceTold
from .travelling import UNPORTABLE, in_memory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...captioner import Captioner, CaptionOptions

_POLL = 0.1  # seconds
_LOOK_AROUND = 5.0  # seconds between looks at whether all machines are still there

# Answers that are decoded together, by default: see `Captioner`. A guess is enough here.
_ANSWERS = {True: 64, False: 8}

_CHUNKS_PER_BATCH = 4  # so that what comes at once from the device is not kept waiting for what comes next
_CALLS = 2 * _CHUNKS_PER_BATCH + 1  # chunks that a worker is at: one batch on the device, one being decoded
_READER_CPUS = 0.1  # they wait for disks and networks
_CLOSING = 5.0  # seconds that the stages may take to end

_CHUNKS_PER_WORKER = _CALLS + 2 * _CHUNKS_PER_BATCH  # with those that are being read


@dataclass(frozen=True)
class RayOptions:
    """Which cluster, and how much of it."""

    address: str | None = None  # see `connected`
    workers: int | None = None  # see `share_of`
    paths: tuple[str, ...] = ()  # absolute ones that every machine must have


class RayWorkers:
    """Workers on a Ray cluster; see :class:`.Workers`.

    A worker that dies is replaced, and its pictures are done again; one at which three die gets an error.

    Args:
        captioner: says which checkpoint, device, number format and batch size. Its checkpoint is there; the
            device is of the workers: ``auto``, ``cuda`` or ``cpu``.
        instructions: canonical names, in order.
        offline: workers download nothing.

    Raises:
        ClusterError: the device is of no use.
    """

    def __init__(
        self,
        captioner: Captioner,
        instructions: Sequence[str],
        options: CaptionOptions,
        cluster: RayOptions,
        *,
        offline: bool = False,
    ) -> None:
        if captioner.device not in ("auto", "cuda", "cpu"):
            raise ClusterError(f"--ray with --device {captioner.device}: choose auto, cuda or cpu.")
        self._captioner = captioner
        self._instructions = tuple(instructions)
        self._options = options
        self._cluster = cluster
        self._offline = offline

    def answer(
        self, items: Iterator[Item | None], stopping: Callable[[], bool]
    ) -> Generator[Record | None, None, None]:
        """See :meth:`.Workers.answer`. The cluster is asked for with the first picture.

        Raises:
            ClusterError: there is no cluster, it cannot do this, or it has broken down. All that was answered
                before is there.
            Exception: what a worker raised, as :meth:`.Captioner.stream` does.
        """
        for first in items:
            if first is not None:
                break
            yield None
        else:
            return
        with connected(self._cluster.address) as ray:
            task, share = self._plan(ray)
            with contextlib.closing(_Execution(ray, task, share)) as execution:
                yield from _Flow(execution, task, share).answer(_after(first, items), stopping)

    def _plan(self, ray: Any) -> tuple[Task, Share]:
        from ...._version import __version__
        from ....models_cache import adapter_digest, checkpoint_digest, ensure_adapter, ensure_checkpoint

        captioner = self._captioner
        share = share_of(ray, self._cluster.workers, captioner.device)
        check_machines(ray, __version__, self._cluster.paths)
        folder = ensure_checkpoint(captioner.model, offline=self._offline, progress=False)
        loras = [
            (_absolute(name), strength, ensure_adapter(name, offline=self._offline, progress=False))
            for name, strength in captioner.loras
        ]
        task = Task(
            model=_absolute(captioner.model),
            device="cuda" if share.gpus else "cpu",
            dtype=captioner.dtype,
            batch_size=captioner.batch_size,
            threads=share.threads,
            instructions=self._instructions,
            options=self._options,
            offline=self._offline,
            version=__version__,
            checkpoint=checkpoint_digest(folder),
            calls=_CALLS,
            log_level=logging.getLogger(PACKAGE).getEffectiveLevel(),
            loras=tuple((name, strength, adapter_digest(lora)) for name, strength, lora in loras),
            quantization=captioner.quantization,
        )
        return task, share


def _absolute(name: str) -> str:
    """A folder by its whole path; other names as they are."""
    return str(Path(name).absolute()) if Path(name).is_dir() else name


def _after(first: Item, items: Iterator[Item | None]) -> Iterator[Item | None]:
    yield first
    yield from items


class _Chunk:
    """Pictures that the cluster has."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.is_answered = False


class _Flow:
    """Keeps the stages supplied, with a bounded number of pictures, and takes what they answer."""

    def __init__(self, execution: _Execution, task: Task, share: Share) -> None:
        self._execution = execution
        answers = task.batch_size or _ANSWERS[share.gpus > 0]
        pictures = max(1, answers // len(task.instructions))
        self._size = math.ceil(pictures / _CHUNKS_PER_BATCH)
        self._most = share.workers * _CHUNKS_PER_WORKER
        self._under_way: dict[int, _Chunk] = {}  # a chunk has several numbers if it was given again
        self._unanswered = 0  # chunks
        self._coming: list[Item] = []  # pictures that fill no chunk yet
        self._ended = self._is_stopped = False
        self._failure: Exception | None = None
        self._told = OnceTold()

    def answer(
        self, items: Iterator[Item | None], stopping: Callable[[], bool]
    ) -> Generator[Record | None, None, None]:
        """See :meth:`.RayWorkers.answer`."""
        while not self._ended or self._unanswered:
            if not self._is_stopped and stopping():
                self._stop()
            waits = not self._give(items)
            answer = self._execution.next_answer(_POLL if waits else 0.0)
            if answer is not None:
                yield from self._records_of(answer)
            elif waits:
                yield None
            if self._execution.has_lost_machine():
                self._send_again()
        self._execution.end()
        if self._failure is not None:
            raise self._failure

    def _give(self, items: Iterator[Item | None]) -> bool:
        """Take one picture of ``items``, if the cluster can take it; whether there may be more at once."""
        if self._ended or self._unanswered >= self._most:
            return False
        try:
            item = next(items)
        except StopIteration:
            item, self._ended = None, True
        except Exception as error:  # noqa: BLE001 - raised when what came before is answered
            item, self._ended, self._failure = None, True, error
        if item is not None:
            self._coming.append(item)
        if self._coming and (item is None or len(self._coming) == self._size):
            self._send(_Chunk(self._coming))
            self._unanswered += 1
            self._coming = []
        return not self._ended

    def _send(self, chunk: _Chunk) -> None:
        self._under_way[self._execution.give(chunk.items)] = chunk

    def _stop(self) -> None:
        """Begin nothing else."""
        self._ended = self._is_stopped = True
        self._coming = []
        self._execution.stop()

    def _records_of(self, answer: Answer) -> Iterator[Record]:
        for message in answer.log:
            self._told.log(answer.worker, message)
        if answer.failure is not None:
            raise answer.failure
        chunk = self._under_way.pop(answer.chunk, None)
        if chunk is None or chunk.is_answered:
            return
        chunk.is_answered = True
        self._unanswered -= 1
        for item, record in zip(chunk.items, answer.records or (), strict=False):
            yield _deadly(item) if record is None else replace(record, open=item.open)

    def _send_again(self) -> None:
        """What was at a machine that is gone has not come back, and Ray would wait for another machine."""
        for chunk in {id(chunk): chunk for chunk in self._under_way.values()}.values():
            if not chunk.is_answered:
                self._send(chunk)


def _deadly(item: Item) -> Record:
    return Record(
        name=item.name,
        relative=item.relative,
        path=item.path,
        fingerprint=item.fingerprint,
        error=f"{MOST_DEATHS} worker processes have died with it",
        open=item.open,
        url=item.url,
    )


class _Execution:
    """The stages at work: takes chunks of pictures, gives answers. Used by one thread."""

    def __init__(self, ray: Any, task: Task, share: Share) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray = ray
        # Where this process is, so that it is there for as long as the run is.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_concurrency": 1000, "scheduling_strategy": here}
        self._manifest = ray.remote(**options)(Manifest).remote()
        self._answers: SimpleQueue[Answer | BaseException | None] = SimpleQueue()
        self._answered: list[int] = []
        self._given = 0
        self._is_ending = False
        self._machines: set[str] = set()
        self._look_due = 0.0
        dataset = self._stages(task, share)
        self._collector = threading.Thread(
            target=self._collect, args=(dataset,), name="promptgen-collect", daemon=True
        )
        self._collector.start()

    def give(self, items: Sequence[Item]) -> int:
        """Have a chunk captioned; its number."""
        number = self._given
        self._manifest.give.remote(number, _pickled(items), self._answered)
        self._given += 1
        self._answered = []
        return number

    def end(self) -> None:
        """No chunk comes any more, and all are answered."""
        self._is_ending = True
        self._manifest.end.remote()

    def stop(self) -> None:
        """Nothing else is to be begun."""
        self._manifest.stop.remote()

    def next_answer(self, timeout: float) -> Answer | None:
        """One answer; ``None`` if none comes in that time.

        Raises:
            ClusterError: the cluster has broken down.
        """
        try:
            answer = self._answers.get(timeout=timeout) if timeout else self._answers.get_nowait()
        except Empty:
            return None
        if isinstance(answer, Answer):
            self._answered.append(answer.chunk)
            return answer
        reason = "it has ended before its work was done" if answer is None else first_line(answer)
        raise ClusterError(
            f"The Ray cluster has broken down: {reason}. All that is done is kept; the same command goes on."
        ) from answer

    def has_lost_machine(self) -> bool:
        """Whether a machine of the cluster is gone since the last look. Looks now and then."""
        if time.monotonic() < self._look_due:
            return False
        self._look_due = time.monotonic() + _LOOK_AROUND
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        lost = self._machines - alive
        self._machines = alive
        return bool(lost)

    def close(self) -> None:
        """End all work, and free what was taken of the cluster."""
        if self._is_ending:
            self._collector.join(_CLOSING)  # longer if Ray waits for a machine that is gone
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._manifest)  # which ends the first stage, and so all
        self._collector.join(_CLOSING)

    def _stages(self, task: Task, share: Share) -> Any:
        from ray.data import ActorPoolStrategy

        manifest = self._manifest
        with _settings_of_stages():
            numbers = _read_numbers(functools.partial(chunk_numbers, manifest))
            pictures = numbers.map_batches(
                read_chunk,
                batch_size=1,
                batch_format="pyarrow",
                fn_kwargs={"manifest": manifest},
                num_cpus=_READER_CPUS,
            )
            return pictures.map_batches(
                Captioning,
                fn_constructor_args=(task, manifest),
                batch_size=1,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(
                    size=share.workers,
                    max_concurrent_calls_per_actor=_CALLS,
                    max_tasks_in_flight_per_actor=_CALLS + _CHUNKS_PER_BATCH,
                    enable_true_multi_threading=True,
                ),
                num_cpus=share.cpus,
                num_gpus=share.gpus,
            )

    def _collect(self, dataset: Any) -> None:
        """Hand on answers as they come, and last of all how it ended."""
        end: BaseException | None = None
        try:
            for rows in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for content in rows["content"]:
                    self._answers.put(pickle.loads(content.as_py()))
        except BaseException as error:  # noqa: BLE001 - raised where the next answer is asked for
            end = error
        self._answers.put(end)


def _pickled(items: Sequence[Item]) -> bytes:
    """The pictures as they can travel. What can be opened only in this process is read here."""
    try:
        return pickle.dumps(items)
    except UNPORTABLE:
        return pickle.dumps([in_memory(item) for item in items])


@contextlib.contextmanager
def _settings_of_stages() -> Iterator[None]:
    """What Ray Data is to do otherwise than usual in what is made within."""
    from ray.data import DataContext

    context = DataContext.get_current()
    wanted = {
        "target_max_block_size": 1,  # each row is handed on at once
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "execution_no_progress_timeout_s": -1,  # a model may be long in coming, and so may pictures
    }
    before = {name: getattr(context, name) for name in wanted}
    for name, value in wanted.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)


def _read_numbers(numbers: Callable[[], Iterable[Any]]) -> Any:
    """The data set of the numbers of chunks, made by one task that lasts."""
    import ray.data
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    class Numbers(Datasource):
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
            unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
            return [ReadTask(numbers, unknown)]

    return ray.data.read_datasource(Numbers(), override_num_blocks=1, num_cpus=0)
