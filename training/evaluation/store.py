"""Answers and losses kept in files as they come: an evaluation that is stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from ..errors import TrainingError
from .losses import TokenLoss
from .predictions import Prediction
from .questions import Question, QuestionKey

__all__ = ["KnownLosses", "LossStore", "PredictionStore"]

_KIND = "promptgen evaluate"


class _Keyed(Protocol):
    @property
    def key(self) -> QuestionKey: ...

    def to_dict(self) -> dict[str, Any]: ...


Kept = TypeVar("Kept", bound=_Keyed)


class _Store(Generic[Kept]):
    """What was found out about questions. What is there of the same checkpoint, asked in the same way, is
    kept.

    Args:
        path: of the file, a line of JSON for each question; its folder must be there.
        facts: all that the lines depend on besides the question and the image. With other ones the file
            begins anew.
        read: from what ``to_dict`` gave; raises ValueError, KeyError or TypeError if it is none.

    Raises:
        TrainingError: a file is there that is none of ours.
        OSError: it cannot be read or written.
    """

    def __init__(
        self, path: Path, facts: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Kept]
    ) -> None:
        self._header = {"kind": _KIND, **facts}
        self._parse = read
        self._known: dict[QuestionKey, tuple[str, Kept]] = {}
        keep = self._read(path) if path.exists() else 0
        self._file: BinaryIO = open(path, "r+b" if keep else "wb")  # noqa: SIM115 - closed by close()
        self._file.seek(keep)
        self._file.truncate()
        if not keep:
            self._write(self._header)

    def close(self) -> None:
        self._file.close()

    def known(self, questions: Iterable[Question]) -> dict[QuestionKey, Kept]:
        """What is there already; of an image that has changed since nothing is."""
        found = ((question, self._known.get(question.key)) for question in questions)
        return {
            question.key: entry[1]
            for question, entry in found
            if entry is not None and entry[0] == question.stamp() and self._holds(question, entry[1])
        }

    def _holds(self, question: Question, kept: Kept) -> bool:
        """Whether what is kept still goes with the question."""
        return True

    def add(self, question: Question, kept: Kept) -> None:
        """Keep one more."""
        self._write({"stamp": question.stamp(), **kept.to_dict()})

    def flush(self) -> None:
        """What was added survives a kill."""
        self._file.flush()

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")

    def _read(self, path: Path) -> int:
        """Learn what the file holds; how many bytes of it are good."""
        good = 0
        with open(path, "rb") as file:
            for number, line in enumerate(file):
                entry = _entry_of(line)
                if number == 0:
                    _check_kind(path, entry, line)
                    if entry != self._header:
                        return 0
                elif not self._learn(entry):
                    break  # the end of what was written before a kill
                good += len(line)
        return good

    def _learn(self, entry: Any) -> bool:
        try:
            kept = self._parse(entry)
            self._known[kept.key] = (str(entry["stamp"]), kept)
        except (ValueError, KeyError, TypeError):
            return False
        return True


class PredictionStore(_Store[Prediction]):
    """The answers of one checkpoint."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        super().__init__(path, facts, Prediction.from_dict)

    def add(self, question: Question, kept: Prediction) -> None:
        """Keep one more answer. A failure is not kept: its image may be there the next time."""
        if kept.result is not None:
            super().add(question, kept)


@dataclass(frozen=True)
class KnownLosses:
    """Of the true answers to a question, in the order of its examples."""

    key: QuestionKey
    targets: str  # changes when the true answers do
    losses: tuple[TokenLoss, ...]

    @classmethod
    def of(cls, question: Question, losses: Sequence[TokenLoss]) -> KnownLosses:
        return cls(question.key, _digest(question), tuple(losses))

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        image, instruction, text_input = self.key
        entry = {"image": image, "instruction": instruction, "text_input": text_input}
        return entry | {
            "targets": self.targets,
            "losses": [one.loss for one in self.losses],
            "tokens": [one.tokens for one in self.losses],
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> KnownLosses:
        """What :meth:`to_dict` gave, also after JSON.

        Raises:
            ValueError, KeyError, TypeError: it is none.
        """
        key = (str(entry["image"]), str(entry["instruction"]), str(entry["text_input"]))
        pairs = zip(entry["losses"], entry["tokens"], strict=True)
        losses = tuple(TokenLoss(float(loss), int(tokens)) for loss, tokens in pairs)
        return cls(key, str(entry["targets"]), losses)


class LossStore(_Store[KnownLosses]):
    """The losses of true answers under one checkpoint."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        super().__init__(path, facts, KnownLosses.from_dict)

    def _holds(self, question: Question, kept: KnownLosses) -> bool:
        return kept.targets == _digest(question)


def _digest(question: Question) -> str:
    texts = json.dumps([example.target for example in question.examples])
    return hashlib.sha256(texts.encode()).hexdigest()[:16]


def _entry_of(line: bytes) -> Any:
    """What a line holds; None if it is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line.decode("utf-8", "surrogatepass"))
    except ValueError:
        return None


def _check_kind(path: Path, entry: Any, line: bytes) -> None:
    """See that a file is ours: its first line says so, or a kill came before the line was whole."""
    if isinstance(entry, dict) and entry.get("kind") == _KIND:
        return
    start = json.dumps({"kind": _KIND})[:-1].encode()
    if entry is None and start.startswith(line[: len(start)]):
        return
    raise TrainingError(f"{path} is there and holds no answers of promptgen evaluate. Name another folder.")
