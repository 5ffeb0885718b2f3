"""What the remote node does when it runs: frames to PNG, requests to a caption server, answers to texts.

Apart from the node's schema because it needs the client, and ComfyUI's start must not. It needs neither torch
nor what of the engine does.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import captioning
from ..serving.client import RemoteCaptioner, RemoteError, RemoteImage
from . import host
from .inputs import frames, generation_inputs, no_images, require_texts, sampling_inputs
from .long_prompt import NONE
from .remote_access import Server

if TYPE_CHECKING:
    import numpy
    import torch

# What a server takes in one request unless it was told otherwise; one that takes less says so.
MOST_PICTURES = 64
MOST_BYTES = 60 << 20

_SERVER_NAMES = {"exclude_tags": "exclude"}


@dataclass(frozen=True)
class Question:
    """What is asked, and of which server. Neighbours with equal ones share requests."""

    server: Server
    instruction: str
    options: Mapping[str, Any]  # by the server's names

    @classmethod
    def of(cls, row: Mapping[str, Any], inputs: Sequence[Any]) -> Question:
        """From one row of the node's inputs.

        Args:
            inputs: what the node's schema says of them, without the image.

        Raises:
            ValueError: an input got something else than what it takes.
            InstructionError: there is no such instruction.
        """
        values = {one.id: row.get(one.id, one.default if one.optional else None) for one in inputs}
        for one in inputs:
            _require_kind_of(one.default, one.id, values[one.id])
        own = ("url", "api_key", "checkpoint", "timeout")
        server = Server(**{name: values.pop(name) for name in own})
        instruction = captioning.find_instruction(values.pop("instruction"))
        if not instruction.needs_input:
            del values["text_input"]
        if values["preset"] == NONE:
            del values["preset"]
        else:
            for one in (*generation_inputs(), *sampling_inputs()):
                if one.id != "seed":
                    del values[one.id]
        options = {_SERVER_NAMES.get(name, name): value for name, value in values.items()}
        return cls(server, instruction.name, options)


@dataclass(frozen=True)
class Work:
    """One batch of pictures and what to ask about it."""

    image: torch.Tensor  # [B, H, W, C]
    question: Question


def caption_remotely(work: Sequence[Work]) -> list[RemoteImage]:
    """Caption all pictures of all batches, neighbours with equal questions in as few requests as the server
    takes.

    Returns:
        One answer with one result for each picture, in order.

    Raises:
        ValueError: there is no picture, or one that the server cannot read.
        RemoteError: the server is not there, refuses or fails.
        InterruptProcessingException: the user cancelled; the server drops the work, too.
    """
    if not work:
        raise no_images()
    pictures = [(frame, item.question) for item in work for frame in frames(item.image)]
    progress = host.StepProgress(2 * len(pictures))  # a picture is sent, and it is answered
    answers: list[RemoteImage] = []
    for question, group in itertools.groupby(pictures, key=lambda picture: picture[1]):
        files = _encoded((frame for frame, _ in group), progress)
        with question.server.connect() as client:
            for request in _requests(files):
                progress.show()
                for answer in _ask(client, request, question):
                    if answer.error is not None:
                        number = f"{len(answers) + 1} of {len(pictures)}"
                        raise ValueError(f"Image {number} was refused: {answer.error}")
                    answers.append(answer)
                    progress.step()
    return answers


def _require_kind_of(default: Any, name: str, value: Any) -> None:
    """Check what may have come over a wire of any type: a text where the default is one, else a number.

    Raises:
        ValueError: it is of another kind.
    """
    if isinstance(default, str):
        require_texts(**{name: value})
    elif not isinstance(value, (int, float)):
        raise ValueError(
            f"The input '{name}' got {value!r:.80}; it takes a number. Look at what is connected to it."
        )


def _encoded(images: Iterable[numpy.ndarray], progress: host.StepProgress) -> Iterator[bytes]:
    """The pixels that the engine would make of the frames here, in PNG, which keeps them."""
    for image in images:
        file = io.BytesIO()
        # Little of zlib's work: most networks are faster than the rest of it.
        captioning.as_rgb(image).save(file, "PNG", compress_level=1)
        progress.step()
        yield file.getvalue()


def _requests(files: Iterable[bytes]) -> Iterator[list[bytes]]:
    """As many at a time as one request may have."""
    request: list[bytes] = []
    for file in files:
        if len(request) == MOST_PICTURES or (request and sum(map(len, request)) + len(file) > MOST_BYTES):
            yield request
            request = []
        request.append(file)
    if request:
        yield request


def _ask(client: RemoteCaptioner, request: Sequence[bytes], question: Question) -> list[RemoteImage]:
    """The answers about the pictures of one request; of several, if the server takes less in one."""
    images = [(f"image {number}", file) for number, file in enumerate(request, 1)]
    try:
        return host.wait_for(client.submit(images, [question.instruction], question.options))
    except RemoteError as error:
        if error.status in (401, 403):
            raise ValueError(f"{error} {question.server.about_the_key()}") from error
        if error.status != 413 and not error.about_pictures:  # 413 may also be that of a proxy
            raise
        if len(request) == 1:
            return [RemoteImage(images[0][0], error=error.of_picture or str(error))]
    half = len(request) // 2
    return _ask(client, request[:half], question) + _ask(client, request[half:], question)


def tags_of(answer: RemoteImage) -> str:
    """The tags of an answer in one line; nothing where it has none."""
    return captioning.join_tags(answer.results[0].get("tags", []))


def json_of(answer: RemoteImage) -> str:
    """Everything about an answer."""
    width, height = answer.size or (0, 0)
    return json.dumps({"width": width, "height": height, **answer.results[0]}, ensure_ascii=False)
