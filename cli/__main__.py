"""``python -m promptgen.cli``, for where the ``promptgen`` script is not on the path."""

from . import main

main()
