"""A run over many pictures, from what the user named to captions on disk.

A thread looks for pictures and leaves out what is done; the caller's thread captions, while the captioner
reads ahead; a thread writes. Memory does not grow with the number of pictures, and a kill at any instant
costs no more than what the device was at.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from ..captioner import CaptionOptions
from .asked_model import AskedModel, local_model
from .behindhand import Behindhand
from .counting import Counter
from .flow import Ahead, Behind
from .journal import Journal
from .outputs import Form, Output, OutputOptions, SameStem, Targets, make_outputs, refuse
from .places import errors_place, journal_place
from .records import Item, Record
from .report import check_report_place, write_report
from .selection import Left, Selection
from .sources import find_items, is_in_shard
from .sources.patient import held_bytes
from .stored_journal import is_journal_there, open_journal
from .stores import Place
from .told_options import told_options
from .workers import ModelGoneError, Waiting, Workers
from .writing import GroupWriter

if TYPE_CHECKING:
    from ..captioner import Captioner

__all__ = ["FolderRun", "Plan", "RunOptions", "RunProgress", "RunReport", "places_of", "run_folder"]

OnProblem = Callable[[str, str], None]


@dataclass(frozen=True)
class RunOptions:
    """What a run is to do, besides the checkpoint."""

    inputs: tuple[str, ...]  # see `find_items`
    output: OutputOptions  # what is asked, and where the answers go
    captions: CaptionOptions = field(default_factory=CaptionOptions)
    recursive: bool = True
    pattern: str | None = None
    column: str = "image"  # of tables
    journal: Place | None = None  # None: where the captions go, see `journal_place`
    restart: bool = False  # forget the journal, not the captions
    retry_errors: bool = False  # try again what failed before, though nothing has changed
    report: Path | None = None  # a page about the run, written at its end, see `write_report`
    max_errors: int | None = None  # stop after more pictures than this have failed; None: never

    @property
    def instructions(self) -> tuple[str, ...]:
        """What is asked of each picture, in order; canonical names."""
        return tuple(column.instruction for column in self.output.columns)


@dataclass(frozen=True)
class RunProgress:
    """How far a run is; all counts are of pictures."""

    captioned: int = 0
    rewritten: int = 0  # known to the journal, but their files were gone
    failed: int = 0
    left_out: int = 0  # done before, failed before, or with captions that are kept
    checked: int = 0  # looked at before the first is captioned
    total: int | None = None  # None until all are counted

    @property
    def worked(self) -> int:
        """Pictures that this run has dealt with."""
        return self.captioned + self.rewritten + self.failed


@dataclass(frozen=True)
class RunReport:
    """How a run ended; all counts are of pictures."""

    captioned: int
    rewritten: int
    failed: int
    done_before: int
    failed_before: int
    kept: int  # had captions that were to be kept
    same_stem: int  # left out, since their caption file is another's
    problems: int  # folders and the like that could not be read, captions that could not be written
    seconds: float
    stopped: bool  # before its end, as it was told to
    too_many_errors: bool
    journal: Place
    errors: Place  # file of the pictures that failed; there if there are any
    gone: str | None = None  # why the model could not be asked any more, if that stopped it
    waited: float | None = None  # share of the time, 0 to 1, in which the model waited for pictures, if known
    unmet: int = 0  # answers of this run that were kept though they fail the conditions, see `RetryOptions`
    marked: tuple[Place, ...] = ()  # tables whose column `unmet` tells which those are

    @property
    def complete(self) -> bool:
        """Whether every picture has its captions now."""
        failed = self.failed + self.failed_before + self.problems
        return not (self.stopped or self.too_many_errors or failed)


@dataclass(frozen=True)
class Plan:
    """What a run would do; all counts are of pictures."""

    to_caption: int
    to_rewrite: int
    to_fail: int  # before they are captioned: nobody can read the captions that they have
    done_before: int
    failed_before: int
    kept: int
    same_stem: int
    places: tuple[str, ...]  # where captions would go
    journal: Place
    errors: Place
    stopped: bool  # before all pictures were looked at, as it was told to


def run_folder(
    options: RunOptions,
    captioner: Captioner,
    on_progress: Callable[[RunProgress], None] = lambda progress: None,
    stop: threading.Event | None = None,
    on_problem: OnProblem = lambda name, reason: None,
    workers: Workers | None = None,
) -> RunReport:
    """Caption all pictures of ``options`` that are not captioned yet.

    Args:
        captioner: says which checkpoint, and captions unless there are ``workers``.
        on_progress: called in this thread, after each picture and about ten times a second while waiting or
            while the model is at work. It may raise to end the run at once.
        stop: when it is set, the batch in flight is finished and written, and the run returns.
        on_problem: told, in this thread, the name and reason of each picture that failed, and of what else
            could not be read or written.
        workers: who captions, with the same checkpoint and options.

    Raises:
        SourceError: an input is not there, or there is no picture in any.
        OutputError: two pictures ask for one file, a file is in the way, or one cannot be written. What was
            done before is safe, as with all that is raised here.
        JournalError: the journal is in use or cannot be used.
        ModelFilesError, CheckpointError, ValueError, OutOfMemoryError: see :meth:`.Captioner.stream`.
    """
    model = local_model(captioner, options, workers)
    return FolderRun(options, model, on_progress, stop or threading.Event(), on_problem).run()


class FolderRun:
    """One run. See :func:`run_folder`."""

    def __init__(
        self,
        options: RunOptions,
        model: AskedModel,
        on_progress: Callable[[RunProgress], None],
        stop: threading.Event,
        on_problem: OnProblem,
    ) -> None:
        self._options = options
        self._model = model
        self._waiting = Waiting()
        self._journal = options.journal or journal_place(options.inputs, options.output)
        self._errors = options.output.errors or errors_place(options.inputs, options.output)
        self._on_progress = on_progress
        self._stop = stop
        self._on_problem = on_problem
        self._told: SimpleQueue[tuple[str, str]] = SimpleQueue()  # problems that other threads have met
        self._left = Left()
        self._captioned = self._rewritten = self._failed = self._problems = self._checked = 0
        self._unmet = 0
        self._ended = threading.Event()  # no picture is looked for any more
        self._counter: Counter | None = None
        self._total: int | None = None
        self._gone: str | None = None

    def run(self) -> RunReport:
        """Do it."""
        started = time.monotonic()
        options = self._options
        if options.report is not None:
            check_report_place(options.report)
        settings = self._model.digest()
        outputs = self._make_outputs()
        with ExitStack() as stack:
            late = self._check_targets(outputs, stack)  # before there is any file of ours
            journal = stack.enter_context(open_journal(self._journal, settings, restart=options.restart))
            behindhand = Behindhand.of(journal, outputs)
            behindhand.save()  # also for the next run, if this one is killed
            writer = GroupWriter(journal, outputs, behindhand.mark_with_records())
            stack.callback(writer.close)
            writer.start()
            selection = Selection(journal, outputs, behindhand.is_fresh, late, options.retry_errors)
            behind: Behind[Record] = Behind(writer.write, weigh=_held)
            try:
                self._caption(selection, behind)
            except ModelGoneError as error:
                self._gone = str(error)
                self._stop.set()
            finally:  # whatever has happened, what was answered is written
                behind.finish()
                writer.finish()
            if not self._stopping():
                behindhand.caught_up(after_records=writer.written > 0)
            journal.complete()
            self._advance()
            report = self._report(time.monotonic() - started)
            if options.report is not None:
                write_report(options.report, journal.records, report, self._told_settings(), find=self._names)
        return report

    def plan(self) -> Plan:
        """What :meth:`run` would do. Writes nothing. Ends early when it is told to stop.

        Raises:
            SourceError, OutputError, JournalError: as the run would.
        """
        options = self._options
        settings = self._model.digest()
        outputs = self._make_outputs()
        with ExitStack() as stack:
            late = self._check_targets(outputs, stack)
            is_known = not options.restart and is_journal_there(self._journal)
            journal = (
                open_journal(self._journal, settings, writing=False) if is_known else Journal.empty(settings)
            )
            stack.enter_context(journal)
            fresh = Behindhand.of(journal, outputs).is_fresh
            selection = Selection(journal, outputs, fresh, late, options.retry_errors)
            to_caption = to_rewrite = to_fail = 0
            for work in selection.choose(self._until_ended(self._items(self._tell)), self._left):
                to_caption += isinstance(work, Item)
                if isinstance(work, Record) and work.error is not None:
                    self._tell(work.name, work.error)
                    to_fail += 1
                else:
                    to_rewrite += isinstance(work, Record)
                self._advance()
        left = self._left
        return Plan(
            to_caption=to_caption, to_rewrite=to_rewrite, to_fail=to_fail, done_before=left.done,
            failed_before=left.failed_before, kept=left.kept, same_stem=left.same_stem,
            places=tuple(places_of(options)), journal=self._journal, errors=self._errors,
            stopped=self._stop.is_set(),
        )  # fmt: skip

    def _make_outputs(self) -> list[Output]:
        return make_outputs(self._output_options(), self._tell)

    def _output_options(self) -> OutputOptions:
        marks = self._options.captions.retries.judges
        return replace(self._options.output, errors=self._errors, marks=marks)

    def _told_settings(self) -> dict[str, str]:
        """What shapes this run, for people."""
        options = self._options
        return {
            "images": ", ".join(options.inputs),
            "captions": ", ".join(places_of(options)),
            "instructions": ", ".join(options.instructions),
            **self._model.told,
            **told_options(options.captions),
            "journal": str(self._journal),
        }

    # ---- the pictures

    def _names(self) -> Iterator[Item]:
        """All pictures, none of which is looked at."""
        return self._items(_ignore, fingerprints=False)

    def _items(
        self, on_problem: OnProblem, *, fingerprints: bool = True, every_part: bool = False
    ) -> Iterator[Item]:
        options = self._options
        part = None if every_part else options.output.part
        return find_items(
            options.inputs,
            recursive=options.recursive,
            pattern=options.pattern,
            column=options.column,
            shard=None if part is None else (part[0] - 1, part[1]),
            fingerprints=fingerprints,
            on_problem=on_problem,
        )

    def _check_targets(self, outputs: Sequence[Output], stack: ExitStack) -> Targets | None:
        """See that no two pictures ask for one file, and count them; only counted where none has its own.

        Of a divided run, all parts are looked at: the pictures of one must not take the files of another.

        Returns:
            Which pictures came late, if those are to be left out.

        Raises:
            OutputError: two do.
        """
        targets = stack.enter_context(Targets())
        part, has_entries = self._options.output.part, self._options.output.has_entries
        total = 0
        for item in self._items(_ignore, fingerprints=False, every_part=True):
            files = [path for output in outputs for path in output.targets(item)]
            files += self._options.output.entries(item)
            if not (files or has_entries):  # nor have the others: there is nothing to wait for
                self._counter = Counter(self._items(_ignore, fingerprints=False))
                stack.callback(self._counter.stop)
                return None
            targets.add(item.name, files)
            self._checked += 1
            total += part is None or is_in_shard(item.name, (part[0] - 1, part[1]))
            if self._checked % 100 == 0:
                self._advance()
            if self._stop.is_set():
                return None
        self._total = total
        if self._options.output.same_stem is SameStem.FIRST:
            return targets
        refuse(targets)
        return None

    # ---- the device

    def _caption(self, selection: Selection, behind: Behind[Record]) -> None:
        """Caption what is chosen, and hand it on to be written."""
        items = self._until_ended(self._items(self._tell))
        work = Ahead(selection.choose(items, self._left), weigh=_held)
        with ExitStack() as stack:
            stack.enter_context(closing(work))
            stack.callback(self._ended.set)
            workers = self._model.workers(self._waiting, self._advance)
            answers = workers.answer(self._given(work, behind), self._stopping)
            for record in stack.enter_context(closing(answers)):
                if record is None:
                    self._advance()
                else:
                    behind.put(record)
                    self._count(record)

    def _given(self, work: Ahead[Item | Record], behind: Behind[Record]) -> Iterator[Item | None]:
        """The pictures for the workers; what needs none is written at once."""
        for one in work:
            if self._stopping():
                return
            if not isinstance(one, Record):
                yield one
            elif one.error is None:
                behind.put(one)
                self._rewritten += 1
            else:
                behind.put(one)
                self._count(one)
            self._advance()

    def _until_ended(self, items: Iterable[Item]) -> Iterator[Item]:
        """Also while one after the other is left out, a million of them perhaps."""
        for item in items:
            if self._ended.is_set() or self._stopping():
                return
            yield item

    def _stopping(self) -> bool:
        return self._stop.is_set() or self._has_too_many_errors()

    def _has_too_many_errors(self) -> bool:
        most = self._options.max_errors
        return most is not None and self._failed > most

    # ---- what is told

    def _tell(self, name: str, reason: str) -> None:
        """To be called by any thread."""
        self._told.put((name, reason))

    def _count(self, record: Record) -> None:
        if record.error is None:
            self._captioned += 1
            self._unmet += sum(bool(answer.get("unmet")) for answer in record.results)
        else:
            self._failed += 1
            self._on_problem(record.name, record.error)
        self._advance()

    def _advance(self) -> None:
        """Tell the caller where we are, and what other threads have met."""
        while True:
            try:
                name, reason = self._told.get_nowait()
            except Empty:
                break
            self._problems += 1
            self._on_problem(name, reason)
        total = self._total if self._counter is None else self._counter.total
        self._on_progress(
            RunProgress(
                self._captioned, self._rewritten, self._failed, self._left.total, self._checked, total
            )
        )

    def _report(self, seconds: float) -> RunReport:
        left = self._left
        too_many = self._has_too_many_errors()
        return RunReport(
            captioned=self._captioned, rewritten=self._rewritten, failed=self._failed, done_before=left.done,
            failed_before=left.failed_before, kept=left.kept, same_stem=left.same_stem,
            problems=self._problems, seconds=seconds, stopped=self._stop.is_set(),
            too_many_errors=too_many, journal=self._journal, errors=self._errors,
            gone=self._gone, waited=self._waiting.share, unmet=self._unmet,
            marked=self._output_options().marked,
        )  # fmt: skip


def places_of(options: RunOptions) -> Iterator[str]:
    """Where captions go, for people."""
    output = options.output
    if Form.SIDECAR in output.forms:
        columns = output.named_columns(lambda _: output.extension)
        files = ", ".join(dict.fromkeys(f"*.{column.name}" for column in columns))
        yield f"{files} {'beside the images' if output.output_dir is None else f'in {output.output_dir}'}"
    for form in output.files:
        beside = output.output is None and output.output_dir is None  # LabelMe's
        yield f"{form.value} files beside the images" if beside else str(output.place(form))
    yield from (str(one.file or one.folder) for one in output.drawn)
    if output.embed:
        yield "within the images"


def _held(thing: Item | Record) -> int:
    return held_bytes(thing.open)


def _ignore(name: str, reason: str) -> None:
    """Problems are told once, when the pictures are captioned."""
