"""Image features that were computed before, found again by the picture's content.

The vision tower is the larger half of a caption's cost. Its answer depends on the picture and the
checkpoint alone, so a second instruction, a second run of a graph or a second request need not run it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

    from torch import Tensor

DEFAULT_FEATURE_BYTES = 256 * 2**20


class FeatureCache:
    """Image features by key, least recently used first out, bounded in bytes. Safe to share among threads.

    Args:
        max_bytes: the bound; 0 keeps nothing.

    Raises:
        ValueError: ``max_bytes`` is negative.
    """

    def __init__(self, max_bytes: int = DEFAULT_FEATURE_BYTES) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes}; it takes 0 or more.")
        self.max_bytes = max_bytes
        self._features: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Tensor | None:
        """The features ``[N, d_model]`` under ``key``, on the CPU, or ``None``."""
        with self._lock:
            features = self._features.get(key)
            if features is not None:
                self._features.move_to_end(key)
            return features

    def put(self, key: Hashable, features: Tensor) -> None:
        """Keep a copy of ``features`` ``[N, d_model]`` on the CPU, unless it alone is above the bound."""
        if features.nbytes > self.max_bytes:
            return
        kept = features.detach().to(device="cpu", copy=True)
        with self._lock:
            replaced = self._features.pop(key, None)
            if replaced is not None:
                self._nbytes -= replaced.nbytes
            self._features[key] = kept
            self._nbytes += kept.nbytes
            while self._nbytes > self.max_bytes:
                _, dropped = self._features.popitem(last=False)
                self._nbytes -= dropped.nbytes

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._features.clear()
            self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._nbytes

    def __len__(self) -> int:
        return len(self._features)


_shared = FeatureCache()  # made at import, which threads cannot do twice


def shared_feature_cache() -> FeatureCache:
    """The one cache of this process."""
    return _shared


def pixels_key(pixels: Tensor) -> str:
    """A name for the pixels ``[H, W, 3]`` uint8 that a model gets to see: equal pixels, equal name."""
    digest = hashlib.blake2b(f"{tuple(pixels.shape)}".encode(), digest_size=16)
    digest.update(pixels.contiguous().numpy().data)
    return digest.hexdigest()
