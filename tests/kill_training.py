"""Trains again and again, and is killed again and again: run as a program by the tests of resuming.

A process that has loaded all libraries forks one that trains, ends it by SIGKILL when the run has come to a
random step, and forks the next one, which resumes; the last one comes to the end. Arguments: the
configuration file, how many kills, and a seed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from promptgen.training.config_files import read_config
from promptgen.training.metrics import METRICS
from promptgen.training.preparing import RunSettings, prepare_run
from promptgen.training.run import train


def live(path: Path) -> None:
    """One process's life, if nobody ends it."""
    config = read_config(path)
    settings = RunSettings(resume=True, cpu=True, offline=True, quiet=True)
    train(prepare_run(config, settings), threading.Event())


def main() -> int:
    path, kills, numbers = Path(sys.argv[1]), int(sys.argv[2]), random.Random(sys.argv[3])
    metrics = read_config(path).run.folder / METRICS
    done = 0
    for _ in range(kills):
        child = _fork(path)
        wanted = _lines(metrics) + numbers.randint(1, 3)
        delay = numbers.random() * 0.15  # into the step, or into the writing of a checkpoint
        while _lines(metrics) < wanted and _is_alive(child):
            time.sleep(0.002)
        time.sleep(delay)
        done += _kill(child)
    ended = os.waitpid(_fork(path), 0)[1]
    print(f"killed {done}")
    return os.waitstatus_to_exitcode(ended)


def _fork(path: Path) -> int:
    child = os.fork()
    if not child:
        try:
            live(path)
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - reported by the exit status and on standard error
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return child


def _kill(child: int) -> bool:
    """Whether it was still there."""
    if not _is_alive(child):
        return False
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def _is_alive(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
