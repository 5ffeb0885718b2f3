"""What a server answers its client, checked: whoever answers at a URL may be no server of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from .remote_errors import RemoteError, foreign_error

if TYPE_CHECKING:
    import httpx

Answer = TypeVar("Answer")

_CHECK = "Check that it is a PromptGen server."


@dataclass(frozen=True)
class RemoteImage:
    """What the server made of one picture."""

    name: str  # as it was given
    results: tuple[dict[str, Any], ...] = ()  # `Result.to_dict()` of each instruction, in order
    error: str | None = None  # why there are none, without the name
    size: tuple[int, int] | None = None  # width and height in pixels, of a picture that could be read


@dataclass(frozen=True)
class RemoteModel:
    """A checkpoint that the server has."""

    name: str
    instructions: tuple[str, ...]  # that it was trained on, canonical names
    family: str = "florence2"  # older servers know no other
    default_instruction: str | None = None  # what it is asked where nobody says; None: the server is older
    quantization: str = "none"


def read_json(response: httpx.Response, kind: type[Answer], url: str) -> Answer:
    """The JSON value that an answer holds.

    Raises:
        RemoteError: it is not of this kind.
    """
    try:
        body = json.loads(response.content)
    except ValueError as error:
        raise foreign_error(url, response) from error
    if not isinstance(body, kind):
        raise foreign_error(url, response)
    return body


def read_value(body: Mapping[str, Any], key: str, kind: type[Answer], url: str) -> Answer:
    """What an object has under ``key``.

    Raises:
        RemoteError: nothing of this kind.
    """
    value = body.get(key)
    if not isinstance(value, kind):
        raise RemoteError(
            f"What answers at {url} is no PromptGen server: its answer has no {key!r}. Check host, port and "
            "path of the URL."
        )
    return value


def read_images(body: Mapping[str, Any], names: Sequence[str], url: str) -> list[RemoteImage]:
    """What became of the pictures of ``names``, in their order.

    Raises:
        RemoteError: the answer is not about so many pictures.
    """
    answers = read_value(body, "images", list, url)
    if len(answers) != len(names):
        raise RemoteError(f"{url} was asked about {len(names)} pictures and answers about {len(answers)}.")
    return [_image(name, answer, url) for name, answer in zip(names, answers, strict=True)]


def _image(name: str, answer: Any, url: str) -> RemoteImage:
    if not isinstance(answer, dict):
        raise RemoteError(f"{url} answers about a picture with no object. {_CHECK}")
    if answer.get("error") is not None:
        return RemoteImage(name, error=str(answer["error"]).removeprefix(f"{answer.get('image')}: "))
    width, height = answer.get("width"), answer.get("height")
    size = (int(width), int(height)) if width and height else None
    results = tuple(read_value(answer, "results", list, url))
    if not results or not all(isinstance(one, dict) and isinstance(one.get("text"), str) for one in results):
        raise RemoteError(f"{url} gave no answers to what was asked. {_CHECK}")
    return RemoteImage(name, results, size=size)


def has_images(response: httpx.Response) -> bool:
    """Whether an answer that is an error tells of each picture what is wrong with it."""
    try:
        return "images" in json.loads(response.content)
    except (ValueError, TypeError):
        return False


def read_models(body: Mapping[str, Any], url: str) -> list[RemoteModel]:
    """The models of an OpenAI list, without those that only name an instruction as well.

    Raises:
        RemoteError: it is no such list.
    """
    entries = {str(one["id"]): one for one in read_value(body, "data", list, url)}
    return [_model(name, entry) for name, entry in entries.items() if name.rpartition(":")[0] not in entries]


def _model(name: str, entry: Mapping[str, Any]) -> RemoteModel:
    default = entry.get("default_instruction")
    return RemoteModel(
        name,
        tuple(entry.get("instructions") or ()),
        str(entry.get("family") or RemoteModel.family),
        None if default is None else str(default),
        str(entry.get("quantization") or RemoteModel.quantization),
    )
