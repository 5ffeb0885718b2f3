"""Pictures as JSON carries them: the bytes of an image file in base64, bare or in a data URI."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence

from .bodies import in_turn
from .errors import BadRequestError

__all__ = ["decode_image", "decode_images"]

_AT_A_TIME = 4 << 18  # characters: decoding holds the interpreter's lock, which others wait for
_SHORT = 4 << 14  # characters: handing them to a thread takes longer than to decode them
_DATA_URI = re.compile(r"data:[^,]{0,200}?(;base64)?,", re.IGNORECASE)
_WHITE_SPACE = "\n", "\r", "\t"  # that encoders break lines with; a space may have been a plus


def decode_image(text: object, name: str = "image") -> bytes:
    """The bytes that ``text`` stands for. Line breaks in it are allowed, and nothing else that is not base64.

    Args:
        text: base64 of RFC 4648 with its padding, or a data URI with that.
        name: what to call it in an error.

    Raises:
        BadRequestError: it is anything else, was cut off, or is empty.
    """
    if not isinstance(text, str):
        raise BadRequestError(f"{name} takes a string: the bytes of an image file in base64.")
    digits = _without_header(text.strip(), name)
    for character in _WHITE_SPACE:
        digits = digits.replace(character, "")
    if not digits:
        raise BadRequestError(f"{name} is empty; it takes the bytes of an image file in base64.")
    if len(digits) % 4:
        raise BadRequestError(
            f"{name} is not whole base64: it has {len(digits)} characters, no multiple of four. It was cut"
            " off, or its padding (=) left out."
        )
    try:
        return _decode(digits)
    except ValueError:  # of binascii, or of characters beyond ASCII
        raise BadRequestError(
            f"{name} is not base64 (A–Z, a–z, 0–9, + and /, = at its end); it takes an image file in that, or"
            " a data URI with it."
        ) from None


async def decode_images(texts: Sequence[object], names: Sequence[str]) -> list[bytes]:
    """:func:`decode_image` of each, in a thread where that takes long enough for others to notice.

    Raises:
        BadRequestError: one of them is no picture in base64.
    """

    def decode() -> list[bytes]:
        return [decode_image(text, name) for text, name in zip(texts, names, strict=True)]

    if sum(len(text) for text in texts if isinstance(text, str)) <= _SHORT:
        return decode()
    return await in_turn(decode)


def _without_header(text: str, name: str) -> str:
    """What comes after the header of a data URI; all of a text that is none."""
    if text[:8].casefold().startswith(("http://", "https:/")):
        raise BadRequestError(f"{name} is an address; it takes the bytes of the image file in base64.")
    if text[:5].casefold() != "data:":
        return text
    header = _DATA_URI.match(text)
    if header is None or header[1] is None:
        raise BadRequestError(
            f"{name} is a data URI without base64; write data:image/jpeg;base64, and the image file in that."
        )
    return text[header.end() :]


def _decode(digits: str) -> bytes:
    """The bytes of canonical base64 of a length that is a multiple of four.

    Raises:
        ValueError: it is not.
    """
    decoded = bytearray()
    for start in range(0, len(digits), _AT_A_TIME):
        if decoded and len(decoded) % 3:
            raise binascii.Error("padding before the end")
        decoded += base64.b64decode(digits[start : start + _AT_A_TIME], validate=True)
    last = decoded[3 * ((len(decoded) - 1) // 3) :]
    if base64.b64encode(last).decode() != digits[-4:]:
        raise binascii.Error("bits beyond the end")  # set where the padding says there are none
    return bytes(decoded)
