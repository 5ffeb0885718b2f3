"""The loop: window after window, and between them entries of the log, evaluations and checkpoints."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import torch

from .errors import CALMER, DataError, DivergedError, TrainingError
from .loss import BatchError, NotANumberError, WindowLoss, backward_window
from .optimizers import switch_to, weights_for_use
from .order import Order, WindowKey

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.optim.lr_scheduler import LRScheduler

    from .batches import Batch, Key
    from .checkpoints import Checkpoints
    from .state import Progress

_LEAST_SCALE = 2.0**-10  # of fp16's loss: below that it is not the scale that makes gradients infinite


@dataclass(frozen=True)
class Timing:
    """When what happens, in optimiser steps. Evaluations and checkpoints also come at the end."""

    steps: int  # of the whole run
    evaluate: int | None = None  # between evaluations; None: there is nothing to evaluate on
    save: int | None = None  # between checkpoints; None: only at the end
    log: int = 1
    evaluate_first: bool = False  # also before the first step
    save_each: int | None = None  # besides: after so many steps, an epoch's
    judge_saved: bool = True  # evaluate whenever a checkpoint is written, which so may be the best

    def evaluates(self, step: int) -> bool:
        """Whether there is an evaluation after ``step`` steps."""
        if self.evaluate is None:
            return False
        if step == 0:
            return self.evaluate_first
        return step % self.evaluate == 0 or step == self.steps or (self.judge_saved and self.saves(step))

    def saves(self, step: int) -> bool:
        """Whether there is a checkpoint after ``step`` steps."""
        every = [each for each in (self.save, self.save_each) if each is not None]
        return step > 0 and (step == self.steps or any(step % each == 0 for each in every))

    def logs(self, step: int) -> bool:
        """Whether there is an entry after ``step`` steps."""
        return step % self.log == 0 or step == self.steps


class Watcher(Protocol):
    """Who is told what happens; only in the main process does it have an effect."""

    def stepped(self) -> None: ...
    def trained(self, entry: dict[str, Any]) -> None: ...
    def evaluated(self, entry: dict[str, Any]) -> None: ...
    def saving(self) -> None: ...
    def saved(self, step: int, best: bool) -> None: ...


@dataclass
class Loop:
    """One run, from where ``progress`` stands to its end or until it is stopped."""

    accelerator: Accelerator
    model: torch.nn.Module  # as accelerator prepared it, like the optimiser
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler  # of the optimiser as it was before that
    order: Order
    read: Callable[[Iterator[Key]], Iterator[Batch]]
    timing: Timing
    checkpoints: Checkpoints
    progress: Progress
    watcher: Watcher
    evaluate: Callable[[int, threading.Event], dict[str, Any] | None] | None = None
    """Takes the step; gives ``evaluation_loss`` and more for the log; None if the event was set meanwhile."""
    clip_grad_norm: float | None = None
    names: Callable[[int], str] = str  # of examples, for messages
    around_step: Callable[[], AbstractContextManager[Any]] = nullcontext  # what activations need

    def run(self, stop: threading.Event) -> bool:
        """Train. True if the run has come to its end, False if ``stop`` was set; then it can be resumed.

        Raises:
            DivergedError: the loss is not finite, or memory ran out. The newest checkpoint is as it was.
            DataError: an image has become unreadable. A checkpoint of the last good step is written.
            TrainingError: a checkpoint cannot be written.
        """
        self.model.train()
        switch_to(self.schedule.optimizer, "train")
        self._catch_up(stop)
        batches = self._batches()
        try:
            for key in self.order.windows_from(self.progress.step, self.timing.steps):
                window = self.order.window(key)
                own = list(islice(batches, len(window)))
                asked = self._step(key, own, stop.is_set())
                if self._between(asked, stop):
                    return self.progress.step == self.timing.steps
        except DataError:
            if self.accelerator.num_processes == 1:  # others would not come to help
                self._save()
            raise
        return True

    def _batches(self) -> Iterator[Batch]:
        process = self.accelerator.process_index
        keys = (
            (key.epoch, parts[process])
            for key in self.order.windows_from(self.progress.step, self.timing.steps)
            for parts in self.order.window(key)
        )
        return self.read(keys)

    def _step(self, key: WindowKey, own: Sequence[Batch], stop: bool) -> bool:
        """One optimiser step. Returns whether any process was asked to stop."""
        rate = float(self.schedule.get_last_lr()[0])
        try:
            with self.around_step():
                window = backward_window(self.accelerator, self.model, own, stop=stop)
        except NotANumberError as error:
            raise DivergedError(self._not_a_number(key, error, rate)) from error
        except BatchError as error:
            self._report(key, error)
        norm = self._gradient_norm(key)
        try:
            self.optimizer.step()
        except (RuntimeError, MemoryError) as error:  # the first step makes the optimiser's state
            self._report(key, error)
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._count(key, window, rate, norm)
        return window.stop

    def _gradient_norm(self, key: WindowKey) -> float:
        """Of all that is trained, before it is clipped."""
        most = self.clip_grad_norm or math.inf
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), most)
        value = float(norm) if norm is not None else math.nan
        scaler = self.accelerator.scaler
        if not math.isfinite(value) and (scaler is None or scaler.get_scale() < _LEAST_SCALE):
            raise DivergedError(
                f"step {self.progress.step + 1}: the gradient is not finite, of a batch with "
                f"{self._examples(self._of_window(key))}. {self._kept()} {CALMER}"
            )
        return value  # of fp16 now and then infinite; then the scale is lowered and the step left out

    def _count(self, key: WindowKey, window: WindowLoss, rate: float, norm: float) -> None:
        progress = self.progress
        progress.step += 1
        progress.tokens += window.tokens
        progress.examples += len(self._of_window(key))
        sums = progress.interval
        sums["loss"] = sums.get("loss", 0.0) + window.loss * window.tokens
        sums["tokens"] = sums.get("tokens", 0) + window.tokens
        self.watcher.stepped()
        if self.timing.logs(progress.step):
            entry = {
                "step": progress.step,
                "epoch": progress.step / self.order.windows,
                "loss": sums["loss"] / sums["tokens"],
                "learning_rate": rate,
                "tokens": int(sums["tokens"]),
                "gradient_norm": norm if math.isfinite(norm) else None,
            }
            progress.interval = {}
            self.watcher.trained(entry)

    def _between(self, asked_to_stop: bool, stop: threading.Event) -> bool:
        """What is due after a step; returns whether to stop. What is left out then is due on a resume."""
        step = self.progress.step
        if not asked_to_stop and self.timing.evaluates(step):
            asked_to_stop = not self._evaluate(stop)
        if asked_to_stop or self.timing.saves(step):
            self._save()
        return asked_to_stop

    def _catch_up(self, stop: threading.Event) -> None:
        """The evaluation that is due where the run goes on, if it was stopped before."""
        step = self.progress.step
        due = self.timing.evaluates(step) and self.progress.evaluated_step != step
        if due and self._evaluate(stop) and self.checkpoints.path(step).exists():
            self._note_best()

    def _evaluate(self, stop: threading.Event) -> bool:
        """False if it was cut off."""
        if self.evaluate is None:
            return True
        try:
            with weights_for_use(self.schedule.optimizer):
                found = self.evaluate(self.progress.step, stop)
        except DivergedError as error:
            raise DivergedError(f"step {self.progress.step}: {error} {self._kept()}") from error
        if found is None:
            return False
        self.progress.evaluated_step = self.progress.step
        self.progress.evaluated_loss = found["evaluation_loss"]
        self.watcher.evaluated({"step": self.progress.step, **found})
        return True

    def _save(self) -> None:
        if self.progress.step == 0:
            return
        best = self._note_best()
        self.watcher.saving()
        self.checkpoints.save(self.progress)
        self.watcher.saved(self.progress.step, best)

    def _note_best(self) -> bool:
        """See whether the checkpoint of this step is the best so far."""
        progress = self.progress
        loss = progress.evaluated_loss
        if loss is None or progress.evaluated_step != progress.step:
            return False
        if progress.best_loss is None or loss < progress.best_loss:
            progress.best_step, progress.best_loss = progress.step, loss
        return progress.best_step == progress.step

    def _report(self, key: WindowKey, error: BaseException) -> NoReturn:
        """Say in which batch memory ran out; another error is what it is."""
        from ..models_cache import is_out_of_memory

        cause = error.__cause__ if isinstance(error, BatchError) and error.__cause__ else error
        if not is_out_of_memory(cause):
            raise cause
        parts = self.order.window(key)
        process = self.accelerator.process_index
        indices = parts[error.place][process] if isinstance(error, BatchError) else self._of_window(key)
        raise DivergedError(
            f"step {self.progress.step + 1}: out of memory with a batch of {self._examples(indices)}. "
            f"{self._kept()} {_SMALLER}"
        ) from cause

    def _not_a_number(self, key: WindowKey, error: NotANumberError, rate: float) -> str:
        parts = self.order.window(key)
        bad = [index for process, place in error.places for index in parts[place][process]]
        message = (
            f"step {self.progress.step + 1}: the loss is not finite (learning rate {rate:.3g}), of a batch "
            f"with {self._examples(bad)}. {self._kept()}"
        )
        if self.progress.step == 0 and not all(part.isfinite().all() for part in self.model.parameters()):
            return f"{message} The checkpoint that training begins from has weights that are no numbers."
        return f"{message} {CALMER}"

    def _of_window(self, key: WindowKey) -> list[int]:
        return [index for parts in self.order.window(key) for part in parts for index in part]

    def _examples(self, indices: Sequence[int]) -> str:
        shown = ", ".join(self.names(index) for index in indices[:16])
        return f"{shown} and {len(indices) - 16} more" if len(indices) > 16 else shown

    def _kept(self) -> str:
        from .checkpoints import find_checkpoints

        found = find_checkpoints(self.checkpoints.folder)
        if not found:
            return "No checkpoint had been written yet."
        return f"The last good checkpoint is {found[max(found)]}."


_SMALLER = (
    "Make train_batch_size smaller and gradient_accumulation_steps larger by the same factor (the result is "
    "the same), or set gradient_checkpointing: true, or train with lora."
)


def steps_of(order: Order, epochs: int, max_steps: int | None) -> int:
    """Optimiser steps of a run.

    Raises:
        TrainingError: it would have none.
    """
    steps = order.windows * epochs
    steps = steps if max_steps is None else min(steps, max_steps)
    if steps < 1:
        raise TrainingError("the run would make no step; give it an epoch at least.")
    return steps
