"""A server without sockets, asked by the names that `reference.py` knows.

Dispatcher, handlers, shards and timers are the real ones; the clock stands still until it
is moved, and messages to workers stay in `under_way` until somebody says what became of them.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, unquote

import trio
import trio.testing

from tests.http.client import ManualClock, NoPlacement, Outbox
from troth.core.commands import RetryTask, TaskNotSent, TaskSent
from troth.core.deciding import Options
from troth.core.grammar.addresses import PollAddress
from troth.core.replies import Message, TaskMessage
from troth.http.api.context import Api
from troth.http.api.dispatch import Dispatcher
from troth.http.bulk.endpoints import note_end
from troth.http.documents.table import API_ENDPOINTS
from troth.http.promises.rendering import render_message
from troth.http.settings.settings import Settings
from troth.http.web.feed import Feed
from troth.http.wire.principals import ANONYMOUS
from troth.http.wire.requests import Request
from troth.shards.bulk.jobs import BulkJobs
from troth.shards.delivery.polls import Polls
from troth.shards.delivery.shipments import ReceiverView, targets_of
from troth.shards.held import HeldMessages
from troth.shards.shards import Shards
from troth.shards.storage import MemoryStorage
from troth.shards.surveys.queues import Queues
from troth.shards.surveys.surveys import Surveys

from .objects import Answer, Arguments, Json
from .words import INVALID

URL = "http://troth.test"
START_MS = 1_800_000_000_000
CLAIM_TIMEOUT_MS = 40
OPERATOR_KEY = "k" * 64
PAGE_COUNT = 7
"""How many rows a list is asked for at a time: so few that there are several pages."""
HEADER_OF = {"key": "Idempotency-Key", "strict": "Strict"}
BODIES = {
    "create promise": ("POST", "/promises"),
    "create promise and task": ("POST", "/promises/task"),
    "create callback": ("POST", "/callbacks"),
    "create subscription": ("POST", "/subscriptions"),
    "claim task": ("POST", "/tasks/claim"),
    "complete task": ("POST", "/tasks/complete"),
    "drop task": ("POST", "/tasks/drop"),
    "heartbeat tasks": ("POST", "/tasks/heartbeat"),
    "create schedule": ("POST", "/schedules"),
    "acquire lock": ("POST", "/locks/acquire"),
    "release lock": ("POST", "/locks/release"),
    "heartbeat locks": ("POST", "/locks/heartbeat"),
    "pause schedule": ("POST", "/schedules/pause"),
    "resume schedule": ("POST", "/schedules/resume"),
    "run schedule": ("POST", "/schedules/run"),
    "give task back": ("POST", "/tasks/release"),
    "send task now": ("POST", "/tasks/retry"),
    "break lock": ("POST", "/locks/break"),
    "send all now": ("POST", "/queues/retry"),
}
PATHS = {
    "read promise": ("GET", "/promises/"),
    "complete promise": ("PATCH", "/promises/"),
    "read schedule": ("GET", "/schedules/"),
    "delete schedule": ("DELETE", "/schedules/"),
    "update schedule": ("PATCH", "/schedules/"),
    "delete promise": ("DELETE", "/promises/"),
    "show tree": ("GET", "/tree/"),
    "tell why": ("GET", "/why/"),
}
LISTS = {
    "list tasks": ("tasks", ("id", "kind", "type", "state", "promiseId", "counter", "processId")),
    "list locks": ("locks", ("resourceId", "executionId", "processId", "expiresAt")),
    "list waiting": ("waiting", ("kind", "id", "promiseId")),
}
"""Where a list is asked for, and what is compared of its rows."""
SHOWN_CALL = ("id", "parent", "depth", "state")
SHOWN_TASK = ("id", "promiseId")
"""What is compared of a task that was acted on: in which state it is shown is a matter of time."""
WATCHED = ("a", "b", "c", "a:b", "p/q r")
"""Promises of whose changes the live feed tells."""


class Delivery:
    """Stands for the delivery of messages: holds them until a test says what became of them."""

    def __init__(self) -> None:
        self.under_way: dict[str, TaskMessage] = {}
        self.stalled: dict[str, int] = {}
        self.receivers: dict[str, object] = {}

    def send(self, message: Message) -> None:
        """Take a message."""
        assert isinstance(message, TaskMessage)
        assert message.task.id not in self.under_way, "handed over twice"
        self.under_way[message.task.id] = message
        self.receivers[message.task.id] = message.task.receiver

    def withdraw(self, task_id: str) -> None:
        """Forget a message."""
        self.under_way.pop(task_id, None)
        self.stalled.pop(task_id, None)

    def finished(self, promise_ids: list[str]) -> None:
        """Hear of finished function tasks, of which there are none here."""


class Messages(Outbox):
    """What operators may do about messages: end the back-off of one."""

    def __init__(self, delivery: Delivery, tell: Callable[[RetryTask], None]) -> None:
        super().__init__()
        self._delivery = delivery
        self._tell = tell

    def retry(self, key: str) -> bool:
        """Send a stalled message again; return whether there is one."""
        counter = self._delivery.stalled.pop(key, None)
        if counter is None:
            return False
        self._tell(RetryTask(key, counter))
        return True

    def receivers(self) -> Iterator[ReceiverView]:
        """Yield what is stalled, one message after the other."""
        for task_id in self._delivery.stalled:
            address = self.resolve(self._delivery.receivers[task_id])
            if isinstance(address, PollAddress):
                target = targets_of(f"poll://{address.group}")[0]
                yield ReceiverView(target, 0, 0, 1, 0, None, None, None, None, None)


class Wire:
    """The server, and requests by name."""

    has_feed = True
    """Whether the live feed tells of all changes."""
    is_ordered = True
    """Whether what was made within a millisecond has the order in which it was made."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        clock: ManualClock,
        shards: Shards,
        delivery: Delivery,
        feed: Feed,
    ) -> None:
        self.delivery = delivery
        self._dispatcher = dispatcher
        self._clock = clock
        self._shards = shards
        self._feed = feed
        self._events = feed.open(ANONYMOUS, frozenset(), WATCHED)
        self._events.next_now(trio.current_time())  # the greeting

    async def ask(self, name: str, arguments: Arguments) -> Answer:
        """Make a request over HTTP; of a search, all pages."""
        if name.startswith("search"):
            return await self._search(name, arguments)
        if name in LISTS:
            return await self._list(name, arguments)
        if name == "run bulk job":
            return await self._run_bulk_job(arguments)
        if name == "count":
            _, made = await self._send("GET", "/statistics", None, {})
            return Answer(20000, {kind: made["counts"][kind] for kind in ("promises", "tasks")})
        method, target, body = self._request(name, arguments)
        headers = _headers(arguments)
        if name == "break lock":
            headers["Authorization"] = f"Bearer {OPERATOR_KEY}"
        status, made = await self._send(method, target, body, headers)
        if status >= 400:
            return Answer(made["error"]["code"])
        if name == "show tree":
            assert not made["cut"], "it is small"
            rows = [{field: call[field] for field in SHOWN_CALL} for call in made["calls"]]
            return Answer(20000, {"calls": sorted(rows, key=lambda row: row["id"])})
        if name == "tell why":
            made = {"reason": made["cause"]["reason"], "awaitsCount": made["awaitsCount"]}
        if name.endswith(("task back", "task now")):
            made = {field: made[field] for field in SHOWN_TASK}
        return Answer(status * 100, decoded(made))

    async def _list(self, name: str, arguments: Arguments) -> Answer:
        """Return all rows of a list, page by page."""
        kind, fields = LISTS[name]
        path = f"/{kind}/{quote(arguments['id'], safe='/')}" if arguments else f"/{kind}"
        rows: list[Json] = []
        target = f"{path}?limit={PAGE_COUNT}"
        while True:
            status, page = await self._send("GET", target, None, {})
            if status >= 400:
                return Answer(page["error"]["code"])
            rows += [{field: row.get(field) for field in fields} for row in page[kind]]
            if page.get("cursor") is None:
                break
            target = f"{path}?cursor={quote(page['cursor'])}"
        rows.sort(key=lambda row: (row[fields[0]], row[fields[1]]))
        return Answer(20000, {kind: rows})

    async def _send(
        self, method: str, target: str, body: Json | None, headers: dict[str, str]
    ) -> tuple[int, Any]:
        """The status and the JSON of the answer; messages leave after it, as over a socket."""
        path, _, query = target.partition("?")
        dispatcher, held = self._server()
        request = Request(
            method,
            path.encode(),
            query.encode(),
            {name.lower().encode(): text.encode() for name, text in headers.items()},
            b"" if body is None else json.dumps(body).encode(),
            held,
        )
        response = await dispatcher.answer(request)
        held.release()
        await trio.testing.wait_all_tasks_blocked()
        return response.status, json.loads(response.body) if response.body else None

    def _server(self) -> tuple[Dispatcher, HeldMessages]:
        """Who is asked next, and what the messages of that request wait in."""
        return self._dispatcher, self._shards.hold()

    def _request(self, name: str, arguments: Arguments) -> tuple[str, str, Json | None]:
        body = {key: given for key, given in arguments.items() if key not in (*HEADER_OF, "fence")}
        if name == "create promise and task":
            task = {key: body.pop(key) for key in ("processId", "ttl") if key in body}
            body = {"promise": body, "task": task}
        if name in BODIES:
            method, target = BODIES[name]
            return method, target, body
        method, prefix = PATHS[name]
        target = prefix + quote(body.pop("id"), safe="/")
        return method, target, body if method == "PATCH" else None

    async def _search(self, name: str, arguments: Arguments) -> Answer:
        kind = name.removeprefix("search ")
        query = [f"{key}={quote(str(given))}" for key, given in arguments.items() if key != "tags"]
        query += [
            f"tags[{quote(key)}]={quote(text)}" for key, text in arguments.get("tags", {}).items()
        ]
        target, found = f"/{kind}?{'&'.join(query)}", []
        limit_count = arguments.get("limit") or 100
        while True:
            status, page = await self._send("GET", target, None, {})
            if status >= 400:
                return Answer(page["error"]["code"])
            found += page[kind]
            if page["cursor"] is None:
                assert len(page[kind]) < limit_count, "a full page has a cursor (rest.md 10.2)"
                return Answer(20000, {kind: found})
            assert len(page[kind]) == limit_count, "only a full page has a cursor (rest.md 10.2)"
            spoiled = page["cursor"][:-3] + "AAA"
            _, refused = await self._send("GET", f"/{kind}?cursor={quote(spoiled)}", None, {})
            assert refused["error"]["code"] == INVALID, "a changed cursor is refused"
            target = f"/{kind}?cursor={quote(page['cursor'])}"

    async def _run_bulk_job(self, arguments: Arguments) -> Answer:
        """Start a bulk job and wait for its end; what it says then."""
        status, made = await self._send("POST", "/bulk", arguments, {})
        assert status == 201, made
        target = f"/bulk/{made['id']}"
        while made["state"] == "running":
            self._jump(1)
            await trio.testing.wait_all_tasks_blocked()
            _, made = await self._send("GET", target, None, {})
        if arguments["subject"] == "tasks" and "examples" in made:
            made["examples"].sort()
        shown = ("state", "total", "done", "failed", "skipped", "examples")
        return Answer(20100, {name: made[name] for name in shown if name in made})

    async def changed(self) -> set[str]:
        """The watched promises that have changed since the last call, as the live feed tells."""
        await self._feed.tell_changes()
        chunk = self._events.next_now(trio.current_time())
        assert chunk is not None, "the stream goes on"
        bodies = [line[6:] for line in chunk.split(b"\n") if line.startswith(b"data: ")]
        return {identifier for body in bodies for identifier in json.loads(body)["ids"]}

    def shard_of(self, identifier: str) -> int:
        """The shard that an id lives in."""
        return self._shards.shard_of(identifier)

    async def pass_time(self, now: int) -> None:
        """Move the clock, and let everything happen that is due."""
        clock = self._clock
        ahead_ms, clock.time_ms = now - clock.time_ms, now
        # Only wakes who waits; what is due, they judge by their own clock.
        self._jump(ahead_ms / 1000 + 0.001)
        await trio.testing.wait_all_tasks_blocked()

    @staticmethod
    def _jump(seconds: float) -> None:
        mock = trio.lowlevel.current_clock()
        assert isinstance(mock, trio.testing.MockClock)
        mock.jump(seconds)

    def set_clock(self, now: int) -> None:
        """Move the clock without waking anybody: no timer has fired when the next request comes."""
        self._clock.time_ms = now

    def under_way(self) -> dict[tuple[str, int], Json]:
        """The messages that wait for delivery, as they would be sent."""
        return {
            (message.task.id, message.task.counter): decoded(
                json.loads(render_message(message, URL))
            )
            for message in self.delivery.under_way.values()
        }

    async def delivered(self, task_id: str, counter: int) -> None:
        """Report that a message has arrived."""
        if self._holds(self.delivery.under_way, task_id, counter):
            del self.delivery.under_way[task_id]
        await self._tell(TaskSent(task_id, counter))

    async def not_delivered(self, task_id: str, counter: int) -> None:
        """Report that a message has not arrived."""
        if self._holds(self.delivery.under_way, task_id, counter):
            del self.delivery.under_way[task_id]
            self.delivery.stalled[task_id] = counter
        await self._tell(TaskNotSent(task_id, counter))

    async def try_again(self, task_id: str, counter: int) -> None:
        """Report that the back-off of a message is over."""
        self.delivery.stalled.pop(task_id, None)
        await self._tell(RetryTask(task_id, counter))

    async def _tell(self, command: TaskSent | TaskNotSent | RetryTask) -> None:
        self._shards.tell(command)
        await trio.testing.wait_all_tasks_blocked()

    @staticmethod
    def _holds(held: dict[str, TaskMessage], task_id: str, counter: int) -> bool:
        return task_id in held and held[task_id].task.counter == counter


def _headers(arguments: Arguments) -> dict[str, str]:
    headers = {}
    if arguments.get("key") is not None:
        headers["Idempotency-Key"] = arguments["key"]
    strict = arguments.get("strict")
    if strict is not None:
        headers["Strict"] = strict if isinstance(strict, str) else str(strict).lower()
    if arguments.get("fence") is not None:
        headers["Task-Id"], headers["Task-Counter"] = (str(one) for one in arguments["fence"])
    return headers


def decoded(made: Any) -> Any:
    """JSON with its links percent-decoded, which must be plain ASCII before."""
    if isinstance(made, list):
        return [decoded(one) for one in made]
    if not isinstance(made, dict):
        return made
    shown = {key: decoded(one) for key, one in made.items()}
    links = made.get("href")
    if isinstance(links, dict):
        shown["href"] = {name: _link(link) for name, link in links.items()}
    elif isinstance(links, str):
        shown["href"] = _link(links)
    return shown


def _link(link: str) -> str:
    assert link.isascii(), "links are percent-encoded (decisions.md)"
    assert " " not in link
    return unquote(link)


@asynccontextmanager
async def running(shard_count: int) -> AsyncIterator[Wire]:
    """A server for the time of a `with` block. Needs a MockClock."""
    delivery, clock, storage = Delivery(), ManualClock(START_MS), MemoryStorage(shard_count)
    shards = Shards(
        shard_count=shard_count,
        clock=clock,
        outgoing=delivery,
        cursor_secret=storage.secret,
        options=Options(task_claim_timeout_ms=CLAIM_TIMEOUT_MS, time_zone="UTC"),
    )
    polls = Polls(connections_limit_count=1, buffer_limit_count=1)
    api = Api(
        settings=Settings(),
        url=URL,
        shards=shards,
        polls=polls,
        hold=shards.hold,
        now_ms=clock.now_ms,
    )
    shards.recover(storage)
    messages = Messages(delivery, shards.tell)
    surveys = Surveys(shards, messages, polls, NoPlacement(), clock.now_ms)
    api.surveys = surveys
    api.queues = Queues(shards, polls, messages)
    api.credentials.operator_key = OPERATOR_KEY
    api.bulk = BulkJobs(shards, surveys, clock.now_ms, lambda job: note_end(api.audit, job))
    async with trio.open_nursery() as nursery:
        await nursery.start(shards.run, storage.make_writer)
        await nursery.start(api.bulk.run)
        yield Wire(Dispatcher(api, API_ENDPOINTS), clock, shards, delivery, Feed(api))
        nursery.cancel_scope.cancel()
