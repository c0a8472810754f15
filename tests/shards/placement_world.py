"""A placement with everything around it played by the test: shards, nodes and calls.

`World` sends tasks as the shards would, reads nodes' streams as sockets would, and checks after
every event what placement promises (`check`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from troth.core.catalog import Capabilities, FunctionKind, Language, Node, execution_promise_id
from troth.core.commands import Command, TaskSent
from troth.core.executions import ExecutionPlan, receiver_of
from troth.core.grammar.task_ids import invoke_id
from troth.core.model import Task, TaskKind, replace
from troth.core.replies import TaskMessage
from troth.shards.placement.endings import Endings
from troth.shards.placement.executions import PlacedExecution, Requirement, Stage
from troth.shards.placement.node_connections import NodeConnection, NodeMessage, NodeMessageKind
from troth.shards.placement.placement import Calls, Placement


class FakeCalls(Calls):
    """Calls that begin and stop when told so, and end when the test says."""

    def __init__(self) -> None:
        self.begun: list[PlacedExecution] = []
        self.stopped: list[PlacedExecution] = []

    def begin(self, execution: PlacedExecution) -> None:
        """Remember it."""
        self.begun.append(execution)

    def stop(self, execution: PlacedExecution) -> None:
        """Remember it."""
        self.stopped.append(execution)


@dataclass
class FakeNode:
    """A node's end of its stream: what it was told, and what it runs by its own lights."""

    id: str
    connection: NodeConnection[PlacedExecution] | None = None
    told: list[NodeMessage] = field(default_factory=list)

    def read(self) -> list[NodeMessage]:
        """Take what waits, as the socket would, without waiting; `confirm` comes separately."""
        assert self.connection is not None
        messages = self.connection.take()
        self.told += messages
        return messages

    def take(self) -> list[NodeMessage]:
        """Take what waits and have it confirmed."""
        messages = self.read()
        assert self.connection is not None
        self.connection.confirm()
        return messages

    def runs(self) -> list[str]:
        """The executions it was ever told to run, in order."""
        return [
            message.execution_id for message in self.told if message.kind is NodeMessageKind.RUN
        ]

    def cancels(self) -> list[tuple[str, int]]:
        """The executions it was ever told to stop."""
        return [
            (message.execution_id, message.counter)
            for message in self.told
            if message.kind is NodeMessageKind.CANCEL
        ]


class World:
    """Placement among fakes. `sent` are the reports that shards got."""

    def __init__(self, *, calls_count: int = 8, calls_per_host_count: int = 2) -> None:
        self.calls = FakeCalls()
        self.endings = Endings(limit_count=3)
        self.sent: list[TaskSent] = []
        self.plans: dict[str, ExecutionPlan] = {}
        self.tasks: dict[str, Task] = {}
        self.nodes: dict[str, FakeNode] = {}
        self.now_ms = 1_000
        self._sequence = 0
        self.placement = Placement(
            report=self._report,
            calls=self.calls,
            endings=self.endings,
            now_ms=lambda: self.now_ms,
            calls_concurrency_count=calls_count,
            calls_per_host_count=calls_per_host_count,
        )

    def _report(self, command: Command) -> None:
        assert isinstance(command, TaskSent)
        self.sent.append(command)

    # Shards

    def create(
        self, name: str, account: str = "a", *, url: str | None = None, **wanted: int | bool
    ) -> str:
        """Create a function task and send it; its promise id. `wanted` are its capabilities."""
        promise_id = execution_promise_id(name)
        capabilities = Capabilities(**wanted)  # type: ignore[arg-type]  # names checked by the class
        self.plans[promise_id] = ExecutionPlan(
            account,
            f"function of {account}",
            FunctionKind.HTTP if url else FunctionKind.CODE,
            capabilities,
            language=None if url else Language.PYTHON,
            url=url,
        )
        self._sequence += 1
        self.now_ms += 1
        self.tasks[promise_id] = Task(
            invoke_id(promise_id),
            TaskKind.INVOKE,
            promise_id,
            promise_id,
            receiver_of(self.plans[promise_id]),
            2**62,
            self._sequence,
            self.now_ms,
        )
        self.send(promise_id)
        return promise_id

    def send(self, promise_id: str) -> None:
        """Send a task as it is now."""
        self.placement.send(TaskMessage(self.tasks[promise_id].copy()))

    def again(self, promise_id: str) -> None:
        """Give a task out anew, as after a lapse, a return or a claim timeout."""
        self.tasks[promise_id].counter += 1
        self.send(promise_id)

    def claim(self, promise_id: str) -> None:
        """Give a task its lease: its message is withdrawn."""
        self.placement.withdraw(invoke_id(promise_id))

    def finish(self, promise_id: str) -> None:
        """End a task."""
        del self.tasks[promise_id]
        self.placement.finished([promise_id])

    # Nodes

    def node(
        self,
        name: str,
        account: str = "a",
        *,
        slots: int = 1,
        shared: bool = False,
        connected: bool = True,
        **offers: int | bool,
    ) -> FakeNode:
        """Register a node, and connect it unless told not to."""
        capabilities = Capabilities(**offers)  # type: ignore[arg-type]  # as above
        self.placement.put_node(
            Node(
                name,
                1,
                0,
                account,
                languages=(Language.PYTHON,),
                offers=capabilities,
                slots_count=slots,
                shared=shared,
            )
        )
        made = self.nodes[name] = FakeNode(name)
        if connected:
            self.connect(made)
        return made

    def connect(self, node: FakeNode) -> None:
        """Open the node's stream."""
        node.connection = self.placement.connect(node.id)

    def change(self, node: FakeNode, **changes: object) -> None:
        """Change the node's entry."""
        entry = self.placement.nodes[node.id].entry
        self.placement.put_node(replace(entry, revision=entry.revision + 1, **changes))

    def place_of(self, promise_id: str) -> str | None:
        """The node that placement thinks a task is with."""
        execution = self.placement._executions.get(promise_id)
        return None if execution is None or execution.node is None else execution.node.id

    # What must always hold

    def check(self) -> None:
        """Compare placement with its promises, the slow way."""
        placement = self.placement
        with_nodes: dict[str, str] = {}
        for node in placement.nodes.values():
            assert node.ending <= node.executions.keys()
            assert len(node.executions) - len(node.ending) <= node.entry.slots_count
            for promise_id, execution in node.executions.items():
                assert promise_id not in with_nodes, "with two nodes at a time"
                with_nodes[promise_id] = node.id
                assert execution.node is node
                assert execution.stage is not Stage.QUEUED
                assert node.offer.meets(execution.need)
                assert node.pool in (None, execution.account_id)
        waiting = [
            execution
            for execution in placement._executions.values()
            if execution.stage is Stage.QUEUED
            and isinstance(execution.need, Requirement)
            and not placement._withheld.holds(execution)
        ]
        assert len(waiting) == len(placement._queues)
        free = [node for node in placement.nodes.values() if node.has_room]
        assert len(free) == len(placement._free)
        for execution in waiting:
            if execution.account_id in placement._withheld._gathered:
                continue
            for node in free:
                assert not (
                    node.offer.meets(execution.need) and node.pool in (None, execution.account_id)
                )
        for account_id, waiting_count, running_count in placement._queues.counts():
            assert waiting_count == sum(execution.account_id == account_id for execution in waiting)
            assert running_count == sum(
                execution.account_id == account_id
                for node in placement.nodes.values()
                for promise_id, execution in node.executions.items()
                if promise_id not in node.ending
            )
        assert set(placement._executions) == set(self.tasks)


@asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    """What placement does later is done, as time passes."""
    async with trio.open_nursery() as nursery:
        await nursery.start(world.placement.run)
        yield
        nursery.cancel_scope.cancel()
