"""From prompt to token ids and from token ids to text.

The tokenizer is read with the ``tokenizers`` library itself: what ``tokenizer.json`` says is what happens,
on every transformers release.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from ..inference.errors import CheckpointError, UnfitError
from ..inference.json_files import read_json
from ..inference.token_spans import token_spans

# What the published processor adds to Gemma's vocabulary where it is not there, in its order and spelling.
IMAGE_TOKEN = "<image>"
PLACE_TOKENS: tuple[str, ...] = (
    *(f"<loc{bin:04}>" for bin in range(1024)),
    *(f"<seg{code:03}>" for code in range(128)),
)
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class TextProcessor:
    """The tokenizer of one checkpoint."""

    def __init__(self, folder: Path, vocab_size: int, bos_token_id: int, removed_ids: Sequence[int]) -> None:
        """Read the tokenizer of ``folder``.

        Args:
            vocab_size: rows of the embedding matrix; no token may lie beyond but ``<image>``, which needs no
                row: features stand in its places.
            bos_token_id: the token between picture and prompt.
            removed_ids: tokens that are taken out of decoded text beside those that the tokenizer calls
                special.

        Raises:
            CheckpointError: no tokenizer, one that cannot be read, or one with more tokens than the network.
        """
        self.tokenizer = _read_tokenizer(folder)
        self._bos = bos_token_id
        places = set(map(self.tokenizer.token_to_id, PLACE_TOKENS))
        added = self.tokenizer.get_added_tokens_decoder()
        special = {number for number, token in added.items() if token.special}
        self._removed = frozenset((special | set(removed_ids)) - places)
        vocabulary = self.tokenizer.get_vocab(with_added_tokens=True)
        self.image_token_id = vocabulary[IMAGE_TOKEN]
        self._bytes = frozenset(number for token, number in vocabulary.items() if _BYTE.fullmatch(token))
        size = max(number for token, number in vocabulary.items() if token != IMAGE_TOKEN) + 1
        if size > vocab_size:
            raise CheckpointError(
                f"{folder}: the tokenizer knows {size} tokens, config.json says vocab_size {vocab_size}. "
                "Files of two checkpoints may have been mixed; fetch the folder again."
            )

    def encode(self, prompt: str) -> list[int]:
        """Token ids of what follows the picture: ``<bos>``, the prompt, a line feed.

        Raises:
            UnfitError: the prompt holds ``<image>``.
        """
        ids: list[int] = self.tokenizer.encode(f"{prompt}\n", add_special_tokens=False).ids
        if self.image_token_id in ids:
            raise UnfitError(f"The prompt holds {IMAGE_TOKEN}. Leave it out: the picture is put before it.")
        return [self._bos, *ids]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of an answer; tokens of places and outlines are kept as ``<loc0007>`` and ``<seg007>``."""
        kept = [token for token in token_ids if token not in self._removed]
        text: str = self.tokenizer.decode(kept, skip_special_tokens=False)
        return text

    def spans(self, token_ids: Sequence[int]) -> list[tuple[int, int]]:
        """Which characters of the decoded text each token stands for, see :func:`.token_spans`."""
        # Bytes in a row are decoded together: one that fits nowhere makes all of them unreadable.
        return token_spans(token_ids, self.decode, lambda token, text: token not in self._bytes)


def _read_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        raise CheckpointError(
            f"{folder} has no tokenizer.json. Copy that of the checkpoint that this one was trained from, or "
            "one of Google's PaliGemma checkpoints: they have it in common."
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise CheckpointError(f"The tokenizer in {folder} cannot be read: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for number, token in sorted(_added_elsewhere(folder).items()):
        if tokenizer.token_to_id(token.content) is None and number == tokenizer.get_vocab_size():
            (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    if tokenizer.token_to_id(IMAGE_TOKEN) is None:
        tokenizer.add_special_tokens([AddedToken(IMAGE_TOKEN, normalized=False, special=True)])
    tokenizer.add_tokens([token for token in PLACE_TOKENS if tokenizer.token_to_id(token) is None])
    return tokenizer


def _added_elsewhere(folder: Path) -> dict[int, AddedToken]:
    """Tokens by their numbers that transformers' own files state, which ``tokenizer.json`` may lack.

    Raises:
        CheckpointError: a file cannot be understood.
    """
    added: dict[int, AddedToken] = {}
    try:
        if (folder / "added_tokens.json").exists():
            for content, number in read_json(folder / "added_tokens.json").items():
                added[int(number)] = AddedToken(content, normalized=False, special=content == IMAGE_TOKEN)
        if (folder / "tokenizer_config.json").exists():
            stated = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
            for number, token in stated.items():
                special = bool(token.get("special", False))
                added[int(number)] = AddedToken(token["content"], normalized=False, special=special)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"The tokens that files in {folder} add cannot be understood: {error}"
        ) from error
    return added
