"""What the node that captions a folder does when it runs: inputs to a run's options, its end to words.

Apart from the node's schema because it needs the engine, and ComfyUI's start must not.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from ..captioning import CaptionOptions
from ..captioning.instructions import check_text_input, find_instruction
from ..captioning.runs.journal import JournalError
from ..captioning.runs.outputs import (
    Column,
    Existing,
    Form,
    OutputError,
    OutputOptions,
    SameStem,
    columns_of,
    make_outputs,
)
from ..captioning.runs.run import RunOptions, RunProgress, RunReport, places_of, run_folder
from ..captioning.runs.sources import SourceError, find_items
from ..captioning.runs.summary import summary
from . import host
from .folders import SHOWN, folder_to_read, folder_to_write, printable, require_extension
from .inputs import require_texts
from .work import CaptionSettings, ready_captioner

logger = logging.getLogger(__name__)

REPORT = "report.html"

_FINGERPRINT_SECONDS = 5.0  # for longer nobody is kept waiting where no progress is shown

Choice = TypeVar("Choice", bound=Enum)


class RunStoppedError(RuntimeError):
    """Too many pictures have failed; the message says how far the run came."""


@dataclass(frozen=True)
class FolderSettings:
    """What the node is told besides the model and how to generate. The defaults are the node's."""

    folder: str
    instruction: str = "GENERATE_TAGS"
    instructions: str = ""
    form: str = Form.SIDECAR.value
    extension: str = "txt"
    output_folder: str = ""
    existing: str = Existing.SKIP.value
    separator: str = ", "
    same_stem: str = SameStem.ERROR.value
    redo_damaged: bool = False
    recursive: bool = True
    pattern: str = ""
    max_errors: int = -1
    retry_errors: bool = False
    report_page: bool = False
    restart: bool = False

    def options(self, captions: CaptionOptions) -> RunOptions:
        """As the engine takes them. Nothing is written yet.

        Raises:
            ValueError: a choice that the menus do not have, a folder that is not there.
            OutputError: choices that contradict each other.
        """
        require_texts(pattern=self.pattern, separator=self.separator)
        folder = folder_to_read(self.folder)
        output_folder = folder_to_write(self.output_folder)
        if os.path.exists(output_folder) and not os.path.isdir(output_folder):  # noqa: PTH110, PTH112
            raise ValueError(f"{printable(output_folder)} is a file. Name a folder in 'output_folder'.")
        form = _chosen(Form, "form", self.form)
        beside = form is Form.SIDECAR and not output_folder
        place = Path(output_folder or folder)
        return RunOptions(
            inputs=(folder,),
            output=OutputOptions(
                columns=self._columns(form),
                forms=(form,),
                extension=require_extension(self.extension),
                output_dir=None if beside else place,
                existing=_chosen(Existing, "existing", self.existing),
                separator=self.separator.replace("\\n", "\n"),
                redo_damaged=self.redo_damaged,
                same_stem=_chosen(SameStem, "same_stem", self.same_stem),
            ),
            captions=captions,
            recursive=self.recursive,
            pattern=self.pattern.strip() or None,
            restart=self.restart,
            retry_errors=self.retry_errors,
            report=place / REPORT if self.report_page else None,
            max_errors=None if self.max_errors < 0 else self.max_errors,
        )

    def _columns(self, form: Form) -> tuple[Column, ...]:
        """What is asked, and what the answers are called."""
        require_texts(instruction=self.instruction, instructions=self.instructions)
        columns = columns_of(self.instructions) or columns_of(self.instruction)
        check_text_input([find_instruction(column.instruction) for column in columns], None)
        if form is Form.SIDECAR:
            for column in columns:
                if column.name:
                    require_extension(column.name)
        return columns


@dataclass(frozen=True)
class Told:
    """How a run ended, as the node gives it; all counts are of pictures."""

    text: str
    captioned: int
    failed: int
    left: int

    @property
    def total(self) -> int:
        return self.captioned + self.failed + self.left


def caption_folder(inputs: Mapping[str, Any]) -> Told:
    """Do what the node's inputs ask, with the host's progress bar and cancel button.

    Raises:
        ValueError, OutputError, SourceError: the inputs ask for what cannot be.
        OutputError, JournalError: a file cannot be written. What was done before is safe, as in all cases.
        RunStoppedError: more pictures have failed than ``max_errors`` allows.
        InterruptProcessingException: the user cancelled.
    """
    settings, rest = _settings_of(inputs)
    with _in_words_of_the_node(), host.folder_progress() as progress:
        model = CaptionSettings(**rest)
        options = settings.options(model.options())
        captioner = ready_captioner(model.choice)
        problems = _Problems()

        def on_progress(at: RunProgress) -> None:
            progress.show(at.worked + at.left_out, at.total)

        report = run_folder(options, captioner, on_progress, progress.stop, problems.add)
    text = "\n".join(_lines(report, options, problems))
    if report.stopped:
        logger.info("Caption Image Folder was cancelled. %s", text)
        progress.raise_if_cancelled()
    if report.too_many_errors:
        raise RunStoppedError(
            "Stopped, since more images have failed than max_errors allows. All that is done is kept; queue "
            f"again to go on.\n{text}"
        )
    return Told(
        text=text,
        captioned=report.captioned,
        failed=report.failed + report.failed_before,
        left=report.rewritten + report.done_before + report.kept + report.same_stem,
    )


def fingerprint(inputs: Mapping[str, Any]) -> Any:
    """Changes when pictures come, go or change, and when caption files do not lie where they belong.

    What is in the files that a run writes makes no difference. Equal to nothing where it cannot be known, or
    is not known soon: to run once more costs little and repeats nothing.
    """
    known = {name: value for name, value in inputs.items() if name != "model"}
    if None in known.values():  # connected, and not known yet
        return float("nan")
    settings, _ = _settings_of(known)
    if settings.retry_errors or settings.restart:
        return float("nan")
    try:
        return _digest(settings.options(CaptionOptions()))
    except (ValueError, OSError, OutputError):  # said when the node runs
        return float("nan")


def _digest(options: RunOptions) -> Any:
    """See :func:`fingerprint`."""
    until = time.monotonic() + _FINGERPRINT_SECONDS
    outputs = make_outputs(options.output, _ignore)
    digest = hashlib.sha256()
    for form in options.output.files:
        digest.update(f"{Path(str(options.output.place(form))).exists()}\n".encode())
    items = find_items(
        options.inputs, recursive=options.recursive, pattern=options.pattern, on_problem=_ignore
    )
    for item in items:
        there = [target.exists() for output in outputs for target in output.targets(item)]
        digest.update(os.fsencode(f"{item.name}\0{item.fingerprint}\0{there}\n"))
        if time.monotonic() > until:
            return float("nan")
    return digest.hexdigest()


def _settings_of(inputs: Mapping[str, Any]) -> tuple[FolderSettings, dict[str, Any]]:
    """The folder's part of the inputs, and the rest."""
    own = {field.name for field in fields(FolderSettings)}
    given = {name: value for name, value in inputs.items() if value is not None}
    mine = {name: value for name, value in given.items() if name in own}
    return FolderSettings(**{"folder": "", **mine}), {
        name: value for name, value in given.items() if name not in own
    }


def _chosen(kind: type[Choice], name: str, value: Any) -> Choice:
    """
    Raises:
        ValueError: the menu does not have it; older hosts do not look.
    """
    try:
        return kind(value)
    except ValueError:
        allowed = ", ".join(choice.value for choice in kind)
        raise ValueError(f"{name} is {value!r:.80}; it takes {allowed}.") from None


# In words ---------------------------------------------------------------------------------


class _Problems:
    """The first few of what was wrong with single pictures and folders, and how many there were."""

    def __init__(self) -> None:
        self.first: list[str] = []
        self.count = 0

    def add(self, name: str, reason: str) -> None:
        self.count += 1
        line = printable(f"{name}: {_in_words_of_inputs(reason)}")
        if len(self.first) < SHOWN:
            self.first.append(line)
            logger.warning("%s", line)
        else:
            logger.info("%s", line)


def _lines(report: RunReport, options: RunOptions, problems: _Problems) -> Iterator[str]:
    """How the run ended, what was wrong, and where everything is."""
    yield from summary(report)
    if report.failed_before:
        yield "Images that failed before, and have not changed, are tried again with retry_errors."
    if problems.first:
        yield ""
        yield from problems.first
        if problems.count > len(problems.first):
            yield f"… and {problems.count - len(problems.first)} more; ComfyUI's log names them all"
    yield ""
    for place in places_of(options):
        yield f"Captions: {printable(place)}"
    if report.failed or report.failed_before:
        yield f"Images that failed: {printable(str(report.errors))}"
    yield f"Journal: {printable(str(report.journal))}"
    if options.report is not None:
        yield f"Report: {printable(str(options.report))}"


_LIKE_FLAGS = (
    "existing", "same_stem", "redo_damaged", "restart", "retry_errors", "max_errors", "extension",
)  # fmt: skip
_FLAGS = {
    "output": "output_folder",
    "output-dir": "output_folder",
    "format": "form",
    **{name.replace("_", "-"): name for name in _LIKE_FLAGS},
}


_FLAG = re.compile(r"(?<![^\s(])--([a-z][a-z-]*)")  # not within a path


def _in_words_of_inputs(message: str) -> str:
    """A message of the engine, which names the options of its command, for those who see inputs instead."""
    told = _FLAG.sub(lambda flag: _FLAGS.get(flag[1], flag[0]), message)
    if _FLAG.search(told):
        told += " What begins with -- is an option of the command 'promptgen folder'."
    return told


@contextmanager
def _in_words_of_the_node() -> Iterator[None]:
    try:
        yield
    except (OutputError, JournalError, SourceError) as error:
        raise type(error)(printable(_in_words_of_inputs(str(error)))) from error


def _ignore(name: str, reason: str) -> None:
    """Problems are told when the node runs."""
