"""Object stores and other file systems that a URL names, through fsspec: ``s3://``, ``gs://``, ``http://``.

fsspec and the package for each protocol are loaded when the first URL is opened.
"""

from __future__ import annotations

from .objects import StoreError
from .paths import Place, StorePath, as_place, is_url

__all__ = ["Place", "StoreError", "StorePath", "as_place", "is_url"]
