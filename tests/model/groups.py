"""A server of several groups, each asked in turn: it has to answer as one process does.

Its links are up all the time and take no time. What clients can do is compared; what operators see
of all groups together has tests of its own (`tests/shards/gathered`, `tests/http/processes`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from random import Random

import trio
import trio.testing

from tests.http.client import ManualClock
from tests.shards.mesh import world as mesh
from troth.core.commands import RetryTask, TaskNotSent, TaskSent
from troth.core.deciding import Options
from troth.core.grammar import task_ids
from troth.http.api.context import Api
from troth.http.api.dispatch import Dispatcher
from troth.http.documents.table import API_ENDPOINTS
from troth.http.settings.settings import Settings
from troth.http.web.feed import Feed
from troth.persistence.placement import dealt_shards
from troth.shards.delivery.polls import Polls
from troth.shards.held import HeldMessages

from .histories import History
from .operator_histories import OperatorHistory
from .pair import Start
from .wire import CLAIM_TIMEOUT_MS, OPERATOR_KEY, START_MS, URL, Delivery, Wire


class GroupsHistory(OperatorHistory):
    """A random run of what clients do, and of what operators do to one thing."""

    LEFT_OUT = frozenset(
        {
            *("run bulk job", "count", "give task back", "send task now", "send all now"),
            *("list tasks", "list locks", "list waiting", "show tree", "tell why", "break lock"),
        }
    )

    async def compare_all(self) -> None:
        """Compare what can be read."""
        await History.compare_all(self)


class GroupsWire(Wire):
    """The processes of a server, asked one after the other."""

    has_feed = is_ordered = False

    def __init__(
        self, processes: list[mesh.Process], apis: list[Api], clock: ManualClock, delivery: Delivery
    ) -> None:
        dispatchers = [Dispatcher(api, API_ENDPOINTS) for api in apis]
        super().__init__(dispatchers[0], clock, processes[0].shards, delivery, Feed(apis[0]))
        self._processes = processes
        self._dispatchers = dispatchers
        self._turns = count()

    def _server(self) -> tuple[Dispatcher, HeldMessages]:
        number = next(self._turns) % len(self._processes)
        return self._dispatchers[number], self._processes[number].shards.hold()

    async def _tell(self, command: TaskSent | TaskNotSent | RetryTask) -> None:
        shard = self.shard_of(task_ids.home(command.id))
        place = self._processes[0].place
        self._processes[place.groups[shard]].shards.tell(command)
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def running_groups(groups_count: int, shard_count: int) -> AsyncIterator[Wire]:
    """Several linked processes for the time of a `with` block. Needs a MockClock."""
    clock, delivery = ManualClock(START_MS), Delivery()
    options = Options(task_claim_timeout_ms=CLAIM_TIMEOUT_MS, time_zone="UTC")
    processes = [
        mesh.make_process(
            group,
            dealt_shards(shard_count, groups_count),
            options=options,
            sends_to=lambda _: delivery,
            clock=clock,
            now_s=lambda: 0.0,  # the clock of a test leaps, and silence is no matter here
        )
        for group in range(groups_count)
    ]
    apis = [_api_of(process, clock) for process in processes]
    luck = Random(0)
    async with trio.open_nursery() as nursery:
        for process in processes:
            await mesh.start(nursery, process, manual=False)
        for one in processes:
            for other in processes:
                if one is not other:
                    nursery.start_soon(mesh.Wire(one, other, luck, 0.0).run)
        await trio.testing.wait_all_tasks_blocked()
        assert all(link.is_up for one in processes for link in one.mesh.links.values())
        yield GroupsWire(processes, apis, clock, delivery)
        nursery.cancel_scope.cancel()


def starting(groups_count: int) -> Start:
    """Return what starts a server of so many groups."""
    return partial(running_groups, groups_count)


def _api_of(process: mesh.Process, clock: ManualClock) -> Api:
    api = Api(
        settings=Settings(),
        url=URL,
        shards=process.shards,
        polls=Polls(connections_limit_count=1, buffer_limit_count=1),
        hold=process.shards.hold,
        now_ms=clock.now_ms,
    )
    api.credentials.operator_key = OPERATOR_KEY
    return api
