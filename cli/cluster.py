"""``--ray``: workers on a cluster instead of in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .answer_flags import AnswerFlags
from .reporting import UsageError

if TYPE_CHECKING:
    from ..captioning import Captioner
    from ..captioning.runs.run import RunOptions
    from ..captioning.runs.workers import Workers


def workers_on_ray(
    address: str | None, count: int | None, flags: AnswerFlags, options: RunOptions, *, fetch: bool
) -> tuple[Captioner, Workers]:
    """Workers on a Ray cluster, and a captioner that tells of their checkpoint. Connects to nothing yet.

    Args:
        address: None: ``$RAY_ADDRESS``, or this machine alone.
        count: of workers; None: as many as the cluster has GPUs, or a quarter of its CPUs.
        fetch: download the checkpoint if it is not here.

    Raises:
        UsageError: a device of no use there.
        ClusterError: Ray is not installed.
        ModelFilesError: the checkpoint cannot be had.
    """
    from ..captioning import Captioner
    from ..captioning.runs.workers import RayOptions, RayWorkers

    if flags.device not in ("auto", "cuda", "cpu"):
        raise UsageError(f"--ray does not go with --device {flags.device}; it takes auto, cuda and cpu.")
    # each machine finds out for itself what these mean there
    captioner = Captioner(
        flags.model, device=flags.device, dtype=flags.precision(), batch_size=flags.batch_size,
        loras=flags.loras(), quantization=flags.quantization.value,
    )  # fmt: skip
    folders = tuple(str(Path(one).absolute()) for one in options.inputs if Path(one).is_dir())
    cluster = RayOptions(address=address, workers=count, paths=folders)
    workers = RayWorkers(captioner, options.instructions, options.captions, cluster, offline=flags.offline)
    if fetch:
        flags.fetch()
    return captioner, workers
