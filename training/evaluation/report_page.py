"""The page of a report: one file that needs no other, no script and no network."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ...captioning.pages.head import head
from ...captioning.pages.settings import settings_section
from ...captioning.pages.text import clipped, shown
from ...captioning.results import Mixed, Tags
from .charts import CHART_STYLE, line_chart
from .curves import Curve
from .differences import Piece
from .evaluation import Evaluation
from .metrics import METRICS, Case, tag_sets
from .overlap import Overlap, by_thing
from .questions import Question
from .tables import Table, tables

__all__ = ["GENERATOR", "Shown", "ShownAnswer", "page"]

GENERATOR = '<meta name="generator" content="promptgen evaluate">'  # by which a report knows its like

_NAME, _REASON = 1_000, 2_000  # characters that are shown at most
_ANSWER = 20_000
_TAGS = 40  # in the table
_FAILED = 50

_STYLE = (
    """
body { max-width: 92rem; }
h4 { font-size: .9rem; margin: 0 0 .25rem; }
td.best { font-weight: 600; } td.best::before { content: "★ "; color: var(--bar); }
.case { display: grid; grid-template-columns: 17rem minmax(0, 1fr); gap: 1rem; padding: 1rem 0;
  border-top: 1px solid var(--line); }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); gap: 1rem; }
.case img { display: block; max-width: 100%; height: auto; border-radius: .25rem; }
.case { content-visibility: auto; contain-intrinsic-size: auto 20rem; }
.case > div, .answers > div { min-width: 0; }
.case p { white-space: pre-wrap; font-size: .95rem; margin: 0 0 .5rem; }
.case p.faint { font-size: .8rem; }
mark { background: #ffe2b8; color: inherit; border-bottom: 2px solid #d98a1f; }
.true mark { background: #d5e8ff; border-bottom: 2px dotted #2f6fbb; }
@media (prefers-color-scheme: dark) { mark { background: #533a14; } .true mark { background: #1d3a5c; } }
@media (max-width: 60rem) { .case { grid-template-columns: 1fr; } }
@media print { body { max-width: none; } .case { break-inside: avoid; } }
"""
    + CHART_STYLE
)

Image = tuple[str, tuple[int, int]]
"""A data URI, and width and height in pixels."""


@dataclass(frozen=True)
class ShownAnswer:
    """An answer beside others."""

    label: str
    pieces: tuple[Piece, ...]
    facts: str
    picture: Image | None = None  # with the regions on it
    is_true: bool = False


@dataclass(frozen=True)
class Shown:
    """A question of the sample with what is to be seen of it."""

    question: Question
    thumbnail: Image | None
    problem: str  # why there is none
    answers: tuple[ShownAnswer, ...]


def page(
    evaluation: Evaluation,
    curves: Mapping[str, Sequence[Curve]],
    settings: Mapping[str, str],
    sample: Iterator[Shown],
    size: int,
    ended: datetime,
) -> Iterator[str]:
    """The page, piece by piece.

    Args:
        curves: of the contestants' training, by label.
        settings: for people, by what they are called.
        sample: asked for one by one.
        size: of the sample.
        ended: with its time zone.
    """
    labels = [model.contestant.label for model in evaluation.models]
    title = f"{' and '.join(labels)} on {_count(evaluation.images, 'image')}"
    yield head(title, GENERATOR, _STYLE)
    yield from _header(evaluation, ended)
    yield "<main>\n"
    yield from _scores(evaluation)
    yield from _curves(curves)
    yield from _sample(evaluation, sample, size)
    yield from _tag_tables(evaluation)
    yield from _failed(evaluation)
    yield from settings_section(settings)
    yield "</main>\n</body>\n</html>\n"


def _header(evaluation: Evaluation, ended: datetime) -> Iterator[str]:
    precise = ended.isoformat(timespec="seconds")
    yield "<header>\n<h1>Evaluation of captions</h1>\n"
    yield f'<p>promptgen evaluate, <time datetime="{precise}">{ended:%Y-%m-%d %H:%M:%S %z}</time></p>\n'
    counts = {
        "images": evaluation.images,
        "questions": len(evaluation.questions),
        "instructions": len(evaluation.instructions),
        "checkpoints": len(evaluation.models),
    }
    if evaluation.failed:
        counts["questions that failed"] = len(evaluation.failed)
    yield '<dl class="counts">\n'
    for what, count in counts.items():
        yield f"<div><dt>{shown(what)}</dt><dd>{count:,}</dd></div>\n"
    yield "</dl>\n</header>\n"


def _scores(evaluation: Evaluation) -> Iterator[str]:
    made = tables(evaluation)
    yield "<section>\n<h2>Scores</h2>\n"
    if len(evaluation.models) > 1:
        yield "<p>A star marks the best of each column.</p>\n"
    for table in made:
        yield from _table(table)
    yield "<details>\n<summary>What the columns mean</summary>\n<dl>\n"
    for name in dict.fromkeys(name for table in made for name in table.columns):
        yield f"<dt><strong>{shown(name)}</strong></dt><dd>{shown(METRICS[name].about)}</dd>\n"
    yield "</dl>\n</details>\n</section>\n"


def _table(table: Table) -> Iterator[str]:
    columns = "".join(f'<th scope="col" class="number">{shown(name)}</th>' for name in table.columns)
    yield f'<h3>{shown(table.title)}</h3>\n<p class="faint">{shown(table.about)}</p>\n'
    first = '<th scope="col">checkpoint</th>'
    yield f'<div class="wide"><table><thead><tr>{first}{columns}</tr></thead>\n<tbody>\n'
    for row in table.rows:
        cells = "".join(
            f'<td class="number{" best" if best else ""}">{shown(cell)}</td>'
            for cell, best in zip(row.cells, row.best, strict=True)
        )
        yield f'<tr><th scope="row" class="name"><bdi>{clipped(row.label, _NAME)}</bdi></th>{cells}</tr>\n'
    yield "</tbody></table></div>\n"


def _curves(curves: Mapping[str, Sequence[Curve]]) -> Iterator[str]:
    drawn = {label: list(found) for label, found in curves.items() if found}
    if not drawn:
        return
    yield "<section>\n<h2>Training</h2>\n<p>Loss in nats per token, by step.</p>\n"
    for label, found in drawn.items():
        said = "; ".join(
            f"{one.name} from {one.points[0][1]:.4f} to {one.points[-1][1]:.4f}" for one in found
        )
        yield f"<h3><bdi>{clipped(label, _NAME)}</bdi></h3>\n"
        yield f'<div class="wide">{line_chart(found, title=f"Loss of {label}: {said}")}</div>\n'
    yield "</section>\n"


def _sample(evaluation: Evaluation, sample: Iterator[Shown], size: int) -> Iterator[str]:
    yield "<section>\n<h2>Answers side by side</h2>\n"
    asked = len(evaluation.questions)
    yield f"<p>{size:,} of {_count(asked, 'question')}, chosen by chance. " if size < asked else "<p>"
    yield "<mark>Marked</mark> is what the ground truth does not say; "
    yield '<span class="true">in the ground truth, <mark>what no checkpoint says</mark></span>.</p>\n'
    instruction = None
    for one in sample:
        if one.question.instruction != instruction:
            instruction = one.question.instruction
            yield f"<h3>{shown(instruction.name)}</h3>\n"
        yield _case(one)
    yield "</section>\n"


def _case(one: Shown) -> str:
    name = clipped(one.question.image.name, _NAME)
    if one.thumbnail is not None:
        picture = _image(one.thumbnail, f"Thumbnail of {name}")
    else:
        picture = f'<p class="bad">No thumbnail: <bdi>{clipped(one.problem, _REASON)}</bdi></p>'
    asked = ""
    if one.question.text_input:
        asked = f"<p>asked about: <bdi>{clipped(one.question.text_input, _REASON)}</bdi></p>"
    answers = "".join(map(_answer, one.answers))
    told = f"{name}, {shown(one.question.instruction.name)}"
    return (
        f'<article class="case" aria-label="{told}"><div>{picture}<p class="faint"><bdi>{name}</bdi></p>'
        f'{asked}</div><div class="answers">{answers}</div></article>\n'
    )


def _answer(answer: ShownAnswer) -> str:
    kind = ' class="true"' if answer.is_true else ""
    picture = "" if answer.picture is None else _image(answer.picture, f"Regions of {shown(answer.label)}")
    return (
        f"<div{kind}><h4><bdi>{clipped(answer.label, _NAME)}</bdi></h4>{picture}"
        f'<p dir="auto">{_marked(answer.pieces)}</p><p class="faint">{shown(answer.facts)}</p></div>'
    )


def _marked(pieces: Sequence[Piece]) -> str:
    parts = []
    left = _ANSWER
    for text, marked in pieces:
        if left <= 0:
            break
        part = clipped(text, left)
        parts.append(f"<mark>{part}</mark>" if marked else part)
        left -= len(text)
    return "".join(parts)


def _image(image: Image, told: str) -> str:
    """``told`` is fit for an attribute."""
    uri, (width, height) = image
    return f'<img src="{uri}" width="{width}" height="{height}" alt="{told}">'


def _tag_tables(evaluation: Evaluation) -> Iterator[str]:
    """For each instruction whose answers have tags: how well the most frequent ones are known."""
    for instruction in evaluation.instructions:
        asked = [question for question in evaluation.questions if question.instruction == instruction]
        first = evaluation.truths[asked[0].key][0]
        if not isinstance(first, (Tags, Mixed)):
            continue
        found = []
        for model in evaluation.models:
            cases = [
                Case(one.image.name, instruction, evaluation.truths[one.key], model.answers[one.key])
                for one in asked
            ]
            found.append(by_thing(tag_sets(cases)))
        yield f"<section>\n<h2>Tags of {shown(instruction.name)}</h2>\n"
        yield f"<p>The most frequent, at most {_TAGS}: precision and recall in percent.</p>\n"
        yield from _tag_table([model.contestant.label for model in evaluation.models], found)
        yield "</section>\n"


def _tag_table(labels: Sequence[str], found: Sequence[Mapping[Hashable, Overlap]]) -> Iterator[str]:
    """``found`` is of each contestant what it knows of each tag, the most frequent first."""
    names = [name for name, overlap in found[0].items() if overlap.true][:_TAGS]
    over = "".join(
        f'<th scope="colgroup" colspan="2" class="number"><bdi>{clipped(label, _NAME)}</bdi></th>'
        for label in labels
    )
    under = '<th scope="col" class="number">precision</th><th scope="col" class="number">recall</th>'
    yield (
        f'<div class="wide"><table><thead><tr><td></td><td></td>{over}</tr>\n<tr><th scope="col">tag</th>'
        f'<th scope="col" class="number">images</th>{under * len(labels)}</tr></thead>\n<tbody>\n'
    )
    for name in names:
        cells = "".join(_overlap_cells(one.get(name)) for one in found)
        count = found[0][name].true
        yield (
            f'<tr><th scope="row" class="name"><bdi>{clipped(str(name), _NAME)}</bdi></th>'
            f'<td class="number">{count:,}</td>{cells}</tr>\n'
        )
    yield "</tbody></table></div>\n"


def _overlap_cells(overlap: Overlap | None) -> str:
    if overlap is None:
        return '<td class="number">–</td><td class="number">–</td>'
    precision = f"{100 * overlap.precision:.0f}" if overlap.answered else "–"
    recall = f"{100 * overlap.recall:.0f}" if overlap.true else "–"
    return f'<td class="number">{precision}</td><td class="number">{recall}</td>'


def _failed(evaluation: Evaluation) -> Iterator[str]:
    if not evaluation.failed:
        return
    yield f"<section>\n<h2>Left out</h2>\n<p>{_count(len(evaluation.failed), 'question')} could not be asked."
    if len(evaluation.failed) > _FAILED:
        yield f" The first {_FAILED}; all are in metrics.json."
    yield '</p>\n<div class="wide"><table class="full"><tbody>\n'
    for name, reason in evaluation.failed[:_FAILED]:
        yield (
            f'<tr><th scope="row" class="name"><bdi>{clipped(name, _NAME)}</bdi></th>'
            f"<td><bdi>{clipped(reason, _REASON)}</bdi></td></tr>\n"
        )
    yield "</tbody></table></div>\n</section>\n"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
