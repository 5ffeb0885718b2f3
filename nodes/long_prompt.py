"""What a new PaliGemma node is filled with: the settings of the published long-prompt script."""

from __future__ import annotations

from dataclasses import dataclass

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
