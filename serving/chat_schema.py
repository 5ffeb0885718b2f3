"""What OpenAI's face takes and gives, as it is described; :mod:`.chat_requests` reads it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import NotRequired, TypedDict

from .options import AnswerOptions

__all__ = ["ChatBody", "ChatCompletion", "ModelAnswer", "ModelsAnswer"]


MostTokens = Annotated[int, Field(ge=1)] | Literal[-1]


class ChatText(BaseModel):
    """A text."""

    type: Literal["text"]
    text: str = Field(examples=["<CAPTION>"])


class ChatImageUrl(BaseModel):
    """Where a picture is, or itself."""

    url: str = Field(
        description="The image file as data:image/jpeg;base64,... or, if the server was told of its host, its"
        " address."
    )
    detail: str | None = Field(None, description="Has no effect.")


class ChatImage(BaseModel):
    """A picture."""

    type: Literal["image_url"]
    image_url: ChatImageUrl


ChatPart = Annotated[ChatText | ChatImage, Field(discriminator="type")]


class ChatMessage(BaseModel):
    """What somebody said."""

    role: Literal["user", "system", "developer", "assistant", "tool"]
    content: str | list[ChatPart] | None = Field(description="A text, or parts.")


class ChatStreamOptions(BaseModel):
    """How to stream."""

    include_usage: bool | None = Field(None, description="Send a last event with usage, which is null.")


class ChatBody(AnswerOptions):
    """A chat with pictures, and any of the options; other fields have no effect.

    ``temperature``, ``top_p``, ``top_k`` and ``seed`` act only with ``do_sample``, or a preset that has it.
    A ``temperature`` of 0 asks for no sampling: a preset does not draw then, and asks only once.
    """

    model_config = ConfigDict(extra="allow")

    temperature: Annotated[float, Field(ge=0.01, le=100)] | Literal[0] | None = Field(
        None,
        description="With do_sample, or a preset that has it: above 1 wilder, below 1 tamer. 0, without"
        " do_sample, is no sampling. Default: the checkpoint's own setting.",
    )
    model: str | None = Field(
        None,
        description="One of those that /v1/models lists. If its name has an instruction, as in NAME:CAPTION,"
        " the text of the message may be anything. Default: the server's first.",
    )
    messages: list[ChatMessage] = Field(
        min_length=1,
        description="The last one of the user with pictures counts. Its text is the instruction, unless the"
        " model's name has one: <CAPTION>, or CAPTION_TO_PHRASE_GROUNDING: a red car. Without a text, the"
        " model's default_instruction. Models of the family paligemma get any other text as their prompt.",
    )
    stream: bool | None = Field(None, description="Answer in server-sent events.")
    stream_options: ChatStreamOptions | None = Field(None, description="With stream.")
    max_completion_tokens: MostTokens | None = Field(None, description="The same as max_new_tokens.")
    max_tokens: MostTokens | None = Field(None, description="The same as max_new_tokens; -1 is no limit.")
    stop: str | Annotated[list[str], Field(max_length=100)] | None = Field(
        None, description="The answer ends before the first of these texts."
    )


class ChatReply(TypedDict):
    """What the model says."""

    role: Literal["assistant"]
    content: Annotated[str, Field(description="The text; of several pictures one after another.")]
    refusal: None
    results: Annotated[
        list[dict[str, Any]],
        Field(description="Of each picture its width and height, and the answer as /v1/captions has it."),
    ]


class ChatChoice(TypedDict):
    """The only one."""

    index: int
    message: ChatReply
    logprobs: None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(TypedDict):
    """The answer to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Annotated[None, Field(description="Tokens are not counted.")]
    ignored: NotRequired[Annotated[list[str], Field(description="Fields that had no effect.")]]


class ModelAnswer(TypedDict):
    """A model, alone or with an instruction."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    instructions: Annotated[list[str], Field(description="What it was trained on, or the one of its name.")]
    loaded: Annotated[bool, Field(description="Whether it is in memory now.")]
    family: Annotated[str, Field(description="Of networks, as the checkpoint's config.json has it.")]
    default_instruction: Annotated[str, Field(description="What is answered where a request names none.")]
    device: str
    dtype: str
    quantization: Annotated[
        Literal["none", "8", "4"], Field(description="Bits of the weights that are quantised, if any are.")
    ]


class ModelsAnswer(TypedDict):
    """The models that requests may name."""

    object: Literal["list"]
    data: list[ModelAnswer]
