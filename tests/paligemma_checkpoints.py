"""Tiny PaliGemma checkpoints with random weights, saved as transformers saves them, and what transformers'
own ``generate`` answers with them.

Scaffolding for tests only: they have never seen a picture. Their answers are noise, but different noise for
different pictures and prompts, of different lengths.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

SIDE, PATCH = 28, 14  # pixels: a picture is (28 / 14) ** 2 = 4 image tokens
IMAGE_TOKENS = (SIDE // PATCH) ** 2
PAD, EOS, BOS, UNK = 0, 1, 2, 3  # as Gemma's
LOCATIONS = tuple(f"<loc{bin:04}>" for bin in range(1024))
SEGMENTS = tuple(f"<seg{code:03}>" for code in range(128))
_SPOKEN = (
    "a an the of and in on with is are at to it its one two red blue green black white cat dog tree "
    "sky sun car boat bird girl boy man woman house road river sea moon night day light dark small "
    "large old new standing sitting looking holding wearing long hair eyes shirt dress hat caption "
    "describe answer detect ocr segment en de fr es what where who how many color this there picture "
    "photo image painting drawing"
)
WORDS = tuple(_SPOKEN.split())


def make_paligemma(
    folder: Path,
    *,
    generation: int = 1,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    shards: bool = False,
    hidden_size: int = 32,
    layers: int = 3,
    locations: bool = False,
    settings: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
) -> Path:
    """Save a whole checkpoint folder and return it.

    Args:
        generation: 1 (Gemma) or 2 (Gemma 2: soft caps, sliding windows, norms after the layers too).
        shards: several weight files with an index, not one.
        hidden_size: of the language model, a multiple of 4.
        locations: have answers be location tokens for the most part, not words.
        settings: more of ``generation_config.json``.
        text: more of ``text_config``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    network = _network(generation, seed, hidden_size, layers, locations, tokenizer, text or {})
    network.generation_config = transformers.GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD
    )
    network.to(dtype).save_pretrained(folder, max_shard_size="64KB" if shards else "5GB")
    stated = {"_from_model_config": True, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    if generation == 2:
        stated["cache_implementation"] = "hybrid"  # as the published ones say
    _write(folder / "generation_config.json", stated | (settings or {}))
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "extra_special_tokens": {"image_token": "<image>"},
            "clean_up_tokenization_spaces": False,
            "padding_side": "left",
        },
    )
    _write(
        folder / "preprocessor_config.json",
        {
            "do_convert_rgb": None,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "SiglipImageProcessor",
            "image_seq_length": IMAGE_TOKENS,
            "image_std": [0.5, 0.5, 0.5],
            "processor_class": "PaliGemmaProcessor",
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"height": SIDE, "width": SIDE},
        },
    )
    return folder


def pictures(count: int) -> list[Image.Image]:
    """Different pictures of different sizes."""
    made = []
    for number in range(count):
        noise = torch.Generator().manual_seed(number)
        coarse = torch.randint(0, 256, (3 + number % 2, 4, 3), dtype=torch.uint8, generator=noise)
        made.append(Image.fromarray(coarse.numpy()).resize((40 + 7 * number, 60 - 3 * number)))
    return made


@lru_cache(maxsize=2)
def published_network(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """transformers' own class, loaded by transformers. Attention is the plain one, the only one that does all
    that Gemma 2 asks for on every release."""
    kwargs = {"torch_dtype" if transformers.__version__ < "5" else "dtype": dtype}
    network = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        folder, attn_implementation="eager", local_files_only=True, **kwargs
    )
    return network.eval()


def published_processor(folder: Path) -> transformers.PaliGemmaProcessor:
    """transformers' own, with the image processor that goes through Pillow."""
    settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    known = ("size", "resample", "rescale_factor", "image_mean", "image_std")
    images = _pillow_processor()(**{name: settings[name] for name in known})
    images.image_seq_length = settings["image_seq_length"]
    old = transformers.__version__ < "5"  # which takes no other
    tokens = (transformers.GemmaTokenizerFast if old else transformers.PreTrainedTokenizerFast)(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
    )
    tokens.add_special_tokens({"additional_special_tokens": [_special("<image>")]})
    return transformers.PaliGemmaProcessor(images, tokens)


def published_answers(
    folder: Path,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    *,
    batched: bool = False,
    **settings: Any,
) -> list[tuple[list[int], str]]:
    """What transformers' ``generate``, called directly, adds to each prompt: token ids up to and with the
    end, and their text.

    Args:
        batched: all pairs in one call, not one after the other.
        settings: of ``generate``.
    """
    network, processor = published_network(folder), published_processor(folder)
    settings = {"max_new_tokens": 256} | settings
    asked_for = settings["max_new_tokens"]
    if transformers.__version__ < "5" and settings.get("num_beams", 1) == 1:
        # the cache that Gemma 2 has there lacks the place of the last token, whose successor is another then
        settings["max_new_tokens"] += 1
    pairs = [(list(images), list(prompts))]
    if not batched:
        pairs = [([image], [prompt]) for image, prompt in zip(images, prompts, strict=True)]
    answers = []
    for some_images, some_prompts in pairs:
        inputs = processor(
            images=[[image] for image in some_images],
            text=["<image>" + prompt for prompt in some_prompts],
            return_tensors="pt",
            padding="longest",
        )
        inputs.pop("labels", None)
        with torch.inference_mode():
            generated = network.generate(**inputs, **settings)
        for row in generated[:, inputs["input_ids"].shape[1] :].tolist():
            ids = (row[: row.index(EOS) + 1] if EOS in row else row)[:asked_for]
            answers.append((ids, processor.decode(ids, skip_special_tokens=True)))
    return answers


def _pillow_processor() -> Any:
    """``SiglipImageProcessor`` under the name that it has in this release: transformers 5 gives that name to
    another one, which goes through torchvision."""
    try:
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
    except ImportError:
        return transformers.SiglipImageProcessor
    return SiglipImageProcessorPil


def _network(
    generation: int,
    seed: int,
    hidden_size: int,
    layers: int,
    locations: bool,
    tokenizer: Tokenizer,
    more: dict[str, Any],
) -> Any:
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    common = {
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 1 if generation == 1 else 2,
        "head_dim": 8,
        "vocab_size": size + 64 - size % 64,
        "max_position_embeddings": 1024,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    if generation == 2:
        common |= {"query_pre_attn_scalar": 8, "sliding_window": 4096, "attn_logit_softcapping": 5.0}
    kind = transformers.GemmaConfig if generation == 1 else transformers.Gemma2Config
    config = transformers.PaliGemmaConfig(
        text_config=kind(**common | more).to_dict(),
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
            "projection_dim": hidden_size,
            "vision_use_head": False,
        },
        image_token_index=tokenizer.token_to_id("<image>"),
        vocab_size=common["vocab_size"],
        projection_dim=hidden_size,
        hidden_size=hidden_size,
    )
    network = transformers.PaliGemmaForConditionalGeneration(config)
    chance = torch.Generator().manual_seed(seed)
    after, end = (1.5, 1.3) if generation == 1 else (6.0, 1.5)  # tried: answers differ and come to an end
    for name, parameter in sorted(network.named_parameters()):
        deviation = 0.1 if "norm" in name else 0.5 * (16 / parameter[0].numel()) ** 0.5
        if "vision" in name or "projector" in name:
            deviation *= 3  # pictures have their say
        parameter.data = torch.randn(parameter.shape, generator=chance) * deviation
        if name.endswith("norm.weight") or ("vision" in name and "norm" in name and "weight" in name):
            # LayerNorm's weights are factors; Gemma's are added to 1. Layers count for more than the last
            # token does, or answers would be nothing but repetitions of it.
            parameter.data += 1.0 if "vision" in name else after if "post_" in name else 0.0
    with torch.no_grad():
        rows = network.get_input_embeddings().weight
        first = tokenizer.token_to_id(LOCATIONS[0])
        rows[tokenizer.token_to_id("<image>") :] *= 0.1
        rows[first : tokenizer.token_to_id(SEGMENTS[0])] *= 1.5 if locations else 0.4
        rows[tokenizer.token_to_id(SEGMENTS[0]) : tokenizer.token_to_id("<image>")] *= 0.4
        rows[[PAD, BOS, UNK]] *= 0.1
        rows[EOS] *= end
    return network.eval()


@lru_cache
def _tokenizer() -> Tokenizer:
    """In the manner of Gemma's: white space as a letter, bytes where a letter is unknown, no space before the
    first word, and what marks places as tokens that are not special."""
    vocab = {token: number for number, token in enumerate(("<pad>", "<eos>", "<bos>", "<unk>"))}

    def add(token: str) -> None:
        vocab.setdefault(token, len(vocab))

    for count in (1, 2, 3):
        add("\n" * count)
    for byte in range(256):
        add(f"<0x{byte:02X}>")
    for letter in "\u2581abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"()_-":
        add(letter)
    merges = []
    for word in WORDS:
        for start in ("\u2581", ""):
            spelled = start + word
            for end in range(2, len(spelled) + 1):
                if spelled[:end] not in vocab:
                    merges.append((spelled[: end - 1], spelled[end - 1]))
                    add(spelled[:end])
    tokenizer = Tokenizer(BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([_special(token) for token in ("<pad>", "<eos>", "<bos>", "<unk>")])
    tokenizer.add_tokens([AddedToken("\n" * count, normalized=False) for count in (1, 2, 3)])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in (*LOCATIONS, *SEGMENTS)])
    tokenizer.add_special_tokens([_special("<image>")])
    return tokenizer


def _special(token: str) -> AddedToken:
    return AddedToken(token, normalized=False, special=True)


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
