"""Captions of held-out images in the course of a run, by the engine that captions everywhere, and scores."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import torch

from .atomic import begin_folder
from .state import random_states, set_random_states

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..captioning import Captioner
    from .config import TrainConfig
    from .data.examples import Dataset
    from .evaluation.evaluation import Contestant, Evaluation
    from .evaluation.questions import Question
    from .products import ModelWriter

PREDICTIONS = "predictions"
"""The folder in that of the run, with a file for each evaluation."""


class Sampler:
    """Has the model of a run caption held-out images.

    Args:
        source: the folder of the checkpoint that training began from, to which an adapter belongs.
        say: told what the first few captions are, if the configuration asks for that.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        writer: ModelWriter,
        config: TrainConfig,
        examples: Dataset,
        prompts: dict[str, str],
        source: Path,
        say: Callable[[str], None],
    ) -> None:
        self._accelerator = accelerator
        self._writer = writer
        self._config = config
        self._examples = examples
        self._prompts = prompts
        self._source = source
        self._say = say

    def __call__(self, step: int, stop: Event) -> dict[str, Any] | None:
        """What is added to the log's entry of an evaluation; ``scores`` by instruction and metric. None if
        ``stop`` was set meanwhile, which several processes do not heed, as they must stay in step.

        All processes call it; one generates, and its random numbers stay as they were.

        Raises:
            TrainingError, OSError: the model or the captions cannot be written.
        """
        wanted = self._config.evaluation
        if not (wanted.do_extra_eval or wanted.print_first_batch_predictions):
            return {}
        questions = self._questions()
        folder = begin_folder(self._config.run.folder / "sampled") if self._is_main else Path()
        self._writer.write_model(folder)
        found: dict[str, Any] | None = {}
        if self._is_main:
            try:
                found = self._sampled(step, folder, questions, stop) if questions else {}
            finally:
                shutil.rmtree(folder)
        self._accelerator.wait_for_everyone()
        return found

    def _sampled(
        self, step: int, folder: Path, questions: Sequence[Question], stop: Event
    ) -> dict[str, Any] | None:
        wanted = self._config.evaluation
        progress = _Silent(stop if self._accelerator.num_processes == 1 else Event())
        try:
            with _undisturbed():
                evaluation = self._evaluate(step, folder, questions, progress)
        except _StoppedError:
            return None
        if wanted.print_first_batch_predictions:
            self._show(evaluation)
        return {"scores": evaluation.models[0].scores} if wanted.do_extra_eval else {}

    @property
    def _is_main(self) -> bool:
        return bool(self._accelerator.is_main_process)

    def _questions(self) -> list[Question]:
        from .evaluation.questions import draw_questions, questions_of

        questions = questions_of(self._examples)
        if not self._config.evaluation.do_extra_eval:
            return questions[: self._config.eval_batch_size]
        return draw_questions(questions, self._config.evaluation.extra_eval_images, self._config.run.seed)

    def _evaluate(
        self, step: int, model: Path, questions: Sequence[Question], progress: _Silent
    ) -> Evaluation:
        from ..inference import GenerationOptions
        from .evaluation.evaluation import Conditions, evaluate

        wanted = self._config.evaluation
        generation = GenerationOptions(
            num_beams=wanted.eval_num_beams, max_new_tokens=wanted.eval_max_new_tokens
        )
        conditions = Conditions(generation, self._prompts, self._config.batches.background, with_loss=False)
        answers = self._config.run.folder / PREDICTIONS
        answers.mkdir(exist_ok=True)
        contestant = self._contestant(f"step-{step}", model)
        return evaluate([contestant], questions, conditions, answers, progress)

    def _contestant(self, label: str, model: Path) -> Contestant:
        from .evaluation.evaluation import Contestant

        if self._config.model.lora is None:
            return Contestant(label, self._captioner(model), model)
        adapters = ((model.absolute(), 1.0),)
        return Contestant(label, self._captioner(self._source, adapters), self._source, adapters)

    def _captioner(self, model: Path, adapters: Sequence[tuple[Path, float]] = ()) -> Captioner:
        from ..captioning import Captioner

        return Captioner(str(model.absolute()), device=str(self._accelerator.device), loras=adapters)

    def _show(self, evaluation: Evaluation) -> None:
        for question in evaluation.questions[: self._config.eval_batch_size]:
            truth = " / ".join(example.target for example in question.examples)
            answer = evaluation.models[0].answers[question.key].raw
            self._say(f"{question.examples[0].name}\n  wanted: {truth}\n  answer: {answer}")


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave random numbers alone, and to others the memory that torch keeps in reserve."""
    states = random_states()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        yield
    finally:
        set_random_states(states)


class _StoppedError(Exception):
    """Somebody asked to stop."""


class _Silent:
    """Shows no progress, and ends the work when ``stop`` is set."""

    def __init__(self, stop: Event) -> None:
        self._stop = stop

    @contextmanager
    def __call__(self, name: str, size: int) -> Iterator[Callable[[int], None]]:
        def advance(done: int) -> None:
            if self._stop.is_set():
                raise _StoppedError

        yield advance
