"""The caption server, and its client.

The server (:mod:`.app`, :mod:`.run`) needs the extra ``server``; the client (:mod:`.client`) needs httpx and
nothing of the engine. Importing this package loads neither.
"""
