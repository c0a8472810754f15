"""Placement: finds a node for every execution, and a moment for every call of an HTTP function.

To the shards it is what delivery is for other executions: it takes messages, reports `TaskSent`
when a node's stream has written one, and forgets an execution that is withdrawn or has ended. To
nodes it is the dispatcher of greencloud.md 12. What it promises:

- An execution is with at most one node at a time, and only with one that meets its function's
  demands, is its account's or shared, connected, and neither disabled, draining nor deleted.
- A node has at most as many executions as slots. A slot is taken when an execution is handed to its
  stream and free when its result has come in, the execution has ended, or the shards give it out
  again (returned, lost, not claimed in time).
- Between two events no execution waits while a node that could run it is free, but for accounts
  whose executions have more than 64 different requirements: the rest of these are compared with
  free nodes in slices.
`execution_queues.py` says which is next; for calls, `call_gates.py`.
- A message that was not written when its stream ended goes elsewhere.
- A node or call that still works on an execution that has ended is told immediately.
- An execution whose call ended before the shards gave it a lease is called again after a pause.
- Nothing of a disabled account starts; what has started goes on (`withheld.py`).

Nothing here is durable: after a restart the shards send again what waits, and `restore` says what
is running. Everything happens in one thread, and only the streams wait.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, final

import trio

from troth.core.catalog import Node
from troth.core.commands import Command, TaskSent
from troth.core.executions import Execution, ExecutionPlan, plan_of
from troth.core.grammar import task_ids
from troth.core.model import Task
from troth.core.replies import Message, TaskMessage
from troth.shards.alarms import Alarms

from .call_gates import CallGates
from .endings import Endings
from .execution_queues import ExecutionQueues
from .executions import Host, Need, NodePlace, PlacedExecution, Requirement, Stage
from .node_connections import NodeConnection, NodeMessage, NodeMessageKind
from .node_places import FreeNodes
from .withheld import Withheld

_REST_MS: Final = 1_000  # a node that gave an execution back gets none for this long
_LOOK_COUNT: Final = 50  # requirements compared with free nodes before others get their turn
_CALL_AGAIN_MS: Final = 1_000  # after a call that came to nothing
_ACCOUNTS_SHOWN_COUNT: Final = 20


@dataclass(frozen=True, slots=True)
class PlacementStatistics:
    """Counts of this moment, and totals since the start (`…_total_count`)."""

    waiting_count: int
    waiting_calls_count: int
    withheld_count: int
    oldest_waiting_ms: int
    running_count: int
    running_calls_count: int
    nodes_count: int
    nodes_connected_count: int
    nodes_free_count: int
    nodes_busy_count: int
    waiters_count: int
    placed_total_count: int
    replaced_total_count: int
    returned_total_count: int
    finished_total_count: int
    waiting_by_account: tuple[tuple[str, int], ...]
    """The accounts with most executions waiting, calls and what is withheld included, at most 20,
    most first.
    """
    running_by_account: tuple[tuple[str, int], ...]
    """The accounts with most executions running on nodes, at most 20, most first."""


@dataclass(frozen=True, slots=True)
class PlacementView:
    """Where one execution stands: which nodes could run it, or which host is called.

    With `is_withheld` its account is disabled.
    """

    stage: Stage
    is_withheld: bool
    host: str | None
    node_id: str | None
    suitable_count: int
    connected_count: int


class Calls:
    """The runner of HTTP functions: told when to begin, and when to stop. Neither blocks."""

    def begin(self, execution: PlacedExecution) -> None:
        """Call the function; `Placement.call_ended` is to be called when that is over."""
        raise NotImplementedError

    def stop(self, execution: PlacedExecution) -> None:
        """Stop a call whose result is no longer wanted."""
        raise NotImplementedError


@final
class Placement:
    """Every execution that is not finished, and every node."""

    def __init__(
        self,
        *,
        report: Callable[[Command], None],
        calls: Calls,
        endings: Endings,
        now_ms: Callable[[], int],
        calls_concurrency_count: int,
        calls_per_host_count: int,
    ) -> None:
        """Initialize. `report` puts a command into a mailbox, without blocking or raising."""
        self._report = report
        self._calls = calls
        self._endings = endings
        self._now_ms = now_ms
        self._executions: dict[str, PlacedExecution] = {}
        self._queues = ExecutionQueues()
        self._free = FreeNodes()
        self._nodes: dict[str, NodePlace] = {}
        self._gates = CallGates(
            calls.begin,
            concurrency_count=calls_concurrency_count,
            per_host_count=calls_per_host_count,
        )
        self._alarms = Alarms()
        self._withheld = Withheld(
            self._queues,
            self._gates,
            self._place_now,
            lambda action: self._alarms.call_after(0, action),
        )
        self._is_looking = False
        self._looked_for: tuple[str, Need] | None = None
        self._totals: Counter[str] = Counter()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do what is to be done later, until canceled."""
        task_status.started()
        await self._alarms.run()

    # What the shards tell

    def send(self, message: Message) -> None:
        """Take an execution that may run. What an earlier message of it led to is over."""
        assert isinstance(message, TaskMessage), "function tasks are REST's"
        task = message.task
        earlier = self._executions.get(task.root_id)
        if earlier is not None:
            if earlier.counter > task.counter:
                return
            self._forget(earlier)
        order = (task.created_on or 0, task.sequence, task.root_id)
        execution = PlacedExecution(task.root_id, task.counter, plan_of(task.receiver), order)
        self._executions[execution.promise_id] = execution
        self._place(execution)

    def withdraw(self, task_id: str) -> None:
        """Withdraw an execution's message: the execution was claimed, or has ended.

        A node that claimed it keeps the slot; `finished` reports that it ended.
        """
        name = task_ids.parse(task_id)
        execution = None if name is None else self._executions.get(name.root)
        if execution is None:
            return
        if execution.stage is Stage.QUEUED:
            self._forget(execution)
        elif isinstance(execution.need, Host):
            execution.stage = Stage.RUNNING
        elif execution.stage is Stage.HANDED:
            execution.stage = Stage.SENT  # claimed before we heard that it was written

    def finished(self, promise_ids: Iterable[str]) -> None:
        """Note that these executions have ended, durably, whatever ended them."""
        for promise_id in promise_ids:
            execution = self._executions.get(promise_id)
            if execution is not None:
                self._forget(execution)
            self._totals["finished"] += 1
            self._endings.ended(promise_id)

    def restore(
        self, promise_id: str, counter: int, plan: ExecutionPlan, node_id: str, order: int
    ) -> None:
        """Take up, after a start, an execution that a node has; its lease may still run."""
        node = self._nodes.get(node_id)
        if node is None or promise_id in self._executions:
            return
        execution = PlacedExecution(promise_id, counter, plan, (order, 0, promise_id))
        self._executions[promise_id] = execution
        self._queues.started(execution.account_id)
        self._give(node, execution)
        execution.stage = Stage.RUNNING

    @property
    def promise_ids(self) -> Collection[str]:
        """The promises of all executions that are not known to have ended."""
        return self._executions.keys()

    def restore_all(self, assigned: Iterable[tuple[Execution, Task]]) -> None:
        """Take up, after a start, all that `Shards.assigned_executions` has found."""
        for execution, task in assigned:
            self.restore(
                execution.promise_id,
                task.counter,
                execution.plan,
                execution.node_id,
                task.created_on or 0,
            )

    # What is told about accounts

    def withhold(self, account_ids: Collection[str] | None) -> None:
        """Start no executions of these accounts from now on; all others may start.

        None, for all accounts, comes before the first execution. What waits moves in slices.
        Executions on their way to a node are taken back where they would be written.
        """
        self._withheld.change(account_ids)

    def _take_back(self, execution: PlacedExecution) -> bool:
        """Take an execution back that is about to be written, if it may not start; whether so."""
        if execution.stage is not Stage.HANDED:
            return False  # a node has claimed it unasked
        if not self._withheld.is_disabled(execution.account_id):
            return False
        node = self._release(execution)
        assert node is not None, "what is handed out is with a node"
        execution.stage = Stage.QUEUED
        self._withheld.put(execution)
        self._fill(node)
        return True

    # What the nodes' endpoints tell and ask

    @property
    def nodes(self) -> Mapping[str, NodePlace]:
        """The nodes of the catalog, by id; not to be changed."""
        return self._nodes

    def put_node(self, entry: Node) -> None:
        """Store a node that was registered or changed."""
        node = self._nodes.get(entry.id)
        if node is None:
            self._nodes[entry.id] = NodePlace(entry)
            return
        before = node.entry
        if before.revision > entry.revision:
            return  # two changes at a time: the later one is known already
        self._free.discard(node)
        node.take(entry)
        if entry.deleted and node.connection is not None:
            node.connection.close()
        if entry.disabled and not before.disabled:
            self._tell(node, NodeMessage(NodeMessageKind.DISABLE))
        if entry.draining and not before.draining:
            self._tell(node, NodeMessage(NodeMessageKind.DRAIN))
        self._fill(node)

    def connect(self, node_id: str) -> NodeConnection[PlacedExecution]:
        """Take the place of a node's stream; an older one ends. The node must be known."""
        node = self._nodes[node_id]
        older = node.connection
        connection = NodeConnection(
            self._written,
            lambda closed, unsent: self._left(node, closed, unsent),
            self._take_back,
        )
        node.connection = connection
        connection.put(NodeMessage(NodeMessageKind.HELLO))
        if node.entry.disabled:
            connection.put(NodeMessage(NodeMessageKind.DISABLE))
        if node.entry.draining:
            connection.put(NodeMessage(NodeMessageKind.DRAIN))
        if older is not None:
            older.close()
        self._fill(node)
        return connection

    def find_with(self, node_id: str, promise_id: str, counter: int) -> PlacedExecution | None:
        """Return an execution if this node was given it and still has it unchanged."""
        found = self._executions.get(promise_id)
        if found is None or found.counter != counter or found.node is None:
            return None
        return found if found.node.id == node_id else None

    def take_along(self, node_id: str, count: int) -> list[PlacedExecution]:
        """Take executions that wait for a node's stream; `assigned` or `not_assigned` follows."""
        connection = self._nodes[node_id].connection
        return [] if connection is None else connection.take_along(count)

    def not_assigned(self, executions: list[PlacedExecution]) -> None:
        """Note that the node has no lease of what was taken along: it goes out again later."""
        self._written([one for one in executions if self._executions.get(one.promise_id) is one])

    def assigned(self, promise_id: str, counter: int) -> None:
        """Note that the node has the execution's lease."""
        execution = self._executions.get(promise_id)
        if execution is not None and execution.counter == counter:
            execution.stage = Stage.RUNNING

    def ending(self, promise_id: str, counter: int, *, is_ending: bool = True) -> None:
        """Note that its node or call has a result, or (False) that it has none after all.

        A node's slot is free from here on. Without a result it must be told of the execution's end.
        """
        execution = self._executions.get(promise_id)
        if execution is None or execution.counter != counter:
            return
        execution.is_ending = is_ending
        node = execution.node
        if node is None or (promise_id in node.ending) is is_ending:
            return
        if is_ending:
            node.ending.add(promise_id)
            self._queues.ended(execution.account_id)
        else:
            node.ending.remove(promise_id)
            self._queues.started(execution.account_id)
        self._fill(node)

    def returned(self, node_id: str, promise_id: str, counter: int) -> None:
        """Take an execution back from a node, which then rests a moment."""
        if self.find_with(node_id, promise_id, counter) is None:
            return
        self._totals["returned"] += 1
        self._executions[promise_id].is_ending = True
        node = self._nodes[node_id]
        if not node.is_resting:
            self._free.discard(node)
            node.is_resting = True
            self._alarms.call_after(_REST_MS, lambda: self._rested(node))

    def call_ended(self, execution: PlacedExecution) -> None:
        """Note that the call of an HTTP function is over, whatever became of its task.

        If that has not ended and has a lease, the shards send it again when the lease runs out.
        Without one they take it to be on its way, and no timer of theirs would bring it back.
        """
        self._gates.ended(execution)
        if self._executions.get(execution.promise_id) is not execution:
            return
        if execution.stage is Stage.RUNNING:
            del self._executions[execution.promise_id]
        else:
            execution.is_ending = True  # no call is to be stopped
            self._alarms.call_after(_CALL_AGAIN_MS, lambda: self._call_again(execution))

    def _call_again(self, execution: PlacedExecution) -> None:
        if self._executions.get(execution.promise_id) is not execution:
            return
        if execution.stage is Stage.RUNNING:  # it was given its lease in the meantime
            del self._executions[execution.promise_id]
            return
        execution.is_ending = False
        execution.stage = Stage.QUEUED
        self._place(execution)

    # What is asked for limits and for people

    def look(self, promise_id: str) -> PlacementView | None:
        """Return where an execution stands; None if placement does not have it. Looks at each
        node."""
        execution = self._executions.get(promise_id)
        if execution is None:
            return None
        need = execution.need
        suitable = [
            node
            for node in self._nodes.values()
            if not node.entry.deleted
            and node.pool in (None, execution.account_id)
            and node.offer.meets(need)
        ]
        return PlacementView(
            stage=execution.stage,
            is_withheld=execution.stage is Stage.QUEUED
            and self._withheld.is_disabled(execution.account_id),
            host=need.name if isinstance(need, Host) else None,
            node_id=None if execution.node is None else execution.node.id,
            suitable_count=len(suitable),
            connected_count=sum(node.is_available for node in suitable),
        )

    def waiting_count(self, account_id: str) -> int:
        """Return how many executions of an account wait for a node or a call."""
        return (
            self._queues.queued_count(account_id)
            + self._gates.waiting_count_of(account_id)
            + self._withheld.count_of(account_id)
        )

    def oldest_waiting_ms(self, account_id: str | None = None) -> int:
        """Return how long the oldest waiting execution of one account or of all has waited; 0 if
        none does.
        """
        places = (self._queues, self._gates, self._withheld)
        oldest = [place.oldest(account_id) for place in places]
        orders = [execution.order for execution in oldest if execution is not None]
        return max(0, self._now_ms() - min(orders)[0]) if orders else 0

    def statistics(self) -> PlacementStatistics:
        """Return counts of this moment and totals since the start."""
        nodes = [node for node in self._nodes.values() if not node.entry.deleted]
        calls_waiting_count = self._gates.waiting_count
        return PlacementStatistics(
            waiting_count=len(self._queues),
            waiting_calls_count=calls_waiting_count,
            withheld_count=len(self._withheld),
            oldest_waiting_ms=self.oldest_waiting_ms(),
            running_count=sum(len(node.executions) for node in nodes),
            running_calls_count=self._gates.running_count,
            nodes_count=len(nodes),
            nodes_connected_count=sum(node.is_available for node in nodes),
            nodes_free_count=len(self._free),
            nodes_busy_count=sum(bool(node.executions) for node in nodes),
            waiters_count=self._endings.waiting_count,
            placed_total_count=self._totals["placed"],
            replaced_total_count=self._totals["replaced"],
            returned_total_count=self._totals["returned"],
            finished_total_count=self._totals["finished"],
            waiting_by_account=_largest(self._waiting_counts()),
            running_by_account=_largest(
                {account_id: running for account_id, _, running in self._queues.counts()}
            ),
        )

    def _waiting_counts(self) -> dict[str, int]:
        counts = self._gates.waiting_counts()
        for account_id, waiting_count, _ in self._queues.counts():
            counts[account_id] = counts.get(account_id, 0) + waiting_count
        for account_id, waiting_count in self._withheld.counts():
            counts[account_id] = counts.get(account_id, 0) + waiting_count
        return counts

    # Placing

    def _place(self, execution: PlacedExecution) -> None:
        """Give an execution to a free node, or let it wait."""
        if self._withheld.reaches(execution.account_id):
            self._withheld.put(execution)
        else:
            self._place_now(execution)

    def _place_now(self, execution: PlacedExecution) -> None:
        need = execution.need
        if isinstance(need, Host):
            self._gates.put(execution)
            return
        node = None
        # Where one waits already, no free node would do: so nothing is searched a second time.
        if not self._queues.is_waiting(execution.account_id, need):
            node = self._find(execution.account_id, need)
        if node is None:
            self._queues.put(execution)
        else:
            self._queues.started(execution.account_id)
            self._hand(node, execution)

    def _find(self, account_id: str, need: Requirement) -> NodePlace | None:
        return self._free.find(account_id, need)

    def _fill(self, node: NodePlace) -> None:
        """Give a node executions that wait, as many as it has room for."""
        becomes_free = self._queues.has_behind and node not in self._free
        while node.has_room:
            execution = self._queues.take(node.offer.meets, node.pool)
            if execution is None:
                self._free.add(node)
                if becomes_free:
                    self._queues.begin_round()
                    if not self._is_looking:
                        self._is_looking = True
                        self._alarms.call_after(0, self._look_behind)
                return
            self._hand(node, execution)
        self._free.discard(node)

    def _look_behind(self) -> None:
        """Compare what is not shown with the free nodes: a slice, or until a node is filled."""
        for _ in range(_LOOK_COUNT):
            looked_for = self._looked_for or self._queues.next_behind()
            if looked_for is None:
                self._is_looking = False
                return
            account_id, need = looked_for
            node = None
            if self._queues.show(account_id, need):
                assert isinstance(need, Requirement)
                node = self._find(account_id, need)
            if node is not None:
                self._looked_for = looked_for  # more may wait for it than this node has room for
                self._fill(node)
                break
            self._looked_for = None
        self._alarms.call_after(0, self._look_behind)

    def _hand(self, node: NodePlace, execution: PlacedExecution) -> None:
        assert execution.stage is Stage.QUEUED
        assert node.connection is not None
        self._totals["placed"] += 1
        execution.stage = Stage.HANDED
        self._give(node, execution)
        node.connection.put(
            NodeMessage(NodeMessageKind.RUN, execution.id, execution.counter), execution
        )

    def _give(self, node: NodePlace, execution: PlacedExecution) -> None:
        """Take a slot."""
        execution.node = node
        node.executions[execution.promise_id] = execution
        if node.has_room:
            self._free.add(node)
        else:
            self._free.discard(node)

    def _release(self, execution: PlacedExecution) -> NodePlace | None:
        """Free a slot; the node, which the caller fills."""
        node, execution.node = execution.node, None
        if node is not None:
            del node.executions[execution.promise_id]
            if execution.promise_id in node.ending:
                node.ending.remove(execution.promise_id)
            else:
                self._queues.ended(execution.account_id)
        return node

    def _written(self, executions: list[PlacedExecution]) -> None:
        """Note that the node's stream has written these to its socket."""
        for execution in executions:
            if execution.stage is Stage.HANDED:
                execution.stage = Stage.SENT
                self._report(TaskSent(execution.task_id, execution.counter))

    def _left(
        self,
        node: NodePlace,
        connection: NodeConnection[PlacedExecution],
        unsent: list[PlacedExecution],
    ) -> None:
        """Handle the end of a stream: what it had not written goes elsewhere."""
        if node.connection is connection:
            self._free.discard(node)
            node.connection = None
        returned = [execution for execution in unsent if execution.stage is Stage.HANDED]
        for execution in returned:
            self._release(execution)
            execution.stage = Stage.QUEUED
        for execution in returned:
            self._totals["replaced"] += 1
            self._place(execution)
        self._fill(node)

    def _rested(self, node: NodePlace) -> None:
        node.is_resting = False
        self._fill(node)

    def _forget(self, execution: PlacedExecution) -> None:
        """Forget an execution that is over or lost; tell its node, which has room again."""
        del self._executions[execution.promise_id]
        if execution.stage is Stage.QUEUED:
            if self._withheld.holds(execution):
                self._withheld.remove(execution)
            elif isinstance(execution.need, Host):
                self._gates.remove(execution)
            else:
                self._queues.remove(execution)
            return
        if isinstance(execution.need, Host):
            if not execution.is_ending:
                self._calls.stop(execution)
            return
        node = self._release(execution)
        assert node is not None, "a task that is not queued is with a node"
        connection = node.connection
        was_unread = connection is not None and connection.discard(execution)
        if not was_unread and not execution.is_ending:
            self._tell(node, NodeMessage(NodeMessageKind.CANCEL, execution.id, execution.counter))
        self._fill(node)

    def _tell(self, node: NodePlace, message: NodeMessage) -> None:
        if node.connection is not None:
            node.connection.put(message)


def _largest(counts: dict[str, int]) -> tuple[tuple[str, int], ...]:
    rows = [(account_id, count) for account_id, count in counts.items() if count]
    rows.sort(key=lambda row: (-row[1], row[0]))
    return tuple(rows[:_ACCOUNTS_SHOWN_COUNT])
