"""The demo checkpoint's tokenizer: BART's kind (byte-level BPE), trained on the answers and prompts.

Any byte can be encoded; every word of the answers is one token. Ids as in BART: `<s>` 0, `<pad>` 1, `</s>` 2,
`<unk>` 3, `<mask>` last; then the 1 024 tokens of Florence-2 in the published order.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .answers import PROMPTS, answer
from .scenes import TRAINING_SEEDS, WORDS, drawn_scene

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tokenizers import Tokenizer

MODEL_MAX_LENGTH = 1024
CORPUS_SCENES = 3000


def _corpus() -> Iterator[str]:
    for seed in TRAINING_SEEDS[:CORPUS_SCENES]:
        scene = drawn_scene(seed)
        for instruction in PROMPTS:
            yield answer(instruction, scene).split("<loc_")[0]
    for text in (*PROMPTS.values(), *WORDS, *(f" {word}" for word in WORDS)):
        yield from [text] * 10


def build_tokenizer() -> Tokenizer:
    """Train the tokenizer; the same every time."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    from ...florence2.text_processing import FLORENCE2_TOKENS

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=3,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True, normalized=False)])
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in FLORENCE2_TOKENS]
    )
    return tokenizer


def tokenizer_config() -> dict[str, Any]:
    """tokenizer_config.json as such checkpoints carry it."""
    return {
        "add_prefix_space": False,
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "errors": "replace",
        "mask_token": "<mask>",
        "model_max_length": MODEL_MAX_LENGTH,
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "tokenizer_class": "BartTokenizer",
        "unk_token": "<unk>",
    }


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    tokenizer.save(str(folder / "tokenizer.json"))
    text = json.dumps(tokenizer_config(), indent=1) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
