"""The catalogue's entries about what clients and workers do at the same time.

Asked over HTTP, without sockets, with a clock that stands still (`tests/model/wire.py`).
"""

from itertools import permutations

import pytest
import trio
import trio.testing

from tests.model.objects import Answer, Arguments
from tests.model.wire import START_MS, Wire, running

FAR_MS = 2 * START_MS
ROUTED = {"resonate:invoke": "poll://g"}


async def together(wire: Wire, *requests: tuple[str, Arguments]) -> list[Answer]:
    """Make requests that are all there before the first is carried out; their answers."""
    answers: dict[int, Answer] = {}

    async def ask(number: int) -> None:
        answers[number] = await wire.ask(*requests[number])

    async with trio.open_nursery() as nursery:
        for number in range(len(requests)):
            nursery.start_soon(ask, number)
    return [answers[number] for number in range(len(requests))]


@pytest.mark.parametrize("times", [1, 3])
async def test_ack_lost_client_retries_same_ikey_other_payload(times: int) -> None:
    """ "ack lost, client retries (same ikey, other payload)": what was done first counts."""
    async with running(4) as wire:
        create: Arguments = {"id": "p", "timeout": FAR_MS, "param": {"data": "YQ=="}, "key": "k"}
        done = await wire.ask("create promise", create)
        for number in range(times):
            other = create | {"timeout": number, "param": {"data": "Yg=="}, "tags": {"x": "1"}}
            again = await wire.ask("create promise", other)
            assert (again.code, again.body) == (20000, done.body)
        complete: Arguments = {
            "id": "p",
            "state": "RESOLVED",
            "value": {"data": "YQ=="},
            "key": "k",
        }
        ended = await wire.ask("complete promise", complete)
        assert ended.code == 20100
        for _ in range(times):
            other = complete | {"state": "REJECTED", "value": {"data": "Yg=="}}
            again = await wire.ask("complete promise", other)
            assert (again.code, again.body) == (20000, ended.body)
        stranger = await wire.ask("create promise", create | {"key": "another"})
        assert stranger.code == 40900


@pytest.mark.parametrize(
    ("at_ms", "strict", "code", "state"),
    [
        (99, False, 20100, "RESOLVED"),
        (100, False, 20000, "REJECTED_TIMEDOUT"),
        (100, True, 40303, "REJECTED_TIMEDOUT"),
        (101, False, 20000, "REJECTED_TIMEDOUT"),
    ],
)
async def test_complete_vs_timeout_race_at_the_same_ms(
    at_ms: int, strict: bool, code: int, state: str, mock_clock: trio.testing.MockClock
) -> None:
    """ "complete vs timeout race at the same ms": the deadline itself belongs to the timeout.

    The clock moves, but no timer has fired yet when the request is carried out.
    """
    async with running(4) as wire:
        await wire.ask("create promise", {"id": "p", "timeout": START_MS + 100})
        wire.set_clock(START_MS + at_ms)
        complete = {"id": "p", "state": "RESOLVED", "strict": strict}
        answer = await wire.ask("complete promise", complete)
        await wire.pass_time(START_MS + 1_000)
        shown = await wire.ask("read promise", {"id": "p"})

        assert answer.code == code
        assert shown.body is not None
        assert shown.body["state"] == state
        assert shown.body["completedOn"] == START_MS + min(at_ms, 100)


@pytest.mark.parametrize(("late_ms", "count"), [(-1, 1), (0, 0), (1, 0)])
async def test_heartbeat_late_by_one_tick_old_holder_completes_after_re_lease(
    late_ms: int, count: int
) -> None:
    """ "heartbeat late by one tick, old holder completes after re-lease": both are refused."""
    async with running(4) as wire:
        create = {"id": "p", "timeout": FAR_MS, "tags": ROUTED}
        await wire.ask("create promise and task", create | {"processId": "old", "ttl": 600})
        wire.set_clock(START_MS + 600 + late_ms)
        beat = await wire.ask("heartbeat tasks", {"processId": "old"})
        assert beat.body == {"tasksAffected": count}
        if count:
            return
        task = {"id": "__invoke:p", "counter": 2}
        claim = await wire.ask("claim task", task | {"processId": "new", "ttl": 50})
        assert claim.code == 20100
        late = await wire.ask("complete task", task | {"counter": 1})
        assert late.code == 40307
        fenced = {"id": "p", "state": "RESOLVED", "fence": ("__invoke:p", 1)}
        assert (await wire.ask("complete promise", fenced)).code == 41200
        assert (await wire.ask("heartbeat tasks", {"processId": "old"})).body == {
            "tasksAffected": 0
        }
        assert (await wire.ask("complete task", task)).code == 20100


RACE = ("create callback", "complete promise", "read promise")


@pytest.mark.parametrize("shard_count", [1, 4])
@pytest.mark.parametrize("order", list(permutations(RACE)), ids=" ".join)
async def test_callback_registered_while_settling(order: tuple[str, ...], shard_count: int) -> None:
    """ "callback registered while settling": it fires, or the answer shows the end; never neither.

    All requests are in one turn of the shard; root and leaf live in different shards, or in one.
    """
    requests: dict[str, Arguments] = {
        "create callback": {
            "id": "c",
            "promiseId": "leaf",
            "rootPromiseId": "root",
            "timeout": FAR_MS,
            "recv": "poll://g",
        },
        "complete promise": {"id": "leaf", "state": "RESOLVED"},
        "read promise": {"id": "leaf"},
    }
    async with running(shard_count) as wire:
        await wire.ask("create promise", {"id": "leaf", "timeout": FAR_MS})
        answers = await together(wire, *((name, requests[name]) for name in order))
        waited = answers[order.index("create callback")]
        assert waited.body is not None
        state = waited.body["promise"]["state"]
        if waited.code == 20100:
            assert state == "PENDING"
            assert list(wire.under_way()) == [("__resume:root:leaf", 1)]
        else:
            assert (waited.body["callback"], state) == (None, "RESOLVED")
            assert wire.under_way() == {}


@pytest.mark.parametrize("state", ["RESOLVED", "REJECTED", "REJECTED_CANCELED", "timeout"])
async def test_subscription_to_a_promise_settled_in_between(state: str) -> None:
    """ "subscription to a promise settled in between": the answer is the news."""
    async with running(4) as wire:
        timeout = START_MS + 100 if state == "timeout" else FAR_MS
        await wire.ask("create promise", {"id": "p", "timeout": timeout})
        if state == "timeout":
            wire.set_clock(timeout)
        else:
            await wire.ask("complete promise", {"id": "p", "state": state})
        subscribe = {"promiseId": "p", "id": "s", "timeout": FAR_MS, "recv": "poll://g/x"}
        answer = await wire.ask("create subscription", subscribe)

        assert answer.code == 20000
        assert answer.body is not None
        assert answer.body["callback"] is None
        expected = "REJECTED_TIMEDOUT" if state == "timeout" else state
        assert answer.body["promise"]["state"] == expected
        assert wire.under_way() == {}
