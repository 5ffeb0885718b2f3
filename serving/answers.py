"""What answers look like, for the server's description; they themselves come from the engine's results."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, with_config
from typing_extensions import NotRequired, TypedDict

__all__ = [
    "CaptionsAnswer",
    "DigestAnswer",
    "ErrorAnswer",
    "InstructionsAnswer",
    "OpenAIErrorAnswer",
    "StatusAnswer",
    "UnreadableAnswer",
]

_exactly = with_config(ConfigDict(extra="forbid"))
_Points = Annotated[list[float], Field(description="x0, y0, x1, y1, … in pixels.")]


@_exactly
class RegionAnswer(TypedDict):
    """A labelled place, in pixels of the picture as one sees it, after its EXIF rotation."""

    label: str
    box: Annotated[
        Annotated[list[float], Field(min_length=4, max_length=4)] | None,
        Field(description="Left, top, right, bottom; of an outline the box around it."),
    ]
    quad: NotRequired[
        Annotated[
            list[float],
            Field(min_length=8, max_length=8, description="Corners of a piece of text, in reading order."),
        ]
    ]
    polygons: NotRequired[Annotated[list[_Points], Field(description="Outlines.")]]
    score: NotRequired[Annotated[float, Field(ge=0, le=1, description="How sure the model is.")]]


@_exactly
class AnalysisFields(TypedDict):
    """Named fields about the picture."""

    subjects: Annotated[list[dict[str, str]], Field(description="Of each subject, the fields by name.")]
    unparsed: NotRequired[Annotated[str, Field(description="What came before the first field.")]]


class _Answer(TypedDict):
    instruction: Annotated[str, Field(examples=["CAPTION"])]
    text: Annotated[str, Field(description="For people.")]
    raw: Annotated[str, Field(description="As the model wrote it, location tokens included.")]
    truncated: Annotated[bool, Field(description="Whether it ends because no more tokens were allowed.")]
    attempts: NotRequired[
        Annotated[int, Field(ge=1, description="How often it was generated, if it had to be again.")]
    ]
    unmet: NotRequired[
        Annotated[
            str,
            Field(
                description="Which conditions (min_words, retry_word) it fails; it is the last attempt's.",
                examples=["12 words of at least 20"],
            ),
        ]
    ]


@_exactly
class TextAnswer(_Answer):
    """Prose, a short answer, or the words in the picture."""

    tiles: NotRequired[Annotated[int, Field(description="That the picture was cut into, if it was.")]]


@_exactly
class TagsAnswer(_Answer):
    """Tags, after clean-up."""

    tags: list[str]


@_exactly
class MixedAnswer(_Answer):
    """Prose and tags, and an analysis where the model gave one."""

    prose: str
    tags: list[str]
    analysis: NotRequired[AnalysisFields]


@_exactly
class AnalysisAnswer(_Answer):
    """An analysis of the picture."""

    analysis: AnalysisFields


@_exactly
class RegionsAnswer(_Answer):
    """Labelled places."""

    regions: list[RegionAnswer]
    tiles: NotRequired[Annotated[int, Field(description="That the picture was cut into, if it was.")]]


@_exactly
class ImageAnswer(TypedDict):
    """A picture and the answers to all instructions, in their order."""

    image: Annotated[str, Field(description='Its name, or "image" and its number.')]
    width: Annotated[int, Field(description="In pixels, after EXIF rotation, as is the height.")]
    height: int
    results: list[TextAnswer | TagsAnswer | MixedAnswer | AnalysisAnswer | RegionsAnswer]


@_exactly
class ImageFailure(TypedDict):
    """A picture that has no answers, and why."""

    image: str
    error: str


@_exactly
class CaptionsAnswer(TypedDict):
    """One entry per picture, in their order."""

    model: Annotated[str, Field(description="The name of the model that answered.")]
    images: list[ImageAnswer | ImageFailure]


@_exactly
class DigestAnswer(TypedDict):
    """What changes whenever an answer may."""

    digest: str


@_exactly
class InstructionAnswer(TypedDict):
    """Something that can be asked about a picture."""

    name: str
    summary: str
    input: Annotated[
        Literal["none", "text", "region"], Field(description="What text_input must hold besides the picture.")
    ]
    answer: Annotated[str, Field(description="The kind of answer.")]
    known_by: Annotated[str, Field(description="Which checkpoints were trained on it.")]
    families: Annotated[list[str], Field(description="Of the models that can be asked it.")]


@_exactly
class InstructionsAnswer(TypedDict):
    """All instructions; /v1/models says which of them a model knows."""

    instructions: list[InstructionAnswer]


@_exactly
class ErrorAnswer(TypedDict):
    """Why there is no answer, in one line; clients read either ``detail`` or ``error``."""

    detail: str
    error: str
    code: Annotated[str, Field(description="For programs; never changes.")]


@_exactly
class UnreadableAnswer(ErrorAnswer):
    """No picture has an answer; what is wrong with each."""

    images: list[ImageFailure]


@_exactly
class OpenAIError(TypedDict):
    """What OpenAI's clients read."""

    message: str
    type: str
    param: str | None
    code: str


@_exactly
class OpenAIErrorAnswer(TypedDict):
    """Why there is no answer, in one line, as OpenAI's clients read it, too."""

    detail: str
    error: OpenAIError
    code: Annotated[str, Field(description="For programs; never changes.")]


@_exactly
class StatusAnswer(TypedDict):
    """How the server is."""

    status: Literal["ok", "ready", "shutting_down", "engine_failed"]
    waiting: NotRequired[Annotated[int, Field(description="Pictures accepted and not answered yet.")]]
