"""One row of the benchmark of training, measured in the process that this is called in."""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .case import INSTRUCTION

if TYPE_CHECKING:
    from ..training.batches import Batch, Key

    Read = Callable[[Iterator[Key]], Iterator[Batch]]

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORD = 7  # letters between two spaces


@dataclass(frozen=True)
class TrainingCase:
    """What is trained, and how."""

    checkpoint: str  # a folder; its tokenizer makes a token of each letter
    pictures: str  # a folder of JPEG files
    method: str  # full or lora
    checkpointing: bool
    device: str  # cpu or cuda
    mixed_precision: str
    batch_size: int
    answer_tokens: int
    steps: int  # that are timed
    warmup_steps: int
    workers: int
    lora_rank: int

    def __post_init__(self) -> None:
        for name, least in {"batch_size": 1, "answer_tokens": 3, "steps": 1, "warmup_steps": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it takes {least} or more.")

    @property
    def all_steps(self) -> int:
        return self.warmup_steps + self.steps


def measure(text: str) -> str:
    """The numbers of a :class:`TrainingCase`, both as JSON; ``out of memory`` alone where it does not fit."""
    case = TrainingCase(**json.loads(text))
    with tempfile.TemporaryDirectory(prefix="promptgen-training-") as folder:
        try:
            return json.dumps(_train(case, Path(folder)))
        except (RuntimeError, ValueError, MemoryError) as error:
            reason = _memory_reason(error)
            if reason is None:
                raise
            return json.dumps({"out of memory": reason})


def _train(case: TrainingCase, folder: Path) -> dict[str, Any]:
    """Some steps of a run that is never saved."""
    from ..training.config_files import parse_config
    from ..training.preparing import RunSettings, prepare_run
    from ..training.run import assemble

    config = parse_config(_settings(case, folder))
    run = prepare_run(config, RunSettings(cpu=case.device == "cpu", offline=True, quiet=True))
    loop, watcher = assemble(run)
    clock = _Clock(case.warmup_steps, case.steps, _waiter(case.device))
    loop.watcher, loop.read = clock, clock.watching(loop.read)
    try:
        loop.run(threading.Event())
    except _EnoughError:
        pass
    finally:
        watcher.close()
        run.accelerator.end_training()
    seconds = clock.ended - clock.began
    return {
        "precision": run.accelerator.mixed_precision,
        "samples/s": case.steps * case.batch_size / seconds,
        "s/step": seconds / case.steps,
        "peak GiB": _peak_bytes(case.device) / 2**30,
        "waited %": 100 * clock.waited / seconds,
        **_device_facts(case.device),
        "trained parameters": sum(part.numel() for _, part in run.model.trainable_parameters()),
        "losses": clock.losses,
    }


def _settings(case: TrainingCase, folder: Path) -> dict[str, Any]:
    """A configuration's keys: full batches of one epoch, nothing held out."""
    pictures = sorted(Path(case.pictures).glob("*.jpg"))
    captions = folder / "captions"
    captions.mkdir()
    for picture in pictures:
        (captions / picture.with_suffix(".txt").name).write_text(_answer(picture.stem, case.answer_tokens))
    source = {
        "path": case.pictures,
        "captions_dir": str(captions),
        "instruction": INSTRUCTION,
        "repeats": math.ceil(case.all_steps * case.batch_size / len(pictures)),
    }
    return {
        "model_name": case.checkpoint,
        "run_name": "benchmark",
        "output_dir": str(folder / "run"),
        "dataset_config": [source],
        "eval_split": 0,
        "check_images": "none",
        "epochs": 1,
        "max_steps": case.all_steps,
        "train_batch_size": case.batch_size,
        "gradient_checkpointing": case.checkpointing,
        "mixed_precision": case.mixed_precision,
        "dataloader_workers": case.workers,
        "optimizer": "AdamW",
        "learning_rate": 1e-5,
        "lr_scheduler": "constant",
    } | ({"lora": {"rank": case.lora_rank}} if case.method == "lora" else {})


def _answer(seed: str, tokens: int) -> str:
    """Random words that are so many tokens, those for beginning and end included."""
    generator = random.Random(seed)
    letters = [generator.choice(_LETTERS) for _ in range(tokens - 2)]
    letters[_WORD :: _WORD + 1] = " " * len(letters[_WORD :: _WORD + 1])
    if letters[-1] == " ":
        letters[-1] = "."
    return "".join(letters)


class _EnoughError(Exception):
    """All steps are timed."""


@dataclass
class _Clock:
    """A :class:`~promptgen.training.loop.Watcher` that times steps, and ends the run after the last one."""

    warmup: int
    steps: int
    wait: Callable[[], None]  # until the device has done what it was told
    began: float = 0.0
    ended: float = 0.0
    waited: float = 0.0  # for batches, since it began
    losses: list[float] = field(default_factory=list)
    _made: int = 0

    def watching(self, read: Read) -> Read:
        """``read``, the time for which is taken. What comes before the first batch is no step's."""

        def timed(keys: Iterator[Key]) -> Iterator[Batch]:
            batches = read(keys)
            if self.warmup == 0:
                first = next(batches)
                self.began = time.perf_counter()
                yield first
            while True:
                since = time.perf_counter()
                batch = next(batches, None)
                self.waited += time.perf_counter() - since
                if batch is None:
                    return
                yield batch

        return timed

    def stepped(self) -> None:
        self._made += 1
        if self._made == self.warmup:
            self.wait()
            self.began, self.waited = time.perf_counter(), 0.0

    def trained(self, entry: dict[str, Any]) -> None:
        self.losses.append(entry["loss"])
        if self._made == self.warmup + self.steps:
            self.wait()
            self.ended = time.perf_counter()
            raise _EnoughError

    def evaluated(self, entry: dict[str, Any]) -> None: ...
    def saving(self) -> None: ...
    def saved(self, step: int, best: bool) -> None: ...


def _waiter(device: str) -> Callable[[], None]:
    if device == "cpu":
        return lambda: None
    import torch

    return torch.cuda.synchronize


def _peak_bytes(device: str) -> int:
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated()
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # kilobytes elsewhere


def _device_facts(device: str) -> dict[str, Any]:
    if device == "cpu":
        return {}
    import torch

    facts = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {"device": facts.name, "device GiB": facts.total_memory / 2**30}


def _memory_reason(error: BaseException | None) -> str | None:
    """The first line of what was said about memory, if that is the reason."""
    from ..models_cache import is_out_of_memory

    while error is not None:
        if is_out_of_memory(error):
            return str(error).partition("\n")[0] or type(error).__name__
        error = error.__cause__
    return None
