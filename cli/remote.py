"""``promptgen remote``: the same commands, answered by a server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from .caption_flags import CaptionFlags, Images, Instructions
from .caption_images import caption_images
from .expand_flags import expand_flags
from .folder_flags import Columns, FolderFlags, Paths, SourceFlags
from .folder_run import caption_folders
from .help_text import fold
from .question_flags import QuestionFlags
from .remote_flags import AskedServerFlags, ServerFlags, options_to_send
from .reporting import configure_logging, reported_errors
from .verbosity import Verbose

if TYPE_CHECKING:
    from ..captioning import CaptionOptions
    from ..captioning.runs.asked_model import AskedModel
    from ..captioning.runs.run import RunOptions
    from .caption_images import Answers

remote_app = typer.Typer(
    name="remote",
    help="Caption on a server ('promptgen serve'), on this machine or another.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@expand_flags
def caption(
    *,
    image: Images,
    instruction: Instructions = None,
    server: AskedServerFlags,
    flags: QuestionFlags,
    wanted: CaptionFlags,
) -> None:
    """Caption images on a server: ask one or several questions of each.

    Options, forms and exit statuses are those of 'promptgen caption', and so are the answers.
    """
    with ExitStack() as stack:

        def ask(paths: Sequence[str], instructions: Sequence[str], options: CaptionOptions) -> Answers:
            from .remote_answers import answers_from

            remote = stack.enter_context(server.remote())
            model = server.model or remote.models()[0].name
            workers = server.workers(remote, instructions, options_to_send(flags))
            return answers_from(workers, paths, model)

        caption_images(image, instruction, flags, wanted, ask, server.default_instruction)


@expand_flags
def folder(
    *,
    path: Paths,
    source: SourceFlags,
    instruction: Columns = None,
    server: AskedServerFlags,
    flags: QuestionFlags,
    wanted: FolderFlags,
) -> None:
    """Caption folders of any size on a server, and go on where the last run ended.

    All is as with 'promptgen folder', and runs of either go on with those of the other if checkpoint and
    options are the same. Images are sent as they are. While the server is away or busy the run waits, at most
    for --patience; then it ends as if it had been stopped: no image counts as failed for that, and started
    again it goes on.

    Exit status: 0 every image has its captions, 1 something failed, 2 wrong usage, 130 stopped with Ctrl-C.
    """
    with ExitStack() as stack:

        def model_for(options: RunOptions) -> AskedModel:
            from ..captioning.runs.asked_model import AskedModel

            remote = stack.enter_context(server.remote())
            workers = server.workers(remote, options.instructions, options_to_send(flags))
            told = {"checkpoint": server.model or "the server's first", "server": remote.shown_url}
            return AskedModel(workers.digest, told, lambda waiting, tell: workers)

        caption_folders(path, source, instruction, flags, wanted, model_for, server.default_instruction)


@expand_flags
def prompts(*, server: ServerFlags, verbose: Verbose = 0) -> None:
    """List what the server's first model can be asked without a text or a region."""
    configure_logging(verbose)
    with reported_errors(verbose), server.remote() as remote:
        for prompt in remote.prompts():
            typer.echo(prompt)


@expand_flags
def model(
    *,
    server: ServerFlags,
    every: Annotated[
        bool, typer.Option("--all", help="All models of the server, the default first.")
    ] = False,
    verbose: Verbose = 0,
) -> None:
    """Say which model the server has."""
    configure_logging(verbose)
    with reported_errors(verbose), server.remote() as remote:
        for name in [one.name for one in remote.models()] if every else [remote.model()]:
            typer.echo(name)


for _command in (caption, folder, prompts, model):
    remote_app.command(help=fold(_command.__doc__))(_command)
