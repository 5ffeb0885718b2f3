"""Where the pictures of a run come from: folders, patterns, lists, tables and tar shards, as one stream.

Paths are strings here, not Path objects: there are millions of them.
"""

from __future__ import annotations

from .errors import SourceError
from .find import find_items, holds_pictures
from .search import is_in_shard

__all__ = ["SourceError", "find_items", "holds_pictures", "is_in_shard"]
