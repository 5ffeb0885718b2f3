"""``promptgen models``: which checkpoints there are, where they lie, fetching and exporting them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from .choices import ListFormat
from .completion import complete_model
from .export import export_model
from .help_text import fold
from .reporting import FAILED, configure_logging, describe, reported_errors, say_error
from .streams import is_terminal
from .tables import print_table
from .verbosity import Verbose

models_app = typer.Typer(
    name="models",
    help="List, download, check and export checkpoints.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME",
        help="Catalogue names, Hub ids or folders.",
        autocompletion=complete_model,
        show_default=False,
    ),
]


def list_models(
    format: Annotated[ListFormat, typer.Option(help="Form of the list.")] = ListFormat.TEXT,
    verbose: Verbose = 0,
) -> None:
    """List the known checkpoints: family, size, licence, where they lie.

    The 'demo' model is built in and knows drawn shapes only. A checkpoint outside this list works too: give
    its Hub id or folder.

    To add your own, write {"NAME": {"hub_id": "ORG/NAME"}}, or "folder" for "hub_id", into the JSON file that
    $PROMPTGEN_CATALOGUE names; without it that is promptgen/models.json in your settings folder (~/.config,
    on Windows %APPDATA%, on a Mac ~/Library/Application Support). A folder tells its family; for a PaliGemma
    on the Hub add "family": "paligemma". With "family": "lora" it is a LoRA adapter, which the nodes offer.
    """
    configure_logging(verbose)
    with reported_errors(verbose):
        rows = _catalogue_rows()
        if format is ListFormat.JSON:
            typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
            return
        print_table(
            ["name", "family", "parameters", "licence", "note", "where"],
            [
                [
                    row["name"],
                    row["family"] or "",
                    _size(row["parameters"]),
                    row["licence"],
                    row["note"],
                    row["folder"] or "not downloaded",
                ]
                for row in rows
            ],
        )


def download_models(
    names: _Names,
    lora: Annotated[
        bool, typer.Option("--lora", help="They are LoRA adapters, of which only two files are needed.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    verbose: Verbose = 0,
) -> None:
    """Download checkpoints or LoRA adapters, or mend what is half there, and print their folders.

    Only the files that are needed are fetched, an interrupted download goes on where it stopped, and sizes
    and checksums are compared with the Hub's.
    """
    configure_logging(verbose)
    with reported_errors(verbose):
        from ..models_cache import ensure_adapter, ensure_checkpoint

        watched = is_terminal(sys.stderr) and not quiet
        ensure = ensure_adapter if lora else ensure_checkpoint
        _for_each(names, lambda name: typer.echo(ensure(name, progress=watched)), verbose)


def verify_models(
    names: _Names,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the Hub.")] = False,
    verbose: Verbose = 0,
) -> None:
    """Read every file of a checkpoint and compare it with what was downloaded, or with the Hub.

    Exit status 1 if anything is wrong, which 'promptgen models download' mends, or if there was nothing to
    compare with.
    """
    configure_logging(verbose)
    with reported_errors(verbose):
        from ..models_cache import verify_checkpoint

        def verify(name: str) -> bool:
            problems = verify_checkpoint(name, offline=offline)
            wrong = any(problem.kind != "unchecked" for problem in problems)
            typer.echo(f"{name}: {'not whole' if wrong else 'not compared' if problems else 'whole'}")
            for problem in problems:
                typer.echo(f"  {problem}")
            return not problems

        _for_each(names, verify, verbose)


def where_are_models(names: _Names, verbose: Verbose = 0) -> None:
    """Print the folder of each checkpoint; exit status 1 if one is not on this computer."""
    configure_logging(verbose)
    with reported_errors(verbose):
        from ..models_cache import find_checkpoint

        def show(name: str) -> bool:
            folder = find_checkpoint(name)
            if folder is None:
                say_error(
                    f"{name} is not on this computer, or not whole. "
                    f"Fetch it with: promptgen models download {name}"
                )
                return False
            typer.echo(folder)
            return True

        _for_each(names, show, verbose)


_COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_models,
    "download": download_models,
    "verify": verify_models,
    "where": where_are_models,
    "export": export_model,
}
for _name, _command in _COMMANDS.items():
    models_app.command(_name, help=fold(_command.__doc__))(_command)


def _for_each(names: Sequence[str], act: Callable[[str], bool | None], verbose: int) -> None:
    """Do all of ``names`` whatever becomes of each; exit status 1 if one failed or answered False."""
    failed = False
    for name in names:
        try:
            failed |= act(name) is False
        except Exception as error:
            message = describe(error)
            if message is None or len(names) == 1:
                raise
            say_error(f"{name}: {message}")
            failed = True
    if failed:
        raise typer.Exit(FAILED)


def _catalogue_rows() -> list[dict[str, Any]]:
    from ..models_cache import catalogue, find_checkpoint, known_family, local_checkpoints, told_family

    rows = []
    for entry in catalogue().values():
        folder = find_checkpoint(entry.name)
        told = told_family(entry.name) if folder is None else known_family(folder)
        rows.append(
            {
                "name": entry.name,
                "hub_id": entry.hub_id,
                "family": told or entry.family or None,
                "parameters": entry.parameters,
                "licence": entry.licence,
                "instructions": list(entry.instructions),
                "note": entry.note,
                "folder": None if folder is None else str(folder),
            }
        )
    known = {row["folder"] for row in rows}
    for name, folder in local_checkpoints().items():
        if str(folder) not in known:
            rows.append(
                {
                    "name": name,
                    "hub_id": None,
                    "family": known_family(folder),
                    "parameters": None,
                    "licence": "",
                    "instructions": [],
                    "note": "found on this computer, not in the catalogue",
                    "folder": str(folder),
                }
            )
    return rows


def _size(parameters: int | None) -> str:
    """A number of parameters as people write it: ``0.23 B``, ``1.5 M``; empty if unknown."""
    if not parameters:
        return ""
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e8 else f"{parameters / 1e6:.1f} M"
