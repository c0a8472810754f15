"""One request on the hot lane, from its bytes to those of its answer, without a task of its own.

The same handlers run as everywhere: coroutines. But nothing here awaits: `Exchange` moves the
coroutine on by hand until it asks the shards, and again when the shards call back with the reply.
What needs several shards at once (searches, heartbeats) runs in a small task, and the coroutine
goes on with its result.
"""

import itertools
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from email.utils import formatdate
from functools import partial
from types import coroutine
from typing import Any, Final, Protocol, TypeVar

import structlog

from troth.core.codes import Code
from troth.core.commands import Command
from troth.core.model import Promise, PromiseState, Schedule
from troth.core.replies import Reply
from troth.shards.errors import ShardsError
from troth.shards.held import HeldMessages
from troth.shards.shard import Asker
from troth.shards.shards import EntryKind

from .api import Shards
from .dispatch import Dispatcher
from .errors import ApiError
from .metrics import Metrics
from .requests import Request, Response
from .router import Match

Result = TypeVar("Result")
Question = tuple[Command, HeldMessages | None]
Job = Callable[[], Awaitable[Any]]
Call = Coroutine["Question | Job", Any, Response]

_log = structlog.get_logger(__name__)


class LaneShards(Shards, Protocol):
    """What the lane needs of the shards beside what handlers do: asking without a task."""

    def submit(self, command: Command, held: HeldMessages | None, asker: Asker) -> None:
        """Take a command; the asker is called back. Raises ShardsError."""
        ...

    def turn(self) -> None:
        """Carry out what was submitted, now."""
        ...

    def with_leaf(self, reply: Reply) -> Reply:
        """Complete the reply to a claim. Raises StorageFailed."""
        ...


@coroutine
def _ask(question: Question) -> Generator[Question, Reply, Reply]:
    """Hand a question to whoever moves the coroutine; go on with the reply."""
    return (yield question)


@coroutine
def _have_done(job: Job) -> Generator[Job, Any, Any]:
    """Have a task do something; go on with its result."""
    return (yield job)


class AskedShards:
    """The shards as a handler on the lane sees them: each question suspends its coroutine."""

    def __init__(self, shards: LaneShards) -> None:
        """Take the real ones."""
        self._shards = shards

    @property
    def cursor_secret(self) -> bytes:
        """The key that cursors are signed with."""
        return self._shards.cursor_secret

    async def ask(self, command: Command, held: HeldMessages | None = None) -> Reply:
        """Carry out a command. Raises ShardsError."""
        reply = await _ask((command, held))
        return reply if reply.claimed is None else self._shards.with_leaf(reply)

    async def search_promises(
        self,
        pattern: str,
        states: tuple[PromiseState, ...],
        tags: Mapping[str, str],
        limit_count: int,
        before_serial: int | None,
    ) -> tuple[list[Promise], int | None]:
        """Find promises, newest first, and say where the next page starts."""
        search = self._shards.search_promises
        found: tuple[list[Promise], int | None] = await _have_done(
            partial(search, pattern, states, tags, limit_count, before_serial)
        )
        return found

    async def search_schedules(
        self,
        pattern: str,
        tags: Mapping[str, str],
        limit_count: int,
        before_serial: int | None,
    ) -> tuple[list[Schedule], int | None]:
        """Find schedules, newest first, and say where the next page starts."""
        search = self._shards.search_schedules
        found: tuple[list[Schedule], int | None] = await _have_done(
            partial(search, pattern, tags, limit_count, before_serial)
        )
        return found

    async def list_entries(self, kind: type[EntryKind], account_id: str | None) -> list[EntryKind]:
        """Collect the catalog's entries of a type, of one account or all (None), oldest first."""
        list_entries = self._shards.list_entries
        found: list[EntryKind] = await _have_done(partial(list_entries, kind, account_id))
        return found

    async def heartbeat_tasks(self, process_id: str) -> int:
        """Renew the tasks of a process and count them."""
        count: int = await _have_done(partial(self._shards.heartbeat_tasks, process_id))
        return count

    async def heartbeat_locks(self, process_id: str) -> int:
        """Renew the locks of a process and count them."""
        count: int = await _have_done(partial(self._shards.heartbeat_locks, process_id))
        return count

    def statistics(self) -> object:
        """Return numbers about the shards, as frozen data."""
        return self._shards.statistics()


class Questions(Protocol):
    """Who carries questions and jobs to the shards: the lane."""

    def submit(self, command: Command, held: HeldMessages | None, asker: Asker) -> None:
        """Take a command; the asker is called back. Raises ShardsError."""
        ...

    def start(self, exchange: "Exchange", job: Job) -> None:
        """Do a job in a task, and resume the exchange with its result."""
        ...


Written = Callable[[bytes, HeldMessages], None]
"""Takes an answer's bytes; releases the messages when they are written or can never be."""


class Exchange:
    """One request being answered; also the `Asker` that the shards call back."""

    __slots__ = (
        "_answered",
        "_call",
        "_dispatcher",
        "_metrics",
        "_questions",
        "_request",
        "_start",
    )

    def __init__(
        self,
        questions: Questions,
        dispatcher: Dispatcher,
        metrics: Metrics,
        request: Request,
        match: Match,
        answered: Written,
    ) -> None:
        """Begin with a request that has been read whole; `run` moves it on."""
        self._questions = questions
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._request = request
        self._answered = answered
        self._start = time.perf_counter()
        self._call: Call = dispatcher.carry_out(request, match)

    def run(self) -> None:
        """Move on until the first question, or to the end."""
        self.resume(None)

    def answer(self, place: int, reply: Reply) -> None:  # noqa: ARG002  there is only one place
        """Take the shards' reply."""
        self.resume(reply)

    def refuse(self, error: ShardsError) -> None:
        """Take the shards' refusal."""
        self.fail(error)

    def resume(self, result: object) -> None:
        """Go on with what was asked for. Never raises."""
        self._move(self._call.send, result)

    def fail(self, error: Exception) -> None:
        """Go on with a failure of what was asked for. Never raises."""
        self._move(self._call.throw, error)

    def _move(self, step: Callable[[Any], "Question | Job"], given: object) -> None:
        request = self._request
        try:
            wanted = step(given)
            while True:
                if not isinstance(wanted, tuple):
                    self._questions.start(self, wanted)
                    return
                try:
                    self._questions.submit(*wanted, self)
                    return
                except ShardsError as error:
                    wanted = self._call.throw(error)
        except StopIteration as stop:
            response: Response = stop.value
        except ApiError as error:
            response = self._dispatcher.refuse(request, error)
        except Exception:
            _log.exception(
                "a request failed",
                endpoint=request.endpoint,
                request_id=request.id,
                peer=request.peer,
            )
            response = self._dispatcher.refuse(request, ApiError(Code.INTERNAL))
        self._end(response)

    def _end(self, response: Response) -> None:
        request = self._request
        assert request.held is not None, "the connection has made them"
        self._answered(render(response), request.held)
        duration_s = time.perf_counter() - self._start
        self._metrics.count(request.endpoint, response.status, duration_s)


def render(response: Response) -> bytes:
    """An answer's bytes, as Quart and hypercorn would write them."""
    body = response.body
    if response.status == 204:
        parts = [b"HTTP/1.1 204 \r\n"]
    else:
        parts = [b"HTTP/1.1 %d \r\ncontent-length: %d\r\n" % (response.status, len(body))]
    for field in response.headers:
        parts.append(b"%s: %s\r\n" % field)
    parts.append(b"date: %s\r\n\r\n" % _date.text())
    parts.append(body)
    return b"".join(parts)


class _Date:
    """The time for the header Date, which changes once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = b""

    def text(self) -> bytes:
        """Now, as HTTP writes it."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._text = formatdate(second, usegmt=True).encode()
        return self._text


_date: Final = _Date()


class RequestIds:
    """New request ids: in the form of a UUID, unique, but easily guessed; nothing hangs on them."""

    def __init__(self) -> None:
        """Choose the part that no other server has."""
        chosen = os.urandom(10).hex()
        self._prefix = f"{chosen[:8]}-{chosen[8:12]}-4{chosen[12:15]}-8{chosen[15:18]}-"
        self._numbers = itertools.count(1)

    def new(self) -> str:
        """One more."""
        return f"{self._prefix}{next(self._numbers):012x}"
