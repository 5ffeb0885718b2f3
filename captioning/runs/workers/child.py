"""A worker process from within: captions what it is sent, until the run ends or is no more."""

from __future__ import annotations

import logging
import logging.handlers
import os
import pickle
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING

from ..records import Item
from .errors import WorkerError
from .in_process import InProcess
from .messages import Answered, Failed, Flush, FromWorker, Logged, Ready, Stop, Stopped, Task, Wanted

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from ...captioner import Captioner

# Pictures on their way to the captioner, which asks for as many as it can use: the next one is there already
# when it wants it.
_SPARE = 2

_RUN_IS_GONE = 1  # exit status that nobody looks at

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
"""What a terminal or a scheduler sends to all processes of a run; only the run itself heeds it."""

_LOST_DEVICE = re.compile(r"(CUDA|HIP|cuDNN|MIOpen|CUBLAS|hipBLAS)\w* error", re.IGNORECASE)


def work(task: Task, connection: Connection, text: Connection | None) -> None:
    """The life of a worker process.

    Args:
        text: takes all that is printed here.
    """
    _ignore_signals()
    if text is not None:
        _redirect_output(text)
    run = _Run(connection)
    _forward_logging(run, task)
    try:
        captioner = _ready_captioner(task)
        run.send(Ready())
        _caption(run, InProcess(captioner, task.instructions, task.options))
    except Exception as error:  # noqa: BLE001 - it is raised in the process of the run
        run.send(_failure(error, task.device))
    run.wait_for_end()


def _caption(run: _Run, captioning: InProcess) -> None:
    run.send(Wanted(1 + _SPARE))
    while not run.stopping():
        for record in captioning.answer(run.items(), run.stopping):
            if record is not None:
                run.send(Answered(replace(record, open=None)))
    run.send(Stopped())


def _ready_captioner(task: Task) -> Captioner:
    """A captioner whose model is loaded, so that what hinders that is known before there are pictures."""
    import torch

    from ...captioner import Captioner

    if task.device.startswith("cuda:"):
        torch.cuda.set_device(task.device)  # nothing of ours may take memory of the first GPU
    if task.device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // task.cpu_workers))
    captioner = Captioner(
        task.model, device=task.device, dtype=task.dtype, batch_size=task.batch_size, loras=task.loras,
        quantization=task.quantization,
    )  # fmt: skip
    with captioner.loaded():
        pass
    return captioner


class _Run:
    """The process that has started us. When it is gone, this process ends at once, whatever it is at."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._stop = threading.Event()
        self._received: SimpleQueue[Item | Flush | Stop | Exception] = SimpleQueue()
        self._ear = threading.Thread(target=self._listen, name="promptgen-listen", daemon=True)
        self._ear.start()

    def send(self, message: FromWorker) -> None:
        """To be called by any thread."""
        try:
            with self._sending:
                self._connection.send(message)
        except OSError:
            os._exit(_RUN_IS_GONE)

    def items(self) -> Iterator[Item]:
        """The pictures that come until the next :class:`Flush` or :class:`Stop`.

        Raises:
            Exception: what came cannot be read here.
        """
        while True:
            message = self._received.get()
            if isinstance(message, (Flush, Stop)):
                return
            if isinstance(message, Exception):
                raise message
            self.send(Wanted(1))
            yield message

    def stopping(self) -> bool:
        return self._stop.is_set()

    def wait_for_end(self) -> None:
        """Until the run has no more use for us."""
        self._ear.join()

    def _listen(self) -> None:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                os._exit(_RUN_IS_GONE)
            except Exception as error:  # noqa: BLE001 - raised where pictures are asked for
                message = error
            if isinstance(message, Stop):
                self._stop.set()
            self._received.put(message)


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # held back until now by who has started us


def _redirect_output(text: Connection) -> None:
    """Have the run tell what is printed here, also by C libraries and by Python when it dies."""
    for descriptor in (1, 2):
        os.dup2(text.fileno(), descriptor)
    text.close()
    stream = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stderr = stream  # by lines, since nothing flushes them when the process is killed


class _Forwarder(logging.handlers.QueueHandler):
    """Hands log records to the run."""

    def __init__(self, run: _Run) -> None:
        super().__init__(None)  # type: ignore[arg-type] # no queue: see `enqueue`
        self._run = run

    def enqueue(self, record: logging.LogRecord) -> None:
        self._run.send(Logged(record))


def _forward_logging(run: _Run, task: Task) -> None:
    logging.getLogger().handlers = [_Forwarder(run)]
    for name, level in task.levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)


def _failure(error: Exception, device: str) -> Failed:
    """The error as it can travel."""
    from ....models_cache import ModelFilesError, is_out_of_memory

    note = f"In the worker process on {device}:\n{traceback.format_exc()}"
    of_memory = is_out_of_memory(error)
    of_device = of_memory or (isinstance(error, RuntimeError) and not isinstance(error, ModelFilesError))
    of_process = of_device and not of_memory and _LOST_DEVICE.search(str(error)) is not None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever hinders it
        error = WorkerError(f"{type(error).__name__}: {error}")
    error.__notes__ = [*getattr(error, "__notes__", ()), note]  # type: ignore[attr-defined] # from Python 3.11
    return Failed(error, of_device, of_process)
