"""A decoding step as one launch: recorded once as a CUDA graph, then replayed.

Launching the some hundred small kernels of a step one by one takes the host several times as long as the GPU
needs to run them. A recording belongs to the addresses and shapes that it was made with, so steps are
recorded per bucket (see :mod:`.buckets`), after a few of them have been done for real: what those load and
choose must be there before. A recording costs about as much as two steps and does no work itself, so a short
answer loses nothing, and none is ever made for a bucket that is left at once.

``PROMPTGEN_CUDA_GRAPHS=0`` in the environment switches this off.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch

logger = logging.getLogger(__name__)

Step = Callable[[], None]
"""Works in place, on tensors that stay where they are, with shapes that stay as they are, and never waits."""

_SWITCH = "PROMPTGEN_CUDA_GRAPHS"
_STEPS_BEFORE = 2  # real steps in a bucket before its step is recorded
_SHARE = 16  # one part in so many of the device's memory stays with a decoder
_one_at_a_time = threading.Lock()
_MOST = 64  # recordings kept; a new one takes the place of the one that was not used for longest


def pay_on(device: torch.device) -> bool:
    """Whether steps on ``device`` are to be recorded."""
    switched_off = os.environ.get(_SWITCH, "").strip().lower() in ("0", "off", "false", "no")
    return device.type == "cuda" and not switched_off


def keep_bytes(device: torch.device) -> int:
    """How much of a CUDA device's memory may stay taken between searches."""
    return torch.cuda.get_device_properties(device).total_memory // _SHARE


class Recorder(Protocol):
    """How steps are recorded."""

    def warm(self, step: Step) -> None:
        """Do a step now, in the surroundings in which it will be recorded."""

    def record(self, step: Step) -> Step:
        """What does the work of ``step`` when it is called. Nothing is done now."""

    def wait(self) -> None:
        """Come back when all work is done."""


class CudaRecorder:
    """Records CUDA graphs. All of them share one pool of memory for what lives within a step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _recording_stream(device)
        self._living: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()

    def warm(self, step: Step) -> None:
        # On the stream that is recorded later: some libraries keep a handle and working memory per stream.
        with self._on_stream():
            step()

    def record(self, step: Step) -> Step:
        # By hand, where torch.cuda.graph would collect garbage, empty the caches and wait for the whole
        # device, which takes longer than the recording. Errors of other threads are not ours.
        graph = torch.cuda.CUDAGraph()
        # A pool ends with the last graph that uses it, and its name must not be used again then.
        pool = next((living.pool() for living in self._living), None)
        with self._on_stream(), _no_garbage_collection():
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                step()
            except BaseException:
                _end_failed(graph)
                raise
            graph.capture_end()
        self._living.add(graph)
        return graph.replay  # on the stream that is current then

    def wait(self) -> None:
        torch.cuda.current_stream(self._device).synchronize()

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        # All models of a device share the stream: nothing of another may come into a recording.
        with _one_at_a_time:
            current = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                yield
            current.wait_stream(self._stream)


@lru_cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """One per device: the working memory that libraries keep for a stream is never freed."""
    return torch.cuda.Stream(device)


def _end_failed(graph: torch.cuda.CUDAGraph) -> None:
    """End a recording that has failed, so that the stream can be used again.

    The device's source of random numbers is a part of each recording, and takes itself for recorded until one
    ends well; so one does.
    """
    try:
        graph.capture_end()
    except RuntimeError as error:  # what was wrong before is wrong here again
        logger.debug("Ending a failed recording: %s", error)
    else:
        return
    try:
        small = torch.cuda.CUDAGraph()
        small.capture_begin(capture_error_mode="thread_local")
        torch.zeros(1, device=torch.cuda.current_stream().device)
        small.capture_end()
    except RuntimeError as error:  # the first error is what is told
        logger.debug("Recording once more after a failed recording: %s", error)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Nothing may free memory of the device, or another graph, in the middle of a recording."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass
class _Recording:
    steps: int = 0  # done for real
    replay: Step | None = None


class Graphs:
    """The recordings of one decoder."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.failed = False  # for good: the steps of this decoder cannot be recorded
        self._recordings: OrderedDict[Hashable, _Recording] = OrderedDict()
        self._paused = False  # until the next clear(): no memory

    def run(self, key: Hashable, step: Step) -> None:
        """Do ``step``, or replay what was recorded of the step with the same ``key``.

        Whatever goes wrong with recording, the step is done.
        """
        recording = self._recordings.setdefault(key, _Recording())
        self._recordings.move_to_end(key)
        if recording.replay is not None:
            recording.replay()
        elif self.failed or self._paused or recording.steps < _STEPS_BEFORE:
            self.recorder.warm(step)
            recording.steps += 1
        elif not self._record(recording, step):
            step()

    def _record(self, recording: _Recording, step: Step) -> bool:
        """Record and replay for the first time; a replay that fails has done nothing."""
        try:
            replay = self.recorder.record(step)
            replay()
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer goes on without a recording
            self._note(error)
            return False
        recording.replay = replay
        while len(self._recordings) > _MOST:
            self._recordings.popitem(last=False)
        return True

    def _note(self, error: Exception) -> None:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            self._paused = True
            logger.warning("No memory to record a decoding step; it goes on slower. (%s)", error)
            return
        self.failed = True
        logger.warning(
            "CUDA graphs do not work here; decoding goes on without them and takes longer. %s=0 in the "
            "environment switches them off. (%s: %s)",
            _SWITCH,
            type(error).__name__,
            error,
        )

    def forget(self, concerned: Callable[[Hashable], bool]) -> None:
        """Drop the recordings whose key is ``concerned``."""
        for key in [key for key in self._recordings if concerned(key)]:
            del self._recordings[key]

    def clear(self) -> None:
        """Drop all recordings."""
        self._recordings.clear()
        self._paused = False

    def __len__(self) -> int:
        return sum(recording.replay is not None for recording in self._recordings.values())
