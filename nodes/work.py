"""What the captioning nodes do when they run: settings to options, batches to pictures, engine to texts.

Apart from the nodes' schemas because it needs the whole engine, and ComfyUI's start must not.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..captioning import (
    Captioner,
    CaptionOptions,
    GenerationOptions,
    Mixed,
    Result,
    TagOptions,
    Tags,
    apply_preset,
    join_tags,
)
from ..models_cache import DEFAULT_MODEL
from . import host
from .inputs import frames, no_images, require_texts
from .long_prompt import NONE
from .model import ModelChoice, prepare

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Settings:
    """Which model, and what it is asked besides the instruction. Equal ones are worked on together. The
    defaults are those of the nodes."""

    checkpoint: str = DEFAULT_MODEL
    model: ModelChoice | None = None
    num_beams: int = 3
    max_new_tokens: int = 1024

    @property
    def choice(self) -> ModelChoice:
        """The model: a connected one wins.

        Raises:
            ValueError: what is connected is none.
        """
        choice = self.model or ModelChoice(self.checkpoint)
        if not isinstance(choice, ModelChoice):
            raise ValueError("The model input takes what the PromptGen Model node gives.")
        return choice

    def options(self) -> CaptionOptions:
        """As the engine takes them.

        Raises:
            ValueError: a value is outside its range, or of another kind.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class CaptionSettings(Settings):
    """Everything but the picture."""

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
    preset: str = NONE

    def options(self) -> CaptionOptions:
        """See :meth:`Settings.options`."""
        require_texts(
            checkpoint=self.checkpoint,
            prefix=self.prefix,
            suffix=self.suffix,
            exclude_tags=self.exclude_tags,
            replace=self.replace,
            underscores=self.underscores,
            preset=self.preset,
        )
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
        if self.preset != NONE:
            return apply_preset(self.preset, CaptionOptions(GenerationOptions(seed=self.seed), tags))
        return CaptionOptions(generation=generation, tags=tags)


@dataclass(frozen=True)
class Work:
    """One batch of pictures and what to ask about it."""

    image: torch.Tensor  # [B, H, W, C]
    instructions: tuple[str, ...]
    settings: Settings


def ready_captioner(choice: ModelChoice) -> Captioner:
    """A captioner whose checkpoint is there.

    Raises:
        ValueError, ModelFilesError, InterruptProcessingException: see :func:`.model.prepare`.
    """
    prepare(choice)
    return Captioner(
        choice.checkpoint, device=choice.device, dtype=choice.precision, manager=host.manager(),
        loras=choice.loras, quantization=choice.quantization,
    )  # fmt: skip


def caption_all(work: Sequence[Work]) -> list[tuple[Result, ...]]:
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
            captioner = ready_captioner(settings.choice)
            images = [frame for frame, _ in group]
            for answer in captioner.stream(images, instructions, options, progress.on_step):
                if answer.exception is not None:
                    raise answer.exception
                results.append(answer.results)
                progress.picture_done()
    return results


def tags_of(result: Result) -> str:
    """The tags of a result in one line; nothing where it has none."""
    return join_tags(result.tags) if isinstance(result, (Tags, Mixed)) else ""
