"""A prepared run, put together and trained, to the model that comes out of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import set_seed

from .batches import BatchSource, read_batches
from .card import DataFacts
from .checkpoints import Checkpoints
from .config_files import write_config
from .folder import CONFIG, SPLIT, check_folder, only_run, write_final
from .loop import Loop
from .metrics import METRICS, MetricsFile, start_trackers
from .optimizers import build_optimizer, weights_for_use
from .products import ModelWriter
from .progress import Teller
from .sampling import Sampler
from .schedules import build_schedule
from .state import Progress
from .validation import HeldOut, evaluate
from .watching import RunWatcher

if TYPE_CHECKING:
    from .preparing import PreparedRun


@dataclass(frozen=True)
class RunResult:
    """What became of a run."""

    folder: Path
    finished: bool  # False: it was stopped, and can be resumed
    step: int
    steps: int  # of the whole run
    seconds: float  # that this part of it took
    examples: int  # seen in this part of it
    final: Path | None = None
    best: Path | None = None  # the checkpoint with the lowest held-out loss, where it is kept
    best_loss: float | None = None
    peak_bytes: int | None = None  # of the GPU's memory


def train(run: PreparedRun, stop: threading.Event) -> RunResult:
    """Train to the end, or until ``stop`` is set; then a checkpoint is written.

    Raises:
        TrainingError: it cannot go on. What was saved is kept.
    """
    started = time.monotonic()
    with only_run(run.folder) if run.accelerator.is_main_process else nullcontext():
        if run.accelerator.is_main_process:  # another may have begun since the run was prepared
            check_folder(run.folder, resume=run.settings.resume)
        loop, watcher = assemble(run)
        before = loop.progress.examples
        try:
            finished = loop.run(stop)
        finally:
            watcher.close()
            run.accelerator.end_training()
        final = None
        if finished and run.accelerator.is_main_process:
            final = write_final(run.folder, loop.checkpoints.path(loop.progress.step))
    progress = loop.progress
    best = None if progress.best_step is None else loop.checkpoints.path(progress.best_step)
    return RunResult(
        run.folder,
        finished,
        progress.step,
        run.timing.steps,
        time.monotonic() - started,
        progress.examples - before,
        final,
        best if best is not None and best.exists() else None,
        progress.best_loss,
        torch.cuda.max_memory_allocated() if run.accelerator.device.type == "cuda" else None,
    )


def assemble(run: PreparedRun) -> tuple[Loop, RunWatcher]:
    """The loop, standing where the newest checkpoint stands; and who is to be closed after it."""
    config, accelerator = run.config, run.accelerator
    optimizer = build_optimizer(config.optimizer, run.model.trainable_parameters())
    schedule = build_schedule(config.optimizer, optimizer, run.timing.steps)
    model, prepared_optimizer = accelerator.prepare(run.model, optimizer)
    set_seed(config.run.seed, device_specific=True)  # of dropout, another in each process
    facts = DataFacts.of(run.data.train, run.data.evaluation, run.prompts)
    writer = ModelWriter(accelerator, model, run.model, config, facts, run.prompts)

    def save_model(folder: Path) -> None:
        with weights_for_use(optimizer):
            writer(folder)

    checkpoints = Checkpoints(
        run.folder,
        accelerator,
        save_model,
        limit=config.saving.save_total_limit,
        keep_best=config.saving.save_best,
        state=(schedule,),
    )
    checkpoints.prepare()
    progress = checkpoints.load_latest() or Progress()
    progress.fingerprint = run.fingerprint  # of a resumed run the same, or that of a longer one
    watcher = _watcher(run, progress.step, checkpoints)
    loop = Loop(
        accelerator,
        model,
        prepared_optimizer,
        schedule,
        run.order,
        partial(read_batches, run.reader(training=True), options=config.batches),
        run.timing,
        checkpoints,
        progress,
        watcher,
        evaluate=_evaluation(run, model, writer, watcher) if run.data.evaluation else None,
        clip_grad_norm=config.optimizer.clip_grad_norm,
        names=lambda index: run.data.train[index].name,
        around_step=_offloading if config.checkpoint.activation_offloading else nullcontext,
    )
    return loop, watcher


def _watcher(run: PreparedRun, step: int, checkpoints: Checkpoints) -> RunWatcher:
    """Writes what the run's folder has from its beginning, too."""
    accelerator = run.accelerator
    if not accelerator.is_main_process:
        return RunWatcher(accelerator, Teller(run.timing.steps, quiet=True), None, checkpoints)
    write_config(run.config, run.folder / CONFIG)
    run.data.split.write(run.folder / SPLIT)
    start_trackers(accelerator, run.config, step)
    teller = Teller(run.timing.steps, quiet=run.settings.quiet)
    if step:
        teller.say(f"going on from {checkpoints.path(step)}")
    teller.start(step)
    return RunWatcher(accelerator, teller, MetricsFile(run.folder / METRICS, step), checkpoints)


def _evaluation(
    run: PreparedRun, model: torch.nn.Module, writer: ModelWriter, watcher: RunWatcher
) -> Callable[[int, threading.Event], dict[str, Any] | None]:
    """What the loop calls for an evaluation."""
    accelerator, batches, examples = run.accelerator, run.config.batches, run.data.evaluation
    sampler = Sampler(accelerator, writer, run.config, examples, run.prompts, run.model.folder, watcher.say)
    held_out = HeldOut(examples, run.config.eval_batch_size, accelerator.num_processes)
    keys = held_out.keys(accelerator.process_index)
    source = BatchSource(run.reader(training=False), keys, batches, again=True)

    def evaluation(step: int, stop: threading.Event) -> dict[str, Any] | None:
        found = evaluate(accelerator, model, held_out, source, stop)
        sampled = None if found is None else sampler(step, stop)
        if found is None or sampled is None:
            return None
        return {"evaluation_loss": found.loss, "by_instruction": found.by_instruction} | sampled

    return evaluation


def _offloading() -> AbstractContextManager[Any]:
    """Activations wait for their backward pass in the CPU's memory."""
    return torch.autograd.graph.save_on_cpu(pin_memory=torch.cuda.is_available())
