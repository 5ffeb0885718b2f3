"""``promptgen caption``: images in, answers out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..captioning.captioner import DEFAULT_INSTRUCTION, default_instruction
from .answer_flags import AnswerFlags
from .caption_flags import CaptionFlags, Images, Instructions
from .caption_images import caption_images
from .expand_flags import expand_flags
from .records import records_of
from .reporting import say

if TYPE_CHECKING:
    from ..captioning import CaptionOptions
    from .caption_images import Answers


@expand_flags
def caption(
    *,
    image: Images,
    instruction: Instructions = None,
    flags: AnswerFlags,
    wanted: CaptionFlags,
) -> None:
    """Caption images: ask one or several questions of each.

    Results go to standard output, progress and errors to standard error. An image that cannot be read does
    not stop the others. Exit status: 0 all done, 1 something failed, 2 wrong usage, 130 stopped with Ctrl-C.
    """

    def ask(paths: Sequence[str], instructions: Sequence[str], options: CaptionOptions) -> Answers:
        from ..models_cache import told_family

        flags.place()  # first what is wrong with the command line
        known = told_family(flags.model) is not None
        captioner = flags.captioner(fetch=not known)
        if known:  # what it cannot be asked is told before a download
            captioner.inquire(instructions, options)
            flags.fetch()
        if flags.watched:
            say(f"Loading {flags.model}")
        results = captioner.stream(paths, instructions, options)
        return ((result, records_of(result, captioner.model)) for result in results)

    def default() -> str:
        from ..models_cache import ModelNotFoundError, told_family

        try:
            family = told_family(flags.model)
        except ModelNotFoundError:  # told after what is wrong with the rest of the command line
            return DEFAULT_INSTRUCTION
        if family is None:
            flags.captioner()  # downloads it: what it is asked depends on what it is
        return default_instruction(flags.model)

    caption_images(image, instruction, flags, wanted, ask, default)
