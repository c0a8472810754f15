"""Warnings of missed receivers: groups without workers, and receivers that cannot be resolved.

One warning for each, whatever number of tasks waits, and another one only after a group was there
in between. A group has a moment to appear, since a worker can connect just after its first task.
"""

from collections.abc import Callable
from typing import Final, final

import structlog

from troth.shards.alarms import Alarms

from .polls import Polls

MISSED_AFTER_MS: Final = 10_000
_REMEMBERED_COUNT: Final = 1_000
GROUPS_SHOWN_COUNT: Final = 10

_log = structlog.get_logger("troth.shards.delivery")


@final
class MissedReceivers:
    """The groups and receivers that a warning was given for, or will be."""

    def __init__(self, alarms: Alarms, polls: Polls, is_waiting_for: Callable[[str], bool]) -> None:
        """Initialize. `is_waiting_for` tells whether anything still waits for a group."""
        self._alarms = alarms
        self._polls = polls
        self._is_waiting_for = is_waiting_for
        self._groups: dict[str, None] = {}
        self._reasons: dict[str, None] = {}

    def cannot_resolve(self, task_id: str, reason: str) -> None:
        """Warn of a receiver that no configured target or address fits, once."""
        if reason in self._reasons:
            return
        _remember(self._reasons, reason)
        _log.warning("task is undeliverable", task=task_id, reason=reason)

    def waits_for(self, group: str) -> None:
        """Note that something waits for a group; warn in a while if no worker listens to it."""
        if group in self._groups or self._polls.has_group(group):
            return
        _remember(self._groups, group)
        self._alarms.call_after(MISSED_AFTER_MS, lambda: self._look(group))

    def _look(self, group: str) -> None:
        if self._polls.has_group(group) or not self._is_waiting_for(group):
            self._groups.pop(group, None)
            return
        _log.warning(
            "tasks wait for a group that no worker listens to",
            group=group,
            connected_groups=list(self._polls.largest_groups(GROUPS_SHOWN_COUNT)),
        )

    def connected(self, group: str) -> None:
        """Forget that a group was missed: it is there."""
        self._groups.pop(group, None)


def _remember(table: dict[str, None], name: str) -> None:
    table[name] = None
    if len(table) > _REMEMBERED_COUNT:
        del table[next(iter(table))]
