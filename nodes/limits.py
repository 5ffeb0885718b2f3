"""The largest numbers that the nodes take, also those that stand in for nodes that took larger ones."""

from __future__ import annotations

MOST_BEAMS = 16
MOST_NEW_TOKENS = 1024
"""So many places have the decoders of all known checkpoints."""
