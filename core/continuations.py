"""Commands that carry on with what was too much for one step.

A step that leaves such a command (`Step.again`) has not answered yet: the client gets the reply of
the last one. So each step is short, and for those who asked it is still one command.
"""

from .commands import Command
from .replies import Reply
from .workflows import NamedBeat


class ContinueHeartbeat(Command, frozen=True):
    """Renew a slice of what a process held at its heartbeat, where the ids begin so.

    The first `done_count` of `ids` have been looked at, and `renewed_count` renewed. Answers how
    many were renewed in all, when none are left.
    """

    process_id: str
    id_prefix: str
    at: int
    ids: tuple[str, ...]
    done_count: int = 0
    renewed_count: int = 0


class ContinueTasksHeartbeat(ContinueHeartbeat, frozen=True):
    """Do that for tasks."""


class ContinueLocksHeartbeat(ContinueHeartbeat, frozen=True):
    """Do that for locks."""


class ContinueRenewals(Command, frozen=True):
    """Renew a slice of the leases of workflow tasks that a process has named.

    Tasks are given as (id, version); the first `done_count` have been looked at. `beat` is the note
    of this heartbeat. Answers how many were renewed in all, when none are left.
    """

    pid: str
    tasks: tuple[tuple[str, int], ...]
    beat: NamedBeat
    done_count: int = 0
    renewed_count: int = 0


class ContinueCompletions(Command, frozen=True):
    """Carry out a slice of what the completions of these promises mean, the first one first.

    Answers `reply`, when they are finished. If the command that completed them has not ended
    either, `then` carries on with it, and answers.
    """

    ids: tuple[str, ...]
    reply: Reply
    then: Command | None = None
