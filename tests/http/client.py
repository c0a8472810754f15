"""A server without sockets for tests of `http/`: real shards in memory, a fake clock, ASGI calls.

`World` has all that a server process has except listeners; `World.send` is one HTTP request.
"""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from troth.core.grammar.addresses import Address, Undeliverable, resolve
from troth.core.limits import MAILBOX_LIMIT_COUNT
from troth.core.replies import ExecuteMessage, Message, TaskMessage
from troth.http.api.context import Api, Pages
from troth.http.bulk.endpoints import note_end
from troth.http.documents.pages import make_pages
from troth.http.documents.table import API_ENDPOINTS, POLL_ENDPOINTS
from troth.http.functions.builder import Builder
from troth.http.settings.settings import Settings
from troth.http.sockets.asgi import Application
from troth.http.web.feed import Feed
from troth.shards.bulk.jobs import BulkJobs
from troth.shards.clock import SteadyClock
from troth.shards.debugging import DebugClock, DebugOutgoing, DebugPart
from troth.shards.delivery.polls import Polls
from troth.shards.delivery.shipments import ReceiverView
from troth.shards.gathered.debugging import DebugOperations, OnePart
from troth.shards.shards import Shards
from troth.shards.storage import MemoryStorage, Storage
from troth.shards.surveys.queues import Queues
from troth.shards.surveys.surveys import Surveys

NOW_MS = 1_800_000_000_000
FAR_MS = 4_102_444_800_000
_pages: dict[tuple[str, bool, str, str], Pages] = {}


@dataclass(slots=True)
class Answer:
    """A response, as an ASGI server would have sent it. `parts` are the pieces of its body."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.parts)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> int:
        """The error code in the body."""
        code: int = self.json["error"]["code"]
        return code

    @property
    def wrong_fields(self) -> list[str]:
        """The fields that the body complains about."""
        return [detail["metadata"]["field"] for detail in self.json["error"]["details"]]

    def header(self, name: str) -> str | None:
        """A header's value; None if it is absent. Fails if it is repeated."""
        found = [value for key, value in self.headers if key == name.lower()]
        assert len(found) <= 1, f"{name} is repeated"
        return found[0] if found else None


class ManualClock(SteadyClock):
    """A clock that a test sets."""

    def __init__(self, now_ms: int) -> None:
        self.time_ms = now_ms

    def now_ms(self) -> int:
        """The time that was set."""
        return self.time_ms


class Outbox:
    """Where released messages go: `sent`, in order, by task or promise id."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, message: Message) -> None:
        """Note a message."""
        if isinstance(message, TaskMessage):
            self.sent.append(message.task.id)
        elif isinstance(message, ExecuteMessage):
            self.sent.append(message.id)
        else:
            self.sent.append(message.promise.id)

    def look(self, key: str) -> None:
        """Nothing is known of a message."""

    def retry(self, key: str) -> bool:
        """Nothing is stalled."""
        assert key
        return False

    def retry_receiver(self, receiver: str, limit_count: int) -> int:
        """Nothing is stalled."""
        assert receiver
        assert limit_count
        return 0

    def resolve(self, receiver: object) -> Address | Undeliverable:
        """No targets are configured."""
        return resolve(receiver, {})

    def withdraw(self, task_id: str) -> None:
        """Forget a message, as delivery does when its task has ended."""

    def finished(self, promise_ids: list[str]) -> None:
        """Hear of finished function tasks."""

    def receivers(self) -> Iterator[ReceiverView]:
        """Nothing waits here."""
        return iter(())


class NoPlacement:
    """Placement where nobody runs functions."""

    def look(self, promise_id: str) -> None:
        """No execution is known."""


@dataclass
class World:
    """A running server."""

    api: Api
    application: Application
    poll_application: Application
    outbox: Outbox
    clock: ManualClock
    builder: Builder

    async def send(
        self,
        method: str,
        target: str | bytes,
        body: object = None,
        headers: Mapping[str, str] | list[tuple[bytes, bytes]] | None = None,
        *,
        raw: bytes | None = None,
        application: Application | None = None,
    ) -> Answer:
        """Make one request. `body` is sent as JSON, `raw` as it is."""
        content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        answer = Answer()
        waiting = [{"type": "http.request", "body": content, "more_body": False}]

        async def receive() -> Any:
            if not waiting:
                await trio.sleep_forever()
            return waiting.pop()

        async def take(message: Any) -> None:
            await trio.lowlevel.checkpoint()
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = [(k.decode(), v.decode()) for k, v in message["headers"]]
            elif message.get("body"):
                answer.parts.append(message["body"])

        await (application or self.application)(scope(method, target, headers), receive, take)
        return answer

    async def create(self, promise_id: str, **more: object) -> Answer:
        """Create a promise that times out in the far future."""
        return await self.send("POST", "/promises", {"id": promise_id, "timeout": FAR_MS, **more})


def scope(
    method: str,
    target: str | bytes,
    headers: Mapping[str, str] | list[tuple[bytes, bytes]] | None = None,
) -> dict[str, Any]:
    """The ASGI scope of a request."""
    raw = target.encode() if isinstance(target, str) else target
    path, _, query = raw.partition(b"?")
    if headers is None or isinstance(headers, Mapping):
        pairs = [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()]
    else:
        pairs = headers
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "headers": pairs,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8001),
    }


def pages_of(api: Api) -> Pages:
    """The documents of a server: made once for all that have the same, since it takes 35 ms."""
    key = api.url, api.credentials.has_users, repr(api.settings), repr(api.limits)
    if key not in _pages:
        _pages[key] = make_pages(api, API_ENDPOINTS)
    return _pages[key]


def applications(api: Api) -> tuple[Application, Application]:
    """The applications of the API's port and of the poll port."""
    api.pages = pages_of(api)
    return Application(api, API_ENDPOINTS), Application(api, POLL_ENDPOINTS)


@asynccontextmanager
async def running(
    settings: Settings | None = None,
    *,
    mailbox_limit_count: int = MAILBOX_LIMIT_COUNT,
    storage: Storage | None = None,
) -> AsyncIterator[World]:
    """A server for the time of a `with` block; in memory unless a storage is given."""
    settings = settings or Settings()
    outbox = Outbox()
    clock = ManualClock(NOW_MS)
    storage = storage or MemoryStorage(4)
    debug_clock = DebugClock(clock)
    debug_outgoing = DebugOutgoing(outbox, debug_clock, settings.workflow_retry_ms)
    outgoing = debug_outgoing if settings.debug_operations else outbox
    shards = Shards(
        shard_count=storage.shard_count,
        clock=debug_clock if settings.debug_operations else clock,
        outgoing=outgoing,
        cursor_secret=storage.secret,
        mailbox_limit_count=mailbox_limit_count,
    )
    polls = Polls(
        connections_limit_count=settings.poll_connections_limit_count,
        buffer_limit_count=settings.poll_buffer_limit_count,
    )
    api = Api(
        settings=settings,
        url="http://troth.test",
        shards=shards,
        polls=polls,
        hold=shards.hold,
        now_ms=clock.now_ms,
        surveys=Surveys(shards, outbox, polls, NoPlacement(), clock.now_ms),
        queues=Queues(shards, polls, outbox),
    )
    if settings.debug_operations:
        api.debug = DebugOperations(shards, OnePart(DebugPart(shards, debug_clock, debug_outgoing)))
    shards.recover(storage)
    async with trio.open_nursery() as nursery:
        await nursery.start(shards.run, storage.make_writer)
        feed = api.feed = Feed(api)
        nursery.start_soon(feed.run)
        builder = api.builder = Builder(api)
        await nursery.start(builder.run)
        assert isinstance(api.surveys, Surveys)
        api.bulk = BulkJobs(shards, api.surveys, clock.now_ms, lambda job: note_end(api.audit, job))
        await nursery.start(api.bulk.run)
        yield World(api, *applications(api), outbox, clock, builder)
        nursery.cancel_scope.cancel()
