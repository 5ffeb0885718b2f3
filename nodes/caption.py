"""The nodes that caption: one instruction, or all of them at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..captioning import (
    INSTRUCTIONS,
    Captioner,
    CaptionOptions,
    GenerationOptions,
    Mixed,
    Result,
    TagOptions,
    Tags,
    join_tags,
)
from . import host
from .inputs import (
    CATEGORY,
    checkpoint_input,
    frames,
    generation_inputs,
    image_input,
    model_input,
    no_images,
    rows,
    shown,
    tag_inputs,
)
from .model import ModelChoice

if TYPE_CHECKING:
    import torch

PROMPTGEN_INSTRUCTIONS = (
    "GENERATE_TAGS",
    "CAPTION",
    "DETAILED_CAPTION",
    "MORE_DETAILED_CAPTION",
    "MIXED_CAPTION",
    "MIXED_CAPTION_PLUS",
    "ANALYZE",
)

# Output -> instruction; its switch is called want_OUTPUT.
ANSWERS = {
    "tags": "GENERATE_TAGS",
    "caption": "CAPTION",
    "detailed": "DETAILED_CAPTION",
    "more_detailed": "MORE_DETAILED_CAPTION",
    "mixed": "MIXED_CAPTION",
    "analysis": "ANALYZE",
}


@dataclass(frozen=True)
class CaptionSettings:
    """Everything but the picture. The defaults are those of the nodes."""

    checkpoint: str = host.DEFAULT_CHECKPOINT
    model: ModelChoice | None = None
    num_beams: int = 3
    max_new_tokens: int = 1024
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    seed: int = 0
    prefix: str = ""
    suffix: str = ""
    exclude_tags: str = ""
    replace: str = ""
    underscores: str = "keep"

    @property
    def choice(self) -> ModelChoice:
        """The model: a connected one wins."""
        return self.model or ModelChoice(self.checkpoint)

    def options(self) -> CaptionOptions:
        """As the engine takes them.

        Raises:
            ValueError: a value is outside its range.
        """
        generation = GenerationOptions(
            num_beams=self.num_beams,
            max_new_tokens=self.max_new_tokens,
            do_sample=self.do_sample,
            temperature=float(self.temperature),
            top_k=self.top_k,
            top_p=float(self.top_p),
            seed=self.seed,
        )
        tags = TagOptions(
            prefix=self.prefix,
            suffix=self.suffix,
            exclude=self.exclude_tags,
            replace=self.replace,
            underscores=self.underscores,  # type: ignore[arg-type]
        )
        return CaptionOptions(generation=generation, tags=tags)


@dataclass(frozen=True)
class _Work:
    """One batch of pictures and what to ask about it."""

    image: torch.Tensor  # [B, H, W, C]
    instructions: tuple[str, ...]
    settings: CaptionSettings


def caption_all(work: Sequence[_Work]) -> list[tuple[Result, ...]]:
    """Caption all pictures of all batches, neighbours with equal settings together.

    Returns:
        One tuple of results, in the order of the instructions, for each picture.

    Raises:
        ValueError: there is no picture, or a setting is outside its range.
        ModelFilesError: the checkpoint is not there and cannot be had.
    """
    if not work:
        raise no_images()
    pictures = [(frame, item) for item in work for frame in frames(item.image)]
    results: list[tuple[Result, ...]] = []
    with host.caption_progress(len(pictures)) as progress:
        for (instructions, settings), group in itertools.groupby(
            pictures, key=lambda picture: (picture[1].instructions, picture[1].settings)
        ):
            options = settings.options()
            choice = settings.choice
            host.prepare_checkpoint(choice.checkpoint)
            captioner = Captioner(
                choice.checkpoint, device=choice.device, dtype=choice.precision, manager=host.manager()
            )
            images = [frame for frame, _ in group]
            for answer in captioner.stream(images, instructions, options, progress.on_step):
                if answer.exception is not None:
                    raise answer.exception
                results.append(answer.results)
                progress.picture_done()
    return results


def _tags_of(result: Result) -> str:
    return join_tags(result.tags) if isinstance(result, (Tags, Mixed)) else ""


class PromptGenTagger(io.ComfyNode):
    """Tags or a caption for each image."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PromptGenTagger",
            display_name="PromptGen Tagger",
            category=CATEGORY,
            description="Tags or captions images with Florence-2 PromptGen and shows the text on the node. "
            "Every image of a batch or list gets its own text.",
            is_input_list=True,
            is_output_node=True,
            inputs=[
                image_input(),
                checkpoint_input(),
                io.Combo.Input(
                    "instruction",
                    options=list(PROMPTGEN_INSTRUCTIONS),
                    default="GENERATE_TAGS",
                    tooltip="\n".join(
                        f"{name}: {INSTRUCTIONS[name].summary}" for name in PROMPTGEN_INSTRUCTIONS
                    ),
                ),
                *generation_inputs(),
                io.Boolean.Input(
                    "do_sample",
                    optional=True,
                    default=False,
                    tooltip="Draw words at random instead of taking the most likely ones: another text for "
                    "each seed, less faithful to the image. The four inputs below act only with this.",
                ),
                io.Float.Input(
                    "temperature",
                    optional=True,
                    default=1.0,
                    min=0.05,
                    max=5.0,
                    step=0.05,
                    tooltip="Sampling: above 1 bolder, below 1 more careful.",
                ),
                io.Int.Input(
                    "top_k",
                    optional=True,
                    default=50,
                    min=0,
                    max=1000,
                    tooltip="Sampling: choose among this many most likely words; 0 is no limit.",
                ),
                io.Float.Input(
                    "top_p",
                    optional=True,
                    default=1.0,
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
                    control_after_generate=True,
                    tooltip="Sampling: the same seed gives the same text, whatever else is in the batch.",
                ),
                *tag_inputs(),
                model_input(),
            ],
            outputs=[
                io.String.Output(
                    "caption", is_output_list=True, tooltip="The answer to the instruction, one per image."
                ),
                io.String.Output(
                    "tags",
                    is_output_list=True,
                    tooltip="The tags of GENERATE_TAGS and of mixed captions, one text per image; empty for "
                    "instructions that give no tags.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: Any = None) -> bool:
        """See :meth:`.model.PromptGenModelLoader.validate_inputs`."""
        return True

    @classmethod
    def execute(cls, **lists: list[Any]) -> Any:
        work = []
        for row in rows(lists) if lists.get("image") else []:
            image, instruction = row.pop("image"), row.pop("instruction")
            work.append(_Work(image, (instruction,), CaptionSettings(**row)))
        results = [answer for (answer,) in caption_all(work)]
        texts = [result.text for result in results]
        return io.NodeOutput(texts, [_tags_of(result) for result in results], ui=shown(texts))


class PromptGenCaptions(io.ComfyNode):
    """Several answers about each image for little more than the price of the longest."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PromptGenCaptions",
            display_name="PromptGen Captions (all at once)",
            category=CATEGORY,
            description="Several captions of each image in one go: the image is looked at once, and all "
            "answers are written together. Switch off what you do not need; it is not generated.",
            is_input_list=True,
            is_output_node=True,
            inputs=[
                image_input(),
                checkpoint_input(),
                *(
                    io.Boolean.Input(
                        f"want_{name}",
                        display_name=name.replace("_", " "),
                        optional=True,
                        default=True,
                        tooltip=f"{INSTRUCTIONS[instruction].summary} ({instruction}) Off: not generated, "
                        "and what is connected to this output does not run.",
                    )
                    for name, instruction in ANSWERS.items()
                ),
                *generation_inputs(),
                model_input(),
            ],
            outputs=[
                io.String.Output(
                    name,
                    is_output_list=True,
                    tooltip=f"{INSTRUCTIONS[instruction].summary} One text per image.",
                )
                for name, instruction in ANSWERS.items()
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: Any = None) -> bool:
        """See :meth:`.model.PromptGenModelLoader.validate_inputs`."""
        return True

    @classmethod
    def execute(cls, **lists: list[Any]) -> Any:
        # The switches decide about outputs, which a list of switches cannot do one by one: the first counts.
        wanted = [name for name in ANSWERS if lists.pop(f"want_{name}", [True])[0]]
        if not wanted:
            raise ValueError(f"All answers are switched off. Switch on at least one of {', '.join(ANSWERS)}.")
        instructions = tuple(ANSWERS[name] for name in wanted)
        work = []
        for row in rows(lists) if lists.get("image") else []:
            work.append(_Work(row.pop("image"), instructions, CaptionSettings(**row)))
        results = caption_all(work)
        texts = {name: [answers[place].text for answers in results] for place, name in enumerate(wanted)}
        together = [
            "\n\n".join(f"[{name.replace('_', ' ')}]\n{texts[name][index]}" for name in wanted)
            for index in range(len(results))
        ]
        return io.NodeOutput(
            *(texts[name] if name in texts else _blocker(name) for name in ANSWERS), ui=shown(together)
        )


def _blocker(name: str) -> Any:
    return ExecutionBlocker(
        f"the {name.replace('_', ' ')} answer of PromptGen Captions is switched off. Switch it on, or "
        "disconnect what hangs on it."
    )
