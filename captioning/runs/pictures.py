"""An item as the captioner takes a picture: named now, read later, in the thread that decodes it."""

from __future__ import annotations

import errno

from .records import Item

MOST_BYTES = 2**31  # of a picture's file; larger than any that may be decoded


class ItemPicture:
    """Looks like an open file that can only be read, whole. The item's file is open no longer than that."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.filename = self.name = item.name  # the captioner's results and errors bear it

    def read(self) -> bytes:
        """The bytes of the picture's file.

        Raises:
            OSError: it cannot be opened or read, or is larger than any picture.
        """
        with self.item.open() as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise OSError(errno.EFBIG, f"the file has more than {MOST_BYTES // 2**30} GB")
        return content
