"""Which metrics tell how good answers of a kind are, and what their names mean. All but lengths and losses
are percentages, as papers print them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ...captioning.instructions import AnswerKind, Instruction
from ...captioning.regions import Region
from ...captioning.results import AnalysisResult, Mixed, Regions, Result, Tags
from ...captioning.tags import TagOptions, edit_tags
from ..errors import TrainingError
from . import texts
from .boxes import average_precision
from .cider import cider_d
from .overlap import Sets, mean_f1, pooled
from .words import words_of

__all__ = [
    "LOSS",
    "METRICS",
    "NO_SYNONYMS",
    "Case",
    "Metric",
    "Scores",
    "check_libraries",
    "length_of",
    "measure",
    "tag_sets",
]

Scores = dict[str, float | None]
"""By the names of metrics; None where one has nothing to measure."""


@dataclass(frozen=True)
class Metric:
    """What a number means."""

    name: str
    about: str  # one sentence
    higher_is_better: bool | None = True  # None: neither is
    digits: int = 1  # behind the point, for people


@dataclass(frozen=True)
class Case:
    """What was asked of a picture, what is true, and what was answered."""

    image: str
    instruction: Instruction
    truths: tuple[Result, ...]  # one or several
    answer: Result


LOSS = "loss"

_TABLE = (
    Metric(LOSS, "Cross-entropy of the true answer in nats per token, all tokens weighted alike.", False, 4),
    Metric("CIDEr-D", "N-grams shared with the true answers, weighted by how rare they are; at most 1000, "
           "and only to be compared on the same pictures."),
    Metric("BLEU", "sacreBLEU (4-grams, 13a tokens, mixed case) of all answers together; of scripts without "
           "spaces between words each character is one."),
    Metric("ROUGE-L", "F1 of the longest common subsequence of words, in lower case, on average."),
    Metric("METEOR", "Words shared by form, stem or WordNet's synonyms, and their order, on average (NLTK)."),
    Metric("METEOR (no synonyms)", "Words shared by form or stem, and their order, on average (NLTK). "
           "Synonyms count once `python -m nltk.downloader wordnet` has been run; numbers with and without "
           "them are not to be compared."),
    Metric("precision", "Of all that was answered, how much is true, over all pictures together (micro). "
           "Tags count once, in any order and case, with underscores or spaces."),
    Metric("recall", "Of all that is true, how much was answered, over all pictures together (micro)."),
    Metric("F1", "Harmonic mean of precision and recall over all pictures together."),
    Metric("F1 per image", "F1 of each picture, on average."),
    Metric("AP", "Average precision of boxes, COCO's: mean over intersections over union from 0.50 to 0.95. "
           "Boxes have no scores of their own; they are ranked by the mean probability of their location "
           "tokens."),
    Metric("AP50", "Average precision of boxes from an intersection over union of 0.5."),
    Metric("AP75", "Average precision of boxes from an intersection over union of 0.75."),
    Metric("AR", "Average recall of boxes, at most 100 to a picture, over the overlaps of AP."),
    Metric("CER", "Character error rate: characters to change, by those of the true answers.", False),
    Metric("ANLS", "Similarity of short answers by edit distance, on average; half wrong is 0 (DocVQA)."),
    Metric("exact", "Answers that are the true one letter by letter."),
    Metric("length", "Words of an answer, or tags of a list of tags, on average.", None),
    Metric("cut off", "Answers that ended because no more tokens were allowed.", False),
)  # fmt: skip

NO_SYNONYMS = "METEOR (no synonyms)"

METRICS = {metric.name: metric for metric in _TABLE}
"""All metrics by name, in the order in which people should see them."""

_LABELLED = frozenset(["OD", "CAPTION_TO_PHRASE_GROUNDING", "OPEN_VOCABULARY_DETECTION"])
"""Whose labels are given or of a fixed list, so that a box is only right with the right one."""

_PLAIN_TAGS = TagOptions(underscores="spaces", escape_parentheses=False, deduplicate=True)


def check_libraries(instructions: Iterable[Instruction]) -> None:
    """See that what answers are measured by is there, before they are generated.

    Raises:
        TrainingError: a library is missing, or WordNet is there and cannot be read.
    """
    parts = {part for instruction in instructions for part in _MEASURES[instruction.answer]}
    missing = [name for part in parts for name in _LIBRARIES.get(part, ()) if find_spec(name) is None]
    if missing:
        raise TrainingError(
            f"Scores need {' and '.join(sorted(missing))}. Do: pip install 'promptgen-tagger[train]'"
        )
    if _prose in parts:
        texts.has_wordnet()


def measure(cases: Sequence[Case]) -> Scores:
    """What the answers to one instruction are worth.

    Args:
        cases: at least one; all of the same instruction.
    """
    scores: Scores = {}
    for part in (*_MEASURES[cases[0].instruction.answer], _all_kinds):
        scores |= part(cases)
    return {name: scores[name] for name in METRICS if name in scores}


def tag_sets(cases: Sequence[Case]) -> Sets:
    """Of each case the true tags and those answered, compared as tags are: without regard to case, to
    underscores and to escaped parentheses. Of several true lists that which agrees best."""
    return [_best([_tags(truth) for truth in case.truths], _tags(case.answer)) for case in cases]


def length_of(result: Result) -> int:
    """How long an answer is: tags of a list of tags, else words."""
    return len(result.tags) if isinstance(result, Tags) else len(words_of(result.text))


def _prose(cases: Sequence[Case]) -> Scores:
    answers = [_prose_of(case.answer) for case in cases]
    truths = [[_prose_of(truth) for truth in case.truths] for case in cases]
    words = [words_of(answer) for answer in answers]
    true_words = [[words_of(truth) for truth in of_case] for of_case in truths]
    cider = 100 * _mean(cider_d(words, true_words)) if len(cases) > 1 else None
    meteor = "METEOR" if texts.has_wordnet() else NO_SYNONYMS
    return {
        "CIDEr-D": cider,
        "BLEU": texts.bleu(answers, truths),
        "ROUGE-L": 100 * texts.rouge_l(answers, truths),
        meteor: 100 * texts.meteor(answers, truths),
    }


def _prose_of(result: Result) -> str:
    """Of a mixed answer the prose alone: its tags are measured as tags."""
    return result.prose if isinstance(result, Mixed) else result.text


def _sets(sets: Sets) -> Scores:
    together = pooled(sets)
    return {
        "precision": 100 * together.precision,
        "recall": 100 * together.recall,
        "F1": 100 * together.f1,
        "F1 per image": 100 * mean_f1(sets),
    }


def _tag_scores(cases: Sequence[Case]) -> Scores:
    return _sets(tag_sets(cases))


def _field_scores(cases: Sequence[Case]) -> Scores:
    return _sets([_best([_fields(truth) for truth in case.truths], _fields(case.answer)) for case in cases])


def _box_scores(cases: Sequence[Case]) -> Scores:
    labelled = cases[0].instruction.name in _LABELLED
    pictures = [_boxes(case, labelled=labelled) for case in cases]
    found = average_precision(pictures, labelled=labelled)
    values = {"AP": found.ap, "AP50": found.ap50, "AP75": found.ap75, "AR": found.recall}
    return {name: None if value is None else 100 * value for name, value in values.items()}


def _boxes(case: Case, *, labelled: bool) -> tuple[Sequence[Region], Sequence[Region]]:
    """The true boxes, of several lists those that agree best, and the ones answered."""
    answered = _regions(case.answer)
    lists = [_regions(truth) for truth in case.truths]
    if len(lists) == 1:
        return lists[0], answered
    return max(
        ((true, answered) for true in lists),
        key=lambda pair: average_precision([pair], labelled=labelled).ap or 0.0,
    )


def _regions(result: Result) -> Sequence[Region]:
    return result.regions if isinstance(result, Regions) else ()


def _characters(cases: Sequence[Case]) -> Scores:
    answers = [case.answer.text for case in cases]
    truths = [[truth.text for truth in case.truths] for case in cases]
    return {"CER": 100 * texts.character_error_rate(answers, truths)}


def _short_answers(cases: Sequence[Case]) -> Scores:
    answers = [case.answer.text for case in cases]
    truths = [[truth.text for truth in case.truths] for case in cases]
    return {"ANLS": 100 * texts.anls(answers, truths)}


def _all_kinds(cases: Sequence[Case]) -> Scores:
    exact = [any(case.answer.raw.strip() == truth.raw.strip() for truth in case.truths) for case in cases]
    return {
        "exact": 100 * _mean(exact),
        "length": _mean([length_of(case.answer) for case in cases]),
        "cut off": 100 * _mean([case.answer.truncated for case in cases]),
    }


_Measure = Callable[[Sequence[Case]], Scores]

_MEASURES: dict[AnswerKind, tuple[_Measure, ...]] = {
    AnswerKind.CAPTION: (_prose,),
    AnswerKind.TEXT: (_prose, _short_answers),
    AnswerKind.TAGS: (_tag_scores,),
    AnswerKind.MIXED: (_prose, _tag_scores),
    AnswerKind.ANALYSIS: (_field_scores,),
    AnswerKind.OCR: (_characters,),
    AnswerKind.OCR_REGIONS: (_box_scores, _characters),
    AnswerKind.BOXES: (_box_scores,),
    AnswerKind.PROPOSALS: (_box_scores,),
    AnswerKind.PHRASES: (_box_scores,),
    AnswerKind.POLYGONS: (_box_scores,),
    AnswerKind.OPEN_VOCABULARY: (_box_scores,),
    AnswerKind.DETECTIONS: (_box_scores,),
}


_LIBRARIES: dict[_Measure, tuple[str, ...]] = {
    _prose: ("sacrebleu", "rouge_score", "nltk"),
    _box_scores: ("pycocotools",),
}


def _tags(result: Result) -> frozenset[str]:
    tags = result.tags if isinstance(result, (Tags, Mixed)) else ()
    return frozenset(tag.casefold() for tag in edit_tags(tags, _PLAIN_TAGS))


def _fields(result: Result) -> frozenset[tuple[int, str, str]]:
    subjects = result.analysis.subjects if isinstance(result, AnalysisResult) else ()
    return frozenset(
        (number, name, " ".join(value.casefold().split()))
        for number, fields in enumerate(subjects)
        for name, value in fields.items()
    )


def _best(truths: Sequence[frozenset[Any]], answer: frozenset[Any]) -> tuple[frozenset[Any], frozenset[Any]]:
    return max(((truth, answer) for truth in truths), key=lambda pair: pooled([pair]).f1)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
