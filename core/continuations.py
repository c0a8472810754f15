"""Commands that carry on with what was too much for one step.

A step that leaves such a command (`Step.again`) has not answered yet: the client gets the reply of
the last one. So each step is short, and for those who asked it is still one command.
"""

from .commands import Command
from .replies import Reply


class ContinueCompletions(Command, frozen=True):
    """Carry out a slice of what the completions of these promises mean, the first one first.

    Answers `reply`, when they are finished.
    """

    ids: tuple[str, ...]
    reply: Reply
