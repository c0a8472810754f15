"""The model's schedules: when they run next, and what becomes of runs that they miss."""

from collections.abc import Mapping
from dataclasses import dataclass

from troth.core import commands as c
from troth.core.grammar.cron import parse
from troth.core.model import Value


def next_run(cron: str, now: int) -> int | None:
    """The first run after now."""
    return parse(cron).next_after_ms(now)


@dataclass
class ModelSchedule:
    """A schedule."""

    id: str
    cron: str
    promise_id: str
    promise_timeout: int
    created_on: int
    next_run_time: int | None
    description: str
    tags: Mapping[str, str] | None
    promise_param: Value
    promise_tags: Mapping[str, str] | None
    idempotency_key: str | None
    last_run_time: int | None = None
    paused_on: int | None = None

    def update(self, command: c.UpdateSchedule, now: int) -> None:
        """What is named changes; another expression begins to count now."""
        if command.cron is not None and command.cron != self.cron:
            self.next_run_time = next_run(command.cron, now)
        for name in ("cron", "promise_id", "promise_timeout", "description", "promise_param"):
            if getattr(command, name) is not None:
                setattr(self, name, getattr(command, name))
        for name in ("tags", "promise_tags"):
            if getattr(command, name) is not None:
                setattr(self, name, getattr(command, name) or None)

    def pause(self, now: int) -> None:
        """It stands still since the first time that it was paused."""
        if self.paused_on is None:
            self.paused_on = now

    def resume(self, catch_up_count: int | None, now: int) -> None:
        """Of what it missed the last ones count, if it is said how many."""
        if self.paused_on is not None and catch_up_count is not None:
            runs, following = self.missed(now)
            kept = runs[len(runs) - min(catch_up_count, len(runs)) :]
            self.next_run_time = kept[0] if kept else following
        self.paused_on = None

    def missed(self, now: int) -> tuple[list[int], int | None]:
        """The runs up to now, and the one after them."""
        runs = []
        time = self.next_run_time
        while time is not None and time <= now:
            runs.append(time)
            time = next_run(self.cron, time)
        return runs, time

    def follow_clock(self, now: int) -> None:
        """A next run that lies further ahead than it would be put now comes back."""
        time = next_run(self.cron, now)
        if self.next_run_time is not None and time is not None:
            self.next_run_time = min(self.next_run_time, time)
