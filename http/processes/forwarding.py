"""Requests about what process 0 has: the others pass them on, and give their clients its answer.

The process that a client is connected to judges the request as any other: who sends it, and
whether it can be read. Then process 0 does the same again and carries it out; what it refuses is
refused. A stream goes on as long as both processes and the client: each chunk is asked for when
the client's socket has taken the one before it, so what counts as delivered there is what it always
was. Messages to workers wait until the client has its answer.

If process 0 is away, nothing was done (`OutOfReach`), or that is unknown (`LinkBroken`).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, final

import structlog
import trio
from msgspec import Struct

from troth.core.codes import Code
from troth.core.limits import FORWARDED_LIMIT_COUNT
from troth.http.api.context import Api
from troth.http.api.dispatch import Dispatcher
from troth.http.api.rows import Call, Endpoint
from troth.http.api.shards_port import answered
from troth.http.supervision.seat import OWNER
from troth.http.wire.errors import ApiError, FieldProblem
from troth.http.wire.requests import ChunkStream, Request, Response
from troth.shards.errors import Overloaded, ShardsError
from troth.shards.held import HeldMessages, Notice
from troth.shards.mesh.calls import ProcessCall, ProcessCalls, ProcessNote

FORWARDED_GROUPS: Final = frozenset(
    {
        *("Accounts", "Builds", "Function tasks", "Nodes", "Node work", "Bulk jobs", "Sessions"),
    }
)
"""Groups of endpoints that are about what process 0 has."""

FORWARDED_ENDPOINTS: Final = frozenset({"deleteFunction", "showUsage", "settings"})
"""Other endpoints that are."""

ENVELOPE: Final = "envelope"
"""The endpoint of the envelope protocol."""

KEPT_ENDPOINTS: Final = frozenset({"showSession"})
"""Endpoints of those groups that each process answers from its copy."""

Pairs = tuple[tuple[bytes, bytes], ...]

_log = structlog.get_logger("troth.processes")


class ForwardedRequest(Struct, frozen=True, array_like=True):
    """A request, numbered by the process that passes it on; see `requests.Request`."""

    number: int
    method: str
    raw_path: bytes
    query: bytes
    headers: Pairs
    repeated: Pairs | None
    body: bytes
    peer: str | None
    id: str


class ForwardedRefusal(Struct, frozen=True, array_like=True):
    """Why a request was refused; see `errors.ApiError`."""

    code: int
    problems: tuple[tuple[str, str], ...]
    message: str | None
    headers: Pairs


class ForwardedAnswer(Struct, frozen=True, array_like=True):
    """The answer to a request. With `is_stream` its chunks are asked for."""

    status: int
    body: bytes
    headers: Pairs
    is_stream: bool = False
    refusal: ForwardedRefusal | None = None


class ForwardedChunk(Struct, frozen=True, array_like=True):
    """What a stream sends next; None at its end."""

    content: bytes | None


REQUEST: Final = ProcessCall("http.request", ForwardedRequest, ForwardedAnswer)
LEFT: Final = ProcessNote("http.left", int)
"""The client of a request has gone."""
WRITTEN: Final = ProcessNote("http.written", int)
"""The answer to a request was written, or its client has gone."""
CHUNK: Final = ProcessCall("http.chunk", int, ForwardedChunk)
"""The chunk before it was written; what follows?"""
CLOSED: Final = ProcessNote("http.closed", int)
"""The client of a stream has gone, or the stream was ended."""
RELINKED: Final = ProcessNote("http.relinked", int)
"""The link has come up again: nothing of what was passed on before it is waited for."""


def is_forwarded(endpoint: Endpoint, *, is_debugged: bool = False) -> bool:
    """Return whether an endpoint is about what process 0 has.

    With debug operations that is the envelope protocol, too, whose requests stand in one row then.
    """
    if endpoint.name in KEPT_ENDPOINTS:
        return False
    return (
        endpoint.group in FORWARDED_GROUPS
        or endpoint.name in FORWARDED_ENDPOINTS
        or (is_debugged and endpoint.name == ENVELOPE)
    )


def forwarded(
    endpoints: tuple[Endpoint, ...], calls: ProcessCalls, *, is_debugged: bool = False
) -> tuple[Endpoint, ...]:
    """Return the endpoints as a process has them that passes on what process 0 has.

    `is_debugged`: with debug operations.
    """
    if calls.own == OWNER:
        return endpoints
    forwarder = _Forwarder(calls)
    return tuple(
        replace(one, handler=partial(_forward, forwarder))
        if is_forwarded(one, is_debugged=is_debugged)
        else one
        for one in endpoints
    )


async def _forward(forwarder: "_Forwarder", _api: Api, call: Call) -> Response:
    """Pass a request on."""
    return await forwarder.answer(call.request)


@final
class _Forwarder:
    """What this process passes on."""

    def __init__(self, calls: ProcessCalls) -> None:
        self._calls = calls
        self._last_number = 0
        self._count = 0
        calls.when_linked.append(self._linked)

    def _linked(self, process: int) -> None:
        if process == OWNER:
            self._calls.note(OWNER, RELINKED, self._last_number)

    async def answer(self, request: Request) -> Response:
        """Return the answer of process 0. Raises ApiError."""
        if self._count >= FORWARDED_LIMIT_COUNT:
            raise ApiError(Code.OVERLOADED)
        self._last_number = number = self._last_number + 1
        calls = self._calls
        asked = ForwardedRequest(
            number,
            request.method,
            request.raw_path,
            request.query,
            tuple(request.headers.items()),
            None if request.repeated is None else tuple(request.repeated.items()),
            request.body,
            request.peer,
            request.id,
        )
        if request.held is not None:
            request.held.add((Notice(lambda: calls.note(OWNER, WRITTEN, number)),))
        request.on_left = lambda: calls.note(OWNER, LEFT, number)
        self._count += 1
        try:
            found = await answered(calls.call(OWNER, REQUEST, asked))
        except trio.Cancelled:
            calls.note(OWNER, CLOSED, number)
            raise
        finally:
            request.on_left = None
            self._count -= 1
        if found.refusal is not None:
            raise _error(found.refusal)
        stream = ForwardedStream(calls, number) if found.is_stream else None
        return Response(found.status, found.body, list(found.headers), stream)


def _error(refusal: ForwardedRefusal) -> ApiError:
    return ApiError(
        Code(refusal.code),
        [FieldProblem(*problem) for problem in refusal.problems],
        message=refusal.message,
        headers=refusal.headers,
    )


@final
class ForwardedStream:
    """A stream of process 0, for a client of this process. A `requests.ReadyStream`.

    When process 0 goes away, it ends.
    """

    def __init__(self, calls: ProcessCalls, number: int) -> None:
        self._calls = calls
        self._number = number
        self._is_over = False
        self._is_asked = False
        self._chunk = b""
        self._news = trio.Event()
        self._action: Callable[[], None] = lambda: None

    def when_ready(self, action: Callable[[], None]) -> None:
        """Register `action`, called whenever `next_now` may have news, but not immediately."""
        self._action = action

    def next_now(self, now: float) -> bytes | None:  # noqa: ARG002  process 0 looks at the time
        """Return the next bytes to send; empty if there are none yet, None at the end."""
        return self._take()

    def _take(self) -> bytes | None:
        if self._is_over:
            return None
        chunk, self._chunk = self._chunk, b""
        if not (chunk or self._is_asked):
            self._is_asked = True
            try:
                self._calls.ask(OWNER, CHUNK, self._number, self._arrived)
            except ShardsError as error:
                self._arrived(error)
        return chunk

    def is_due(self, now: float) -> bool:  # noqa: ARG002  process 0 looks at the time
        """Return False: what has come was told of."""
        return False

    async def next_chunk(self) -> bytes | None:
        """Wait for the next bytes to send; None at the end."""
        await trio.lowlevel.checkpoint()
        while True:
            chunk = self._take()
            if chunk != b"":
                return chunk
            await self._news.wait()
            self._news = trio.Event()

    def _arrived(self, found: ForwardedChunk | ShardsError) -> None:
        self._is_asked = False
        if isinstance(found, ShardsError):
            _log.debug("a stream ends with its home", reason=str(found))
            self._is_over = True
        elif found.content is None:
            self._is_over = True
        else:
            self._chunk = found.content
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._action()

    def stop(self) -> None:
        """End the stream at the next chunk."""
        self._is_over = True
        self._tell()

    def close(self) -> None:
        """Leave: what was not written goes elsewhere."""
        self._calls.note(OWNER, CLOSED, self._number)


class _Open(Struct, eq=False):
    """A request of another process that is carried out here, or whose answer goes on."""

    request: Request
    held: HeldMessages
    stream: ChunkStream | None = None
    is_closed: bool = False
    is_asked: bool = False


@final
class ForwardedRequests:
    """What the other processes pass on to this one, process 0."""

    def __init__(
        self, calls: ProcessCalls, api: Api, make_dispatcher: Callable[[], Dispatcher]
    ) -> None:
        self._api = api
        self._make_dispatcher = make_dispatcher
        self._dispatcher: Dispatcher | None = None
        self._open: dict[tuple[int, int], _Open] = {}
        self._held: dict[tuple[int, int], HeldMessages] = {}
        self._running_count = 0
        calls.handle(REQUEST, self._carry_out)
        calls.handle(CHUNK, self._next_chunk)
        calls.hear(LEFT, self._left)
        calls.hear(WRITTEN, self._written)
        calls.hear(CLOSED, self._closed)
        calls.hear(RELINKED, lambda process, _: self._parted(process))
        calls.when_parted.append(self._parted)

    @property
    def open_count(self) -> int:
        """The number of requests that are carried out, and of streams that are open."""
        return len(self._open)

    async def _carry_out(self, process: int, asked: ForwardedRequest) -> ForwardedAnswer:
        """Answer a request."""
        if self._running_count >= FORWARDED_LIMIT_COUNT:
            raise Overloaded
        key = process, asked.number
        held = self._held[key] = self._api.hold()
        request = Request(
            asked.method,
            asked.raw_path,
            asked.query,
            dict(asked.headers),
            asked.body,
            held,
            asked.peer,
            asked.id,
            None if asked.repeated is None else dict(asked.repeated),
            span=False,
        )
        opened = self._open[key] = _Open(request, held)
        self._running_count += 1
        try:
            response = await self._answered(request)
        except ApiError as error:
            return _refused(error)
        finally:
            self._running_count -= 1
            del self._open[key]
        if response.stream is None:
            return ForwardedAnswer(response.status, response.body, tuple(response.headers))
        if opened.is_closed:
            response.stream.close()
        else:
            opened.stream = response.stream
            self._open[key] = opened
        return ForwardedAnswer(response.status, b"", tuple(response.headers), is_stream=True)

    async def _answered(self, request: Request) -> Response:
        """Judge a request and carry it out. Raises ApiError."""
        dispatcher = self._dispatcher
        if dispatcher is None:
            dispatcher = self._dispatcher = self._make_dispatcher()
        match = dispatcher.router.match(request.method, request.raw_path)
        is_debugged = self._api.settings.debug_operations
        if not is_forwarded(match.endpoint, is_debugged=is_debugged):
            raise ApiError(Code.INTERNAL)
        in_flight = self._api.in_flight
        with in_flight.hold() as hold:
            await in_flight.grown(hold, len(request.body))
            return await dispatcher.handle(request, match)

    async def _next_chunk(self, process: int, number: int) -> ForwardedChunk:
        opened = self._open.get((process, number))
        if opened is None or opened.stream is None or self._running_count >= FORWARDED_LIMIT_COUNT:
            return ForwardedChunk(None)
        opened.is_asked = True
        self._running_count += 1
        try:
            return ForwardedChunk(await opened.stream.next_chunk())
        finally:
            self._running_count -= 1
            opened.is_asked = False
            if opened.is_closed:
                opened.stream.close()

    def _left(self, process: int, number: int) -> None:
        opened = self._open.get((process, number))
        if opened is not None:
            opened.request.leave()

    def _written(self, process: int, number: int) -> None:
        held = self._held.pop((process, number), None)
        if held is not None:
            held.release()

    def _closed(self, process: int, number: int) -> None:
        self._end((process, number))

    def _parted(self, process: int) -> None:
        """End what was for a process that is away."""
        for key in [one for one in self._open if one[0] == process]:
            self._end(key)
        for key in [one for one in self._held if one[0] == process]:
            self._held.pop(key).release()

    def _end(self, key: tuple[int, int]) -> None:
        opened = self._open.get(key)
        if opened is None or opened.is_closed:
            return
        opened.is_closed = True
        opened.request.leave()
        if opened.stream is None:
            return  # it is looked at again when there is an answer
        del self._open[key]
        opened.stream.stop()
        if not opened.is_asked:
            opened.stream.close()


def _refused(error: ApiError) -> ForwardedAnswer:
    refusal = ForwardedRefusal(
        error.code.value,
        tuple((one.field, one.problem) for one in error.problems),
        error.message,
        tuple(error.headers),
    )
    return ForwardedAnswer(error.code.status, b"", (), refusal=refusal)
