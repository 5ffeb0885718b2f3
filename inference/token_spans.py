"""Which characters of an answer each of its tokens stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate


def token_spans(
    token_ids: Sequence[int],
    decode: Callable[[Sequence[int]], str],
    ends_a_part: Callable[[int, str], bool],
) -> list[tuple[int, int]]:
    """Per token, the first of its characters in the decoded text, and the one after the last.

    Tokens that are taken out stand for none. A character of several tokens is the first one's.

    Args:
        decode: token ids to text.
        ends_a_part: whether what comes after a token is decoded on its own, so that a long answer is not
            decoded again and again; asked with the token and the text of its part so far.
    """
    ends: list[int] = []
    begun, offset = 0, 0  # of the tokens that are decoded together: the first, and where it stands
    for place, token in enumerate(token_ids):
        text = decode(token_ids[begun : place + 1])
        ends.append(offset + len(text))
        if ends_a_part(token, text):
            begun, offset = place + 1, ends[-1]
    # a later token may shorten what stood there before, where white space is cleaned up
    ends = list(accumulate(reversed(ends), min))[::-1]
    return list(zip([0, *ends], ends, strict=False))
