"""The ``promptgen`` command. One file per subcommand; this one only holds the entry point."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Entry point of the ``promptgen`` script. Exit statuses: see :mod:`promptgen.cli.reporting`."""
    import sys

    from .streams import use_utf8

    try:
        use_utf8()
        from .app import app

        app()
    except KeyboardInterrupt:
        # Ctrl-C before a command has begun (libraries still loading): nothing to keep, nothing to say.
        sys.exit(130)
