"""A request of the lane that asks several shards: one answer, whatever each of them says."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.http.client import World, running
from tests.http.envelope.conversation import VERSION, checked_envelope
from troth.core.codes import Code
from troth.core.commands import Command
from troth.core.limits import RENEWALS_SLICE_COUNT
from troth.core.replies import Reply
from troth.http.api.authentication import authenticate
from troth.http.api.dispatch import Dispatcher
from troth.http.api.rows import Renewals
from troth.http.documents.table import API_ENDPOINTS
from troth.http.sockets.lane_exchange import Exchange
from troth.http.sockets.lane_streams import LaneStream
from troth.http.wire.in_flight import InFlight
from troth.http.wire.principals import Principal
from troth.http.wire.requests import Request
from troth.shards.errors import Overloaded, StorageFailed
from troth.shards.held import HeldMessages
from troth.shards.turns import Asker

TASKS = [{"id": name, "version": 1} for name in ("a:1", "b.2", "c")]
HEARTBEAT = {
    "kind": "task.heartbeat",
    "head": {"corrId": "c", "version": VERSION},
    "data": {"pid": "w", "tasks": TASKS},
}


@dataclass
class Questions:
    """Takes what is asked; three shards are concerned. Also the connection."""

    is_full: bool = False
    renewals: list[Renewals] = field(default_factory=list)
    started_count: int = 0
    answers: list[bytes] = field(default_factory=list)
    in_flight: InFlight = field(default_factory=lambda: InFlight(1_000_000))

    def submit(self, command: Command, held: HeldMessages | None, asker: Asker) -> None:  # noqa: ARG002
        raise AssertionError("a heartbeat is no command of one shard")

    def submit_renewals(self, renewals: Renewals, held: HeldMessages, asker: Asker) -> int:  # noqa: ARG002
        if self.is_full:
            raise Overloaded
        self.renewals.append(renewals)
        return 3

    def defer(self, exchange: Exchange, reply: Reply) -> None:  # noqa: ARG002
        raise AssertionError("nothing about a heartbeat is large")

    def start(self, exchange: Exchange) -> None:  # noqa: ARG002
        self.started_count += 1

    def answered(self, data: bytes, held: HeldMessages) -> None:
        held.release()
        self.answers.append(data)

    def close(self) -> None:
        raise AssertionError("there was memory")

    def streams(self, stream: LaneStream) -> None:  # noqa: ARG002
        raise AssertionError("no stream was asked for")


def begun(world: World, questions: Questions, envelope: object = HEARTBEAT) -> Exchange:
    """Begin a request."""
    dispatcher = Dispatcher(world.api, API_ENDPOINTS)
    held = world.api.hold()
    request = Request("POST", b"/", b"", {}, json.dumps(envelope).encode(), held, id="r")
    match = dispatcher.router.match("POST", b"/")
    exchange = Exchange(questions, dispatcher, request, held, match, questions, 0.0)
    exchange.run()
    return exchange


async def test_a_heartbeat_is_answered_with_the_last_reply_and_needs_no_task() -> None:
    async with running() as world:
        questions = Questions()
        exchange = begun(world, questions)
        assert questions.renewals == [Renewals("w", (("a:1", 1), ("b.2", 1), ("c", 1)))]
        for place in range(3):
            assert questions.answers == [], "it did not wait for all of them"
            exchange.answer(place, Reply(Code.OK))

        (answer,) = questions.answers
        assert questions.started_count == 0
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert checked_envelope(200, body, "task.heartbeat", "c").data == {}


@pytest.mark.parametrize("answered_count", [0, 1, 2])
async def test_the_first_failure_of_a_shard_is_the_answer(answered_count: int) -> None:
    async with running() as world:
        questions = Questions()
        exchange = begun(world, questions)
        for place in range(answered_count):
            exchange.answer(place, Reply(Code.OK))
        for _ in range(answered_count, 3):
            exchange.refuse(StorageFailed())
        exchange.answer(2, Reply(Code.OK))

        (answer,) = questions.answers
        _, _, body = answer.partition(b"\r\n\r\n")
        assert checked_envelope(503, body, "task.heartbeat", "c").text


async def test_a_heartbeat_waits_in_a_task_while_a_shard_is_full() -> None:
    async with running() as world:
        questions = Questions(is_full=True)
        begun(world, questions)
        assert (questions.started_count, questions.answers) == (1, [])


async def test_a_heartbeat_of_very_many_tasks_goes_on_in_a_task() -> None:
    """It is asked in several passes, with others' requests in between."""
    tasks = [{"id": f"t{number}", "version": 1} for number in range(RENEWALS_SLICE_COUNT + 1)]
    async with running() as world:
        questions = Questions()
        exchange = begun(world, questions, {**HEARTBEAT, "data": {"pid": "w", "tasks": tasks}})
        assert (questions.started_count, questions.renewals, questions.answers) == (1, [], [])
        await exchange.carry_out()
        (answer,) = questions.answers
        _, _, body = answer.partition(b"\r\n\r\n")
        assert checked_envelope(200, body, "task.heartbeat", "c").data == {}


@pytest.mark.parametrize("kind", ["task.heartbeat", "task.search"])
async def test_what_goes_on_in_a_task_is_judged_once(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = []

    def noting(*given: Any) -> Principal:
        judged.append(given)
        return authenticate(*given)

    monkeypatch.setattr("troth.http.envelope.endpoints.authenticate", noting)
    async with running() as world:
        questions = Questions(is_full=True)
        exchange = begun(world, questions, {**HEARTBEAT, "kind": kind})
        assert (questions.started_count, questions.answers) == (1, [])
        await exchange.carry_out()

        (answer,) = questions.answers
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert len(judged) == 1
