"""``promptgen models export``: a checkpoint in another form, with LoRA adapters in its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .answer_flags import strength_of
from .choices import CheckpointFormat, SavedDtype
from .completion import complete_model
from .reporting import UsageError, configure_logging, reported_errors, say
from .verbosity import Verbose


def export_model(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Catalogue name, Hub id or folder.",
            autocompletion=complete_model,
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A new folder for it.", show_default=False)
    ],
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADAPTER[:STRENGTH]",
            help="LoRA adapter to put into the weights; 1 strong unless said otherwise. May be given again.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        CheckpointFormat,
        typer.Option(help="original: Microsoft's, which every tool reads; converted: transformers' own."),
    ] = CheckpointFormat.ORIGINAL,
    dtype: Annotated[
        SavedDtype, typer.Option(help="Number format of the weights; checkpoint is as they were.")
    ] = SavedDtype.CHECKPOINT,
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no closing line.")] = False,
    verbose: Verbose = 0,
) -> None:
    """Write a checkpoint into a new folder: with LoRA adapters merged, or in the other published format.

    What comes out is an ordinary checkpoint, for tools that know no adapters or read only one format.
    """
    configure_logging(verbose)
    with reported_errors(verbose):
        adapters = [strength_of(given) for given in lora or ()]
        output = output.expanduser()
        if output.exists():
            raise UsageError(f"{output} is there already. Name a new folder.")
        from ..models_cache import ensure_adapter, ensure_checkpoint
        from ..training.base_model import check_family
        from ..training.config import SaveOptions
        from ..training.merging import Adapter, export_checkpoint

        check_family(model)  # before a download
        folder = ensure_checkpoint(model, offline=offline, progress=not quiet)
        found = [
            Adapter(name, ensure_adapter(name, offline=offline, progress=not quiet), strength)
            for name, strength in adapters
        ]
        options = SaveOptions(save_format=format.value, save_dtype=dtype.value)
        export_checkpoint(model, folder, found, output, options)
        if not quiet:
            say(f"Written: {output}")
