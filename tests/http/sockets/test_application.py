"""The ASGI application: limits of bodies, held messages, streams, metrics; nothing escapes."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from tests.http.client import FAR_MS, NOW_MS, World, running, scope
from troth.core.commands import ReadPromise
from troth.core.model import Task, TaskKind, Trace
from troth.core.replies import TaskMessage
from troth.http.api import streams
from troth.http.promises.rendering import render_message
from troth.http.settings.settings import Settings
from troth.http.sockets.asgi import CONNECTION_KEY
from troth.shards.delivery.dialects import Dialect
from troth.shards.delivery.polls import Item


class Client:
    """The two ASGI callables, with everything that was sent in `messages`."""

    def __init__(self) -> None:
        self.to_application, self.from_client = trio.open_memory_channel[dict[str, Any]](10)
        self.messages: list[dict[str, Any]] = []
        self.before_send: Callable[[dict[str, Any]], None] = lambda _message: None

    async def receive(self) -> dict[str, Any]:
        """What the application reads."""
        return await self.from_client.receive()

    async def send(self, message: dict[str, Any]) -> None:
        """What the application writes."""
        self.before_send(message)
        await trio.lowlevel.checkpoint()
        self.messages.append(message)

    def feed(self, *parts: bytes, more: bool = False) -> None:
        """Send parts of a request's body."""
        for number, part in enumerate(parts, 1):
            more_body = more or number < len(parts)
            self.to_application.send_nowait(
                {"type": "http.request", "body": part, "more_body": more_body}
            )

    def leave(self) -> None:
        """Be gone."""
        self.to_application.send_nowait({"type": "http.disconnect"})

    @property
    def status(self) -> int | None:
        """The answer's status; None if there was no answer."""
        return self.messages[0]["status"] if self.messages else None

    @property
    def chunks(self) -> list[bytes]:
        """The pieces of the answer's body that have come, without empty ones."""
        return [message["body"] for message in self.messages[1:] if message["body"]]


class FakeConnection:
    """What the listener tells the application about a connection."""

    def __init__(self) -> None:
        self.is_broken = False
        self.actions: list[Callable[[], None]] = []

    def abandon(self) -> None:
        """Be cut off."""
        self.is_broken = True

    def when_stopping(self, action: Callable[[], None]) -> None:
        """Remember what to do."""
        self.actions.append(action)


class Message:
    """An item for the polls."""

    dialect = Dialect.REST

    def __init__(self, text: bytes) -> None:
        self.text = text

    def body(self) -> bytes:
        """The text."""
        return self.text


class Listener:
    """Remembers what became of items."""

    def __init__(self) -> None:
        self.delivered_items: list[Item] = []
        self.returned_items: list[Item] = []

    def delivered(self, items: list[Item], group: str, connection_id: str) -> None:
        """Written to the socket."""
        self.delivered_by = (group, connection_id)
        self.delivered_items += items

    def returned(self, items: list[Item]) -> None:
        """Given back."""
        self.returned_items += items

    def came(self, group: str, connection_id: str) -> None:
        """Nothing waits here."""

    def has_room(self, group: str, connection_id: str) -> None:
        """Nothing waits here."""

    def ended(self, group: str, connection_id: str, *, is_coming_back: bool) -> None:
        """Nothing is unclaimed here."""


ROUTED = b'{"id":"a","timeout":4102444800000,"tags":{"resonate:invoke":"default"}}'


async def test_a_message_leaves_after_the_last_byte_of_the_answer_that_caused_it() -> None:
    async with running() as world:
        client = Client()
        client.feed(ROUTED[:10], ROUTED[10:])
        sent_before_byte: list[int] = []
        client.before_send = lambda _message: sent_before_byte.append(len(world.outbox.sent))

        await world.application(scope("POST", "/promises"), client.receive, client.send)

        assert client.status == 201
        assert set(sent_before_byte) == {0}
        assert world.outbox.sent == ["__invoke:a"]


async def test_a_command_is_carried_out_although_its_client_leaves() -> None:
    async with running() as world:
        client = Client()
        client.feed(ROUTED)
        client.leave()

        await world.application(scope("POST", "/promises"), client.receive, client.send)

        assert (await world.send("GET", "/promises/a")).status == 200
        assert world.outbox.sent == ["__invoke:a"]


async def test_a_message_leaves_although_the_answer_could_not_be_written() -> None:
    def fail(message: dict[str, Any]) -> None:
        raise OSError("the network is gone")

    async with running() as world:
        client = Client()
        client.feed(ROUTED)
        client.before_send = fail

        with capture_logs() as said:
            await world.application(scope("POST", "/promises"), client.receive, client.send)

        assert world.outbox.sent == ["__invoke:a"]
        assert [line["event"] for line in said] == ["an exchange failed"]


async def test_a_client_that_leaves_before_its_request_is_complete_changes_nothing() -> None:
    async with running() as world:
        client = Client()
        client.feed(ROUTED, more=True)
        client.leave()

        await world.application(scope("POST", "/promises"), client.receive, client.send)

        assert client.status is None
        assert (await world.send("GET", "/promises/a")).status == 404


@pytest.mark.parametrize("length", [None, "2000", "9" * 5000])
async def test_a_body_beyond_the_limit_is_413(length: str | None) -> None:
    async with running(Settings(body_limit_bytes=1024)) as world:
        client = Client()
        headers = {} if length is None else {"Content-Length": length}
        client.feed(b"x" * 1000, b"x" * 1000, more=True)

        await world.application(scope("POST", "/promises", headers), client.receive, client.send)

        assert client.status == 413
        assert b"1024 bytes" in client.chunks[0]
        names = [name for name, _ in client.messages[0]["headers"]]
        assert names.count(b"request-id") == names.count(b"resonate-version") == 1


async def test_a_body_that_does_not_come_is_408(autojump_clock: trio.testing.MockClock) -> None:
    async with running(Settings(body_timeout_ms=500)) as world:
        client = Client()
        client.feed(b"{", more=True)

        await world.application(scope("POST", "/promises"), client.receive, client.send)

        assert client.status == 408
        assert trio.current_time() == pytest.approx(0.5)


async def test_other_scopes_are_refused() -> None:
    async with running() as world:
        client = Client()
        with pytest.raises(ValueError, match="only HTTP"):
            await world.application({"type": "websocket"}, client.receive, client.send)


async def test_requests_are_counted_by_endpoint_and_status() -> None:
    async with running() as world:
        await world.create("a")
        await world.send("GET", "/promises/x")
        await world.send("GET", "/nothing")
        text = (await world.send("GET", "/metrics")).body.decode()

        for line in (
            'troth_http_requests_total{endpoint="createPromise",status="201"} 1.0',
            'troth_http_requests_total{endpoint="readPromise",status="404"} 1.0',
            'troth_http_requests_total{endpoint="unmatched",status="404"} 1.0',
            'troth_http_request_duration_seconds_count{endpoint="createPromise"} 1.0',
        ):
            assert line in text.splitlines()
        assert "process_cpu_seconds_total" in text


# --- streams --------------------------------------------------------------------------------------


async def _poll(
    world: World, client: Client, target: str, connection: FakeConnection | None = None
) -> None:
    asked = scope("GET", target)
    if connection is not None:
        asked["state"] = {CONNECTION_KEY: connection}
    client.feed(b"")
    application = world.application if target.startswith("/poll/") else world.poll_application
    await application(asked, client.receive, client.send)


@pytest.mark.parametrize("target", ["/poll/g%20h/w/1", "/g%20h/w/1"])
async def test_a_stream_frames_messages_and_confirms_them_when_written(target: str) -> None:
    async with running() as world, trio.open_nursery() as nursery:
        listener, client = Listener(), Client()
        world.api.polls.attach(listener)
        nursery.start_soon(_poll, world, client, target, FakeConnection())
        await trio.testing.wait_all_tasks_blocked()
        headers = dict(client.messages[0]["headers"])
        items = [Message(b'{"n":1}'), Message(b'{"n":2}')]
        for item in items:
            assert world.api.polls.put(item, "g h", "w/1", exact=True)
        await trio.testing.wait_all_tasks_blocked()

        assert client.status == 200
        assert headers[b"content-type"] == b"text/event-stream"
        assert headers[b"cache-control"] == b"no-cache"
        assert b"content-length" not in headers
        assert client.chunks == [
            streams.CONNECTED,
            b'data: {"n":1}\n\ndata: {"n":2}\n\n',
        ]
        assert listener.delivered_items == items
        client.leave()


async def test_what_was_not_written_is_given_back() -> None:
    async with running() as world, trio.open_nursery() as nursery:
        listener, client, connection = Listener(), Client(), FakeConnection()
        world.api.polls.attach(listener)
        nursery.start_soon(_poll, world, client, "/g/w", connection)
        await trio.testing.wait_all_tasks_blocked()

        def lose(message: dict[str, Any]) -> None:
            connection.is_broken = True

        client.before_send = lose
        item = Message(b"{}")
        assert world.api.polls.put(item, "g", None, exact=False)
        await trio.testing.wait_all_tasks_blocked()

        assert listener.delivered_items == []
        assert listener.returned_items == [item]
        assert world.api.polls.statistics().connections_count == 0


async def test_a_quiet_stream_is_kept_alive(autojump_clock: trio.testing.MockClock) -> None:
    async with running(Settings(poll_keep_alive_ms=1000)) as world:
        client = Client()
        with trio.move_on_after(2.5):
            await _poll(world, client, "/g/w")

        assert client.chunks == [streams.CONNECTED, streams.KEEP_ALIVE, streams.KEEP_ALIVE]
        assert world.api.polls.statistics().connections_count == 0


async def test_a_newer_stream_ends_the_older() -> None:
    async with running() as world, trio.open_nursery() as nursery:
        older, newer = Client(), Client()
        nursery.start_soon(_poll, world, older, "/g/w")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(_poll, world, newer, "/g/w")
        await trio.testing.wait_all_tasks_blocked()

        assert older.messages[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
        assert newer.messages[-1]["more_body"]
        newer.leave()


@pytest.mark.parametrize("end", ["stop", "close", "leave"])
async def test_a_stream_ends_when_either_side_wants(end: str) -> None:
    async with running() as world, trio.open_nursery() as nursery:
        client, connection = Client(), FakeConnection()
        nursery.start_soon(_poll, world, client, "/g/w", connection)
        await trio.testing.wait_all_tasks_blocked()
        if end == "stop":
            for action in connection.actions:
                action()
        elif end == "close":
            world.api.polls.close()
        else:
            client.leave()
        await trio.testing.wait_all_tasks_blocked()

        assert world.api.polls.statistics().connections_count == 0
        assert (client.messages[-1]["type"], client.messages[-1].get("more_body")) == (
            "http.response.body",
            end == "leave",
        )


async def test_a_stream_too_many_is_503() -> None:
    async with running(Settings(poll_connections_limit_count=1)) as world:
        async with trio.open_nursery() as nursery:
            client = Client()
            nursery.start_soon(_poll, world, client, "/g/w")
            await trio.testing.wait_all_tasks_blocked()
            answer = await world.send("GET", "/g/v", application=world.poll_application)
            client.leave()

        assert (answer.status, answer.code, answer.header("retry-after")) == (503, 50301, "1")


@pytest.mark.parametrize(("target", "status"), [("/", 404), ("/g", 404), ("/g/w", 405)])
async def test_the_poll_port_has_the_same_error_bodies(target: str, status: int) -> None:
    async with running() as world:
        method = "POST" if status == 405 else "GET"
        answer = await world.send(method, target, application=world.poll_application)

        assert (answer.status, answer.code // 100) == (status, status)


# --- messages -------------------------------------------------------------------------------------


def _task(kind: TaskKind, task_id: str, trace: Trace | None = None) -> Task:
    return Task(
        id=task_id,
        kind=kind,
        root_id="a",
        leaf_id="a",
        receiver="x",
        timeout=FAR_MS,
        sequence=1,
        created_on=NOW_MS,
        counter=3,
        trace=trace,
    )


def test_a_message_has_links_that_lead_to_the_task() -> None:
    trace = Trace("00-ab-cd-01", "v=1")
    message = TaskMessage(_task(TaskKind.INVOKE, "__invoke:a/b c?é%", trace))

    assert (
        render_message(message, "http://h")
        == (
            '{"head":{"traceparent":"00-ab-cd-01","tracestate":"v=1"},"href":{"base":"http://h",'
            '"claim":"http://h/tasks/claim/__invoke:a/b%20c%3F%C3%A9%25/3",'
            '"complete":"http://h/tasks/complete/__invoke:a/b%20c%3F%C3%A9%25/3",'
            '"heartbeat":"http://h/tasks/heartbeat/__invoke:a/b%20c%3F%C3%A9%25/3"},'
            '"task":{"id":"__invoke:a/b c?é%","counter":3,"timeout":4102444800000,'
            '"rootPromiseId":"a","createdOn":1800000000000},"type":"invoke"}'
        ).encode()
    )


async def test_a_notification_has_the_promise_and_no_links() -> None:
    async with running() as world:
        created = await world.create("a")
        reply = await world.api.shards.ask(ReadPromise("a"))
        message = TaskMessage(_task(TaskKind.NOTIFY, "__notify:a:s"), reply.promise)

        assert render_message(message, "http://h") == (
            b'{"promise":' + created.body + b',"type":"notify"}'
        )
