"""The ``promptgen`` command with its subcommands. Building it loads nothing but typer."""

from __future__ import annotations

from typing import Annotated

import typer

from .._version import __version__
from .caption import caption
from .detect import detect
from .evaluate import evaluate
from .folder import folder
from .ground import ground
from .help_text import fold
from .instructions import instructions
from .models import models_app
from .ocr import ocr
from .remote import remote_app
from .segment import segment
from .serve import serve
from .train import train

DESCRIPTION = """Captions, tags and analyses of images with Florence-2 PromptGen and PaliGemma.

Try it without a download: [bold]promptgen caption PICTURE --model demo[/bold]. The demo model is tiny and
[bold]knows drawn shapes only[/bold] (coloured figures on a plain ground); of a photograph it says nonsense.
The default model, which knows photographs and drawings alike, is downloaded at the first run (about 1 GB).
"""

app = typer.Typer(
    name="promptgen",
    help=fold(DESCRIPTION),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(help=fold(caption.__doc__))(caption)
app.command(help=fold(folder.__doc__))(folder)
for _regions in (detect, ground, segment, ocr):
    app.command(help=fold(_regions.__doc__))(_regions)
app.command(help=fold(serve.__doc__))(serve)
app.command(help=fold(train.__doc__))(train)
app.command(help=fold(evaluate.__doc__))(evaluate)
app.command(help=fold(instructions.__doc__))(instructions)
app.add_typer(remote_app, name="remote")
app.add_typer(models_app, name="models")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"promptgen {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass
