"""Inputs that several nodes share, and reading them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .. import captioning, models_cache
from . import host
from .limits import MOST_BEAMS, MOST_NEW_TOKENS
from .long_prompt import LONG_PROMPT, NONE

if TYPE_CHECKING:
    import numpy
    import torch

    from ..captioning import MixedParts

CATEGORY = "PromptGen"
PROMPTGEN_INSTRUCTIONS = (
    "GENERATE_TAGS",
    "CAPTION",
    "DETAILED_CAPTION",
    "MORE_DETAILED_CAPTION",
    "MIXED_CAPTION",
    "MIXED_CAPTION_PLUS",
    "ANALYZE",
)

# What the engine's enumerations allow. Spelled out, because to import their modules would hold up ComfyUI's
# start; a test compares them.
FORMS = ["sidecar", "jsonl", "csv", "parquet", "kohya", "imagefolder", "webdataset"]
EXISTING = ["skip", "overwrite", "append", "prepend"]
ORDERS = [
    "name",
    "name, last first",
    "name, by characters",
    "oldest first",
    "newest first",
    "smallest first",
    "largest first",
]
SAME_STEM = ["error", "full-name", "first"]
UNDERSCORES = ["keep", "spaces", "underscores"]
QUANTIZATIONS = ["none", "8", "4"]
ANY_ORDER, TAGS_FIRST = "auto", "tags first"

PromptGenModel = io.Custom("PROMPTGEN_MODEL")


def image_input() -> Any:
    """The pictures."""
    return io.Image.Input(
        "image",
        tooltip="One image, a batch, or a list of images of any sizes; all of them are captioned together.",
    )


def checkpoint_input(
    default: str = models_cache.DEFAULT_MODEL,
    *,
    family: str | None = "florence2",
    tooltip: str = "Which model to use. It is downloaded at first use, to models/LLM. Folders there and in "
    "models/florence2 are offered as well; 'demo' comes with the pack and only knows drawn shapes.",
) -> Any:
    """The checkpoint's name. Its options are the catalogue and what lies in the model folders right now.

    Args:
        default: chosen in a new node.
        family: of the checkpoints that can do what the node asks; None: any.
        tooltip: for people.
    """
    names = host.checkpoint_names(family)
    return io.Combo.Input(
        "checkpoint",
        options=names if default in names else [default, *names],
        default=default,
        tooltip=tooltip,
    )


def model_input() -> Any:
    """What the loader node gives."""
    return PromptGenModel.Input(
        "model",
        optional=True,
        tooltip="A model from the PromptGen Model node. If connected, it is used instead of 'checkpoint'.",
    )


def quantization_input() -> Any:
    """How many bits a weight is held with."""
    return io.Combo.Input(
        "quantization",
        options=QUANTIZATIONS,
        optional=True,
        default=QUANTIZATIONS[0],
        tooltip="Hold the language model's weights with 8 or 4 bits each: less memory, nearly the same text, "
        "8 nearer than 4. 4 needs the package bitsandbytes.",
    )


def instruction_input(names: Sequence[str] = PROMPTGEN_INSTRUCTIONS) -> Any:
    """What is asked."""
    return io.Combo.Input(
        "instruction",
        options=list(names),
        default=names[0],
        tooltip="\n".join(f"{name}: {captioning.INSTRUCTIONS[name].summary}" for name in names),
    )


def known_instructions(names: Iterable[Any]) -> bool | str:
    """For a node's ``validate_inputs``: yes, or what is wrong with an instruction. It may have any name by
    which the engine knows it; what is connected is known when the node runs."""
    for name in names:
        if isinstance(name, str):
            try:
                captioning.find_instruction(name)
            except captioning.InstructionError as error:
                return str(error)
    return True


def generation_inputs() -> list[Any]:
    """How much work a caption may be."""
    return [
        io.Int.Input(
            "num_beams",
            optional=True,
            default=3,
            min=1,
            max=MOST_BEAMS,
            tooltip="How many candidates the search keeps. 3 is what the models were published with; 1 is "
            "fastest.",
        ),
        io.Int.Input(
            "max_new_tokens",
            optional=True,
            default=MOST_NEW_TOKENS,
            min=1,
            max=MOST_NEW_TOKENS,
            tooltip="Cut an answer off after so many tokens. Answers end by themselves, mostly long before.",
        ),
    ]


def preset_input() -> Any:
    """All settings of an answer at once. What is chosen here stands in the place of the node's own."""
    return io.Combo.Input(
        "preset",
        options=[NONE, LONG_PROMPT],
        optional=True,
        default=NONE,
        tooltip="long-prompt: sample, ask again and clean up as the script published with the PaliGemma "
        "long-prompt model does; of this node's own settings of generation only the seed counts then.",
    )


def sampling_inputs(
    *,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int = 50,
    top_p: float = 1.0,
    seed_changes: bool = True,
) -> list[Any]:
    """Drawing words at random. What a new node begins with may be another for each.

    Args:
        seed_changes: whether the page may choose another seed after each run; said either way, since the page
            would take a number of this name for one that does.
    """
    return [
        io.Boolean.Input(
            "do_sample",
            optional=True,
            default=do_sample,
            tooltip="Draw words at random instead of taking the most likely ones: another text for "
            "each seed, less faithful to the image. The four inputs below act only with this.",
        ),
        io.Float.Input(
            "temperature",
            optional=True,
            default=temperature,
            min=0.05,
            max=5.0,
            step=0.05,
            tooltip="Sampling: above 1 bolder, below 1 more careful.",
        ),
        io.Int.Input(
            "top_k",
            optional=True,
            default=top_k,
            min=0,
            max=1000,
            tooltip="Sampling: choose among this many most likely words; 0 is no limit.",
        ),
        io.Float.Input(
            "top_p",
            optional=True,
            default=top_p,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="Sampling: choose among the most likely words that together have this "
            "probability; 1 is no limit.",
        ),
        io.Int.Input(
            "seed",
            optional=True,
            default=0,
            min=0,
            max=2**64 - 1,
            control_after_generate=seed_changes,
            tooltip="Sampling: the same seed gives the same text, whatever else is in the batch.",
        ),
    ]


def tag_inputs() -> list[Any]:
    """Cleaning up tags and captions; ids are those of ``captioning.TagOptions`` as users know them."""
    return [
        io.String.Input(
            "prefix",
            optional=True,
            default="",
            tooltip="Put before the answer, for example a trigger word.",
        ),
        io.String.Input("suffix", optional=True, default="", tooltip="Put after the answer."),
        io.String.Input(
            "exclude_tags",
            optional=True,
            default="",
            tooltip="Tags to leave out, separated by commas; * stands for any characters: 'blurry, *_hair'.",
        ),
        io.String.Input(
            "replace",
            optional=True,
            default="",
            tooltip="'old:new; old:new' replaces whole tags and whole words; 'old:' takes them out.",
        ),
        io.Combo.Input(
            "underscores",
            options=UNDERSCORES,
            optional=True,
            default=UNDERSCORES[0],
            tooltip="In tags: keep underscores as they are, turn them into spaces (faces like ^_^ stay), or "
            "turn spaces into underscores.",
        ),
    ]


def order_input() -> Any:
    """How the parts of a mixed caption follow one another, where nobody knows what wrote it."""
    return io.Combo.Input(
        "order",
        options=[ANY_ORDER, TAGS_FIRST],
        optional=True,
        default=ANY_ORDER,
        tooltip="auto: found out from the text. tags first: it is a LONG_PROMPT of PaliGemma, which has its "
        "tags before its prose in one line; what is hard to tell apart is then as at PaliGemma Captioner.",
    )


def split_in_order(caption: str, order: str) -> MixedParts:
    """The parts of a mixed caption.

    Raises:
        ValueError: an order that the menu does not have.
    """
    if order not in (ANY_ORDER, TAGS_FIRST):
        raise ValueError(f"order is {order!r}; it takes '{ANY_ORDER}' or '{TAGS_FIRST}'.")
    return captioning.split_mixed(caption, tags_first=order == TAGS_FIRST)


def text_output(name: str, *, tooltip: str, is_output_list: bool = False) -> Any:
    """A text. Without a name of its own to display, older hosts call it STRING."""
    return io.String.Output(
        name, display_name=name.replace("_", " "), tooltip=tooltip, is_output_list=is_output_list
    )


def rows(lists: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Take a list node's inputs apart as the host does for other nodes: shorter lists repeat their last.

    An input that gets None counts as not connected.
    """
    length = max((len(values) for values in lists.values()), default=0)
    every = (
        {name: values[min(index, len(values) - 1)] for name, values in lists.items() if values}
        for index in range(length)
    )
    return [{name: value for name, value in row.items() if value is not None} for row in every]


def require_texts(**values: Any) -> None:
    """
    Raises:
        ValueError: a value, which may have come over a wire of any type, is no text.
    """
    for name, value in values.items():
        if not isinstance(value, str):
            got = "nothing (None)" if value is None else f"{value!r:.80}"
            raise ValueError(
                f"The input '{name}' got {got}; it takes a text. Look at what is connected to it."
            )


def frames(image: torch.Tensor) -> list[numpy.ndarray]:
    """The pictures ``[H, W, C]`` of an IMAGE ``[B, H, W, C]``, or of a MASK ``[B, H, W]``.

    Raises:
        ValueError: the batch is empty, or has another shape, or it is none.
    """
    if not hasattr(image, "detach"):
        raise ValueError(f"The image input got {type(image).__name__}, no image. Connect an IMAGE output.")
    shape = list(image.shape)
    if image.ndim == 3:
        image = image[None] if shape[-1] <= 4 else image[..., None]  # one picture, or masks
    if image.ndim != 4 or image.shape[-1] not in (1, 2, 3, 4):
        raise ValueError(
            f"The image input has the shape {shape}; an image batch is [batch, height, width, channels]. "
            "Connect an IMAGE output."
        )
    if 0 in shape:
        raise ValueError(
            f"The image batch is empty (shape {shape}), there is nothing to caption. Look at the node that "
            "makes it: a folder without images, or a selection that is out of range."
        )
    return list(image.detach().cpu().float().numpy())


def no_images() -> ValueError:
    """The error for a list of images with nothing in it."""
    return ValueError(
        "The list of images is empty, there is nothing to caption. Look at the node that makes it."
    )


def headed(parts: Mapping[str, str]) -> str:
    """Several texts as one, each under its name."""
    return "\n\n".join(f"[{name.replace('_', ' ')}]\n{text}" for name, text in parts.items())


def shown(texts: Iterable[str]) -> dict[str, list[str]]:
    """What the browser shows on the node: one text per picture."""
    return {"text": list(texts)}
