"""Answers kept in a file as they come, so that an evaluation that is stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ..errors import TrainingError
from .predictions import Prediction
from .questions import Question, QuestionKey

__all__ = ["PredictionStore"]

_KIND = "promptgen evaluate"


class PredictionStore:
    """The answers of one checkpoint. What is there of the same checkpoint, asked in the same way, is kept.

    Args:
        path: of the file, a line of JSON for each answer; its folder must be there.
        facts: all that the answers depend on besides the question and the image. With other ones the file
            begins anew.

    Raises:
        TrainingError: a file is there that is none of ours.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self._header = {"kind": _KIND, **facts}
        self._known: dict[QuestionKey, tuple[str, Prediction]] = {}
        keep = self._read(path) if path.exists() else 0
        self._file: BinaryIO = open(path, "r+b" if keep else "wb")  # noqa: SIM115 - closed by __exit__
        self._file.seek(keep)
        self._file.truncate()
        if not keep:
            self._write(self._header)

    def __enter__(self) -> PredictionStore:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def known(self, questions: Iterable[Question]) -> dict[QuestionKey, Prediction]:
        """The answers that are there already; an image that has changed since has none."""
        found = ((question, self._known.get(question.key)) for question in questions)
        return {
            question.key: entry[1]
            for question, entry in found
            if entry is not None and entry[0] == question.stamp()
        }

    def add(self, question: Question, prediction: Prediction) -> None:
        """Keep one more answer. A failure is not kept: its image may be there the next time."""
        if prediction.result is not None:
            self._write({"stamp": question.stamp(), **prediction.to_dict()})

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
            prediction = Prediction.from_dict(entry)
            self._known[prediction.key] = (str(entry["stamp"]), prediction)
        except (ValueError, KeyError, TypeError):
            return False
        return True


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
