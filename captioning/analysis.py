"""The answer to ANALYZE: named fields about the picture and its subjects.

It looks like ``camera_angle: portrait, art_style: photo realistic, clothing: orange coat, hat, text:
NA``. What is known of the format, and what is made of it here:

* A field is a name and a colon at the start, or after a comma, a semicolon or a line break. So a colon
  within a value (``text: SALE: 50%``) belongs to the value, and so does a comma that no field name
  follows.
* A name is one of :data:`ANALYSIS_FIELDS`, in any case and with spaces or underscores, or an unknown one
  in snake case (``eye_color``). In the value of ``text``, which quotes what is written in the picture, an
  unknown name must have an underscore to count.
* A field that the subject already has begins the next subject, and so does a semicolon before a field,
  unless all fields are separated by semicolons. A semicolon before anything else belongs to the value;
  :meth:`Analysis.subject` then deals its parts out to the subjects.
* ``NA`` is "unknown". It is kept, and left out of :meth:`Analysis.sentence`.

No word of the answer is lost: what precedes the first field is in :attr:`Analysis.unparsed`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ANALYSIS_FIELDS", "Analysis", "find_fields", "is_unknown", "parse_analysis"]

ANALYSIS_FIELDS = (
    "camera_angle",
    "art_style",
    "location",
    "text",
    "distance_to_camera",
    "background",
    "position_in_image",
    "gender",
    "age",
    "hair_style",
    "hair_color",
    "facial_expression",
    "eye_direction",
    "facing_direction",
    "race",
    "ear",
    "expression",
    "body",
    "accessory",
    "pants",
    "clothing",
    "shoes",
    "action",
    "image_composition",
)
"""The fields that PromptGen v2.0 is known to write, in the order in which other tools list them."""

_KNOWN_NAME = "|".join(name.replace("_", "[ _]") for name in sorted(ANALYSIS_FIELDS, key=len, reverse=True))
_FIELD = re.compile(
    rf"(?P<before>\A|[,;\n\r])\s{{0,20}}(?:(?P<known>(?i:{_KNOWN_NAME}))|(?P<unknown>[a-z][a-z0-9]*(?:_[a-z0-9]+)*))\s*:"
)


@dataclass(frozen=True)
class Analysis:
    """Fields by name, per subject, in the order in which the model wrote them."""

    subjects: tuple[Mapping[str, str], ...] = ()  # values as written, "NA" included
    unparsed: str = ""  # what came before the first field

    def subject(self, index: int) -> dict[str, str]:
        """The fields of one subject, counted from 0; empty if there are not so many.

        Where the model listed the subjects within the values (``gender: female; male``), a value's part
        of that number is taken; a value with one part holds for all of them, and so does ``text``, which may
        quote a semicolon, unless it has a part for each.
        """
        if index < 0:
            raise ValueError(f"the subject's number is {index}; it counts from 0")
        if len(self.subjects) > 1:
            return dict(self.subjects[index]) if index < len(self.subjects) else {}
        if index >= self.subject_count:
            return {}
        parts = {name: value.split(";") for name, value in self.subjects[0].items()}
        if "text" in parts and len(parts["text"]) != self.subject_count:
            parts["text"] = [self.subjects[0]["text"]]
        return {
            name: values[min(index, len(values) - 1)].strip()
            for name, values in parts.items()
            if len(values) == 1 or index < len(values)
        }

    @property
    def subject_count(self) -> int:
        """How many subjects :meth:`subject` knows."""
        if len(self.subjects) != 1:
            return len(self.subjects)
        return max(
            (value.count(";") + 1 for name, value in self.subjects[0].items() if name != "text"), default=1
        )

    def sentence(self, fields: Iterable[str] | None = None, subject: int | None = None) -> str:
        """The known values in one line, comma separated, without those that are ``NA``.

        Args:
            fields: which fields, and in which order; ``None`` is all as the model wrote them. A field
                that the answer lacks is left out.
            subject: which subject's, counted from 0; ``None`` is all of them, one after another.
        """
        wanted = None if fields is None else [_field_name(name) for name in fields]
        chosen = self.subjects if subject is None else (self.subject(subject),)
        values = (
            values[name]
            for values in chosen
            for name in (values if wanted is None else wanted)
            if name in values
        )
        return ", ".join(value for value in values if not is_unknown(value))

    def to_text(self) -> str:
        """All of it in the model's own format."""
        subjects = [
            ", ".join(f"{name}: {value}" for name, value in fields.items()) for fields in self.subjects
        ]
        return "; ".join(part for part in (self.unparsed, *subjects) if part)

    def to_dict(self) -> dict[str, Any]:
        """``{"subjects": [{field: value}, …]}``, and ``unparsed`` if there is anything of that."""
        result: dict[str, Any] = {"subjects": [dict(fields) for fields in self.subjects]}
        if self.unparsed:
            result["unparsed"] = self.unparsed
        return result


def parse_analysis(text: str) -> Analysis:
    """Read an answer to ANALYZE, or the third block of MIXED_CAPTION_PLUS. Any text has a reading."""
    fields = find_fields(text)
    if not fields:
        return Analysis(unparsed=_trim(text))
    entries: list[tuple[str, str, str]] = []  # separator, name, value
    for field, following in zip(fields, [*fields[1:], None], strict=True):
        value = text[field.end() : following.start() if following else len(text)]
        entries.append((field["before"], _field_name(field["known"] or field["unknown"]), _trim(value)))

    semicolons_only = all(separator == ";" for separator, _, _ in entries[1:])
    subjects: list[dict[str, str]] = [{}]
    for separator, name, value in entries:
        if (separator == ";" and subjects[-1] and not semicolons_only) or name in subjects[-1]:
            subjects.append({})
        subjects[-1][name] = value
    return Analysis(tuple(subjects), _trim(text[: fields[0].start()]))


def find_fields(text: str) -> list[re.Match[str]]:
    """Where the fields of an analysis begin; a match has the groups ``before``, ``known``, ``unknown``."""
    fields: list[re.Match[str]] = []
    for match in _FIELD.finditer(text):
        in_text = bool(fields) and _field_name(fields[-1]["known"] or "") == "text"
        if match["known"] or not in_text or "_" in match["unknown"]:
            fields.append(match)
    return fields


def is_unknown(value: str) -> bool:
    """Whether a value says that the model does not know: ``NA``, ``N/A`` or nothing."""
    return value.strip(" .").casefold() in ("", "na", "n/a")


def _field_name(name: str) -> str:
    return name.lower().replace(" ", "_")


def _trim(text: str) -> str:
    return text.strip(",; \t\r\n\v\f\x1c\x1d\x1e\x85\xa0\u2028\u2029")
