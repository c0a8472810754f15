"""One connection to a NATS server, made when it is needed and dropped when it is in doubt.

nats-py needs an asyncio loop. This one runs only while a call does, in the thread that calls, so
there is no other thread and nothing happens between calls. Calls block for a limited time. A
server that does not answer in time is left for the next one; what it was asked may happen all the
same. Imported only when it is used.
"""

import asyncio
import contextlib
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar, final

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from troth.core.limits import JETSTREAM_ANSWER_LIMIT_MS, JETSTREAM_LEFT_MS

from .jetstream_line import JetStreamLine, open_line
from .jetstream_url import JetStreamUrl
from .stream import StreamRefused, StreamUnreachable

VERSION_LEAST: Final = (2, 12)

WRONG_LAST_SEQUENCE: Final = 10071
NO_MESSAGE_FOUND: Final = 10037
STREAM_NOT_FOUND: Final = 10059

_NOT_NOW: Final = (10008, 10009)
"""A server that does not know who leads says these; perhaps it is cut off from the others."""

ANOTHER_OWNS: Final = "another node owns the stream"

_CLOSE_LIMIT_S: Final = 0.5
_PREFERRED_LIMIT_S: Final = 0.3
"""How long a server may take that would be better than another: appends wait in the meantime."""

_PENDING_LIMIT_BYTES: Final = 256 << 20  # of what a subscription has received

Answer = TypeVar("Answer")


class JetStreamLeaderless(StreamUnreachable):
    """No server takes what was asked, so it was not done: they have not agreed who leads."""


class JetStreamRefusal(Exception):
    """JetStream has answered with an error, whose number this has."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class _Selector(selectors.DefaultSelector):
    """Asks the system only when there is nothing else to do.

    A loop asks in each of its rounds, several times for one answer of NATS, and lets go of the
    interpreter each time. Then it waits for as long as the server's loop is busy.
    """

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return []  # callbacks wait, and are run first
        found: list[tuple[selectors.SelectorKey, int]] = super().select(timeout)
        return found


class _Shown:
    """What a connection receives of consumers: one subscription, for one question at a time."""

    def __init__(self, inbox: str) -> None:
        self.inbox = inbox
        self.taken: list[tuple[int, bytes]] = []
        self.wanted_count = 0
        self.is_over = asyncio.Event()

    async def take(self, message: Msg) -> None:
        """Take the next message, or learn that there are no more."""
        if message.headers and "Status" in message.headers:
            self.is_over.set()
            return
        self.taken.append((message.metadata.sequence.stream, message.data))
        if len(self.taken) >= self.wanted_count:
            self.is_over.set()


@contextlib.contextmanager
def unreachable() -> Iterator[None]:
    """Raise StreamUnreachable for what JetStream refuses."""
    try:
        yield
    except JetStreamRefusal as error:
        problem = ANOTHER_OWNS if error.number == WRONG_LAST_SEQUENCE else str(error)
        raise StreamUnreachable(problem) from error


@final
class JetStreamConnection:
    """A connection to one server of a cluster at a time. Nothing is connected before it is needed.

    Calls raise StreamUnreachable if there is no answer, and StreamRefused if no connection can
    ever be made as things are set up; but not after there was one.
    """

    def __init__(self, url: JetStreamUrl, answer_limit_ms: int = JETSTREAM_ANSWER_LIMIT_MS) -> None:
        self.name = url.shown
        self._url = url
        self._servers = list(url.servers)
        self._addresses: dict[str, str] = {}
        """Addresses of servers that were reached, by name."""
        self._left_s: dict[str, float] = {}
        """When servers were left whose answers are of no use, by address."""
        self._answer_limit_s = answer_limit_ms / 1000
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Client | None = None
        self._shown: _Shown | None = None
        self._line: JetStreamLine | None = None
        self._has_ended = False
        self._asking: asyncio.Task[Any] | None = None
        self._has_connected = False

    def api(self, call: str, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return JetStream's answer. Raises JetStreamRefusal, or as the class says."""
        body = b"" if fields is None else orjson.dumps(fields)
        return self._said(_checked, _api_subject(call), body)

    def api_each(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
        """Return JetStream's answers to calls that are sent together; an error is one as well.

        Raises as the class says.
        """

        async def all_of_them() -> list[dict[str, Any]]:
            client = await self._connected()  # what breaks it off ends all other tasks
            asked = (
                self._answer_of(client, _api_subject(call), orjson.dumps(one))
                for call, one in calls
            )
            answers = [orjson.loads(answer) for answer in await asyncio.gather(*asked)]
            for answer in answers:
                _check_knows(answer)
            return answers

        return self._run(all_of_them())

    def publish(self, subject: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Return the sequence of a message that a stream has stored. Raises as `api`."""
        return self._said(_stored, subject, body, headers)

    def fetch(self, call: str, fields: Mapping[str, Any], count: int) -> list[tuple[int, bytes]]:
        """Return up to so many messages of a consumer, with their sequences. Raises as `api`."""

        async def take() -> list[tuple[int, bytes]]:
            client = await self._connected()
            shown = self._shown
            if shown is None:
                shown = self._shown = _Shown(client.new_inbox())
                await client.subscribe(
                    shown.inbox, cb=shown.take, pending_bytes_limit=_PENDING_LIMIT_BYTES
                )
            shown.taken, shown.wanted_count = [], count
            shown.is_over.clear()
            await client.publish(_api_subject(call), orjson.dumps(fields), reply=shown.inbox)
            while not shown.is_over.is_set():
                before_count = len(shown.taken)
                try:
                    await asyncio.wait_for(shown.is_over.wait(), self._answer_limit_s)
                except TimeoutError:
                    if len(shown.taken) == before_count:
                        raise
            return shown.taken

        return self._run(take())

    def meet_servers(self) -> None:
        """Connect to each server of the URL, to know what it is called. Raises as `api`."""

        async def meet() -> None:
            for _ in self._url.servers:
                await self._connected()
                await self._drop()

        if len(self._url.servers) > 1:
            self._run(meet())

    def prefer(self, server: str) -> None:
        """Connect to the server of a name, if its address is known. Raises as `api`."""

        async def go() -> None:
            address = self._addresses.get(server)
            if address is None or (self._client is not None and address == self._servers[0]):
                return
            await self._drop()
            self._servers.remove(address)
            self._servers.insert(0, address)
            try:
                await self._connect_to(address, _PREFERRED_LIMIT_S)
            except (TimeoutError, NatsError, OSError, StreamRefused):
                await self._drop()
                await self._connected()  # to another one

        self._run(go())

    def leave(self, problem: str) -> NoReturn:
        """Leave the server for others, for a while. Raises StreamUnreachable.

        The ones that cannot say anything either are left as well; this one would be next again.
        """
        self._left_s[self._servers[0]] = time.monotonic()
        self._run(_raised(StreamUnreachable(problem)))
        raise AssertionError("it was raised")

    def gather(self, subject: str, wait_s: float) -> list[dict[str, Any]]:
        """Return the answers of all servers that give one within some time."""

        async def listen() -> list[dict[str, Any]]:
            client = await self._connected()
            inbox = client.new_inbox()
            received = await client.subscribe(inbox)
            await client.publish(subject, b"", reply=inbox)
            answers = []
            ends_s = time.monotonic() + wait_s
            while (left_s := ends_s - time.monotonic()) > 0:
                try:
                    message = await received.next_msg(left_s)
                except TimeoutError:
                    break
                if message.data:
                    answers.append(orjson.loads(message.data))
            await received.unsubscribe()
            return answers

        return self._run(listen())

    def close(self) -> None:
        """Close the connection; the next call connects again."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        try:
            loop.run_until_complete(self._drop())
        finally:
            loop.close()

    def _said(
        self,
        read: Callable[[bytes], Answer],
        subject: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return what is read in the answer to one question. Raises as `api`."""
        answer = self._ask(subject, body, headers)
        try:
            return read(answer)
        except (ValueError, KeyError, StreamUnreachable) as error:
            return self._run(_raised(error))

    def _ask(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
        """Return the answer to one question, without the loop if that can be."""
        line = self._line
        if line is None or self._has_ended or not line.takes(len(body)):
            return self._run(self._answer(subject, body, headers))
        try:
            answer = line.ask(subject, body, headers, self._answer_limit_s)
        except TimeoutError as error:
            self._run(_raised(error))  # as if the client had waited
        return self._run(line.rest()) if answer is None else answer

    # Inside the loop

    def _run(self, question: Coroutine[Any, Any, Answer]) -> Answer:
        """Run the loop until a question is answered. Raises as the class says."""
        if self._loop is None:
            self._loop = asyncio.SelectorEventLoop(_Selector())
        return self._loop.run_until_complete(self._asked(question))

    async def _asked(self, question: Coroutine[Any, Any, Answer]) -> Answer:
        self._asking = asyncio.current_task()
        try:
            return await question
        except (StreamUnreachable, StreamRefused):
            await self._drop()
            raise
        except asyncio.CancelledError as error:  # by `end`
            await self._drop()
            raise StreamUnreachable("the connection broke") from error
        except NoRespondersError as error:
            await self._drop()
            raise JetStreamLeaderless(
                "JetStream has no leader for it just now, or is not enabled"
            ) from error
        except (TimeoutError, NatsError, OSError, ValueError, KeyError) as error:
            await self._drop()
            raise StreamUnreachable(_said(error)) from error
        finally:
            self._asking = None

    async def _answer(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> bytes:
        return await self._answer_of(await self._connected(), subject, body, headers)

    async def _answer_of(
        self, client: Client, subject: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> bytes:
        given = None if headers is None else dict(headers)
        limit_s = self._answer_limit_s
        return (await client.request(subject, body, timeout=limit_s, headers=given)).data

    async def _connected(self) -> Client:
        """Return a client that is connected, to the first server that can be reached."""
        if self._client is not None:
            if not self._has_ended:
                return self._client
            await self._drop()
        problem: Exception | None = None
        ends_s = time.monotonic() + self._answer_limit_s
        self._servers.sort(key=self._is_left)
        for _ in range(len(self._servers)):
            try:
                await self._connect_to(self._servers[0])
            except (TimeoutError, NatsError, OSError, StreamRefused) as error:
                problem = error
                await self._drop()
                if time.monotonic() >= ends_s:
                    break
            else:
                assert self._client is not None
                self._has_connected = True
                return self._client
        if problem is not None and not self._has_connected:
            self._check_will_ever(problem)
        raise StreamUnreachable(_said(problem)) from problem

    def _is_left(self, server: str) -> bool:
        left_s = self._left_s.get(server)
        return left_s is not None and time.monotonic() < left_s + JETSTREAM_LEFT_MS / 1000

    def _check_will_ever(self, problem: Exception) -> None:
        """Raise StreamRefused if it is of no use to try again."""
        if isinstance(problem, StreamRefused):
            raise problem
        text = str(problem).lower()
        if "authorization" in text or "authentication" in text:
            raise StreamRefused(
                f"{self.name}: the server does not accept this user and password, or credentials."
            ) from problem

    async def _connect_to(self, server: str, limit_s: float | None = None) -> None:
        problems: list[Exception] = []

        async def note(problem: Exception) -> None:
            problems.append(problem)

        async def end() -> None:
            if self._client is client:
                self._has_ended = True
                if self._asking is not None:
                    self._asking.cancel()  # nothing else would tell it before its time is over

        client = self._client = Client()
        self._has_ended = False
        try:
            await client.connect(
                [server],
                name="troth",
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=limit_s or self._answer_limit_s / 2,  # type: ignore[arg-type]  # s
                error_cb=note,
                closed_cb=end,
                **self._url.options,
            )
        except NatsError as error:
            raise problems[-1] if problems else error from error
        info = client.connected_server_version
        if (info.major, info.minor) < VERSION_LEAST:
            least = ".".join(map(str, VERSION_LEAST))
            raise StreamRefused(
                f"{self.name}: nats-server {least} or newer is needed (it has {info.major}."
                f"{info.minor}.{info.patch})."
            )
        self._addresses[str(client._server_info.get("server_name"))] = server
        for found in client.discovered_servers:
            if (address := found.geturl()) not in self._servers:
                self._servers.append(address)
        self._line = await open_line(client)

    async def _drop(self) -> None:
        """Break the connection off; begin with the next server next time."""
        client, self._client, self._shown, self._line = self._client, None, None, None
        if client is None:
            return
        self._servers.append(self._servers.pop(0))
        # What a halted server has not taken would be waited for.
        writer = getattr(client._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        with contextlib.suppress(NatsError, OSError, asyncio.TimeoutError):  # it is gone
            await asyncio.wait_for(client.close(), _CLOSE_LIMIT_S)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def _api_subject(call: str) -> str:
    return f"$JS.API.{call}"


async def _raised(error: Exception) -> NoReturn:
    raise error


def _stored(body: bytes) -> int:
    """Return the sequence in JetStream's answer to a message. Raises JetStreamRefusal."""
    return int(_checked(body)["seq"])


def _checked(body: bytes) -> dict[str, Any]:
    """Return what JetStream has answered. Raises JetStreamRefusal or StreamUnreachable."""
    answer: dict[str, Any] = orjson.loads(body)
    _check_knows(answer)
    if "error" in answer:
        error = answer["error"]
        raise JetStreamRefusal(
            error.get("err_code", error["code"]), error.get("description", "it gives no reason")
        )
    return answer


def _check_knows(answer: Mapping[str, Any]) -> None:
    """Raise StreamUnreachable if the server cannot say, so that another one is asked next."""
    error = answer.get("error")
    if error is not None and error.get("err_code") in _NOT_NOW:
        raise StreamUnreachable(error.get("description", "it does not know who leads"))


def _said(error: Exception | None) -> str:
    """Return what an error says, as part of a sentence."""
    text = str(error).strip().removeprefix("nats: ") if error is not None else ""
    return text.splitlines()[0].rstrip(".") if text else "no answer in time"
