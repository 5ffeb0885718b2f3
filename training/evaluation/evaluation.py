"""Several checkpoints asked the same about the same images, and what came out."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._version import __version__
from ...captioning.instructions import FAMILY_NAMES, FLORENCE2, Instruction
from ...captioning.results import Result
from ...inference import GenerationOptions
from ..errors import DataError
from .losses import TokenLoss, load_for_loss, losses_by_image, mean_loss
from .metrics import LOSS, Case, Scores, check_libraries, measure
from .predictions import Prediction, predict, truths_of
from .questions import Question, QuestionKey
from .store import KnownLosses, LossStore, PredictionStore

if TYPE_CHECKING:
    from ...captioning import Captioner

__all__ = ["Conditions", "Contestant", "Evaluation", "ModelAnswers", "Progress", "evaluate"]

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows how far a part of the work is: takes its name and size, gives who is told how much more is done."""


@dataclass(frozen=True)
class Contestant:
    """A checkpoint that takes part."""

    label: str  # short, for tables; no two are equal
    captioner: Captioner
    folder: Path  # of the checkpoint, which is there
    adapters: tuple[tuple[Path, float], ...] = ()  # LoRA, each with its strength
    prompts: Mapping[str, str] = field(default_factory=dict)  # literal ones that it was trained with

    @property
    def name(self) -> str:
        """As the user gave it."""
        strengths = (
            (path, "" if strength == 1 else f":{strength:g}") for path, strength in self.captioner.loras
        )
        name = " + ".join([self.captioner.model, *(path + strength for path, strength in strengths)])
        bits = self.captioner.quantization
        return name if bits == "none" else f"{name}, {bits}-bit"

    @property
    def without_loss(self) -> str | None:
        """Why the loss of true answers cannot be computed, if it cannot."""
        if self.captioner.quantization != "none":
            return "losses are those of the weights in fp32, and its weights are quantised"
        if self.family != FLORENCE2:
            return f"losses are computed with Florence-2's network, and it is a {FAMILY_NAMES[self.family]}"
        return None

    @property
    def family(self) -> str:
        """Of its network."""
        from ...models_cache import family_of_model

        return family_of_model(self.captioner.model)

    def prompts_with(self, given: Mapping[str, str]) -> dict[str, str]:
        """Literal prompts by instruction that replace the usual ones: what is known of it and its adapters,
        what it was trained with, and before these ``given`` ones.

        Raises:
            ModelFilesError: its name stands for nothing.
        """
        return {**self.captioner.prompts(), **self.prompts, **given}


@dataclass(frozen=True)
class Conditions:
    """What holds for all contestants."""

    generation: GenerationOptions = field(default_factory=GenerationOptions)
    prompts: Mapping[str, str] = field(default_factory=dict)  # literal ones, by instruction
    background: str = "white"  # behind transparent pixels
    with_loss: bool = True
    loss_batch_size: int = 8


@dataclass(frozen=True)
class ModelAnswers:
    """What one contestant answered, and how surprised it was by the true answers."""

    contestant: Contestant
    answers: dict[QuestionKey, Result]
    losses: dict[QuestionKey, list[TokenLoss]]  # of each true answer; empty if they were not asked for
    scores: dict[str, Scores]  # by instruction

    @property
    def loss(self) -> float | None:
        """Nats per token over all."""
        return mean_loss([one for losses in self.losses.values() for one in losses])


@dataclass(frozen=True)
class Evaluation:
    """All that a report tells."""

    questions: tuple[Question, ...]  # that all contestants answered
    truths: dict[QuestionKey, tuple[Result, ...]]
    models: tuple[ModelAnswers, ...]
    failed: tuple[tuple[str, str], ...]  # questions that nobody could answer, and why
    conditions: Conditions

    @property
    def instructions(self) -> list[Instruction]:
        """In the order in which the questions have them."""
        return list(dict.fromkeys(question.instruction for question in self.questions))

    @property
    def images(self) -> int:
        """How many there are."""
        return len({question.image.name for question in self.questions})


def evaluate(
    contestants: Sequence[Contestant],
    questions: Sequence[Question],
    conditions: Conditions,
    folder: Path,
    progress: Progress,
) -> Evaluation:
    """Ask all contestants all questions, one after another.

    Answers and losses are kept in ``folder`` as they come; a second call takes those that are there.

    Args:
        folder: for files of answers and losses of each contestant; it must be there.

    Raises:
        DataError: no image can be read.
        TrainingError: a library or a file is missing or in the way, or an answer is too long for a
            checkpoint.
        CheckpointError, AdapterError, ValueError: a contestant cannot be loaded or asked.
        OSError: a file cannot be written.
    """
    check_libraries({question.instruction for question in questions})
    names = _file_names([contestant.label for contestant in contestants])
    found: list[dict[QuestionKey, Prediction]] = []
    for contestant, name in zip(contestants, names, strict=True):
        found.append(_answers(contestant, questions, conditions, folder / f"{name}.jsonl", progress))
        _make_room()
    failed = {
        question.key: one[question.key].error
        for question in questions
        for one in found
        if one[question.key].result is None
    }
    left = tuple(question for question in questions if question.key not in failed)
    if not left:
        first = next(iter(failed.values()), "there is none")
        raise DataError(f"No image could be evaluated. The first: {first}")
    truths = {question.key: truths_of(question, found[0][question.key].size) for question in left}
    models = []
    for contestant, predictions, name in zip(contestants, found, names, strict=True):
        answers = {question.key: _result(predictions[question.key]) for question in left}
        losses: dict[QuestionKey, list[TokenLoss]] = {}
        if conditions.with_loss and contestant.without_loss is None:
            losses = _losses(contestant, left, conditions, folder / f"{name}.losses.jsonl", progress)
        models.append(ModelAnswers(contestant, answers, losses, _scores(left, truths, answers, losses)))
    told = tuple((f"{image} [{instruction}]", reason) for (image, instruction, _), reason in failed.items())
    return Evaluation(left, truths, tuple(models), told, conditions)


def _answers(
    contestant: Contestant,
    questions: Sequence[Question],
    conditions: Conditions,
    path: Path,
    progress: Progress,
) -> dict[QuestionKey, Prediction]:
    prompts = contestant.prompts_with(conditions.prompts)
    facts = _facts(contestant, conditions) | {
        "dtype": contestant.captioner.dtype,
        "generation": dataclasses.asdict(conditions.generation),
    }
    with closing(PredictionStore(path, facts)) as store:
        found = store.known(questions)
        left = {question.key: question for question in questions if question.key not in found}
        with progress(f"{contestant.label}: answers", len(left)) as advance:
            for prediction in predict(
                contestant.captioner,
                list(left.values()),
                conditions.generation,
                prompts=prompts,
                background=conditions.background,
            ):
                store.add(left[prediction.key], prediction)
                store.flush()
                found[prediction.key] = prediction
                advance(1)
    return found


def _losses(
    contestant: Contestant,
    questions: Sequence[Question],
    conditions: Conditions,
    path: Path,
    progress: Progress,
) -> dict[QuestionKey, list[TokenLoss]]:
    with closing(LossStore(path, _facts(contestant, conditions) | {"losses": "fp32"})) as store:
        found = {key: list(known.losses) for key, known in store.known(questions).items()}
        left = [question for question in questions if question.key not in found]
        if not left:
            return found
        examples = [(question, example) for question in left for example in question.examples]
        model = load_for_loss(contestant.folder, contestant.adapters, device=contestant.captioner.device)
        with progress(f"{contestant.label}: loss", len(examples)) as advance:
            for losses in losses_by_image(
                model,
                [example for _, example in examples],
                prompts=contestant.prompts_with(conditions.prompts),
                background=conditions.background,
                batch_size=conditions.loss_batch_size,
            ):
                asked = {examples[place][0].key: examples[place][0] for place in losses}
                for place in sorted(losses):  # in the order of each question's examples
                    found.setdefault(examples[place][0].key, []).append(losses[place])
                for key, question in asked.items():
                    store.add(question, KnownLosses.of(question, found[key]))
                store.flush()
                advance(len(losses))
    return found


def _scores(
    questions: Sequence[Question],
    truths: Mapping[QuestionKey, tuple[Result, ...]],
    answers: Mapping[QuestionKey, Result],
    losses: Mapping[QuestionKey, list[TokenLoss]],
) -> dict[str, Scores]:
    """What the answers are worth, by instruction."""
    by_instruction: dict[Instruction, list[Question]] = {}
    for question in questions:
        by_instruction.setdefault(question.instruction, []).append(question)
    scores: dict[str, Scores] = {}
    for instruction, asked in by_instruction.items():
        cases = [
            Case(question.image.name, instruction, truths[question.key], answers[question.key])
            for question in asked
        ]
        of_truths = [one for question in asked for one in losses.get(question.key, ())]
        loss: Scores = {LOSS: mean_loss(of_truths)} if of_truths else {}
        scores[instruction.name] = loss | measure(cases)
    return scores


def _facts(contestant: Contestant, conditions: Conditions) -> dict[str, Any]:
    """What answers and losses depend on besides the question and the image."""
    from ...models_cache import adapter_digest, checkpoint_digest

    bits = contestant.captioner.quantization
    facts = {} if bits == "none" else {"quantization": bits}  # as it was before there was any
    return facts | {
        "version": __version__,
        "model": contestant.name,
        "checkpoint": checkpoint_digest(contestant.folder),
        "adapters": [[adapter_digest(path), strength] for path, strength in contestant.adapters],
        "device": contestant.captioner.device.partition(":")[0],
        "prompts": contestant.prompts_with(conditions.prompts),
        "background": conditions.background,
    }


def _file_names(labels: Sequence[str]) -> list[str]:
    """The labels as names that every file system takes; no two are equal there."""
    names: list[str] = []
    taken: set[str] = set()
    for label in labels:
        plain = re.sub(r"[^\w.+-]+", "-", label).strip(".-")[:100] or "model"
        numbered = (plain if number == 1 else f"{plain}-{number}" for number in itertools.count(1))
        name = next(name for name in numbered if not _file_keys(name) & taken)
        taken |= _file_keys(name)
        names.append(name)
    return names


def _file_keys(name: str) -> set[str]:
    """What tells the files of answers and of losses from others, where case does not."""
    return {name.casefold(), f"{name}.losses".casefold()}


def _make_room() -> None:
    """Let models go that nobody uses: the next one may need the memory."""
    from ...models_cache import shared_manager

    shared_manager().unload()


def _result(prediction: Prediction) -> Result:
    if prediction.result is None:
        raise ValueError(f"no answer: {prediction.error}")
    return prediction.result
