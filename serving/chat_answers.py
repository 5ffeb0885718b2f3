"""Chat completions as OpenAI writes them, in one piece and as a stream of events."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..captioning import ImageResult
    from .chat_requests import ChatRequest

__all__ = ["DONE", "KEEP_ALIVE", "ChatAnswer", "ChatFrame", "event"]

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": waiting\n\n"  # a comment, which clients pass over


@dataclass(frozen=True)
class ChatAnswer:
    """What was answered.

    The text of several pictures says which is whose. ``results`` has each picture's size and typed result.
    """

    text: str
    finish_reason: str
    results: list[dict[str, Any]]

    @classmethod
    def of(cls, images: Sequence[ImageResult], stop: Sequence[str]) -> ChatAnswer:
        """The answer to one instruction about ``images``, all of which were read."""
        found = [image.results[0] for image in images]
        text = found[0].text
        if len(found) > 1:
            text = "\n\n".join(f"Image {number}: {one.text}" for number, one in enumerate(found, 1))
        ends = [text.find(one) for one in stop if one in text]
        truncated = not ends and any(one.truncated for one in found)
        sizes = [image.size or (0, 0) for image in images]
        return cls(
            text[: min(ends)] if ends else text,
            "length" if truncated else "stop",
            [
                {"width": width, "height": height, **one.to_dict()}
                for one, (width, height) in zip(found, sizes, strict=True)
            ],
        )


@dataclass(frozen=True)
class ChatFrame:
    """What all pieces of an answer have in common. Tokens are not counted, so ``usage`` is null."""

    chat: ChatRequest
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, answer: ChatAnswer) -> dict[str, Any]:
        """The whole answer."""
        message = {"role": "assistant", "content": answer.text, "refusal": None, "results": answer.results}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        return self._with("chat.completion", [choice])

    def role(self) -> bytes:
        """The first event, which says that there will be an answer."""
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def answer(self, answer: ChatAnswer) -> bytes:
        """The events that hold the answer, and its end."""
        events = self._chunk({"content": answer.text, "results": answer.results})
        events += self._chunk({}, answer.finish_reason)
        if self.chat.with_usage:
            events += event(self._with("chat.completion.chunk", []))
        return events

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return event(self._with("chat.completion.chunk", [choice]))

    def _with(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        frame = {"id": self.id, "object": kind, "created": self.created, "model": str(self.chat.model)}
        frame |= {"choices": choices, "usage": None}
        return frame | ({"ignored": self.chat.ignored} if self.chat.ignored else {})


def event(content: dict[str, Any]) -> bytes:
    """A server-sent event."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return b"data: " + text.encode("utf-8", "backslashreplace") + b"\n\n"
