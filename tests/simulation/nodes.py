"""Simulated nodes that run functions, and hosts that HTTP functions call.

They are told what to run by placement's streams, and assign, report on, return and finish tasks by
requests, to which `node_endpoints.py` is the server's side.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import trio

from troth.core.catalog import EXECUTION_PREFIX, Node
from troth.core.codes import Code
from troth.core.commands import AssignExecution, FinishExecution, ReportExecution, ReturnExecution
from troth.core.grammar.task_ids import invoke_id
from troth.core.limits import NODE_HEARTBEAT_MS, NODE_LEASE_MS
from troth.core.model import PromiseState, Value
from troth.shards.placement.executions import PlacedExecution
from troth.shards.placement.node_connections import ConnectionEnded, NodeMessage, NodeMessageKind

from .ledger import require
from .node_endpoints import SERVER_NODE_ID
from .node_entries import NODES
from .server import Server, Unreachable
from .workers import DiedError
from .world import World


class _Run:
    """One function task on a node, or one call."""

    def __init__(self, world: World, node_id: str, promise_id: str, counter: int) -> None:
        self._world = world
        self._node_id = node_id
        self.promise_id = promise_id
        self._task_id = invoke_id(promise_id)
        self.counter = counter
        self._random = world.random(f"{node_id} {promise_id} {counter}")
        self.scope = trio.CancelScope()
        self.is_over = False

    async def assign(self) -> bool:
        """Take the lease; whether this node has it now."""
        command = AssignExecution(self._task_id, self.counter, self._node_id, NODE_LEASE_MS)
        reply = await self._world.ask(self._node_id, command, self._random)
        if reply.code not in (Code.OK, Code.CREATED):
            return False
        self._world.ledger.claimed(self._task_id, self.counter, self._node_id)
        return True

    async def report(self, *, is_silent: bool) -> None:
        """Renew the lease until told otherwise."""
        while not is_silent:
            await trio.sleep(NODE_HEARTBEAT_MS / 1000)
            command = ReportExecution(self._task_id, self.counter, self._node_id, 50)
            try:
                reply = await self._world.ask(self._node_id, command, self._random)
            except Unreachable:
                continue
            if reply.code is not Code.OK:
                self.scope.cancel()

    async def give_back(self) -> None:
        """Return the task undone."""
        command = ReturnExecution(self._task_id, self.counter, self._node_id)
        await self._world.insist(self._node_id, command, self._random)

    async def finish(self) -> None:
        """Say the result, again and again until it is heard."""
        value = Value({"troth:status": "200"}, f"{self._node_id}/{self.counter}")
        state = PromiseState.RESOLVED
        command = FinishExecution(self._task_id, self.counter, self._node_id, state, value)
        reply = await self._world.insist(self._node_id, command, self._random)
        if reply.code is Code.CREATED:
            self._world.ledger.executed.add(self.promise_id)


class _Node:
    """One node's life."""

    def __init__(self, world: World, entry: Node) -> None:
        self._world = world
        self.id = entry.id
        self._slots_count = entry.slots_count
        self._random = world.random(entry.id)
        self._running: dict[str, _Run] = {}
        self._held: dict[_Run, None] = {}

    async def live(self) -> None:
        """Serve streams until it dies. Raises DiedError."""
        async with trio.open_nursery() as nursery:
            while True:
                server = await self._world.first_process.serves()
                try:
                    async with server.connection():
                        await self._serve(server, nursery)
                except (Unreachable, ConnectionEnded):
                    await trio.sleep(self._random.uniform(0.1, 1))

    async def _serve(self, server: Server, nursery: trio.Nursery) -> None:
        connection = server.placement.connect(self.id)
        try:
            while True:
                orders = await connection.receive()
                await trio.sleep(self._random.expovariate(1 / 0.002))
                if self._world.faults.strikes("stream_ends"):
                    return
                connection.confirm()
                for order in orders:
                    self._obey(order, nursery)
        finally:
            connection.close()

    def _obey(self, order: NodeMessage, nursery: trio.Nursery) -> None:
        promise_id = EXECUTION_PREFIX + order.execution_id
        if order.kind is NodeMessageKind.RUN:
            known = self._running.get(promise_id)
            if known is not None and known.counter == order.counter and not known.is_over:
                return  # as a node does (`node/agent.py`); the next owner of a group asks again
            run = _Run(self._world, self.id, promise_id, order.counter)
            self._running[promise_id] = run
            nursery.start_soon(self._execute, run)
        elif order.kind is NodeMessageKind.CANCEL and promise_id in self._running:
            self._running[promise_id].scope.cancel()

    async def _execute(self, run: _Run) -> None:
        try:
            await self._carry_out(run)
        finally:
            run.is_over = True

    async def _carry_out(self, run: _Run) -> None:
        faults = self._world.faults
        self._maybe_die()
        with run.scope:
            try:
                if not await run.assign():
                    return
            except Unreachable:
                return  # the lease, if there is one, runs out
            if faults.strikes("node_returns"):
                await run.give_back()
                return
            with self._holding(run):
                async with trio.open_nursery() as nursery:
                    is_silent = faults.strikes("node_silent")
                    nursery.start_soon(lambda: run.report(is_silent=is_silent))
                    await trio.sleep(self._random.expovariate(1))
                    if is_silent:
                        await trio.sleep(1.5 * NODE_LEASE_MS / 1000)
                    self._maybe_die()
                    nursery.cancel_scope.cancel()
            await run.finish()

    @contextmanager
    def _holding(self, run: _Run) -> Iterator[None]:
        """Hold a task for a block: of those that are this node's, no more than it has slots."""
        self._held[run] = None
        is_with_node = self._world.watch.is_with_node
        held = [
            one.promise_id
            for one in self._held
            if is_with_node(one.promise_id, one.counter, self.id)
        ]
        require(
            len(held) <= self._slots_count,
            f"{self.id} has {len(held)} function tasks in {self._slots_count} slots: {held}",
        )
        try:
            yield
        finally:
            del self._held[run]

    def _maybe_die(self) -> None:
        if self._world.faults.strikes("node_dies"):
            raise DiedError


async def run_node(world: World, number: int) -> None:
    """A machine on which a node always comes back."""
    random = world.random(f"machine {number}")
    while True:
        node = _Node(world, NODES[number])
        try:
            await node.live()
        except* DiedError:
            world.trace.note(node.id, "dies")
            await trio.sleep(random.uniform(0.5, 20))


async def run_hosts(world: World) -> None:
    """The server's part of calling functions over HTTP, and the hosts it calls."""
    async with trio.open_nursery() as nursery:

        async def call(server: Server, execution: PlacedExecution, random: Random) -> None:
            run = _Run(world, SERVER_NODE_ID, execution.promise_id, execution.counter)
            try:
                async with server.connection():
                    if await run.assign():
                        await trio.sleep(random.expovariate(1 / 0.5))
                        if world.faults.strikes("call_hangs"):
                            await trio.sleep(20)
                        await run.finish()
            except Unreachable:
                world.trace.note("host", f"the call of {execution.id} is over")
            finally:
                server.placement.call_ended(execution)

        def begin(server: Server, execution: PlacedExecution) -> None:
            nursery.start_soon(
                call, server, execution, world.random(f"call {execution.id}/{execution.counter}")
            )

        world.begin_call = begin
        await trio.sleep_forever()
