"""The two engines that are compared, behind one face: picture files in, token ids out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from ..captioning import Captioner, CaptionOptions, FeatureCache
from ..inference import DTYPES, GenerationOptions
from ..models_cache import ModelManager
from .case import INSTRUCTION, Case


class Engine(Protocol):
    """A loaded checkpoint."""

    nbytes: int  # of the weights

    def answer(self, files: Sequence[bytes]) -> list[list[int]]:
        """Token ids of one caption per picture file, the start token first."""

    def close(self) -> None:
        """Let go of the model."""


class Ours:
    """This package as its users call it, without the cache of image features."""

    def __init__(self, case: Case, dtype: str, batch_size: int | None = None) -> None:
        self._ids: list[list[int]] = []
        self._options = CaptionOptions(
            generation=GenerationOptions(
                num_beams=case.num_beams, max_new_tokens=case.new_tokens, min_new_tokens=case.new_tokens
            )
        )
        manager = ModelManager(idle_seconds=None)
        where: dict[str, Any] = {"device": case.device, "dtype": dtype}
        checkpoint = str(case.checkpoint("original"))
        self.captioner = Captioner(
            checkpoint, manager=manager, feature_cache=FeatureCache(0), batch_size=batch_size, **where
        )
        self._held = ExitStack()
        model: Any = self._held.enter_context(manager.acquire(checkpoint, **where))
        self._held.callback(manager.unload)
        self.nbytes: int = model.nbytes
        self._listen(model)

    def answer(self, files: Sequence[bytes]) -> list[list[int]]:
        self.caption(files, [INSTRUCTION])
        return self._ids

    def caption(self, files: Sequence[bytes], instructions: Sequence[str]) -> None:
        """Answer every instruction for every picture file.

        Raises:
            RuntimeError: a picture came back with an error.
        """
        self._ids = []
        for result in self.captioner.stream(files, instructions, self._options):
            if not result.ok:
                raise RuntimeError(f"{result.image}: {result.error}") from result.exception

    def close(self) -> None:
        self._held.close()

    def _listen(self, model: Any) -> None:
        """Take down the token ids, which results no longer hold."""
        generate = model.generate

        def listening(*arguments: Any, **options: Any) -> Any:
            answers = generate(*arguments, **options)
            self._ids += [list(answer.token_ids) for answer in answers]
            return answers

        model.generate = listening


class Transformers:
    """transformers' own Florence-2 class, with the settings that make it fastest."""

    def __init__(self, case: Case, batch_size: int = 1, *, same_pixels: bool = False) -> None:
        """
        Args:
            batch_size: pictures that are processed and decoded together.
            same_pixels: resize with Pillow, as the published processor and this package do. torchvision, the
                default where it is installed, is faster and gives slightly different pixels.
        """
        import torch
        import transformers
        from transformers import AutoProcessor, Florence2ForConditionalGeneration

        transformers.utils.logging.disable_progress_bar()
        folder = case.checkpoint("converted")
        self._case = case
        self._batch_size = batch_size
        self._dtype = getattr(torch, DTYPES[case.exact_dtype])
        self._model: Any = Florence2ForConditionalGeneration.from_pretrained(
            folder, dtype=self._dtype, attn_implementation="sdpa"
        )
        self._model = self._model.to(case.device).eval()
        self._processor: Any = AutoProcessor.from_pretrained(folder)
        if same_pixels:
            pillow = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
            self._processor.image_processor = pillow.from_pretrained(folder)
        self.nbytes = sum(p.nbytes for p in {id(p): p for p in self._model.parameters()}.values())

    def answer(self, files: Sequence[bytes]) -> list[list[int]]:
        answers = []
        for start in range(0, len(files), self._batch_size):
            answers += self._answer_batch(files[start : start + self._batch_size])
        return answers

    def close(self) -> None:
        self._model = None

    def _answer_batch(self, files: Sequence[bytes]) -> list[list[int]]:
        import torch
        from PIL import Image

        case = self._case
        inputs = self._processor(
            text=[f"<{INSTRUCTION}>"] * len(files),
            images=[Image.open(io.BytesIO(file)).convert("RGB") for file in files],
            return_tensors="pt",
        ).to(case.device, self._dtype)
        with torch.inference_mode():
            ids = self._model.generate(
                **inputs, num_beams=case.num_beams, do_sample=False, no_repeat_ngram_size=3,
                forced_bos_token_id=0, forced_eos_token_id=2,
                max_new_tokens=case.new_tokens, min_new_tokens=case.new_tokens,
            )  # fmt: skip
        answers: list[list[int]] = ids.tolist()  # all of the same length: nothing is padded
        return answers
