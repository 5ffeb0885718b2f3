"""Everything of a run that comes before its first step.

All that can be found wrong is found here: names of optimiser and schedule, the folder, the loggers, the
checkpoint, the data, and whether a run that is resumed is still the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, broadcast_object_list, set_seed

from ..models_cache import ensure_checkpoint, find_checkpoint
from .base_model import check_family
from .batches import BatchReader, Preparation
from .checkpoints import find_checkpoints, read_progress
from .config import CheckpointOptions, TrainConfig
from .data.checks import TokenLimits
from .data.layouts import check_sources, load_examples
from .data.options import DataOptions
from .data.prepare import PreparedData, prepare_data
from .data.split import read_split, split_examples
from .errors import TrainingError
from .evaluation.predictions import prompts_for
from .folder import check_folder
from .identity import check_fingerprint, run_fingerprint
from .length_groups import Lengths
from .loop import Timing, steps_of
from .metrics import wanted_trackers
from .network import TrainableModel
from .optimizers import check_optimizer
from .order import Order
from .progress import checking_bar
from .saving import check_saving
from .schedules import check_schedule

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
class PreparedRun:
    """A run that may begin."""

    config: TrainConfig
    settings: RunSettings
    accelerator: Accelerator
    model: TrainableModel
    data: PreparedData
    prompts: dict[str, str]  # literal prompts by instruction that replace the usual ones
    order: Order
    timing: Timing
    fingerprint: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where everything of it is written."""
        return self.config.run.folder

    def reader(self, *, training: bool) -> BatchReader:
        """Makes batches of the training or the held-out examples."""
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


def prepare_run(
    config: TrainConfig, settings: RunSettings, say: Callable[[str], None] = lambda _: None
) -> PreparedRun:
    """Check and load all that a run needs. Nothing is written.

    Args:
        say: told, in one process of several, what people may want to know.

    Raises:
        TrainingError: something will not do.
        CheckpointError, ModelFilesError: the checkpoint is not to be had, or cannot be read.
    """
    check_schedule(config.optimizer)
    check_optimizer(config.optimizer)
    check_sources(config.data)
    check_family(config.checkpoint.model_name)  # before a download
    accelerator = make_accelerator(config, wanted_trackers(config.logging), cpu=settings.cpu)
    if settings.quiet or not accelerator.is_main_process:
        say = _nothing
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            check_folder(config.run.folder, resume=settings.resume)
            if find_checkpoint(config.checkpoint.model_name) is None:
                _check_listing(config.data, config.run.seed)  # before a download
        source = ensure_checkpoint(
            config.checkpoint.model_name, offline=settings.offline, progress=not settings.quiet
        )
    check_family(config.checkpoint.model_name)  # now that it is there
    _set_determinism(config.run.deterministic)
    model = _load(source, config)
    prompts = prompts_for(config.checkpoint.model_name, config.data.prompts)
    data = _shared_data(accelerator, config, settings, model, prompts, say)
    batches = config.batches
    accumulation, processes = batches.gradient_accumulation_steps, accelerator.num_processes
    order = Order(
        len(data.train),
        batches.train_batch_size,
        accumulation,
        processes,
        config.run.seed,
        lengths=Lengths(data.report.lengths_of(data.train)) if batches.group_by_length else None,
    )
    timing = _timing(config, order, held_out=bool(data.evaluation))
    fingerprint = run_fingerprint(
        config,
        data.train,
        steps=timing.steps,
        processes=processes,
        mixed_precision=accelerator.mixed_precision,
    )
    _check_resumed(config, fingerprint)
    return PreparedRun(config, settings, accelerator, model, data, prompts, order, timing, fingerprint)


def _check_listing(options: DataOptions, seed: int) -> None:
    """See what names and captions alone show of the data: whether there is something on both sides.

    Raises:
        DataError: there is not.
    """
    examples = load_examples(options.sources, _nothing)
    load_examples(options.eval_sources, _nothing)
    held_out = None if options.split_file is None else read_split(options.split_file)
    if not options.eval_sources:
        split_examples(examples, options.eval_split, seed, held_out=held_out)


def make_accelerator(config: TrainConfig, trackers: list[str], *, cpu: bool) -> Accelerator:
    """What runs a model on whatever there is: several GPUs, one, or a CPU, as ``accelerate launch`` says.

    Raises:
        TrainingError: it is asked for what this trainer does not do, or what the machine does not have.
    """
    if PartialState._shared_state == {} or PartialState().num_processes == 1:
        # else a second run in this process must compute as the first one did
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        mixed_precision=_precision(config.checkpoint, cpu),
        cpu=cpu,
        log_with=trackers or None,
        project_dir=str(config.run.folder),
    )
    accelerator.gradient_accumulation_steps = 1  # ours are windows, whatever the environment says
    kind = accelerator.distributed_type
    if kind not in _DISTRIBUTED:
        raise TrainingError(
            f"accelerate was told to train with {kind.value}. Several GPUs are used as they are or with "
            "FSDP; run 'accelerate config' again."
        )
    return accelerator


def _precision(options: CheckpointOptions, cpu: bool) -> str:
    """By accelerate's names."""
    wanted = options.mixed_precision
    gpu = torch.cuda.is_available() and not cpu
    if wanted == "auto":
        usual = "bf16" if gpu and _multiplies_bfloat16() else "no"
        return os.environ.get("ACCELERATE_MIXED_PRECISION", usual)
    if wanted == "fp16" and not gpu:
        raise TrainingError("mixed_precision: fp16 needs a GPU. Take auto, bf16 or no.")
    return wanted


def _multiplies_bfloat16() -> bool:
    """In hardware; NVIDIA's older GPUs emulate it, slowly."""
    return torch.version.hip is not None or torch.cuda.get_device_capability() >= (8, 0)


def _set_determinism(wanted: bool) -> None:
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def _load(source: Path, config: TrainConfig) -> TrainableModel:
    set_seed(config.run.seed)  # adapters begin with random numbers, the same in every process
    try:
        model = TrainableModel.load(source, config.model)
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        # what the options say does not go with this checkpoint
        raise TrainingError(f"{config.checkpoint.model_name}: {error}") from error
    check_saving(model, config.saving)
    return model


def _shared_data(
    accelerator: Accelerator,
    config: TrainConfig,
    settings: RunSettings,
    model: TrainableModel,
    prompts: dict[str, str],
    say: Callable[[str], None],
) -> PreparedData:
    """The data, looked at by one process for all."""
    found: list[Any] = [None]
    if accelerator.is_main_process:
        with checking_bar(quiet=settings.quiet) as on_progress:
            found[0] = prepare_data(
                config.data,
                config.run.seed,
                model.text.encode,
                TokenLimits.of(model.config),
                prompts=prompts,
                on_progress=on_progress,
                on_note=say,
            )
        say(found[0].report.table())
    prepared: PreparedData = broadcast_object_list(found)[0]
    return prepared


def _timing(config: TrainConfig, order: Order, *, held_out: bool) -> Timing:
    saving, evaluation = config.saving, config.evaluation
    return Timing(
        steps_of(order, config.run.epochs, config.run.max_steps),
        evaluate=(evaluation.eval_steps or order.windows) if held_out else None,
        save=saving.save_steps or order.windows,
        log=config.logging.log_steps,
        evaluate_first=evaluation.eval_before_training,
        save_each=order.windows if saving.save_on_epoch_too else None,
        judge_saved=saving.save_best,
    )


def _check_resumed(config: TrainConfig, fingerprint: dict[str, Any]) -> None:
    found = find_checkpoints(config.run.folder)
    if found:
        newest = found[max(found)]
        before = read_progress(newest)
        check_fingerprint(before.fingerprint, fingerprint, newest, config.optimizer, before.step)


def _nothing(told: object) -> None:
    pass
