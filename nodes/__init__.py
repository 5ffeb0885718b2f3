"""The ComfyUI nodes. Only this room imports ComfyUI; importing it before ComfyUI has started is an error.

A node converts, calls the engine, converts back: what a caption is, is decided in ``captioning``.
"""
