"""The one table of known checkpoints, and the user's own additions to it."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "Florence-2-base-PromptGen-v2.0"
"""What is used where nobody chooses."""

LORA = "lora"
"""The family of an entry that is no checkpoint but an adapter for one."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)

_CAPTIONS = ("CAPTION", "DETAILED_CAPTION", "MORE_DETAILED_CAPTION")
_FLORENCE2 = (
    *_CAPTIONS, "OCR", "OCR_WITH_REGION", "OD", "DENSE_REGION_CAPTION", "REGION_PROPOSAL",
    "CAPTION_TO_PHRASE_GROUNDING", "REFERRING_EXPRESSION_SEGMENTATION", "REGION_TO_SEGMENTATION",
    "OPEN_VOCABULARY_DETECTION", "REGION_TO_CATEGORY", "REGION_TO_DESCRIPTION", "REGION_TO_OCR",
)  # fmt: skip
_PROMPTGEN_1_5 = ("GENERATE_TAGS", *_CAPTIONS, "MIXED_CAPTION")
_PROMPTGEN_2_0 = (*_PROMPTGEN_1_5, "MIXED_CAPTION_PLUS", "ANALYZE")

# What gokaygokay's fine-tunes were trained with, in the place of Florence-2's own sentence.
_DESCRIPTION = {"MORE_DETAILED_CAPTION": "<DESCRIPTION>Describe this image in great detail."}

_BASE, _LARGE = 231_000_000, 770_000_000

PALIGEMMA = "paligemma"
_PALIGEMMA_MIX = ("CAPTION", "DESCRIBE", "VQA", "OCR", "OPEN_VOCABULARY_DETECTION")
_PALIGEMMA_1, _PALIGEMMA_2 = 2_923_000_000, 3_033_000_000
_GATED = "Accept the licence on its Hub page and log in to download it."


class CatalogueError(ValueError):
    """The user's catalogue file is wrong: the message names the file, and the line or the key."""


@dataclass(frozen=True)
class CheckpointEntry:
    """One known checkpoint.

    ``instructions`` are those it was trained for, spelled as the model cards spell them, without brackets;
    none if nobody knows. ``family`` is empty where ``config.json`` in ``folder`` is to tell; see
    :func:`.model_family.family_of_model`.
    ``prompts`` holds literal prompts that replace an instruction's usual one for this checkpoint.
    ``parameters`` counts the tied embedding once, and is rounded. ``aliases`` are other packs' names for it.
    """

    name: str
    hub_id: str | None
    parameters: int
    licence: str
    instructions: tuple[str, ...]
    prompts: Mapping[str, str] = field(default_factory=dict)
    family: str = "florence2"
    note: str = ""
    folder: Path | None = None  # a fixed place on disk, instead of a search for the name
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", MappingProxyType(dict(self.prompts)))

    def __hash__(self) -> int:
        return hash((self.name, self.hub_id))


def _hub(
    hub_id: str,
    parameters: int,
    instructions: tuple[str, ...],
    note: str = "",
    *,
    licence: str = "MIT",
    prompts: Mapping[str, str] | None = None,
    alias: str | None = None,
    family: str = "florence2",
) -> CheckpointEntry:
    name = hub_id.rpartition("/")[2]
    aliases = (alias,) if alias else ()
    return CheckpointEntry(
        name, hub_id, parameters, licence, instructions, prompts or {}, family, note, aliases=aliases
    )


def _paligemma(
    hub_id: str,
    parameters: int,
    instructions: tuple[str, ...],
    note: str,
    *,
    licence: str = "Gemma",
    alias: str | None = None,
) -> CheckpointEntry:
    return _hub(hub_id, parameters, instructions, note, licence=licence, alias=alias, family=PALIGEMMA)


# Sources: each repository's model card and file list on the Hub.
_BUILT_IN: tuple[CheckpointEntry, ...] = (
    _hub("MiaoshouAI/Florence-2-base-PromptGen-v2.0", _BASE, _PROMPTGEN_2_0, "Tags, captions, analysis.",
         alias="promptgen_base_v2.0"),
    _hub("MiaoshouAI/Florence-2-large-PromptGen-v2.0", _LARGE, _PROMPTGEN_2_0, "As base v2.0, larger.",
         alias="promptgen_large_v2.0"),
    _hub("MiaoshouAI/Florence-2-base-PromptGen-v1.5", _BASE, _PROMPTGEN_1_5, "Tags and captions.",
         alias="promptgen_base_v1.5"),
    _hub("MiaoshouAI/Florence-2-large-PromptGen-v1.5", _LARGE, _PROMPTGEN_1_5, "As base v1.5, larger.",
         alias="promptgen_large_v1.5"),
    _hub("microsoft/Florence-2-base", _BASE, _FLORENCE2, "Pretrained: captions, text, boxes, masks."),
    _hub("microsoft/Florence-2-base-ft", _BASE, _FLORENCE2, "Fine-tuned on public downstream tasks."),
    _hub("microsoft/Florence-2-large", _LARGE, _FLORENCE2, "Pretrained: captions, text, boxes, masks."),
    _hub("microsoft/Florence-2-large-ft", _LARGE, _FLORENCE2, "Fine-tuned on public downstream tasks."),
    _hub(
        "PJMixers-Images/Florence-2-base-gemini-2.0-flash-thinking-exp-1219-v0.2", _BASE, ("CAPTION",),
        "Long plain captions of photographs; <CAPTION> is the only prompt it was trained with.",
        licence="not stated",
    ),
    _hub("PJMixers-Images/Florence-2-base-Castollux-v0.4", _BASE, _CAPTIONS, "Long plain captions.",
         licence="not stated"),
    _hub("PJMixers-Images/Florence-2-base-Castollux-v0.5", _BASE, _CAPTIONS, "Long plain captions.",
         licence="not stated"),
    _hub("thwri/CogFlorence-2.1-Large", _LARGE, ("MORE_DETAILED_CAPTION",),
         "Captions in the manner of CogVLM2."),
    _hub("thwri/CogFlorence-2.2-Large", _LARGE, ("MORE_DETAILED_CAPTION",),
         "Captions in the manner of CogVLM2, vagueness removed."),
    _hub("gokaygokay/Florence-2-SD3-Captioner", _BASE, ("MORE_DETAILED_CAPTION",),
         "Prompts for Stable Diffusion 3.", licence="Apache-2.0", prompts=_DESCRIPTION),
    _hub("gokaygokay/Florence-2-Flux", _BASE, ("MORE_DETAILED_CAPTION",), "Prompts for Flux.",
         licence="Apache-2.0", prompts=_DESCRIPTION),
    _hub("gokaygokay/Florence-2-Flux-Large", _LARGE, ("MORE_DETAILED_CAPTION",), "Prompts for Flux.",
         licence="Apache-2.0", prompts=_DESCRIPTION),
    _hub("HuggingFaceM4/Florence-2-DocVQA", _LARGE, ("DOCVQA",), "Answers a question about a document.",
         licence="not stated"),
    _paligemma("mnemic/paligemma-longprompt-v1-safetensors", _PALIGEMMA_1, ("LONG_PROMPT", "CAPTION"),
               "Tags, then a long description. About 11 GB; less memory with --quantization.",
               alias="paligemma-longprompt-v1"),
    _paligemma("gokaygokay/paligemma-rich-captions", _PALIGEMMA_1, ("CAPTION",),
               "Long captions. About 11 GB.", licence="Apache-2.0"),
    _paligemma("gokaygokay/sd3-long-captioner-v2", _PALIGEMMA_1, ("CAPTION",),
               "Long prompts for Stable Diffusion 3. About 11 GB.", licence="Apache-2.0"),
    _paligemma("google/paligemma-3b-mix-224", _PALIGEMMA_1, _PALIGEMMA_MIX,
               f"Captions, questions, boxes. {_GATED}"),
    _paligemma("google/paligemma-3b-mix-448", _PALIGEMMA_1, _PALIGEMMA_MIX,
               f"As mix-224, for smaller things and texts. {_GATED}"),
    _paligemma("google/paligemma2-3b-mix-224", _PALIGEMMA_2, _PALIGEMMA_MIX,
               f"PaliGemma 2: captions, questions, boxes. {_GATED}"),
    _paligemma("google/paligemma2-3b-mix-448", _PALIGEMMA_2, _PALIGEMMA_MIX,
               f"As PaliGemma 2 mix-224, for smaller things and texts. {_GATED}"),
    CheckpointEntry(
        "demo", None, 1_793_152, "MIT",
        ("GENERATE_TAGS", *_CAPTIONS, "MIXED_CAPTION", "MIXED_CAPTION_PLUS", "ANALYZE", "OCR", "OD"),
        note="Comes with the package. Knows drawn shapes only: of a photograph it says nonsense.",
        folder=Path(__file__).parent / "demo",
    ),
)  # fmt: skip


# LoRA adapters; those that other packs offer by name.
_ADAPTERS: tuple[CheckpointEntry, ...] = (
    CheckpointEntry(
        "Florence-2-pixelprose", "NikshepShetty/Florence-2-pixelprose", 0, "not stated", (), family=LORA,
        note="Long descriptions in the manner of PixelProse.",
    ),
)  # fmt: skip


def catalogue() -> dict[str, CheckpointEntry]:
    """All known checkpoints by name: the built-in ones, then the user's, which win over a built-in name.

    Raises:
        CatalogueError: the user's file cannot be understood.
    """
    entries = {entry.name: entry for entry in _BUILT_IN}
    entries.update({entry.name: entry for entry in _user_entries() if entry.family != LORA})
    return entries


def adapter_catalogue() -> dict[str, CheckpointEntry]:
    """All known LoRA adapters by name: the built-in ones, then those of the user's file whose family is
    ``lora``.

    Raises:
        CatalogueError: the user's file cannot be understood.
    """
    entries = {entry.name: entry for entry in _ADAPTERS}
    entries.update({entry.name: entry for entry in _user_entries() if entry.family == LORA})
    return entries


def find_entry(model: str) -> CheckpointEntry | None:
    """The entry with this name, Hub id or alias, in any case; None if it is not in the catalogue.

    Raises:
        CatalogueError: the user's file cannot be understood.
    """
    wanted = model.strip().casefold()
    entries = catalogue()
    for entry in entries.values():
        if entry.name.casefold() == wanted:
            return entry
    for entry in entries.values():
        if entry.hub_id is not None and entry.hub_id.casefold() == wanted:
            return entry
    for entry in entries.values():
        if wanted in (alias.casefold() for alias in entry.aliases):
            return entry
    return None


def is_built_in(entry: CheckpointEntry) -> bool:
    """Whether an entry is one of the table, all of whose facts are known, and none of the user's."""
    return any(entry is one for one in _BUILT_IN)


def user_catalogue_path() -> Path:
    """Where the user's own entries are: ``$PROMPTGEN_CATALOGUE``, or a file in the usual config folder."""
    if named := os.environ.get("PROMPTGEN_CATALOGUE"):
        return Path(named).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "promptgen" / "models.json"


def _user_entries() -> tuple[CheckpointEntry, ...]:
    path = user_catalogue_path()
    try:
        status = path.stat()
    except OSError as error:
        if os.environ.get("PROMPTGEN_CATALOGUE"):
            raise CatalogueError(
                f"$PROMPTGEN_CATALOGUE names {path}, which cannot be read: {error.strerror}. "
                "Correct the variable or unset it."
            ) from error
        return ()
    return _read_user_entries(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)  # time and size are part of the key, so that an edit is seen
def _read_user_entries(path: Path, mtime_ns: int, size: int) -> tuple[CheckpointEntry, ...]:
    raw = _read_json(path)
    if not isinstance(raw, dict):
        raise CatalogueError(
            f'{path}: expected an object of the form {{"NAME": {{"hub_id": "ORG/NAME", ...}}}}, '
            f"found {_kind(raw)}."
        )
    return tuple(_read_entry(path, name, value) for name, value in raw.items())


def read_entry(path: Path) -> CheckpointEntry:
    """The entry of the one checkpoint in whose folder ``path`` is, called as the folder.

    Raises:
        CatalogueError: the file cannot be understood.
    """
    raw = _read_json(path)
    if not isinstance(raw, dict):
        raise CatalogueError(f'{path}: expected an object with "prompts", found {_kind(raw)}.')
    folder = path.parent.resolve()
    # a stand-in for the name, since a folder may be called what no entry of the table may
    return replace(_read_entry(path, "here", {**raw, "folder": "."}), name=folder.name, folder=folder)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise CatalogueError(
            f"{path}, line {error.lineno}, column {error.colno}: not valid JSON, {error.msg}."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{path} cannot be read: {error}. It must be JSON in UTF-8.") from error


_KNOWN_KEYS = ("hub_id", "folder", "parameters", "licence", "instructions", "prompts", "family", "note")


def _read_entry(path: Path, name: str, raw: Any) -> CheckpointEntry:
    def wrong(key: str, allowed: str, given: Any) -> CatalogueError:
        return CatalogueError(f'{path}: "{name}".{key} must be {allowed}, not {json.dumps(given)}.')

    if not name.strip() or name != name.strip() or any(sign in name for sign in '/\\<>:"|?*'):
        raise CatalogueError(
            f'{path}: the name "{name}" must be one that a folder can have, without slashes.'
        )
    if not isinstance(raw, dict):
        raise CatalogueError(f'{path}: "{name}" must be an object with keys among {", ".join(_KNOWN_KEYS)}.')
    for key in raw:
        if key not in _KNOWN_KEYS:
            raise CatalogueError(
                f'{path}: "{name}" has an unknown key "{key}". Known: {", ".join(_KNOWN_KEYS)}.'
            )

    hub_id, folder = raw.get("hub_id"), raw.get("folder")
    if hub_id is not None and not (isinstance(hub_id, str) and HUB_ID.fullmatch(hub_id)):
        raise wrong("hub_id", 'of the form "ORG/NAME"', hub_id)
    if folder is not None and not (isinstance(folder, str) and folder):
        raise wrong("folder", "the path of a checkpoint folder", folder)
    if hub_id is None and folder is None:
        raise CatalogueError(f'{path}: "{name}" needs "hub_id" or "folder", to say where the checkpoint is.')

    parameters = raw.get("parameters", 0)
    if not isinstance(parameters, int) or isinstance(parameters, bool) or parameters < 0:
        raise wrong("parameters", "a whole number", parameters)
    defaults = _TEXT_DEFAULTS if folder is None else _TEXT_DEFAULTS | {"family": ""}
    texts = {key: raw.get(key, default) for key, default in defaults.items()}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise wrong(key, "a text", value)
    usual = _FLORENCE2 if raw.get("family") == "florence2" else ()
    instructions = raw.get("instructions", list(usual))
    if not isinstance(instructions, list) or not all(isinstance(item, str) for item in instructions):
        raise wrong("instructions", "a list of instruction names", instructions)
    prompts = raw.get("prompts", {})
    if not isinstance(prompts, dict) or not all(isinstance(value, str) for value in prompts.values()):
        raise wrong("prompts", "an object of instruction names and literal prompts", prompts)
    return CheckpointEntry(
        name=name,
        hub_id=hub_id,
        parameters=parameters,
        instructions=tuple(_instruction_name(item) for item in instructions),
        prompts={_instruction_name(key): value for key, value in prompts.items()},
        folder=None if folder is None else path.parent / Path(folder).expanduser(),
        **texts,
    )


_TEXT_DEFAULTS = {"licence": "not stated", "family": "florence2", "note": ""}


def _instruction_name(text: str) -> str:
    return text.strip().removeprefix("<").removesuffix(">").upper()


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "a truth value"}
    return kinds.get(type(value), "null")
