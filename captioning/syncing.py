"""Names of files that survive a power cut."""

from __future__ import annotations

import errno
import os
from pathlib import Path

__all__ = ["sync_folder"]


def sync_folder(folder: Path) -> None:
    """See that the names of new files in ``folder`` are on the disk, where the system has a way to.

    Raises:
        OSError: the disk failed.
    """
    if os.name == "nt":  # which has no way to, and journals names by itself
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # removed since by its owner, and the names in it with it
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network shares cannot
            raise
    finally:
        os.close(descriptor)
