"""A report as a page: one file that needs no other, no script and no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..pages.head import head
from ..pages.settings import settings_section
from ..pages.text import clipped, shown
from .records import Record
from .report_charts import bar, histogram
from .report_statistics import AnswerLengths, Lengths, Statistics, Unmet

if TYPE_CHECKING:
    from .run import RunReport

__all__ = ["GENERATOR", "Picture", "page"]

GENERATOR = '<meta name="generator" content="promptgen folder">'  # by which a report knows its like

_TAGS = 40  # in the plot
_NAME, _REASON, _CAPTION = 1_000, 2_000, 20_000  # characters that are shown at most

_STYLE = """
.histogram { display: block; width: 100%; min-width: 22rem; max-width: 44rem; }
.share { display: block; width: 100%; min-width: 6rem; height: .8rem; margin-top: .35rem; }
.sample { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
figure { margin: 0; background: var(--panel); border-radius: .5rem; padding: .75rem; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto .5rem; border-radius: .25rem; }
figcaption dt { color: var(--faint); font-size: .8rem; margin-top: .4rem; }
figcaption dd { margin: 0; white-space: pre-wrap; font-size: .9rem; }
@media print { body { max-width: none; } figure { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Picture:
    """A record of the sample with what is to be seen of it."""

    record: Record
    thumbnail: str = ""  # a data URI
    size: tuple[int, int] = (0, 0)  # width and height of the thumbnail, in pixels
    problem: str = ""  # why there is none


def page(
    run: RunReport,
    settings: Mapping[str, str],
    statistics: Statistics,
    pictures: Iterator[Picture],
    ended: datetime,
) -> Iterator[str]:
    """The page, piece by piece.

    Args:
        run: how the run ended.
        settings: what it was told, for people, by what it is called.
        statistics: of all records.
        pictures: the sample; asked for one by one.
        ended: with its time zone.
    """
    title = f"Captions of {run.captioned + run.rewritten:,} images, {ended:%Y-%m-%d %H:%M}"
    yield head(title, GENERATOR, _STYLE)
    yield from _this_run(run, ended)
    yield "<main>\n"
    yield from settings_section(settings)
    yield from _lengths(statistics)
    yield from _tags(statistics)
    yield from _sample(statistics, pictures)
    yield from _unmet(statistics)
    yield from _errors(statistics, run)
    yield "</main>\n</body>\n</html>\n"


def _this_run(run: RunReport, ended: datetime) -> Iterator[str]:
    started = ended - timedelta(seconds=run.seconds)
    yield "<header>\n<h1>Image captions</h1>\n"
    yield f"<p>A run of promptgen folder, {_time(started)} to {_time(ended)}.</p>\n"
    if run.too_many_errors:
        yield '<p class="bad">It was stopped, since more images had failed than it was to bear.</p>\n'
    elif run.stopped:
        yield '<p class="bad">It was stopped before its end.</p>\n'
    counts = {
        "captioned": (run.captioned, True),
        "failed": (run.failed, True),
        "skipped": (run.done_before + run.failed_before + run.kept + run.same_stem, True),
        "of these, done before": (run.done_before, False),
        "of these, failed before": (run.failed_before, False),
        "of these, had captions": (run.kept, False),
        "of these, left out for another of the same name": (run.same_stem, False),
        "written again": (run.rewritten, False),
        "answers kept that fail the conditions": (run.unmet, False),
        "other problems": (run.problems, False),
    }
    told = {what: f"{count:,}" for what, (count, always) in counts.items() if count or always}
    told["duration"] = _duration(run.seconds)
    if run.captioned and run.seconds:
        told["images/s, start included"] = f"{run.captioned / run.seconds:,.2f}"
    if run.waited is not None:
        told["of the time, waited for images"] = f"{100 * run.waited:.1f} %"
    yield '<dl class="counts">\n'
    for what, value in told.items():
        yield f"<div><dt>{shown(what)}</dt><dd>{shown(value)}</dd></div>\n"
    yield "</dl>\n</header>\n"


def _lengths(statistics: Statistics) -> Iterator[str]:
    yield "<section>\n<h2>Lengths</h2>\n"
    yield (
        f"<p>Of all that is kept in the journal, this run and those before it: "
        f"{statistics.captioned:,} images with captions, {statistics.failed:,} that failed.</p>\n"
    )
    for instruction, answers in statistics.answers.items():
        yield f"<h3>{shown(instruction)}</h3>\n"
        yield _length_table(answers)
        # A list of tags is as long as it has tags; in all else there are words.
        by_tags = not answers.has_prose
        yield _plot(answers.tags if by_tags else answers.words, "tags" if by_tags else "words", instruction)
    yield "</section>\n"


def _length_table(answers: AnswerLengths) -> str:
    measured = {"words": answers.words, "characters": answers.characters, "tags": answers.tags}
    rows = "".join(_length_row(what, lengths) for what, lengths in measured.items() if lengths.count)
    head = "".join(
        f'<th scope="col" class="number">{what}</th>'
        for what in ("least", "mean", "median", "95 % up to", "most")
    )
    notes = [f"{answers.words.count:,} answers"]
    if answers.empty:
        notes.append(f"{answers.empty:,} empty")
    if answers.truncated:
        notes.append(f"{answers.truncated:,} cut off at the limit of new tokens")
    if answers.retried:
        notes.append(f"{answers.retried:,} asked more than once")
    return (
        f'<p>{", ".join(notes)}.</p>\n<div class="wide"><table><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>\n"
    )


def _length_row(what: str, lengths: Lengths) -> str:
    middle = (lengths.quantile(0.5), lengths.quantile(0.95), lengths.quantile(1))
    numbers = [f"{lengths.quantile(0):,}", f"{lengths.mean:,.1f}", *(f"{value:,}" for value in middle)]
    cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    return f'<tr><th scope="row">{what}</th>{cells}</tr>'


def _plot(lengths: Lengths, unit: str, instruction: str) -> str:
    steps, width = lengths.bins()
    least, median, most = (lengths.quantile(part) for part in (0, 0.5, 1))
    title = (
        f"Histogram: {unit} of the answers to {instruction}, from {least:,} to {most:,}, "
        f"half of them up to {median:,}"
    )
    open_end = most >= len(steps) * width
    plot = histogram(steps, width, unit=unit, open_end=open_end, title=title)
    longer = ""
    if open_end:
        longer = f'<p class="faint">The last bar also has the few that are longer, up to {most:,}.</p>\n'
    return f'<div class="wide">{plot}</div>\n{longer}'


def _tags(statistics: Statistics) -> Iterator[str]:
    tags = statistics.tags.most(_TAGS)
    if not tags:
        return
    known = f"{len(statistics.tags):,} different tags in {statistics.tagged:,} images"
    if not statistics.tags.is_exact:
        known = (
            f"More than {len(statistics.tags):,} different tags in {statistics.tagged:,} images, too many to "
            "count each: the rarest were forgotten on the way. The last column says by how much a count may "
            "be too low"
        )
    yield f'<section>\n<h2>Most frequent tags</h2>\n<p>{known}.</p>\n<div class="wide"><table class="full">\n'
    lacking = "" if statistics.tags.is_exact else '<th scope="col" class="number">at most more</th>'
    yield (
        '<thead><tr><th scope="col">tag</th><th scope="col" class="number">images</th>'
        f'<th scope="col" class="number">share</th><td class="full"></td>{lacking}</tr></thead>\n<tbody>\n'
    )
    for tag, count, missed in tags:
        share = count / statistics.tagged
        lacks = "" if statistics.tags.is_exact else f'<td class="number">{missed:,}</td>'
        yield (
            f'<tr><th scope="row" class="name"><bdi>{shown(tag)}</bdi></th><td class="number">{count:,}</td>'
            f'<td class="number">{share:.1%}</td><td>{bar(share)}</td>{lacks}</tr>\n'
        )
    yield "</tbody></table></div>\n</section>\n"


def _sample(statistics: Statistics, pictures: Iterator[Picture]) -> Iterator[str]:
    yield "<section>\n<h2>Random sample</h2>\n"
    if not statistics.captioned:
        yield "<p>No image has a caption.</p>\n</section>\n"
        return
    number = len(statistics.sample.records)
    yield f"<p>{number:,} of the {statistics.captioned:,} images with captions, chosen by chance.</p>\n"
    yield '<div class="sample">\n'
    for picture in pictures:
        yield _figure(picture)
    yield "</div>\n</section>\n"


def _figure(picture: Picture) -> str:
    record = picture.record
    name = clipped(record.name, _NAME)
    if picture.thumbnail:
        width, height = picture.size
        seen = f'<img src="{picture.thumbnail}" width="{width}" height="{height}" alt="Thumbnail of {name}">'
    else:
        seen = f'<p class="bad">No thumbnail: <bdi>{clipped(picture.problem, _REASON)}</bdi></p>'
    size = "" if record.size is None else f' <span class="faint">{record.size[0]} × {record.size[1]}</span>'
    answers = "".join(map(_answer, record.results))
    return (
        f"<figure>{seen}<figcaption><strong><bdi>{name}</bdi></strong>{size}"
        f"<dl>{answers}</dl></figcaption></figure>\n"
    )


def _answer(answer: Mapping[str, Any]) -> str:
    text = f"<dd><bdi>{clipped(answer['text'], _CAPTION)}</bdi></dd>"
    reason = answer.get("unmet")
    fails = f'<dd class="bad">Fails the conditions: {clipped(reason, _REASON)}</dd>' if reason else ""
    return f"<dt>{shown(answer['instruction'])}</dt>{text}{fails}"


def _unmet(statistics: Statistics) -> Iterator[str]:
    """Nothing, where every answer meets its conditions, or there are none."""
    if not statistics.unmet_count:
        return
    yield "<section>\n<h2>Answers that fail the conditions</h2>\n"
    yield (
        f"<p>{statistics.unmet_count:,} answers in the journal were kept though they fail the conditions that"
        " were set, also when they were asked for the last time."
    )
    if statistics.unmet_count > len(statistics.unmet):
        yield f" The first {len(statistics.unmet):,}."
    yield '</p>\n<div class="wide"><table class="full"><thead><tr><th scope="col">image</th>'
    yield '<th scope="col">instruction</th><th scope="col">condition</th>'
    yield '<th scope="col" class="number">times asked</th></tr></thead><tbody>\n'
    for answer in statistics.unmet:
        yield _unmet_row(answer)
    yield "</tbody></table></div>\n</section>\n"


def _unmet_row(answer: Unmet) -> str:
    return (
        f'<tr><th scope="row" class="name"><bdi>{clipped(answer.name, _NAME)}</bdi></th>'
        f"<td>{shown(answer.instruction)}</td><td><bdi>{clipped(answer.reason, _REASON)}</bdi></td>"
        f'<td class="number">{answer.attempts}</td></tr>\n'
    )


def _errors(statistics: Statistics, run: RunReport) -> Iterator[str]:
    yield f"<section>\n<h2>Errors</h2>\n<p>{statistics.failed:,} of the images in the journal failed."
    if statistics.failed > len(statistics.errors):
        yield f" The first {len(statistics.errors):,}; all are in <bdi>{shown(str(run.errors))}</bdi>."
    yield "</p>\n"
    if statistics.errors:
        yield from _error_table(statistics.errors)
    yield "</section>\n"


def _error_table(errors: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield '<div class="wide"><table class="full"><thead><tr><th scope="col">image</th>'
    yield '<th scope="col">reason</th></tr></thead><tbody>\n'
    for name, reason in errors:
        yield (
            f'<tr><th scope="row" class="name"><bdi>{clipped(name, _NAME)}</bdi></th>'
            f"<td><bdi>{clipped(reason, _REASON)}</bdi></td></tr>\n"
        )
    yield "</tbody></table></div>\n"


def _time(moment: datetime) -> str:
    precise = moment.isoformat(timespec="seconds")
    return f'<time datetime="{precise}">{moment:%Y-%m-%d %H:%M:%S %z}</time>'


def _duration(seconds: float) -> str:
    """``4.2 s``, ``3 min 20 s``, ``71 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
