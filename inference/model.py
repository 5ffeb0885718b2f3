"""What the loaded checkpoints of all families do alike: pictures and prompts in, answers out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from .errors import UnfitError
from .generation import StepCallback, TokenSequence, Watchers
from .image_processing import ImageProcessor, preprocess_images
from .image_settings import ImageProcessingConfig
from .options import GeneratedSequence, GenerationOptions

if TYPE_CHECKING:
    from PIL.Image import Image


class _Config(Protocol):
    @property
    def image(self) -> ImageProcessingConfig: ...
    @property
    def max_prompt_tokens(self) -> int: ...


class _Text(Protocol):
    def encode(self, text: str) -> list[int]: ...
    def decode(self, token_ids: Sequence[int]) -> str: ...
    def spans(self, token_ids: Sequence[int]) -> list[tuple[int, int]]: ...


class AnsweringModel(ABC):
    """A checkpoint in memory."""

    config: Any  # of the family, a _Config
    text: Any  # the family's tokenizer, a _Text

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels that pictures are resized to."""
        image = self._image_settings
        return image.height, image.width

    @property
    def image_processor(self) -> ImageProcessor:
        """What :meth:`preprocess` does, in two steps and without the weights."""
        return ImageProcessor(self._image_settings)

    def preprocess(self, images: Sequence[Image]) -> Tensor:
        """RGB pictures of any size to ``pixel_values`` ``[B, 3, H, W]``, float32, on the CPU."""
        return preprocess_images(images, self._image_settings)

    def count_tokens(self, prompt: str) -> int:
        """Tokens of a prompt, those at its ends included, those of the picture not."""
        text: _Text = self.text
        return len(text.encode(prompt))

    @torch.inference_mode()
    def generate(
        self,
        image_features: Tensor,
        prompts: Sequence[str],
        options: GenerationOptions | None = None,
        on_step: StepCallback | None = None,
        on_answer: Callable[[int, GeneratedSequence], None] | None = None,
        is_wanted: Callable[[int], bool] | None = None,
    ) -> list[GeneratedSequence]:
        """Answer one prompt per row of image features.

        Args:
            image_features: ``[B, N, D]``, as ``encode_images`` gives them, on any device.
            prompts: ``B`` literal prompts, without what the family puts around them.
            on_step: called many times on the way through the prompts with 0, then before each token with the
                number of tokens so far; it may raise to cancel.
            on_answer: called with the row and its answer as soon as that is there, before others perhaps.
            is_wanted: asked about each row now and then. An answer that nobody wants any more ends where it
                is, so that the others are not held up by it.

        Raises:
            UnfitError: a prompt is too long or holds what it must not, or an option does not fit the
                checkpoint.
        """
        if len(prompts) != image_features.shape[0]:
            raise ValueError(
                f"{image_features.shape[0]} rows of image features came with {len(prompts)} prompts."
            )
        if not prompts:
            return []
        answers: dict[int, GeneratedSequence] = {}

        def keep(row: int, answer: TokenSequence) -> None:
            answers[row] = self._decoded(answer)
            if on_answer is not None:
                on_answer(row, answers[row])

        watchers = Watchers(on_step, keep, is_wanted)
        self._answer(image_features, prompts, options or GenerationOptions(), watchers)
        return [answers[row] for row in range(len(prompts))]

    @abstractmethod
    def _answer(
        self, image_features: Tensor, prompts: Sequence[str], options: GenerationOptions, watchers: Watchers
    ) -> None:
        """See :meth:`generate`; there is at least one prompt."""

    def _encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt that the network has room for.

        Raises:
            UnfitError: it has not.
        """
        text: _Text = self.text
        ids, room = text.encode(prompt), self.config.max_prompt_tokens
        if len(ids) > room:
            raise UnfitError(
                f"The prompt has {len(ids)} tokens; beside the picture there is room for {room}. "
                f"Shorten it: {prompt[:60]!r}..."
            )
        return ids

    @property
    def _image_settings(self) -> ImageProcessingConfig:
        config: _Config = self.config
        return config.image

    def _decoded(self, answer: TokenSequence) -> GeneratedSequence:
        text: _Text = self.text
        new = answer.token_ids[1:]  # the first is what the answer goes on from
        return GeneratedSequence(
            answer.token_ids,
            text.decode(new),
            answer.truncated,
            answer.sequence_score,
            answer.token_scores,
            None if answer.token_scores is None else tuple(text.spans(new)),
        )


def own_numbers(device: torch.device) -> AbstractContextManager[Any]:
    """For the length of a block, number formats are ours to choose, also within another's autocast."""
    able = device.type in ("cpu", "cuda")
    return torch.autocast(device.type, enabled=False) if able else nullcontext()


@contextmanager
def told_before(
    kinds: tuple[type[nn.Module], ...], part: nn.Module, on_step: StepCallback | None
) -> Iterator[None]:
    """For the length of a block, call ``on_step(0)`` before each module of these kinds inside ``part``.

    A batch takes the vision tower seconds on a CPU: too long to wait for who wants to stop it.
    """
    with ExitStack() as hooks:
        if on_step is not None:
            tell = on_step
            for module in part.modules():
                if isinstance(module, kinds):
                    hooks.callback(module.register_forward_pre_hook(lambda *_: tell(0)).remove)
        yield
