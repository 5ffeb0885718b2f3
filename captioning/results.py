"""Typed answers: one class per kind, and the way from a decoded answer to them.

Every result has the instruction's name, ``text`` for people, ``raw`` as it was generated, and whether the
answer was cut off. With the default :class:`~promptgen.captioning.tags.TagOptions` the text of a caption,
of tags and of a mixed answer is the model's own, less white space around it.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from .analysis import Analysis, parse_analysis
from .choosing import best_regions
from .cleaning import CleaningOptions, clean_answer, is_cleaned
from .instructions import AnswerKind, Instruction, find_instruction
from .mixed import split_mixed
from .regions import Region, parse_placed, strip_locations
from .retries import RetryOptions
from .scores import TokenScores, scored_regions
from .tags import TagOptions, add_affixes, edit_prose, edit_tags, join_tags
from .vision_options import VisionOptions

__all__ = [
    "AnalysisResult",
    "Caption",
    "Mixed",
    "OcrText",
    "RegionCaption",
    "RegionOcrText",
    "Regions",
    "Result",
    "Tags",
    "parse_answer",
    "text_of_regions",
]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What all answers have."""

    instruction: str  # its name, e.g. "CAPTION"
    raw: str  # the decoded answer; only <s>, </s> and <pad> are taken out
    text: str  # for people
    truncated: bool = False  # whether it ends because no more tokens were allowed
    attempts: int = 1  # how many answers were generated until this one was kept
    unmet: str | None = None  # of the conditions of `RetryOptions`, what this one does not meet, for people

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: ``instruction``, ``text``, what the kind adds, ``raw`` and ``truncated``.

        Of an answer that was asked again, or that does not meet its conditions, also ``attempts``; of the
        latter also ``unmet``.
        """
        marks: dict[str, Any] = {}
        if self.attempts > 1 or self.unmet is not None:
            marks["attempts"] = self.attempts
        if self.unmet is not None:
            marks["unmet"] = self.unmet
        return {
            "instruction": self.instruction,
            "text": self.text,
            **self._extra(),
            "raw": self.raw,
            "truncated": self.truncated,
            **marks,
        }

    def _extra(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, kw_only=True)
class Caption(Result):
    """Prose, or a short answer about a region or a document."""


@dataclass(frozen=True, kw_only=True)
class RegionCaption(Caption):
    """Short answers about regions that were asked about, each the label of its region."""

    regions: tuple[Region, ...]

    def _extra(self) -> dict[str, Any]:
        return {"regions": [region.to_dict() for region in self.regions]}


@dataclass(frozen=True, kw_only=True)
class Tags(Result):
    """Tags, after clean-up; ``text`` has them in one line."""

    tags: tuple[str, ...]

    def _extra(self) -> dict[str, Any]:
        return {"tags": list(self.tags)}


@dataclass(frozen=True, kw_only=True)
class Mixed(Result):
    """Prose and tags, and an analysis where the model gave one.

    ``prose`` and ``tags`` are used apart (Flux: T5-XXL and CLIP-L), so each of them has the prefix and the
    suffix; ``text`` holds all parts and has the prefix once, before the prose, and the suffix once, after the
    tags; where an instruction's tags come first, it is the other way round. A part that the answer lacks
    stays empty.
    """

    prose: str
    tags: tuple[str, ...]
    analysis: Analysis | None = None

    def _extra(self) -> dict[str, Any]:
        extra: dict[str, Any] = {"prose": self.prose, "tags": list(self.tags)}
        if self.analysis is not None:
            extra["analysis"] = self.analysis.to_dict()
        return extra


@dataclass(frozen=True, kw_only=True)
class AnalysisResult(Result):
    """Named fields about the picture; ``text`` is the model's."""

    analysis: Analysis

    def _extra(self) -> dict[str, Any]:
        return {"analysis": self.analysis.to_dict()}


@dataclass(frozen=True, kw_only=True)
class OcrText(Result):
    """The words in the picture, line breaks kept."""

    tiles: int | None = None  # that a large picture was cut into, if it was

    def _extra(self) -> dict[str, Any]:
        return {} if self.tiles is None else {"tiles": self.tiles}

    @property
    def lines(self) -> list[str]:
        """The lines that hold anything."""
        return [line for line in self.text.splitlines() if line.strip()]


@dataclass(frozen=True, kw_only=True)
class RegionOcrText(OcrText):
    """The words in regions that were asked about, those of each being the label of its region."""

    regions: tuple[Region, ...]

    def _extra(self) -> dict[str, Any]:
        return {"regions": [region.to_dict() for region in self.regions]}


@dataclass(frozen=True, kw_only=True)
class Regions(Result):
    """Labelled places; ``text`` is the list of labels, one per region, for OCR one in a line."""

    regions: tuple[Region, ...]
    tiles: int | None = None  # that a large picture was cut into, if it was

    def _extra(self) -> dict[str, Any]:
        extra: dict[str, Any] = {"regions": [region.to_dict() for region in self.regions]}
        return extra if self.tiles is None else extra | {"tiles": self.tiles}


def parse_answer(
    instruction: Instruction | str,
    raw: str,
    image_size: tuple[int, int],
    *,
    truncated: bool = False,
    tag_options: TagOptions | None = None,
    token_scores: TokenScores | None = None,
    vision: VisionOptions | None = None,
    cleaning: CleaningOptions | None = None,
    retries: RetryOptions | None = None,
) -> Result:
    """Make the result that fits the instruction. Any answer at all gives one.

    Args:
        instruction: what was asked.
        raw: the decoded answer with location tokens, without ``<s>``, ``</s>`` and ``<pad>``.
        image_size: ``(width, height)`` of the original image in pixels, for regions.
        truncated: whether the answer hit the token limit.
        tag_options: how to edit what clean-up left. Tags get all of it; captions get replacements, prefix and
            suffix; mixed answers get the one for their tags and the other for their prose; all other kinds
            get nothing.
        token_scores: the log-probabilities of the answer's tokens, from which regions get their scores.
        vision: which regions to keep.
        cleaning: clean-up, see :func:`.cleaning.clean_answer`.
        retries: conditions, for the same kinds, that ``unmet`` tells of.

    Raises:
        InstructionError: the instruction is unknown.
        ValueError: ``vision`` chooses among regions, and there are no ``token_scores`` to choose by.
    """
    if isinstance(instruction, str):
        instruction = find_instruction(instruction)
    options = tag_options or TagOptions()
    common: dict[str, Any] = {"instruction": instruction.name, "raw": raw, "truncated": truncated}
    text = raw.strip()
    if is_cleaned(instruction):
        text = clean_answer(instruction, text, cleaning or CleaningOptions(), truncated=truncated)
        common["unmet"] = (retries or RetryOptions()).unmet(text, raw)
    kind = instruction.answer
    if kind is AnswerKind.CAPTION:
        return Caption(text=edit_prose(text, options), **common)
    if kind is AnswerKind.TAGS:
        tags = tuple(edit_tags(_without_full_stop(text), options))
        return Tags(text=text if options == TagOptions() else join_tags(tags), tags=tags, **common)
    if kind is AnswerKind.MIXED:
        return _mixed(text, options, common, tags_first=instruction.tags_first)
    if kind is AnswerKind.ANALYSIS:
        return AnalysisResult(text=text, analysis=parse_analysis(text), **common)
    if kind is AnswerKind.TEXT:  # of a free prompt nobody knows which markup is wanted
        return Caption(text=text if instruction.is_free else strip_locations(text), **common)
    if kind is AnswerKind.OCR:
        return OcrText(text=strip_locations(text), **common)
    placed = parse_placed(raw, kind, image_size, truncated=truncated)
    found = tuple(one.region for one in placed)
    if token_scores is not None:
        found = scored_regions(placed, token_scores)
    regions = best_regions(found, vision) if vision else found
    left_out = found and not regions  # then the bare answer would name what is left out
    return Regions(text="" if left_out else text_of_regions(regions, kind, raw), regions=regions, **common)


def _mixed(text: str, options: TagOptions, common: dict[str, Any], *, tags_first: bool = False) -> Mixed:
    parts = split_mixed(text, tags_first=tags_first)
    analysis = parse_analysis(parts.analysis) if parts.analysis else None
    bare = dataclasses.replace(options, prefix="", suffix="")
    tag_text = _without_full_stop(parts.tags)
    if options != TagOptions():
        prose = edit_prose(parts.prose, bare)
        tags = edit_tags(tag_text, bare)
        if tags_first and prose and tags:
            tags = edit_tags(tag_text, dataclasses.replace(options, suffix=""))
            text = f"{join_tags(tags)}, {add_affixes(prose, '', options.suffix)}"
        else:
            text = _prose_first(prose, tags, tag_text, parts.analysis, options)
    return Mixed(
        text=text,
        prose=edit_prose(parts.prose, options) if parts.prose else "",
        tags=tuple(edit_tags(tag_text, options)) if tag_text else (),
        analysis=analysis,
        **common,
    )


def _prose_first(prose: str, tags: list[str], tag_text: str, analysis: str, options: TagOptions) -> str:
    """All parts of an edited answer in one text, with the affixes around them."""
    if tags:  # the affixes become tags here as in `tags`: joined as to prose, "a (b)" and "c" would be one
        tags = edit_tags(tag_text, dataclasses.replace(options, prefix="" if prose else options.prefix))
    first = add_affixes(prose, options.prefix, "" if tags else options.suffix) if prose or not tags else ""
    return "\n\n".join(part for part in (first, join_tags(tags), analysis) if part)


def _without_full_stop(tags: str) -> str:
    """Tags that were written like a sentence, with a full stop at the end, without it ("..." is a tag)."""
    return tags[:-1] if re.search(r"(?:[^\W_]|\))\.\Z", tags) else tags


def text_of_regions(regions: tuple[Region, ...], kind: AnswerKind, raw: str) -> str:
    """Labels for people; a count where none has a label; the bare answer where there is no region."""
    labels = [region.label for region in regions if region.label]
    if not regions:
        return strip_locations(raw)
    if not labels:
        return "1 region" if len(regions) == 1 else f"{len(regions)} regions"
    return ("\n" if kind is AnswerKind.OCR_REGIONS else ", ").join(labels)
