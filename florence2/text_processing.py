"""From prompt to token ids and from token ids to text.

The tokenizer is read with the ``tokenizers`` library itself: what ``tokenizer.json`` says is what happens,
on every transformers release.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from ..inference.errors import CheckpointError
from ..inference.json_files import read_json
from ..inference.token_spans import token_spans

# What the published processor adds to BART's vocabulary, in its order and its spelling.
FLORENCE2_TOKENS: tuple[str, ...] = (
    "<od>", "</od>", "<ocr>", "</ocr>",
    *(f"<loc_{bin}>" for bin in range(1000)),
    "<cap>", "</cap>", "<ncap>", "</ncap>", "<dcap>", "</dcap>", "<grounding>", "</grounding>",
    "<seg>", "</seg>", "<sep>", "<region_cap>", "</region_cap>",
    "<region_to_desciption>", "</region_to_desciption>", "<proposal>", "</proposal>",
    "<poly>", "</poly>", "<and>",
)  # fmt: skip


class TextProcessor:
    """The tokenizer of one checkpoint."""

    def __init__(self, folder: Path, vocab_size: int, removed_ids: Sequence[int]) -> None:
        """Read the tokenizer of ``folder``.

        Args:
            vocab_size: rows of the embedding matrix; no token may lie beyond.
            removed_ids: the tokens that are taken out of decoded text (``<s>``, ``</s>``, ``<pad>``).

        Raises:
            CheckpointError: no tokenizer, one that cannot be read, or one with more tokens than the network.
        """
        self.tokenizer = _read_tokenizer(folder)
        self._removed = frozenset(removed_ids)
        self._markup = frozenset(map(self.tokenizer.token_to_id, FLORENCE2_TOKENS))
        settings = folder / "tokenizer_config.json"
        # transformers removes the space before punctuation only where the checkpoint asks for it
        self._clean_up = settings.exists() and bool(read_json(settings).get("clean_up_tokenization_spaces"))
        size = max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        if size > vocab_size:
            raise CheckpointError(
                f"{folder}: the tokenizer knows {size} tokens, config.json says vocab_size {vocab_size}. "
                "Files of two checkpoints may have been mixed; fetch the folder again."
            )

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, with ``<s>`` before and ``</s>`` after."""
        return self.tokenizer.encode(text).ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of an answer; location and other special tokens are kept as ``<loc_7>`` and so on."""
        kept = [token for token in token_ids if token not in self._removed]
        text = self.tokenizer.decode(kept, skip_special_tokens=False)
        return _clean_up(text) if self._clean_up else text

    def spans(self, token_ids: Sequence[int]) -> list[tuple[int, int]]:
        """Which characters of the decoded text each token stands for, see :func:`.token_spans`."""

        def ends_a_part(token: int, text: str) -> bool:
            # Nothing crosses here: no half character, no white space that depends on what comes.
            return token in self._markup or not (self._clean_up or text.endswith("\N{REPLACEMENT CHARACTER}"))

        return token_spans(token_ids, self.decode, ends_a_part)


def _read_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path)) if path.exists() else _bart_tokenizer(folder)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"The tokenizer in {folder} cannot be read: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in FLORENCE2_TOKENS]
    )
    return tokenizer


def _bart_tokenizer(folder: Path) -> Tokenizer:
    """BART's byte-level BPE from the older pair of files, ``vocab.json`` and ``merges.txt``."""
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if not vocab.exists() or not merges.exists():
        raise CheckpointError(
            f"{folder} has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt."
        )
    tokenizer = Tokenizer(BPE.from_file(str(vocab), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        AddedToken(token, normalized=False, special=True) for token in ("<s>", "<pad>", "</s>", "<unk>")
    ]
    tokenizer.add_special_tokens(
        [*special, AddedToken("<mask>", lstrip=True, normalized=False, special=True)]
    )
    added = folder / "added_tokens.json"
    if added.exists():
        with open(added, encoding="utf-8") as file:
            ids: dict[str, int] = json.load(file)
        for token, expected in sorted(ids.items(), key=lambda item: item[1]):
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
            if tokenizer.token_to_id(token) != expected:
                raise CheckpointError(
                    f"{added} puts {token!r} at {expected}, the vocabulary at {tokenizer.token_to_id(token)}."
                )
    begin, end = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", begin), ("</s>", end)]
    )
    return tokenizer


def _clean_up(text: str) -> str:
    """transformers' ``clean_up_tokenization``, which checkpoints of some releases switch on."""
    for piece, replacement in (
        (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"),
        (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
    ):  # fmt: skip
        text = text.replace(piece, replacement)
    return text
