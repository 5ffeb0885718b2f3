"""The preset ``long-prompt`` on nodes: what the PaliGemma node begins with, and answers that fall short."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

AUTO, LONG_PROMPT, NONE = "auto", "long-prompt", "none"
"""Of inputs called ``preset``: where it fits, always, never."""


@dataclass(frozen=True)
class LongPromptSettings:
    """The engine's preset ``long-prompt`` as inputs of a node. Spelled out, because to import the engine's
    options would hold up ComfyUI's start; a test compares them."""

    num_beams: int = 1
    max_new_tokens: int = 256
    do_sample: bool = True
    temperature: float = 0.7
    top_k: int = 50
    top_p: float = 0.9
    no_repeat_ngram_size: int = 2
    repetition_penalty: float = 1.15
    retries: int = 10
    min_words: int = 20
    retry_words: str = "no_parallel"
    complete_sentences: bool = True
    remove_characters: str = '#/、@|;~"*^'
    remove_brackets: str = "()[]{}"
    max_word_length: int = 30  # 0: none is too long
    drop_underscored: bool = False


def with_notes(node: str, texts: Sequence[str], marks: Sequence[Mapping[str, Any]]) -> list[str]:
    """The texts as a node shows them: before one that was kept though it falls short, what is wrong with it.
    The log has that, too.

    Args:
        node: what the node is called.
        marks: of each text, ``attempts`` and ``unmet`` as ``Result.to_dict`` has them.
    """
    return list(_with_notes(node, texts, marks))


def _with_notes(node: str, texts: Sequence[str], marks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for number, (text, mark) in enumerate(zip(texts, marks, strict=True), start=1):
        if not (unmet := mark.get("unmet")):
            yield text
            continue
        attempts = mark.get("attempts", 1)
        times = "" if attempts == 1 else f" after {attempts} tries"
        note = f"Kept{times}: {unmet}."
        logger.warning("%s, image %d of %d: %s", node, number, len(texts), note)
        yield f"{note}\n\n{text}"
