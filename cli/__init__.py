"""The ``promptgen`` command. One file per subcommand; this one only holds the entry point."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Entry point of the ``promptgen`` script. Exit statuses: see :mod:`promptgen.cli.reporting`."""
    from .streams import leave_at_once, use_utf8

    stopped = 130
    try:
        use_utf8()
        from .app import app

        app(windows_expand_args=False)  # click would expand patterns in every option, and [1] in file names
    except KeyboardInterrupt:  # before a command has begun (libraries still loading): nothing to keep or say
        leave_at_once(stopped)
    except SystemExit as ended:
        if ended.code == stopped:  # everything is written and closed by now
            leave_at_once(stopped)
        raise
