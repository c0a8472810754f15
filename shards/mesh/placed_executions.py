"""What process 0, which places all executions, asks the groups that have them.

After its start it asks which executions nodes have. If a group was started again, or its word was
lost, process 0 names the executions that it has of this group, and asks which have ended. Otherwise
their slots would stay taken.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol, final

import structlog
import trio
from msgspec import Struct

from troth.core.executions import Execution, ExecutionPlan
from troth.core.model import Task
from troth.core.state.shard_state import ShardState
from troth.persistence.placement import ShardOf
from troth.shards.errors import ShardsError
from troth.shards.placement.placement import Placement

from .calls import ProcessCall, ProcessCalls, the_first

ENDED_SLICE_COUNT: Final = 500
"""Executions that are asked about at a time."""

RETRY_S: Final = 0.5

_log = structlog.get_logger("troth.mesh")


class KnownExecutions(Protocol):
    """The part of `shards.Shards` that is needed."""

    def states(self) -> list[ShardState]:
        """Return the states of this group's shards."""
        ...  # pragma: no cover

    def assigned_executions(self) -> list[tuple[Execution, Task]]:
        """Return the executions that nodes have."""
        ...  # pragma: no cover

    def unfinished_executions(self) -> Iterable[Execution]:
        """Return those that are not finished."""
        ...  # pragma: no cover


class AssignedExecution(Struct, frozen=True, array_like=True):
    """An execution that a node has; see `Placement.restore`."""

    promise_id: str
    counter: int
    plan: ExecutionPlan
    node_id: str
    order: int


class NodeOfBuild(Struct, frozen=True, array_like=True):
    """An unfinished execution needs a build; `node_id` is the node that has it, or empty."""

    build_id: str
    node_id: str


ASSIGNED: Final = ProcessCall("executions.assigned", type(None), list[AssignedExecution])
ENDED: Final = ProcessCall("executions.ended", list[str], list[str])
"""Which of these promises have no unfinished execution?"""
BUILDS: Final = ProcessCall("executions.builds", type(None), list[NodeOfBuild])
"""Which builds do unfinished executions need?"""


def answer_about_executions(calls: ProcessCalls, shards: KnownExecutions) -> None:
    """Answer what is asked of the executions of this process's group."""

    async def assigned(_process: int, _asked: None) -> list[AssignedExecution]:
        return [_assigned(*one) for one in shards.assigned_executions()]

    async def ended(_process: int, promise_ids: list[str]) -> list[str]:
        states = shards.states()
        return [one for one in promise_ids if not any(one in of.executions for of in states)]

    async def builds(_process: int, _asked: None) -> list[NodeOfBuild]:
        return _builds_of(shards)

    calls.handle(ASSIGNED, assigned)
    calls.handle(ENDED, ended)
    calls.handle(BUILDS, builds)


def _builds_of(shards: KnownExecutions) -> list[NodeOfBuild]:
    needed = {
        (one.plan.build_id, one.node_id)
        for one in shards.unfinished_executions()
        if one.plan.build_id
    }
    return [NodeOfBuild(build_id, node_id) for build_id, node_id in sorted(needed)]


def _assigned(execution: Execution, task: Task) -> AssignedExecution:
    return AssignedExecution(
        execution.promise_id,
        task.counter,
        execution.plan,
        execution.node_id,
        task.created_on or 0,
    )


async def builds_in_use(shards: KnownExecutions) -> Mapping[str, set[str]]:
    """Return the nodes that have executions of each build which is needed."""
    return _holders([_builds_of(shards)])


async def all_builds_in_use(calls: ProcessCalls) -> Mapping[str, set[str]]:
    """Do as `builds_in_use`, for all groups. Raises ShardsError."""
    found = await calls.call_all(BUILDS, None)
    error = the_first(found)
    if error is not None:
        raise error
    return _holders(one for one in found.values() if not isinstance(one, ShardsError))


def _holders(found: Iterable[Iterable[NodeOfBuild]]) -> Mapping[str, set[str]]:
    holders: dict[str, set[str]] = {}
    for part in found:
        for one in part:
            nodes = holders.setdefault(one.build_id, set())
            if one.node_id:
                nodes.add(one.node_id)
    return holders


@final
class PlacedExecutions:
    """Keeps placement, in process 0, true to what all groups have.

    `shard_of` finds a promise's shard, and `groups` has the group of each.
    """

    def __init__(
        self,
        calls: ProcessCalls,
        placement: Placement,
        shard_of: ShardOf,
        groups: tuple[int, ...],
    ) -> None:
        self._calls = calls
        self._placement = placement
        self._shard_of = shard_of
        self._groups = groups
        self._lost: set[int] = set()
        self._wanted = trio.Event()

    @property
    def others(self) -> Sequence[int]:
        """The other processes. Each has a group."""
        return self._calls.others

    def lost(self, process: int) -> None:
        """Note that a group may have told of ends in vain."""
        self._lost.add(process)
        self._wanted.set()

    async def run(self) -> None:
        """Ask groups whose word may be lost, until canceled."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            while self._lost:
                process = self._lost.pop()
                try:
                    await self.compare(process)
                except ShardsError as error:
                    _log.debug("a group is asked later", process=process, reason=str(error))
                    self._lost.add(process)
                    await trio.sleep(RETRY_S)

    async def compare(self, process: int) -> None:
        """Take up what nodes have of a group, and end what has ended there. Raises ShardsError.

        In this order: what ends after it was told to be with a node is among what is asked about.
        """
        assigned: list[AssignedExecution] = await self._calls.call(process, ASSIGNED, None)
        for one in assigned:  # what is known is left as it is
            self._placement.restore(one.promise_id, one.counter, one.plan, one.node_id, one.order)
        shard_of, groups = self._shard_of, self._groups
        known = [one for one in self._placement.promise_ids if groups[shard_of(one)] == process]
        for first in range(0, len(known), ENDED_SLICE_COUNT):
            some = known[first : first + ENDED_SLICE_COUNT]
            ended: list[str] = await self._calls.call(process, ENDED, some)
            self._placement.finished(ended)
