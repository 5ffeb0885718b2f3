"""Docstrings as help texts."""

from __future__ import annotations

import inspect


def fold(docstring: str | None) -> str:
    """``docstring`` with each paragraph on one line, for the terminal to wrap.

    typer keeps the line breaks of the source, which tear the text where the terminal is narrower.
    """
    paragraphs = inspect.cleandoc(docstring or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
