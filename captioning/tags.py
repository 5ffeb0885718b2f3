"""Tags: taking a comma-separated list apart, cleaning it up, putting it together again.

A *tag* is a piece between commas. A comma inside a balanced pair of parentheses, escaped (``\\(``) or
not, does not split, so ``saber \\(fate, alter\\)`` and the weighted ``(red hat, blue coat:1.2)`` stay
whole. A parenthesis without a partner is an ordinary character, and so is one in an emoticon that stands
by itself (``:(``). Line breaks split like commas. Danbooru has no tag with a comma in it, so ``:,(`` is
two pieces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "TagOptions",
    "edit_prose",
    "edit_tags",
    "is_emoticon",
    "is_kaomoji",
    "join_tags",
    "parse_replacements",
    "split_tags",
]

Rules = str | Mapping[str, str] | Iterable[str | tuple[str, str]]

# What `is_kaomoji` does not know by its shape, of those that the WD14 taggers keep.
_KAOMOJI = frozenset(["(o)_(o)", "<o>_<o>", "6_9"])
_EMOTICON = re.compile(
    r"""[<>]?[:;=8][-'^o]?[()]+ | [()]+[-'^o]?[:;=8]  # :) and (:
    | [<>]?[:;=][-'^]?(?:[dopqtixc3]|[/\\|<>*@^]{1,2}) | [x8][dp3]  # :d, ;p, :/, xd
    | \\[a-z|]{1,2}/ | (?:/\\){2,}/? | \^[\^o]\^""",  # \m/, /\/\/\, ^^^
    re.IGNORECASE | re.VERBOSE,
)
_MOST_CHARACTERS = 100_000  # that replacements may make of an answer that has fewer
_LINE_BREAKS = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")  # those of str.splitlines


@dataclass(frozen=True)
class TagOptions:
    """What to do to the tags and the prose of an answer. The defaults change nothing.

    Tags are compared without regard to case, to underscores against spaces, and to escaped parentheses.
    The order of work is: replace, exclude, underscores, parentheses, prefix and suffix, deduplicate.
    Analyses, OCR and regions are never touched.

    Raises:
        ValueError: a rule or a choice that cannot be read.
    """

    # Text before the answer, e.g. a trigger word. Before tags it is taken apart into tags; before prose it is
    # joined with a comma, but if it ends in punctuation with a space, and if in white space as it stands.
    prefix: str = ""
    # Text after the answer, joined in the same way.
    suffix: str = ""
    # Tags to leave out: a comma-separated text or a sequence. Whole tags only; * stands for any characters.
    exclude: str | Sequence[str] = ()
    # "old:new;old:new", several such texts, or pairs. A whole tag, or whole words in a tag or in prose,
    # never a part of a word. "old:" takes out. A literal : ; or \ in such a text is written \: \; \\.
    replace: Rules = ()
    # "spaces" turns blue_sky into blue sky and keeps kaomoji (^_^); "underscores" is the way back. Tags only.
    underscores: Literal["keep", "spaces", "underscores"] = "keep"
    # True writes \( and \) in tags, False writes plain ones, None leaves them as the model wrote them.
    escape_parentheses: bool | None = None
    # True drops the later one of two equal tags.
    deduplicate: bool = False

    _excluded: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)
    _rules: tuple[_Rule, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.underscores not in ("keep", "spaces", "underscores"):
            raise ValueError(f"underscores is {self.underscores!r}; allowed are keep, spaces and underscores")
        exclude = tuple(tag for tag in _as_list(self.exclude) if tag)
        replace = parse_replacements(self.replace)
        object.__setattr__(self, "exclude", exclude)
        object.__setattr__(self, "replace", replace)
        object.__setattr__(self, "_excluded", tuple(_exclusion(tag) for tag in exclude))
        object.__setattr__(self, "_rules", tuple(_Rule(old, new) for old, new in replace))


def split_tags(text: str) -> list[str]:
    """The tags of ``text`` in order, without empty ones, white space inside each reduced to single spaces."""
    pairs = _paired_parentheses(text)
    tags: list[str] = []
    start = position = 0
    while position < len(text):
        if text[position] == "," or text[position] in _LINE_BREAKS:
            tags.append(_squeeze(text[start:position]))
            start = position + 1
        position = pairs.get(position, position) + 1
    tags.append(_squeeze(text[start:]))
    return [tag for tag in tags if tag]


def join_tags(tags: Iterable[str]) -> str:
    """One line: ``a, b, c``."""
    return ", ".join(tags)


def edit_tags(tags: str | Iterable[str], options: TagOptions) -> list[str]:
    """The tags after everything in ``options`` has been done to them.

    ``tags`` is a text to split, or tags already split. Without prefix, suffix and replacements, editing twice
    gives what editing once gives.

    Raises:
        ValueError: the replacements feed each other, and would make them endlessly many.
    """
    edited = [tag for tag in _as_list(tags) if tag]
    most = _most_characters(edited)
    for rule in options._rules:
        edited = [part for tag in edited for part in rule.apply_to_tag(tag)]
        _check_growth(edited, most)
    edited = [tag for tag in edited if not any(pattern.fullmatch(_key(tag)) for pattern in options._excluded)]
    edited = [
        _parentheses(_underscores(tag, options.underscores), options.escape_parentheses) for tag in edited
    ]
    edited = [*split_tags(options.prefix), *edited, *split_tags(options.suffix)]
    return _first_of_each(edited) if options.deduplicate else edited


def edit_prose(text: str, options: TagOptions) -> str:
    """Prose after replacement of whole words, with prefix and suffix. Excluding is for tags alone.

    Raises:
        ValueError: the replacements feed each other, and would make it endlessly long.
    """
    most = _most_characters([text])
    for rule in options._rules:
        text = rule.apply_to_prose(text)
        _check_growth([text], most)
    return add_affixes(text.strip(), options.prefix, options.suffix)


def add_affixes(text: str, prefix: str = "", suffix: str = "") -> str:
    """``text`` between ``prefix`` and ``suffix``, joined as :class:`TagOptions` says."""
    if prefix.strip():
        text = prefix.lstrip() + _after_prefix(prefix) + text if text else prefix.strip()
    if suffix.strip():
        text = text + _before_suffix(text, suffix) + suffix.rstrip() if text else suffix.strip()
    return text


def parse_replacements(rules: Rules) -> tuple[tuple[str, str], ...]:
    r"""Read ``old:new;old:new``, several such texts, or pairs that are already apart, into pairs.

    A trailing ``;`` is nothing; after the first ``:`` of a rule any other one belongs to the new text;
    ``\:``, ``\;`` and ``\\`` stand for the characters themselves, any other backslash for itself.

    Raises:
        ValueError: a rule has no ``:`` or no old text.
    """
    if isinstance(rules, str):
        rules = [rules]
    elif isinstance(rules, Mapping):
        rules = list(rules.items())
    pairs: list[tuple[str, str]] = []
    for rule in rules:
        pairs.extend(_parse_rules(rule) if isinstance(rule, str) else [rule])
    stripped = tuple((old.strip(), new.strip()) for old, new in pairs)
    for old, new in stripped:
        if not old:
            raise ValueError(f"the replacement ':{new}' has nothing to look for; write old:new")
    return stripped


def is_kaomoji(word: str) -> bool:
    """Whether ``word`` is a face whose underscore is part of it, such as ``^_^``, ``>_<``, ``0_0`` or
    ``o_o``.

    That is: two equal letters or digits with an underscore between them; or up to four symbols on either side
    of it, where one letter or digit may stand for one side (``>_o``); or another that the WD14 taggers know.
    """
    word = _unescape(word)
    if word.casefold() in _KAOMOJI:
        return True
    left, _, right = word.partition("_")
    if not (0 < len(left) <= 4 and 0 < len(right) <= 4) or "_" in right:
        return False
    if left.isalnum() and right.isalnum():
        return len(left) == 1 and left.casefold() == right.casefold()
    return all(len(side) == 1 or not re.search(r"\w", side) for side in (left, right))


def is_emoticon(word: str) -> bool:
    """Whether ``word`` is a face without an underscore, such as ``:)``, ``;d``, ``:/`` or ``\\m/``, as image
    boards have them."""
    return _EMOTICON.fullmatch(_unescape(word)) is not None


class _Rule:
    """One replacement, compiled."""

    def __init__(self, old: str, new: str) -> None:
        self.key = _key(old)
        self.new = new
        words = [_literal(word) for word in re.split(r"[\s_]+", _unescape(old)) if word]
        body = r"[\s_]+".join(words) if words else _literal(old)  # an old text of underscores only is itself
        # Not beside a letter or digit, nor one hyphen or apostrophe away from it: "shirt" is not in
        # "t-shirt". An underscore ends a word.
        whole = rf"(?<![^\W_])(?<![^\W_][-'’]){body}(?![^\W_])(?![-'’][^\W_])"
        self.pattern = re.compile(whole, re.IGNORECASE)
        # What is taken out takes the blanks on one side along.
        self.with_blanks = re.compile(rf"[ \t\xa0_]+{whole}|{whole}[ \t\xa0_]*", re.IGNORECASE)

    def apply_to_tag(self, tag: str) -> list[str]:
        if _key(tag) == self.key:
            return split_tags(self.new)
        if not self.pattern.search(tag):
            return [tag]
        new = (
            "_".join(self.new.split()) if "_" in tag and " " not in tag and "," not in self.new else self.new
        )
        return split_tags(self._substitute(tag, new))

    def apply_to_prose(self, text: str) -> str:
        return self._substitute(text, self.new)

    def _substitute(self, text: str, new: str) -> str:
        if not new:
            return self.with_blanks.sub("", text)
        return self.pattern.sub(lambda _: new, text)


def _parse_rules(text: str) -> Iterable[tuple[str, str]]:
    for rule in _split_unescaped(text, ";"):
        if not rule.strip():
            continue
        old, *new = _split_unescaped(rule, ":", 1)
        if not new:
            raise ValueError(
                f"the replacement {rule.strip()!r} has no colon; write old:new, or old: to take it out,"
                " with ; between rules"
            )
        yield tuple(re.sub(r"\\([:;\\])", r"\1", part) for part in (old, new[0]))  # type: ignore[misc]


def _split_unescaped(text: str, separator: str, limit: int | None = None) -> list[str]:
    """Split where no backslash escapes the separator, at most ``limit`` times; escapes stay as they are."""
    parts: list[str] = []
    start = 0
    for match in re.finditer(rf"\\.|{re.escape(separator)}", text, re.DOTALL):
        if match.group() == separator and (limit is None or len(parts) < limit):
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def _most_characters(texts: Iterable[str]) -> int:
    """That replacements may make of ``texts``."""
    return max(_MOST_CHARACTERS, 2 * sum(map(len, texts)))


def _check_growth(texts: Iterable[str], most: int) -> None:
    """A chain of rules each of which makes ten words of one soon fills the memory."""
    if sum(map(len, texts)) > most:
        raise ValueError(
            f"the replacements make more than {most} characters of an answer: each finds what those before it"
            " have written. Put them into another order."
        )


def _literal(word: str) -> str:
    """A pattern for a word whose parentheses may be escaped in the text."""
    return "".join(rf"\\*\{char}" if char in "()" else re.escape(char) for char in word)


def _exclusion(tag: str) -> re.Pattern[str]:
    key = _key(tag)
    first, *others = [key] if is_kaomoji(tag) else key.split("*")  # *_* is a face, not "anything"
    pattern = re.escape(first)
    # What lies between two stars is found as early as it can be, and not looked for again: a pattern of many
    # stars would take for ever otherwise.
    for number, part in enumerate(filter(None, others[:-1])):
        pattern += f"(?=(?P<g{number}>.*?{re.escape(part)}))(?P=g{number})"
    if others:
        pattern += ".*" + re.escape(others[-1])
    return re.compile(pattern, re.DOTALL)


def _key(tag: str) -> str:
    """What tags are compared by. It is the same before and after the underscores and parentheses are set."""
    return _squeeze(_unescape(tag).replace("_", " ")).casefold() or "_"


def _underscores(tag: str, mode: str) -> str:
    if mode == "underscores":
        return "_".join(tag.split())
    if mode == "spaces":
        words = [word if is_kaomoji(word) else word.replace("_", " ") for word in tag.split()]
        return _squeeze(" ".join(words)) or tag  # a tag of nothing but underscores stays
    return tag


def _parentheses(tag: str, escaped: bool | None) -> str:
    if escaped is None:
        return tag
    return re.sub(r"(?<!\\)([()])", r"\\\1", tag) if escaped else _unescape(tag)


def _unescape(tag: str) -> str:
    return re.sub(r"(?<!\\)\\+([()])", r"\1", tag)


def _first_of_each(tags: list[str]) -> list[str]:
    first: dict[str, str] = {}
    for tag in tags:
        first.setdefault(_key(tag), tag)
    return list(first.values())


def _squeeze(text: str) -> str:
    return " ".join(text.split())


def _as_list(tags: str | Iterable[str]) -> list[str]:
    return split_tags(tags) if isinstance(tags, str) else [_squeeze(tag) for tag in tags]


def _paired_parentheses(text: str) -> dict[int, int]:
    """Where each parenthesis that has a partner opens, and where it closes."""
    plain = {
        position
        for word in re.finditer(r"[^\s,]+", text)
        if is_emoticon(word.group())
        for position in range(*word.span())
    }
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for match in re.finditer(r"[()]", text):
        if match.start() in plain:
            continue
        if match.group() == "(":
            opened.append(match.start())
        elif opened:
            pairs[opened.pop()] = match.start()
    return pairs


def _after_prefix(prefix: str) -> str:
    if prefix[-1].isspace():
        return ""
    return " " if _is_punctuation(prefix[-1]) else ", "


def _before_suffix(text: str, suffix: str) -> str:
    if suffix[0].isspace() or suffix[0] in ",.;:!?，。；：！？、":
        return ""
    return " " if _is_punctuation(text[-1]) else ", "


def _is_punctuation(char: str) -> bool:
    return unicodedata.category(char).startswith("P")
