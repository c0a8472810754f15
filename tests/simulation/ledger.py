"""What the clients were told, and the rules that no later answer may break.

The ledger is filled with acknowledged answers only. A request without an answer may have taken
effect or not; nothing is noted about it. `BrokenPromise` is raised at the first answer that
contradicts an earlier one.
"""

from dataclasses import dataclass, field

from troth.core.codes import Code
from troth.core.commands import Command
from troth.core.model import Promise, PromiseState
from troth.core.replies import Reply


class BrokenPromise(Exception):
    """The server has contradicted itself."""


@dataclass(frozen=True)
class Final:
    """How a promise ended. That never changes."""

    state: PromiseState
    data: str | None


@dataclass(frozen=True)
class Hold:
    """A lock that was granted: in the server's time, from `since_ms` until `until_ms`."""

    execution_id: str
    since_ms: int
    until_ms: int


def require(condition: bool, complaint: str) -> None:
    """Raise BrokenPromise unless the condition holds."""
    if not condition:
        raise BrokenPromise(complaint)


@dataclass
class Ledger:
    """All acknowledged facts of a run, by id."""

    created: set[str] = field(default_factory=set)
    finals: dict[str, Final] = field(default_factory=dict)
    callbacks: dict[str, tuple[str, str]] = field(default_factory=dict)  # task: leaf, root
    subscriptions: dict[str, str] = field(default_factory=dict)  # task: promise
    claims: dict[tuple[str, int], str] = field(default_factory=dict)  # (task, counter): process
    completed_tasks: set[tuple[str, int]] = field(default_factory=set)
    schedules: set[str] = field(default_factory=set)
    notified: set[str] = field(default_factory=set)  # tasks of notifications that arrived
    locks: dict[str, dict[str, Hold]] = field(default_factory=dict)
    flow_claims: dict[tuple[str, int], str] = field(default_factory=dict)  # (id, version): process
    listeners: set[tuple[str, str]] = field(default_factory=set)  # promise, address
    unblocked: set[tuple[str, str]] = field(default_factory=set)  # listeners that were told
    executed: set[str] = field(default_factory=set)  # function tasks that a node has finished
    jobs_count: int = 0  # bulk jobs that have ended
    searches_count: int = 0  # searches that were answered
    answers_count: int = 0

    def promise_seen(self, promise: Promise, known: Final | None) -> None:
        """A promise was shown. `known` is what was known of its end when the request was sent."""
        require(
            promise.id not in self.finals
            or known is None
            or promise.state is not PromiseState.PENDING,
            f"{promise.id} was {known} and is shown as pending",
        )
        self.created.add(promise.id)
        if promise.state is PromiseState.PENDING:
            return
        final = Final(promise.state, promise.value.data)
        earlier = self.finals.setdefault(promise.id, final)
        require(earlier == final, f"{promise.id} was {earlier} and is shown as {final}")

    def answered(self, command: Command, reply: Reply, known: Final | None, existed: bool) -> None:
        """Check an answer to any command about promises against what is known."""
        self.answers_count += 1
        require(reply.code is not Code.INTERNAL, f"an internal error: {command}")
        require(not (existed and reply.code is Code.PROMISE_NOT_FOUND), f"lost: {command}")
        if reply.promise is not None:
            self.promise_seen(reply.promise, known)
        if reply.schedule is not None:
            self.schedules.add(reply.schedule.id)

    def claimed(self, task_id: str, counter: int, process_id: str) -> None:
        """A claim was granted: each counter of a task is granted once."""
        holder = self.claims.setdefault((task_id, counter), process_id)
        require(
            holder == process_id, f"{task_id}/{counter}: {holder} and {process_id} both hold it"
        )

    def flow_claimed(self, workflow_id: str, version: int, process_id: str) -> None:
        """A claim of a workflow's task was granted: each version is one process's."""
        holder = self.flow_claims.setdefault((workflow_id, version), process_id)
        require(
            holder == process_id,
            f"{workflow_id}/{version}: {holder} and {process_id} both hold it",
        )

    def lock_granted(self, resource_id: str, hold: Hold) -> None:
        """A lock was granted: it is nobody else's at any moment of that time.

        The answer may be late, so others' times may be before this one or after it.
        """
        holds = self.locks.setdefault(resource_id, {})
        for other in holds.values():
            require(
                other.execution_id == hold.execution_id
                or other.until_ms <= hold.since_ms
                or hold.until_ms <= other.since_ms,
                f"lock {resource_id}: {hold} although {other}",
            )
        holds[hold.execution_id] = hold

    def lock_let_go(self, resource_id: str, execution_id: str) -> None:
        """From the moment a release is sent, the lock may be somebody else's."""
        self.locks.get(resource_id, {}).pop(execution_id, None)
