"""Requests as ``multipart/form-data``: what ``curl -F`` and web pages send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from .bodies import parse_json
from .errors import BadRequestError
from .options import AnswerOptions
from .schema import CaptionsRequest
from .strict import read_fields, read_object

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["is_form", "read_form"]

_FILES = ("image", "images")
_SEPARATORS = {  # of what may be repeated
    "instructions": ",",
    "exclude": ",",
    "replace": ";",
    "retry_word": ",",
}
_MOST_FILES = 10_000
_MOST_FIELDS = 200
_LONGEST_FIELD = 256 << 10  # bytes


def is_form(request: Request) -> bool:
    """Whether the request says that it is a form with files."""
    return request.headers.get("content-type", "").strip().lower().startswith("multipart/form-data")


async def read_form(request: Request) -> tuple[CaptionsRequest, list[tuple[str, bytes]]]:
    """What is asked, and the pictures with their names, which may be empty.

    Raises:
        BadRequestError: it is no such form, or a field is unknown, given twice, or takes something else.
        ServingError: the body is too large or comes too slowly.
        ClientDisconnect: the client went before it had sent all.
    """
    parser = _Parser(
        request.headers, request.stream(),
        max_files=_MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=_LONGEST_FIELD,
    )  # fmt: skip
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise BadRequestError(f"The form cannot be read: {error.message}") from error
    except ValueError as error:  # of a charset that is none
        raise BadRequestError(f"The form cannot be read: {error}.") from error
    try:
        if not parser.is_complete:
            raise BadRequestError("The form was cut off: it ends before the boundary that would end it.")
        asked = _asked(form)
        files = [value for name in _FILES for value in form.getlist(name) if not isinstance(value, str)]
        return asked, [(file.filename or "", await file.read()) for file in files]
    finally:
        await form.close()


class _Parser(MultiPartParser):
    """Starlette's, which takes a form that was cut off for one with fewer parts."""

    is_complete = False

    def on_end(self) -> None:
        self.is_complete = True


def _asked(form: FormData) -> CaptionsRequest:
    """All that is no picture."""
    fields: dict[str, Any] = {}
    options: dict[str, str] = {}
    for name, values in _texts(form).items():
        if len(values) > 1 and name not in _SEPARATORS:
            raise BadRequestError(f"{name[:100]!r} is given {len(values)} times; it takes one value.")
        text = _SEPARATORS.get(name, "").join(values)
        (options if name in AnswerOptions.model_fields else fields)[name] = text
    written = fields.pop("options", None)
    asked = read_fields(CaptionsRequest, {**fields, "options": options})
    if written is None:
        return asked
    given = read_object(AnswerOptions, parse_json(written.encode(errors="surrogatepass")))
    for name in given.model_fields_set & set(options):
        raise BadRequestError(f"{name} is given twice: within options and as a field of its own.")
    of_fields = {name: getattr(asked.options, name) for name in options}
    return asked.model_copy(update={"options": given.model_copy(update=of_fields)})


def _texts(form: FormData) -> dict[str, list[str]]:
    """The texts of each field, under one name where it has two.

    Pictures are checked alone. Empty texts, which web pages send where nothing was entered, do not count.
    """
    texts: dict[str, list[str]] = {}
    for name, value in form.multi_items():
        if name in _FILES:
            if isinstance(value, str):
                raise BadRequestError(f"{name} is a text; it takes a file, as of curl -F {name}=@FILE.")
        elif not isinstance(value, str):
            raise BadRequestError(f"{name[:100]!r} is a file; pictures go into images.")
        elif value:
            texts.setdefault("instructions" if name == "instruction" else name, []).append(value)
    return texts
