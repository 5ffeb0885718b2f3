"""What detect, ground, segment and ocr do: one instruction, and its regions in the forms that were asked for.

Answers go to the screen or to a file as they come. Where folders, shards and the like are to become files, it
is a run of :mod:`promptgen.captioning.runs`, which goes on where it ended.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

from ..captioning.region_selection import gives_regions, select_in_record
from ..captioning.runs.outputs import (
    Column,
    Existing,
    Form,
    Output,
    OutputError,
    OutputOptions,
    SameStem,
    make_outputs,
)
from ..captioning.runs.records import Item, Record
from ..captioning.runs.sources import SourceError, find_items, holds_pictures
from .answer_flags import AnswerFlags
from .choices import RegionFormat
from .image_arguments import expand_images
from .output_file import OutputFile
from .progress import progress_over
from .records import records_of
from .region_flags import RegionFlags
from .region_places import check_no_images, check_outside, check_places
from .region_table import RegionTableWriter
from .reporting import FAILED, UsageError, configure_logging, reported_errors, say, say_error
from .writers import JsonLinesWriter, JsonWriter, Writer
from .writers import Record as JsonRecord

if TYPE_CHECKING:
    from ..captioning import CaptionOptions, ImageResult
    from ..captioning.formats import RegionWriter

_PER_PICTURE = {
    RegionFormat.LABELME: Form.LABELME,
    RegionFormat.YOLO: Form.YOLO,
    RegionFormat.YOLO_SEG: Form.YOLO_SEG,
}
_OF_A_RUN = {
    **_PER_PICTURE,
    RegionFormat.COCO: Form.COCO,
    RegionFormat.CSV: Form.REGIONS_CSV,
    RegionFormat.JSON: Form.REGIONS_JSON,
    RegionFormat.JSONL: Form.REGIONS_JSONL,
}
_WITHOUT_TRUNCATED = (RegionFormat.CSV, RegionFormat.COCO, *_PER_PICTURE)  # they have no `truncated`


def find_regions(
    instruction: str,
    images: Sequence[str],
    flags: AnswerFlags,
    wanted: RegionFlags,
    *,
    instead: str = "--phrase 'cat; dog' of promptgen detect gives boxes of what you name.",
) -> None:
    """Ask every image, and write what it has.

    Args:
        instruction: its canonical name; its text or region is in ``flags.text_input``.
        instead: what to do with a checkpoint of a family that has no such instruction.

    Raises:
        UsageError: the checkpoint's family has no such instruction.
        typer.Exit: something failed, see :mod:`.reporting`.
    """
    flags.find_instructions([instruction])
    _check_family(instruction, flags.model, instead)
    options = flags.caption_options()
    if options.tags != type(options.tags)():
        raise UsageError(
            "--prefix, --exclude and the others of their kind change captions and tags, but nothing that is "
            "found in images. Leave them out."
        )
    held = [image for image in images if image != "-" and holds_pictures(image)]
    form = wanted.form()
    _check(instruction, form, wanted)
    try:
        if held and (wanted.output or wanted.overlay or wanted.mask or wanted.crop or form in _PER_PICTURE):
            _run(_output_options(instruction, form, wanted, options, alone=False), images, flags, wanted)
        elif held:
            items = _found(images, wanted)
            _answer(instruction, None, items, flags, wanted, options)
        else:
            stdin = getattr(sys.stdin, "buffer", None)
            paths = expand_images(images, stdin, null_separated=wanted.null)
            _answer(instruction, paths, _items_of(paths), flags, wanted, options)
    except OutputError as error:  # whose words are those of `promptgen folder`
        raise UsageError(str(error).replace("--existing overwrite", "--overwrite")) from error
    except SourceError as error:
        raise UsageError(str(error)) from error


def reported(flags: AnswerFlags, work: Callable[[], None]) -> None:
    """Run the body of a command: errors in words, exit statuses."""
    configure_logging(flags.verbose)
    with reported_errors(flags.verbose):
        work()


def _check_family(instruction: str, model: str, instead: str) -> None:
    from ..captioning import InstructionError, find_instruction
    from ..models_cache import ModelNotFoundError, family_of_model

    try:
        family = family_of_model(model)
    except ModelNotFoundError:
        return  # which is told once nothing else is wrong
    try:
        find_instruction(instruction).for_family(family)
    except InstructionError as error:
        raise UsageError(f"{model}: {error} With this command: {instead}") from error


def _check(instruction: str, form: RegionFormat, wanted: RegionFlags) -> None:
    """See that the answers have the regions that are asked for."""
    wanted.class_names()
    if form in (RegionFormat.YOLO, RegionFormat.YOLO_SEG) and wanted.output is None:
        raise UsageError(f"{form.value} is a folder with a file for each image; name it with --output.")
    if gives_regions(instruction):
        return
    what = [name for name in ("overlay", "mask", "crop", "select") if getattr(wanted, name)]
    if form not in (RegionFormat.TEXT, RegionFormat.JSON, RegionFormat.JSONL):
        what.insert(0, f"format {form.value}")
    if what:
        raise UsageError(f"{instruction} gives no regions, which --{what[0]} needs.")


def _output_options(
    instruction: str, form: RegionFormat, wanted: RegionFlags, options: CaptionOptions, *, alone: bool
) -> OutputOptions:
    """The files, besides a single one that grows with the answers if this is no run."""
    forms: tuple[Form, ...] = ()
    output = wanted.place
    if form in _OF_A_RUN and (output is not None or form is RegionFormat.LABELME):
        forms = (_OF_A_RUN[form],)
    elif wanted.format is not None or output is not None:
        what = "a file with --output" if form in _OF_A_RUN else "another --format than text"
        raise UsageError(f"regions of whole folders go to files that can be completed later: name {what}.")
    if form is RegionFormat.LABELME and output is not None and output.is_file():
        raise UsageError(f"--output {str(output)!r} is a file, and labelme needs a folder.")
    return OutputOptions(
        columns=(Column(instruction),),
        forms=forms,
        output=output if forms else None,
        drawn=wanted.drawn(alone=alone),
        background=options.background,
        select=wanted.select,
        classes=wanted.class_names(),
        existing=Existing.OVERWRITE if wanted.overwrite else Existing.SKIP,
        same_stem=wanted.same_stem,
    )


# ---- a run


def _run(output: OutputOptions, images: Sequence[str], flags: AnswerFlags, wanted: RegionFlags) -> None:
    from ..captioning.runs.asked_model import local_model
    from ..captioning.runs.run import FolderRun, RunOptions
    from .run_end import tell_report
    from .run_progress import RunTeller
    from .stopping import stop_on_signals

    if "-" in images:
        raise UsageError("'-' (paths from standard input) does not go with folders; name them alone.")
    check_places(wanted.place, output.drawn, images, to_folder=output.names_folder)
    for one in output.drawn:
        check_outside(one.folder, images, recursive=wanted.recursive)
    options = RunOptions(
        inputs=tuple(images),
        output=output,
        captions=flags.caption_options(),
        recursive=wanted.recursive,
        pattern=wanted.pattern,
        restart=wanted.restart,
        retry_errors=wanted.retry_errors,
    )
    captioner = flags.captioner()
    stop = threading.Event()
    first = "Stopping after the images at hand. Ctrl-C again stops at once."
    with stop_on_signals(stop, first), RunTeller(quiet=flags.quiet, seconds=30.0) as teller:
        model = local_model(captioner, options)
        report = FolderRun(options, model, teller.progress, stop, teller.problem).run()
    tell_report(report, None, quiet=flags.quiet)


# ---- answers as they come


def _answer(
    instruction: str,
    paths: Sequence[str] | None,
    items: Iterator[Item],
    flags: AnswerFlags,
    wanted: RegionFlags,
    options: CaptionOptions,
) -> None:
    """Ask, and write as the answers come.

    Args:
        paths: of the images, where they are known; else they are found as ``items`` goes on.
    """
    alone = paths is not None and len(paths) == 1
    with ExitStack() as stack:
        problems: list[str] = []
        files = _Files(instruction, paths, wanted, options, problems)
        stack.callback(files.close)
        screen = _screen(stack, wanted, flags, headings=not alone)
        captioner = flags.captioner()
        if flags.watched:
            say(f"Loading {flags.model}")
        tally = _Tally()
        with progress_over(0 if paths is None else len(paths), quiet=flags.quiet) as progress:
            for item, result in _results(captioner, paths, items, instruction, options):
                tally.images += 1
                with progress.aside():
                    error = _write(item, result, screen, files, wanted, tally, alone=alone)
                    for told in [*([error] if error else []), *problems]:
                        say_error(told)
                    tally.failed += bool(error or problems)
                    problems.clear()
                    if not flags.quiet and wanted.form() in _WITHOUT_TRUNCATED:
                        _tell_truncated(result)
                progress.advance()
    if tally.failed and tally.images > 1 and not flags.quiet:
        say(f"{tally.images - tally.failed} of {tally.images} images done, {tally.failed} failed.")
    if tally.regions and not tally.selected:
        say_error(f"--select {wanted.select!r} is none of the {tally.regions} regions of all images.")
    if tally.failed or (tally.regions and not tally.selected):
        raise typer.Exit(FAILED)


@dataclass
class _Tally:
    """What became of the images."""

    images: int = 0
    failed: int = 0
    regions: int = 0  # that were found, in images that have not failed
    selected: int = 0


def _tell_truncated(result: ImageResult) -> None:
    if any(answer.truncated for answer in result.results):
        say(f"{result.image}: the answer was cut off; --max-new-tokens allows longer ones.")


def _write(
    item: Item,
    result: ImageResult,
    screen: _Screen | None,
    files: _Files,
    wanted: RegionFlags,
    tally: _Tally,
    *,
    alone: bool,
) -> str | None:
    """Write what became of one image. Returns what is wrong with it."""
    error = result.error
    answers: list[dict[str, Any]] = []
    if error is None:
        try:
            whole = [answer.to_dict() for answer in result.results]
            answers = [select_in_record(answer, wanted.select, missing_ok=not alone) for answer in whole]
            tally.regions += sum(len(answer.get("regions", ())) for answer in whole)
            tally.selected += sum(len(answer.get("regions", ())) for answer in answers)
        except ValueError as reason:
            error = f"--select {wanted.select!r}: {reason}"
    if error is not None:
        result = replace(result, error=error)
    if screen is not None:
        screen.write(result, answers)
    if error is None:
        files.write(item, result, answers)
        return None
    named = error.startswith((result.image, item.name))  # image errors name their file themselves
    return error if named else f"{result.image}: {error}"


def _results(
    captioner: Any,
    paths: Sequence[str] | None,
    items: Iterator[Item],
    instruction: str,
    options: CaptionOptions,
) -> Iterator[tuple[Item, ImageResult]]:
    from ..captioning.runs.pictures import ItemPicture

    if paths is not None:
        yield from zip(items, captioner.stream(paths, instruction, options), strict=True)
        return
    given: deque[Item] = deque()

    def pictures() -> Iterator[Any]:
        for item in items:
            given.append(item)
            yield ItemPicture(item)

    for result in captioner.stream(pictures(), instruction, options, keep_features=False):
        item = given.popleft()
        yield item, replace(result, image=str(item.path or item.url or item.name))


def _items_of(paths: Sequence[str]) -> Iterator[Item]:
    """Of images that were named one by one; files of theirs lie as they do below the lowest common folder."""
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]  # noqa: PTH100, PTH120 - keeps ".."
    try:
        common = os.path.commonpath(folders) if folders else ""
    except ValueError:  # several drives
        common = ""
    for path, folder in zip(paths, folders, strict=True):
        below = os.path.relpath(folder, common) if common else ""
        relative = Path(below, os.path.basename(os.path.abspath(path)))  # noqa: PTH100, PTH119 - of "x/" also
        yield Item(path, relative, Path(path), "", partial(_open, path))


def _open(path: str) -> BinaryIO:
    return open(path, "rb")


def _found(images: Sequence[str], wanted: RegionFlags) -> Iterator[Item]:
    if "-" in images:
        raise UsageError("'-' (paths from standard input) does not go with folders; name them alone.")
    items = find_items(
        images,
        recursive=wanted.recursive,
        pattern=wanted.pattern,
        fingerprints=False,
        on_problem=lambda name, reason: say_error(f"{name}: {reason}"),
    )
    first = next(items, None)  # what is not there is said before the model is loaded
    return chain([] if first is None else [first], items)


class _Files:
    """Files for each image: pictures of the regions, LabelMe, YOLO.

    Args:
        problems: takes what is wrong with one image.

    Raises:
        UsageError: a file is there already.
    """

    def __init__(
        self,
        instruction: str,
        paths: Sequence[str] | None,
        wanted: RegionFlags,
        options: CaptionOptions,
        problems: list[str],
    ) -> None:
        self._outputs: list[Output] = []  # those that may be written to
        form = wanted.form()
        drawn = wanted.drawn(alone=paths is not None and len(paths) == 1)
        output = wanted.place
        per_picture = form in _PER_PICTURE
        check_places(output, drawn, paths or (), to_folder=per_picture)
        if paths is None or not (drawn or per_picture):
            return
        shared = _share_stems(paths)
        if shared and form in (RegionFormat.YOLO, RegionFormat.YOLO_SEG):
            raise UsageError(
                "several of the images have one name but for the extension, and YOLO would take one file of "
                "labels for all of them. Rename them, or ask for a folder each."
            )
        outputs = make_outputs(
            OutputOptions(
                columns=(Column(instruction),),
                forms=(_PER_PICTURE[form],) if per_picture else (),
                output=output if per_picture else None,
                drawn=drawn,
                background=options.background,
                classes=wanted.class_names() if per_picture else (),
                existing=Existing.OVERWRITE if wanted.overwrite else Existing.SKIP,
                same_stem=SameStem.FULL_NAME if shared else SameStem.ERROR,
            ),
            lambda name, reason: problems.append(f"{name}: {reason}"),
        )
        self._check_targets(outputs, paths, overwrite=wanted.overwrite)
        for one in outputs:
            one.start(None)
        self._outputs = outputs

    def _check_targets(self, outputs: Sequence[Output], paths: Sequence[str], *, overwrite: bool) -> None:
        taken: set[Path] = set()
        for output in outputs:
            places = {place for item in _items_of(paths) for place in output.targets(item)}
            targets = {place for place in places if isinstance(place, Path)}  # all of them
            check_no_images(targets, paths)
            for target in sorted(targets):
                if target in taken:
                    raise UsageError(f"two kinds of files would be {str(target)!r}; give each its own place.")
                if target.exists() and not overwrite:
                    raise UsageError(
                        f"{str(target)!r} exists already. Name another place, or give --overwrite."
                    )
            taken |= targets

    def write(self, item: Item, result: ImageResult, answers: Sequence[dict[str, Any]]) -> None:
        records: Sequence[Record] = [
            Record(item.name, item.relative, item.path, "", tuple(answers), size=result.size, open=item.open)
        ]
        for output in self._outputs:
            records = output.prepare(records)
            output.write(records)

    def close(self) -> None:
        """Complete them; called at the end and also after Ctrl-C."""
        for output in self._outputs:
            output.commit()
            output.finish(lambda: iter(()), lambda mark: None)
            output.close()


def _share_stems(paths: Sequence[str]) -> bool:
    """Whether two of them would have one name, less the extension."""
    relative = {item.relative for item in _items_of(paths)}
    return len({path.with_suffix("") for path in relative}) < len(relative)


class _Screen:
    """Where all answers go, one after the other: standard output, or a file."""

    def __init__(self, writer: Writer | None, regions: RegionWriter | None, model: str) -> None:
        self._writer = writer
        self._regions = regions
        self._model = model

    def write(self, result: ImageResult, answers: Sequence[dict[str, Any]]) -> None:
        if self._writer is not None:
            records: Sequence[JsonRecord] = records_of(result, self._model, answers)
            self._writer.write(records)
        elif self._regions is not None and result.error is None and result.size is not None:
            for answer in answers:
                self._regions.write(result.image, result.size, answer)

    def close(self) -> None:
        for one in (self._writer, self._regions):
            if one is not None:
                one.close()


def _screen(stack: ExitStack, wanted: RegionFlags, flags: AnswerFlags, *, headings: bool) -> _Screen | None:
    form = wanted.form()
    if form in _PER_PICTURE:
        return None
    if wanted.place is not None:
        stream = stack.enter_context(OutputFile(wanted.place, overwrite=wanted.overwrite))
    elif sys.stdout is None:
        raise UsageError("standard output is closed; name a file with --output.")
    else:
        stream = sys.stdout
    writer: Writer | None = None
    regions = None
    if form is RegionFormat.JSON:
        writer = JsonWriter(stream)
    elif form is RegionFormat.JSONL:
        writer = JsonLinesWriter(stream)
    elif form is RegionFormat.TEXT:
        writer = RegionTableWriter(stream, headings=headings)
    else:
        from ..captioning.formats import stream_writer

        regions = stream_writer(form.value, stream, classes=wanted.class_names())
    screen = _Screen(writer, regions, flags.model)
    stack.callback(screen.close)
    return screen
