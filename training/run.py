"""A run from its configuration to the model that comes out of it.

Everything that can be found wrong is found before the first step: names of optimiser and schedule, the
folder, the loggers, the data, the checkpoint.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list, set_seed

from ..models_cache import ensure_checkpoint, entry_of
from .batches import BatchReader, Preparation, read_batches
from .checkpoints import Checkpoints, find_checkpoints, read_progress
from .config_files import write_config
from .data.checks import TokenLimits
from .data.prepare import PreparedData, prepare_data
from .errors import TrainingError
from .folder import CONFIG, SPLIT, check_folder, write_final
from .identity import check_fingerprint, run_fingerprint
from .loop import Loop, Timing, steps_of
from .metrics import METRICS, MetricsFile, start_trackers, wanted_trackers
from .network import TrainableModel
from .optimizers import build_optimizer, check_optimizer
from .order import Order
from .progress import Teller
from .saving import check_saving, save_model
from .schedules import build_schedule, check_schedule
from .state import Progress
from .validation import EvaluationLoss, HeldOut, evaluate
from .watching import RunWatcher

if TYPE_CHECKING:
    from .config import CheckpointOptions, TrainConfig

_DISTRIBUTED = (
    DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP,
)  # fmt: skip


@dataclass(frozen=True)
class RunSettings:
    """How this process goes about a run; what comes out does not depend on it."""

    resume: bool = False  # go on from the newest checkpoint, if there is one
    cpu: bool = False  # even if there is a GPU
    offline: bool = False
    quiet: bool = False


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
    best: Path | None = None  # the checkpoint with the lowest held-out loss
    best_loss: float | None = None
    peak_bytes: int | None = None  # of the GPU's memory


class TrainingRun:
    """One run. Made, it is checked and loaded; then :meth:`train` it."""

    def __init__(
        self, config: TrainConfig, settings: RunSettings, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """
        Raises:
            TrainingError: something will not do; nothing was trained.
            ModelFilesError: the checkpoint is not to be had.
        """
        self.config = config
        self.settings = settings
        self.folder = config.run.folder
        check_schedule(config.optimizer)
        check_optimizer(config.optimizer)
        trackers = wanted_trackers(config.logging)
        self.accelerator = make_accelerator(config, trackers, cpu=settings.cpu)
        self._say = say if self.accelerator.is_main_process and not settings.quiet else lambda _: None
        with self.accelerator.main_process_first():
            if self.accelerator.is_main_process:
                check_folder(self.folder, resume=settings.resume)
            source = ensure_checkpoint(
                config.checkpoint.model_name, offline=settings.offline, progress=not settings.quiet
            )
        self._set_determinism()
        set_seed(config.run.seed)  # adapters begin with random numbers, the same in every process
        self.model = TrainableModel.load(source, config.model)
        check_saving(self.model, config.saving)
        self.prompts = self._prompts()
        self.data = self._prepare_data()
        self.order = Order(
            len(self.data.train),
            config.batches.train_batch_size,
            config.batches.gradient_accumulation_steps,
            self.accelerator.num_processes,
            config.run.seed,
        )
        self.timing = self._timing()
        self.fingerprint = run_fingerprint(
            config,
            self.data.train,
            steps=self.timing.steps,
            processes=self.accelerator.num_processes,
            mixed_precision=self.accelerator.mixed_precision,
        )
        self._check_resumed()

    def train(self, stop: threading.Event) -> RunResult:
        """Train to the end, or until ``stop`` is set; then a checkpoint is written.

        Raises:
            TrainingError: it cannot go on. What was saved is kept.
        """
        loop, watcher = self._assemble()
        before, started = loop.progress.examples, time.monotonic()
        try:
            finished = loop.run(stop)
        finally:
            watcher.close()
            self.accelerator.end_training()
        final = None
        if finished and self.accelerator.is_main_process:
            final = write_final(self.folder, loop.checkpoints.path(loop.progress.step))
        progress, best = loop.progress, loop.progress.best_step
        return RunResult(
            self.folder,
            finished,
            progress.step,
            self.timing.steps,
            time.monotonic() - started,
            progress.examples - before,
            final,
            loop.checkpoints.path(best) if best is not None else None,
            progress.best_loss,
            torch.cuda.max_memory_allocated() if self.accelerator.device.type == "cuda" else None,
        )

    # Before the first step -------------------------------------------------------------------

    def _set_determinism(self) -> None:
        if self.config.run.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False

    def _prompts(self) -> dict[str, str]:
        entry = entry_of(self.config.checkpoint.model_name)
        return {**(entry.prompts if entry is not None else {}), **self.config.data.prompts}

    def _prepare_data(self) -> PreparedData:
        """Looked at by one process, for all."""
        found: list[Any] = [None]
        if self.accelerator.is_main_process:
            limits = TokenLimits.of(self.model.config)
            found = [
                prepare_data(
                    self.config.data,
                    self.config.run.seed,
                    self.model.text.encode,
                    limits,
                    prompts=self.prompts,
                    on_note=self._say,
                )
            ]
            self._say(found[0].report.table())
        prepared: PreparedData = broadcast_object_list(found)[0]
        return prepared

    def _timing(self) -> Timing:
        config, windows = self.config, self.order.windows
        saving, evaluation = config.saving, config.evaluation
        steps = steps_of(self.order, config.run.epochs, config.run.max_steps)
        return Timing(
            steps,
            evaluate=(evaluation.eval_steps or windows) if self.data.evaluation else None,
            save=saving.save_steps or windows,
            log=config.logging.log_steps,
            evaluate_first=evaluation.eval_before_training,
            save_each=windows if saving.save_on_epoch_too else None,
        )

    def _check_resumed(self) -> None:
        found = find_checkpoints(self.folder)
        if found:
            newest = found[max(found)]
            check_fingerprint(read_progress(newest).fingerprint, self.fingerprint, newest)

    # Putting it together ---------------------------------------------------------------------

    def _assemble(self) -> tuple[Loop, RunWatcher]:
        config, accelerator = self.config, self.accelerator
        optimizer = build_optimizer(config.optimizer, self.model.trainable_parameters())
        schedule = build_schedule(config.optimizer, optimizer, self.timing.steps)
        model, prepared_optimizer = accelerator.prepare(self.model, optimizer)
        accelerator.gradient_accumulation_steps = 1  # ours are windows, whatever accelerate was told
        set_seed(config.run.seed, device_specific=True)
        checkpoints = Checkpoints(
            self.folder,
            accelerator,
            partial(self._save_model, model),
            limit=config.saving.save_total_limit,
            keep_best=config.saving.save_best,
            state=(schedule,),
        )
        checkpoints.prepare()
        progress = checkpoints.load_latest() or Progress(fingerprint=self.fingerprint)
        watcher = self._watcher(progress.step, checkpoints)
        loop = Loop(
            accelerator,
            model,
            prepared_optimizer,
            schedule,
            self.order,
            partial(read_batches, self._reader(), options=config.batches),
            self.timing,
            checkpoints,
            progress,
            watcher,
            evaluate=self._evaluation(model) if self.data.evaluation else None,
            clip_grad_norm=config.optimizer.clip_grad_norm,
            names=lambda index: self.data.train[index].name,
            around_step=self._offloading,
        )
        return loop, watcher

    def _watcher(self, step: int, checkpoints: Checkpoints) -> RunWatcher:
        config, accelerator = self.config, self.accelerator
        if not accelerator.is_main_process:
            return RunWatcher(accelerator, Teller(self.timing.steps, quiet=True), None, checkpoints)
        write_config(config, self.folder / CONFIG)
        self.data.split.write(self.folder / SPLIT)
        start_trackers(accelerator, config, step)
        teller = Teller(self.timing.steps, quiet=self.settings.quiet)
        if step:
            teller.say(f"going on from {checkpoints.path(step)}")
        teller.start(step)
        return RunWatcher(accelerator, teller, MetricsFile(self.folder / METRICS, step), checkpoints)

    def _reader(self, *, training: bool = True) -> BatchReader:
        batches = self.config.batches
        how = Preparation(
            self.model.image_processor,
            self.model.text,
            self.prompts,
            batches.background,
            batches.augment if training else None,
            self.config.run.seed,
            self.model.config.text.pad_token_id,
        )
        return BatchReader(self.data.train if training else self.data.evaluation, how)

    def _evaluation(self, model: torch.nn.Module) -> Callable[[threading.Event], dict[str, Any] | None]:
        accelerator, config = self.accelerator, self.config
        held_out = HeldOut(self.data.evaluation, config.eval_batch_size, accelerator.num_processes)
        reader = self._reader(training=False)

        def run(stop: threading.Event) -> dict[str, Any] | None:
            keys = held_out.keys(accelerator.process_index)
            found = evaluate(accelerator, model, held_out, read_batches(reader, keys, config.batches), stop)
            return None if found is None else _entry(found)

        return run

    def _offloading(self) -> AbstractContextManager[Any]:
        if not self.config.checkpoint.activation_offloading:
            return nullcontext()
        return torch.autograd.graph.save_on_cpu(pin_memory=torch.cuda.is_available())

    def _save_model(self, model: torch.nn.Module, folder: Path) -> None:
        """Write a checkpoint that can be loaded; with what it was made from beside it."""
        accelerator, state = self.accelerator, None
        if accelerator.distributed_type == DistributedType.FSDP:
            state = accelerator.get_state_dict(model)
        if not accelerator.is_main_process:
            return
        save_model(
            self.model,
            folder,
            self.config.saving,
            base_model=self.config.checkpoint.model_name,
            state=state,
        )
        for name in (CONFIG, SPLIT, METRICS):
            (folder / name).write_bytes((self.folder / name).read_bytes())


def make_accelerator(config: TrainConfig, trackers: list[str], *, cpu: bool) -> Accelerator:
    """What runs a model on whatever there is: several GPUs, one, or a CPU, as ``accelerate launch`` says.

    Raises:
        TrainingError: it is asked for what this trainer does not do, or what the machine does not have.
    """
    accelerator = Accelerator(
        mixed_precision=_precision(config.checkpoint, cpu),
        cpu=cpu,
        log_with=trackers or None,
        project_dir=str(config.run.folder),
    )
    kind = accelerator.distributed_type
    if kind not in _DISTRIBUTED:
        raise TrainingError(
            f"accelerate was told to train with {kind.value}. Several GPUs are used as they are or with "
            "FSDP; run 'accelerate config' again."
        )
    return accelerator


def _precision(options: CheckpointOptions, cpu: bool) -> str:
    wanted = options.mixed_precision
    gpu = torch.cuda.is_available() and not cpu
    if wanted == "auto":
        usual = "bf16" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "no"
        return os.environ.get("ACCELERATE_MIXED_PRECISION", usual)
    if wanted == "fp16" and not gpu:
        raise TrainingError("mixed_precision: fp16 needs a GPU. Take auto, bf16 or no.")
    return wanted


def _entry(found: EvaluationLoss) -> dict[str, Any]:
    return {"evaluation_loss": found.loss, "by_instruction": found.by_instruction}
