"""What a shard notes for the next checkpoint."""

from troth.core.limits import INTEGER_MAX


class Changes:
    """The ids of what changed since the last checkpoint. `callbacks` maps to the promise's id.

    `deleted_promises` maps to the serial that the first of that id had which was deleted since,
    `deleted_tasks` to the sequence: a checkpoint may hold that one, and no later one.

    `awaits` and `listeners` are pairs of ids, in the order in which they were registered.

    A promise that changed twice is there twice: a list takes an eighth of a set's memory. But those
    with larger serials than `after_serial` are there since they were created, and not once more
    since they completed.
    """

    __slots__ = (
        "after_serial",
        *("callbacks", "deleted_promises", "deleted_tasks", "locks", "outbox", "promises"),
        *("entries", "executions", "schedules", "tasks", "usage"),
        *("awaits", "listeners", "workflows"),
    )

    def __init__(self, after_serial: int = INTEGER_MAX) -> None:
        self.after_serial = after_serial
        self.promises: list[str] = []
        self.tasks: set[str] = set()
        self.callbacks: dict[str, str] = {}
        self.schedules: set[str] = set()
        self.locks: set[str] = set()
        self.outbox: set[tuple[int, int]] = set()
        self.entries: set[str] = set()
        self.executions: set[str] = set()
        self.usage: set[str] = set()
        self.workflows: set[str] = set()
        self.awaits: dict[tuple[str, str], None] = {}
        self.listeners: dict[tuple[str, str], None] = {}
        self.deleted_promises: dict[str, int] = {}
        self.deleted_tasks: dict[str, int] = {}

    @property
    def count(self) -> int:
        """The number of changed entities; a promise that changed twice counts twice."""
        return (
            len(self.promises)
            + len(self.tasks)
            + len(self.callbacks)
            + len(self.schedules)
            + len(self.locks)
            + len(self.outbox)
            + len(self.entries)
            + len(self.executions)
            + len(self.usage)
            + len(self.workflows)
            + len(self.awaits)
            + len(self.listeners)
        )
