"""Docstrings as help texts."""

from __future__ import annotations

import inspect
import re

_NO_MARKUP = re.compile(r"\[(?!/?bold\])")  # brackets that are to be read, such as those of extras


def fold(docstring: str | None) -> str:
    """``docstring`` with each paragraph on one line, for the terminal to wrap; what is indented stays.

    typer keeps the line breaks of the source, which tear the text where the terminal is narrower.
    """
    paragraphs = inspect.cleandoc(docstring or "").split("\n\n")
    folded = "\n\n".join(map(_fold_paragraph, paragraphs))
    return _NO_MARKUP.sub(r"\\[", folded)


def _fold_paragraph(paragraph: str) -> str:
    if paragraph.startswith("  "):
        return paragraph  # such as lines of a file
    return " ".join(paragraph.split())
