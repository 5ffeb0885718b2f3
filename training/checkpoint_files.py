"""The files beside the weights of a checkpoint folder, in either published format.

What the checkpoint that training began from says of itself is taken over, as far as the format goes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from ..captioning.regions import EMPTY_PHRASES
from ..florence2.configuration import Florence2Config
from ..florence2.conversion import IMAGE_TOKEN, converted_config, original_config
from ..florence2.text_processing import TextProcessor
from ..inference.json_files import read_json

# Where tools that run the published modelling code find it. It is the same for all checkpoints; a reference
# to files beside the weights would be one to code from wherever those came from.
_PUBLISHED_CODE = "microsoft/Florence-2-base--"
_MODEL_CODE = {
    "AutoConfig": f"{_PUBLISHED_CODE}configuration_florence2.Florence2Config",
    "AutoModelForCausalLM": f"{_PUBLISHED_CODE}modeling_florence2.Florence2ForConditionalGeneration",
}
_PROCESSOR_CODE = {"AutoProcessor": f"{_PUBLISHED_CODE}processing_florence2.Florence2Processor"}

_TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")
_TOKENIZER_SETTINGS = "tokenizer_config.json"
_LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")  # which must go where the weights go
_ONLY_CONVERTED = ("extra_special_tokens", "image_token", "image_token_id")

# What answers transformers' processor can read; the published checkpoints' settings.
_ANSWERS = (
    "ocr", "phrase_grounding", "pure_text", "description_with_bboxes", "description_with_polygons",
    "polygons", "bboxes", "description_with_bboxes_or_polygons",
)  # fmt: skip


def is_converted(folder: Path) -> bool:
    """Whether a checkpoint folder is in transformers' own format."""
    return "embed_dim" in read_json(folder / "config.json")["vision_config"]


def write_original_files(folder: Path, source: Path, dtype: str) -> None:
    """All files but the weights, in Microsoft's format, from the checkpoint in ``source``.

    Args:
        dtype: of the weights, by torch's name of it.
    """
    config = Florence2Config.from_folder(source)
    if is_converted(source):
        settings = original_config(config)
    else:
        settings = read_json(source / "config.json")
        settings["vision_config"]["model_type"] = "davit"  # some files have none, which transformers refuses
        settings.pop("dtype", None)
    settings |= {"auto_map": _MODEL_CODE, "torch_dtype": dtype}
    _write_json(folder / "config.json", settings)
    _write_json(folder / "generation_config.json", _generation(config, source))
    _write_json(
        folder / "preprocessor_config.json", _image_settings(config, source) | {"auto_map": _PROCESSOR_CODE}
    )
    _copy(source, folder, (*_TOKENIZER, _TOKENIZER_SETTINGS, *_LICENCES))
    if is_converted(source):
        tokens = _tokenizer_settings(source)
        kept = {name: value for name, value in tokens.items() if name not in _ONLY_CONVERTED}
        _write_json(folder / _TOKENIZER_SETTINGS, kept)


def write_converted_files(folder: Path, source: Path, text: TextProcessor, dtype: str) -> int:
    """All files but the weights, in the format of transformers' own class.

    Returns:
        The rows of the embedding matrix, of which ``<image>`` may need one more.
    """
    config = Florence2Config.from_folder(source)
    tokenizer = _with_image_token(text)
    image_token_id = tokenizer.token_to_id(IMAGE_TOKEN)
    settings = converted_config(config, image_token_id) | {"dtype": dtype}
    _write_json(folder / "config.json", settings)
    _write_json(folder / "generation_config.json", _generation(config, source))
    image = _image_settings(config, source)
    image.pop("auto_map", None)
    _write_json(folder / "preprocessor_config.json", image)
    _write_json(folder / "processor_config.json", _processor_settings())
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = _tokenizer_settings(source)
    tokens |= {"extra_special_tokens": {"image_token": IMAGE_TOKEN}, "image_token": IMAGE_TOKEN}
    _write_json(folder / _TOKENIZER_SETTINGS, tokens)
    _copy(source, folder, _LICENCES)
    rows: int = settings["text_config"]["vocab_size"]
    return rows


def _copy(source: Path, folder: Path, names: Iterable[str]) -> None:
    """Those that are there; what they hold, and not who may write to them."""
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _with_image_token(text: TextProcessor) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text.tokenizer.to_str())  # a copy
    tokenizer.add_special_tokens([AddedToken(IMAGE_TOKEN, normalized=False, special=True)])
    return tokenizer


def _generation(config: Florence2Config, source: Path) -> dict[str, Any]:
    """``generation_config.json``, with what an older checkpoint says in its ``text_config``."""
    path = source / "generation_config.json"
    return {**(read_json(path) if path.exists() else {}), **config.generation}


def _image_settings(config: Florence2Config, source: Path) -> dict[str, Any]:
    path = source / "preprocessor_config.json"
    raw: Mapping[str, Any] = read_json(path) if path.exists() else {}
    image = config.image
    size = {"height": image.height, "width": image.width}
    return {
        **raw,
        "crop_size": size,
        "do_center_crop": False,
        "do_normalize": image.do_normalize,
        "do_rescale": image.do_rescale,
        "do_resize": image.do_resize,
        "image_mean": list(image.image_mean),
        "image_processor_type": "CLIPImageProcessor",
        "image_seq_length": config.num_image_tokens,
        "image_std": list(image.image_std),
        "processor_class": "Florence2Processor",
        "resample": image.resample,
        "rescale_factor": image.rescale_factor,
        "size": size,
    }


def _processor_settings() -> dict[str, Any]:
    answers: dict[str, Any] = {name: {} for name in _ANSWERS}
    answers["phrase_grounding"] = {"banned_grounding_tokens": sorted(EMPTY_PHRASES)}
    return {"post_processor_config": answers, "processor_class": "Florence2Processor"}


def _tokenizer_settings(source: Path) -> dict[str, Any]:
    """``tokenizer_config.json``, without the tokens that ``tokenizer.json`` lists as well."""
    path = source / _TOKENIZER_SETTINGS
    raw = read_json(path) if path.exists() else {}
    if (source / "tokenizer.json").exists():
        raw.pop("added_tokens_decoder", None)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
               "model_max_length": 1024}  # fmt: skip
    return special | raw | {"tokenizer_class": "BartTokenizer", "processor_class": "Florence2Processor"}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
