"""``promptgen folder``: pictures of any number to captions on disk, in runs that survive anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .answer_flags import AnswerFlags
from .cluster import workers_on_ray
from .devices import captioners_on
from .expand_flags import expand_flags
from .folder_flags import RUN, Columns, FolderFlags, Paths, SourceFlags
from .folder_run import caption_folders
from .reporting import UsageError

if TYPE_CHECKING:
    from ..captioning import Captioner
    from ..captioning.runs.asked_model import AskedModel
    from ..captioning.runs.run import RunOptions
    from ..captioning.runs.workers import Workers


@expand_flags
def folder(
    *,
    path: Paths,
    source: SourceFlags,
    instruction: Columns = None,
    flags: AnswerFlags,
    wanted: FolderFlags,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...|all",
            help="Caption on several devices, each with a process of its own: cuda:0,cuda:1; all is every "
            "GPU. Which images a device gets, and so their order in one file, is open.",
            rich_help_panel=RUN,
        ),
    ] = None,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Caption on the machines of a Ray cluster, which reach the images under the same paths; "
            "without --ray-address, the one of $RAY_ADDRESS, or one of this machine alone.",
            rich_help_panel=RUN,
        ),
    ] = False,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|auto",
            help="Which Ray cluster; auto is the one that this machine is part of. Implies --ray.",
            rich_help_panel=RUN,
        ),
    ] = None,
    ray_workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Workers on the cluster. Default: one per GPU, or one per four CPUs. Implies --ray.",
            rich_help_panel=RUN,
        ),
    ] = None,
) -> None:
    """Caption folders of any size, and go on where the last run ended.

    Each caption is written as soon as it is there. The run may be stopped or killed at any time: started
    again, it loses and repeats nothing, and captions again only images that have changed, or all if the
    instructions or other settings have. Images that cannot be read are listed in a file of errors.

    Exit status: 0 every image has its captions, 1 something failed, 2 wrong usage, 130 stopped with Ctrl-C.
    """

    def model_for(options: RunOptions) -> AskedModel:
        from ..captioning.runs.asked_model import local_model
        from ..models_cache import told_family

        fetch = not wanted.dry_run
        if not ray and ray_address is None and ray_workers is None:
            captioner, workers = _captioner(devices, flags, options, fetch=fetch)
        elif devices is None:
            captioner, workers = workers_on_ray(ray_address, ray_workers, flags, options, fetch=fetch)
        else:
            raise UsageError("--devices are of this machine, --ray is for others; give one of the two.")
        if workers is None and told_family(flags.model) is not None:
            captioner.inquire(options.instructions, options.captions)  # before anything is written
        return local_model(captioner, options, workers)

    def default() -> str:
        from ..captioning import default_instruction
        from ..models_cache import told_family

        if told_family(flags.model) is None and not wanted.dry_run:
            flags.fetch()  # what it is asked depends on what it is
        return default_instruction(flags.model)

    caption_folders(path, source, instruction, flags, wanted, model_for, default)


def _captioner(
    devices: str | None, flags: AnswerFlags, options: RunOptions, *, fetch: bool
) -> tuple[Captioner, Workers | None]:
    """Who captions: a captioner in this process, or workers, with one that only tells of what they have.

    Raises:
        UsageError: a device or the number format is not to be had.
        ModelFilesError: the checkpoint is not.
    """
    if devices is None:
        return flags.captioner(fetch=fetch), None
    from ..captioning import Captioner
    from ..captioning.runs.workers import WorkerProcesses

    captioners = captioners_on(devices, flags)
    if fetch:
        flags.fetch()  # once, for all
    workers = WorkerProcesses(
        [captioner.device for captioner in captioners],
        flags.model,
        options.instructions,
        options.captions,
        dtype=flags.precision(),
        batch_size=flags.batch_size,
        loras=flags.loras(),
        quantization=flags.quantization.value,
    )
    every_device = ", ".join(captioner.device for captioner in captioners)
    every_dtype = ", ".join(dict.fromkeys(captioner.dtype for captioner in captioners))
    told = Captioner(
        flags.model, device=every_device, dtype=every_dtype, loras=flags.loras(),
        quantization=flags.quantization.value,
    )  # fmt: skip
    return told, workers
