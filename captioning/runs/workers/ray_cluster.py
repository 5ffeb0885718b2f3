"""The cluster that a run on Ray uses: found or started, checked, and left."""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from . import ray_probe
from .ray_stages import PACKAGE, ClusterError, other_version

_CPUS_PER_WORKER = 4
_READING = 0.2  # of the CPUs of each worker, kept for tasks that read pictures

# What Ray says on standard error about being told to be quiet.
_LOG_LEVEL_LINE = re.compile(rb"^\[[^\]]*\] logging\.cc:\d+: Set ray log level .*\n", re.MULTILINE)

_PROBE_SECONDS = 120.0  # a machine may have to start a process for it


@dataclass(frozen=True)
class Share:
    """What the workers of a run take of a cluster."""

    workers: int
    gpus: float  # each
    cpus: float  # each; it is Ray's bookkeeping, not a limit
    threads: int | None  # for computing on the CPU, each


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """The module ``ray``, connected. A cluster that was started here is ended at the end.

    Args:
        address: of a cluster, as ``ray.init`` takes it. None: ``$RAY_ADDRESS``, and without that a cluster of
            this machine alone, for the time of the run. A connection that this process has already is used as
            it is.

    Raises:
        ClusterError: Ray is not installed, or there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    is_quiet = os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal") == "fatal"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's own advice; spares a warning
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ClusterError("--ray needs Ray: pip install 'promptgen-tagger[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    _be_quiet()
    place = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        with _signals_as_they_are(), _without_line(_LOG_LEVEL_LINE if is_quiet else None):
            ray.init(
                address=place,
                log_to_driver=False,  # what workers log comes with their answers
                logging_level=logging.CRITICAL,
                include_dashboard=False if place == "local" else None,
            )
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        what = "started on this machine" if place == "local" else f"reached at {place!r}"
        raise ClusterError(f"No Ray cluster can be {what}: {reason}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def share_of(ray: Any, workers: int | None, device: str) -> Share:
    """What so many workers take of a cluster.

    Args:
        workers: None: one per GPU, or one per four CPUs if there is none or ``device`` is the CPU.

    Raises:
        ClusterError: there are fewer GPUs.
    """
    there = ray.cluster_resources()
    gpus, cpus = int(there.get("GPU", 0)), float(there.get("CPU", 1))
    if device == "cpu" or (device == "auto" and not gpus):
        count = workers or max(1, int(cpus) // _CPUS_PER_WORKER)
        each = cpus / count
        return Share(count, 0, math.floor(each * (1 - _READING) * 1000) / 1000, max(1, int(each)))
    count = workers or gpus
    if count > gpus or not count:
        raise ClusterError(
            f"The cluster has {gpus} GPUs, and each of {max(1, count)} workers needs one. Give another "
            "--ray-workers, or --device cpu."
        )
    return Share(count, 1, min(1.0, math.floor(cpus / count * (1 - _READING) * 1000) / 1000), None)


def check_machines(ray: Any, version: str, paths: Sequence[str]) -> None:
    """See that all machines of a cluster can do their part.

    Args:
        paths: absolute ones that pictures are read from.

    Raises:
        ClusterError: one has another version of this package, or does not have it, or has no such path.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    own = ray.get_runtime_context().get_node_id()
    ray.cloudpickle.register_pickle_by_value(ray_probe)
    try:
        task = ray.remote(num_cpus=0, max_retries=3)(ray_probe.look)
        found = {
            task.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(PACKAGE, paths): node["NodeManagerHostname"]
            for node in nodes
            if node["NodeID"] != own
        }
        for answer, machine in found.items():
            there, missing = _answer(ray, answer, machine)
            if not there:
                raise ClusterError(
                    f"{machine} does not have promptgen-tagger. Install version {version} on all machines of "
                    "the cluster, in the Python that Ray uses there."
                )
            if there != version:
                raise ClusterError(other_version(machine, there, version))
            if missing:
                raise ClusterError(
                    f"{missing[0]!r} is not there on {machine}. Pictures must be under the same path on all "
                    "machines of the cluster, on a share for example."
                )
    finally:
        ray.cloudpickle.unregister_pickle_by_value(ray_probe)


def _answer(ray: Any, answer: Any, machine: str) -> tuple[str, list[str]]:
    try:
        there: tuple[str, list[str]] = ray.get(answer, timeout=_PROBE_SECONDS)
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"{machine}, a machine of the cluster, cannot work: {first_line(error)}"
        ) from error
    return there


def first_line(error: BaseException) -> str:
    """What an error of Ray's says, without its tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _be_quiet() -> None:
    """Progress and errors are told by the run; Ray's own lines would come in between."""
    wanted = logging.getLogger(PACKAGE).getEffectiveLevel()
    level = logging.CRITICAL if wanted > logging.DEBUG else wanted
    for name in ("ray", "ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(level)


@contextmanager
def _signals_as_they_are() -> Iterator[None]:
    """Ray would answer SIGTERM by ending the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not None]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _without_line(pattern: re.Pattern[bytes] | None) -> Iterator[None]:
    """What is written to standard error within comes afterwards, without what matches."""
    if pattern is None:
        yield
        return
    with tempfile.TemporaryFile() as held:
        real = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(real, 2)
            held.seek(0)
            os.write(real, pattern.sub(b"", held.read()))
            os.close(real)
