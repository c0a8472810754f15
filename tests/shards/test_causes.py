"""What one pending promise waits for, with delivery, streams and placement as a test says."""

from dataclasses import dataclass, field, replace

import pytest

from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.codes import Code
from troth.core.grammar.addresses import Address, Undeliverable, resolve
from troth.core.model import Json
from troth.shards.delivery.dialects import Dialect
from troth.shards.delivery.polls import Polls
from troth.shards.delivery.shipments import ShipmentState, ShipmentView
from troth.shards.placement.executions import Stage as Placed
from troth.shards.placement.placement import PlacementView
from troth.shards.surveys.causes import Causes
from troth.shards.surveys.rows import Cause, Reason

from .stage import EPOCH_MS, FAR_MS, Stage, settle, stage
from .test_functions import create, task_of

PUSH = "http://worker.test/"
INVOKE = {"resonate:invoke": PUSH}
TARGET = {"resonate:target": PUSH}
STALLED = ShipmentView(ShipmentState.STALLED, 3, "refused", 500, None)


@dataclass
class Sendings:
    """Delivery that knows of messages what a test says."""

    views: dict[str, ShipmentView] = field(default_factory=dict)

    def look(self, key: str) -> ShipmentView | None:
        return self.views.get(key)

    def resolve(self, receiver: Json) -> Address | Undeliverable:
        return resolve(receiver, {})

    def retry(self, key: str) -> bool:
        raise AssertionError(key)


@dataclass
class Places:
    """Placement that knows of executions what a test says."""

    view: PlacementView | None = None

    def look(self, promise_id: str) -> PlacementView | None:
        assert promise_id
        return self.view


@dataclass
class Asked:
    """Shards, and what is known around them."""

    stage: Stage
    sendings: Sendings = field(default_factory=Sendings)
    places: Places = field(default_factory=Places)
    polls: Polls = field(
        default_factory=lambda: Polls(connections_limit_count=9, buffer_limit_count=1)
    )

    def created_on(self, promise_id: str) -> int:
        """When it was created."""
        shards = self.stage.shards
        return shards.states()[shards.shard_of(promise_id)].promises[promise_id].created_on

    def cause(self, promise_id: str) -> Cause:
        """What the promise itself says."""
        shards = self.stage.shards
        causes = Causes(shards, self.sendings, self.polls, self.places)
        state = shards.states()[shards.shard_of(promise_id)]
        found = causes.look(state, state.promises[promise_id], EPOCH_MS).cause
        assert found is not None
        return found


@pytest.mark.parametrize(
    ("view", "reason", "at"),
    [
        (None, Reason.SENDING, None),
        (ShipmentView(ShipmentState.WAITING, 0, None, None, None), Reason.SENDING, None),
        (STALLED, Reason.RECEIVER_FAILS, EPOCH_MS + 500),
    ],
)
async def test_a_push_that_fails(view: ShipmentView | None, reason: Reason, at: int | None) -> None:
    async with stage(1, direct=True) as s:
        asked = Asked(s)
        await s.shards.ask(c.CreatePromise("p", FAR_MS, tags=INVOKE))
        if view is not None:
            asked.sendings.views["__invoke:p"] = view

        cause = asked.cause("p")

        assert (cause.reason, cause.at) == (reason, at)
        if view is STALLED:
            assert (cause.detail, cause.since) == ("refused", asked.created_on("p"))
            assert cause.task is not None
            assert cause.task.sending.failed_count == 3
            asked.sendings.views["__invoke:p"] = replace(STALLED, failing_since_ms=7)
            assert asked.cause("p").since == 7


async def test_what_became_of_the_message_of_a_task() -> None:
    async with stage(1, direct=True) as s:
        asked = Asked(s)
        await s.shards.ask(c.CreatePromise("p", FAR_MS, tags=INVOKE))
        s.shards.tell(c.TaskSent("__invoke:p", 1))
        await settle()
        cause = asked.cause("p")
        assert (cause.reason, cause.what, cause.group) == (Reason.SENT, "claim", None)
        reply = await s.shards.ask(c.ClaimTask("__invoke:p", 1, "x", 1_000))
        assert reply.code is Code.CREATED
        cause = asked.cause("p")
        # Whether the receiver of pushes is there cannot be known.
        assert (cause.reason, cause.is_connected, cause.what) == (Reason.HELD, None, "lease")


@dataclass(eq=False)
class Text:
    """A message that waits in a stream."""

    dialect: Dialect

    def body(self) -> bytes:
        return b"text"


@pytest.mark.parametrize("tag", ["resonate:invoke", "resonate:target"])
async def test_what_is_wrong_with_the_streams_that_a_message_goes_to(tag: str) -> None:
    """None listens to the group, not the one that is named, none of its protocol, all are full."""
    dialects = [Dialect.REST, Dialect.ENVELOPE]
    own, other = dialects if tag == "resonate:invoke" else dialects[::-1]
    async with stage(1, direct=True) as s:
        asked = Asked(s)
        for name, address in (("any", "poll://any@g"), ("one", "poll://uni@g/1")):
            await s.shards.ask(c.CreatePromise(name, FAR_MS, tags={tag: address}))

        def reasons() -> list[Reason]:
            return [asked.cause(name).reason for name in ("any", "one")]

        asked.polls.connect("h", "1")
        assert reasons() == [Reason.NO_LISTENER] * 2
        assert asked.cause("any").connected_groups == ("h",)
        asked.polls.connect("g", "2", other)
        assert reasons() == [Reason.OTHER_PROTOCOL, Reason.NOT_CONNECTED]
        asked.polls.connect("g", "1", own)
        assert reasons() == [Reason.SENDING] * 2
        assert asked.polls.put(Text(own), "g", "1", exact=True)
        assert reasons() == [Reason.LISTENERS_FULL] * 2
        assert asked.cause("one").connection_id == "1"


async def test_a_receiver_that_is_no_address_is_said_to_be_none() -> None:
    async with stage(1, direct=True) as s:
        for name, tag in (("r", "resonate:invoke"), ("e", "resonate:target")):
            await s.shards.ask(c.CreatePromise(name, FAR_MS, tags={tag: "nowhere"}))
            cause = Asked(s).cause(name)
            assert cause.reason is Reason.UNDELIVERABLE
            assert "http" in cause.detail, "it says what would be one"


async def test_a_workflow_whose_message_was_sent_is_offered_again_unless_it_is_claimed() -> None:
    async with stage(1, direct=True) as s:
        asked = Asked(s)
        await s.shards.ask(c.CreatePromise("w", FAR_MS, tags=TARGET))
        s.shards.tell(w.ExecuteSent("w", 0))
        await settle()
        cause = asked.cause("w")
        assert (cause.reason, cause.what) == (Reason.SENT, "claim")
        assert cause.at is not None
        # Nobody claims it, so it waits a while before it is sent again.
        await s.shards.ask(w.AcquireWorkflow("w", 0, "worker", 60_000))
        await s.shards.ask(w.ReleaseWorkflow("w", 1))
        assert asked.cause("w").reason is Reason.SENDING


async def test_a_task_that_is_to_be_sent_later() -> None:
    async with stage(1, direct=True) as s:
        later = str(EPOCH_MS + 5_000)
        asked = Asked(s)
        for name, tags in (("r", INVOKE), ("e", TARGET)):
            await s.shards.ask(
                c.CreatePromise(name, FAR_MS, tags={**tags, "resonate:delay": later})
            )
        for name in ("r", "e"):
            cause = asked.cause(name)
            assert (cause.reason, cause.at) == (Reason.DELAYED, EPOCH_MS + 5_000)


async def test_what_workflow_tasks_wait_for() -> None:
    async with stage(1, direct=True) as s:
        asked = Asked(s)
        create_workflow = w.CreateWorkflow("w", FAR_MS, "x", 1_000, tags=TARGET)
        await s.shards.ask(create_workflow)
        cause = asked.cause("w")
        assert (cause.reason, cause.heard_on) == (Reason.HELD, asked.created_on("w"))
        await s.shards.ask(w.HaltWorkflow("w"))
        assert asked.cause("w").reason is Reason.HALTED


async def test_sleeps_of_both_protocols() -> None:
    async with stage(1, direct=True) as s:
        for tag in ("resonate:timer", "resonate:timeout"):
            await s.shards.ask(c.CreatePromise(tag, FAR_MS, tags={tag: "true"}))
            cause = Asked(s).cause(tag)
            assert (cause.reason, cause.at, cause.what) == (Reason.SLEEPS, FAR_MS, "timeout")
            await s.shards.ask(c.CreatePromise(f"{tag}2", FAR_MS, tags={tag: "false"}))
            assert Asked(s).cause(f"{tag}2").reason is Reason.NO_TASK


def placed(stage: Placed = Placed.QUEUED, **more: object) -> PlacementView:
    """What placement knows, unless said otherwise."""
    known = {
        "is_withheld": False,
        "host": None,
        "node_id": None,
        "suitable_count": 0,
        "connected_count": 0,
    }
    return PlacementView(stage=stage, **(known | more))  # type: ignore[arg-type]  # by its names


@pytest.mark.parametrize(
    ("view", "reason", "detail"),
    [
        (None, Reason.SENDING, ""),
        (placed(is_withheld=True, host="h"), Reason.ACCOUNT_DISABLED, ""),
        (placed(host="h:80"), Reason.CALL_WAITS, "h:80"),
        (placed(Placed.HANDED, node_id="n"), Reason.SENDING, "n"),
        (placed(suitable_count=1), Reason.NO_NODE, ""),
        (placed(suitable_count=2, connected_count=2), Reason.NODES_BUSY, ""),
    ],
)
async def test_what_executions_wait_for(
    view: PlacementView | None, reason: Reason, detail: str
) -> None:
    async with stage(1, direct=True) as s:
        await s.shards.ask(create(1))
        asked = Asked(s, places=Places(view))

        cause = asked.cause("troth:task/1")

        assert (cause.reason, cause.detail) == (reason, detail)
        assert cause.listeners_count == (0 if view is None else view.connected_count)
        assert cause.task is not None


async def test_an_execution_that_runs() -> None:
    async with stage(1, direct=True) as s:
        await s.shards.ask(create(1))
        await s.shards.ask(c.AssignExecution(task_of(1), 1, "n", 10_000))

        cause = Asked(s).cause("troth:task/1")

        assert (cause.reason, cause.detail, cause.what) == (Reason.RUNS, "n", "function")
        assert cause.since is not None
        assert cause.at is not None
        assert cause.at - cause.since > 10_000, "the function's time, and some more"
