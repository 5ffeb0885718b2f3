"""What requests hold."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from pydantic import Field

from .asks import Ask
from .options import AnswerOptions
from .strict import Strict

__all__ = ["AnswerOptions", "Base64", "CaptionsRequest", "DigestRequest", "NamedImage"]

Name = Annotated[str, Field(max_length=1000)]
InstructionName = Annotated[str, Field(max_length=100)]
InstructionNames = Annotated[str, Field(max_length=2000)]
InstructionList = Annotated[list[InstructionName], Field(max_length=100)]

_BASE64 = {"contentEncoding": "base64", "contentMediaType": "image/*", "minLength": 1}
Base64 = Annotated[str, Field(json_schema_extra=_BASE64)]


class NamedImage(Strict):
    """A picture, and what the answer is to call it."""

    data: Base64 = Field(description="The bytes of an image file in base64, or a data URI with them.")
    name: Name | None = Field(
        default=None, description='Default: "image" and its number.', examples=["cat.jpg"]
    )


Images = Annotated[list[Base64 | NamedImage], Field(max_length=10_000)]


class DigestRequest(Strict):
    """What is asked, and how."""

    model: Name | None = Field(
        default=None,
        description="One of those that /v1/models lists. Default: the server's first.",
        examples=["Florence-2-base-PromptGen-v2.0"],
    )
    instructions: InstructionNames | InstructionList | None = Field(
        default=None,
        description="One or several of those that /v1/instructions lists, as a list or with commas between"
        " them, in any case, with or without brackets. Default: what /v1/models has as the model's"
        " default_instruction.",
        examples=[["CAPTION", "GENERATE_TAGS"]],
    )
    instruction: InstructionName | None = Field(
        default=None, description="The same for one; it comes first.", examples=["CAPTION"]
    )
    options: AnswerOptions | None = Field(default=None, description="How to answer.")

    def ask(self) -> Ask:
        """What the scheduler is asked.

        Raises:
            BadRequestError: options contradict each other, or a text among them cannot be read.
        """
        given = self.instructions or []
        if isinstance(given, str):
            given = [name for name in given.split(",") if name.strip()]
        names = [*([self.instruction] if self.instruction else []), *given]
        options = self.options or AnswerOptions()
        return Ask(self.model, tuple(names), options.caption_options())


class CaptionsRequest(DigestRequest):
    """Pictures, and what is asked about each of them."""

    images: Images | None = Field(default=None, description="The pictures.")
    image: Base64 | NamedImage | None = Field(default=None, description="The same for one; it comes first.")
    timeout: float | None = Field(
        default=None,
        ge=1,
        description="Seconds to have the answer in. Default, and the most there is: the server's limit.",
    )

    def ask(self) -> Ask:
        """What the scheduler is asked, and the time it has."""
        return dataclasses.replace(super().ask(), seconds=self.timeout)
