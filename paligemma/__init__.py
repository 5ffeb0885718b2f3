"""PaliGemma, of both generations: reading published checkpoints, transformers' network, generation.

Importing this room loads nothing heavy.
"""
