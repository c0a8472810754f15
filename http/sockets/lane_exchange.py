"""One request on the hot lane, from its bytes to those of its answer, without a task of its own.

The same handlers run as everywhere. Those that ask one shard one thing have two halves (`Asking`):
the first makes the command, the second is called with the reply when the shards call back, and
nothing waits in between. The others (searches, heartbeats) are coroutines and run in a small task.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from email.utils import formatdate
from time import perf_counter, time
from typing import Final, Protocol

import structlog
import trio
from msgspec import Struct

from troth.core.codes import Code
from troth.core.commands import Command
from troth.core.limits import LONG_BODY_BYTES
from troth.core.replies import Reply
from troth.http.api.context import VERSION_HEADER_VALUE
from troth.http.api.dispatch import Dispatcher, no_memory
from troth.http.api.router import Match
from troth.http.api.rows import Call, HalvedHandler, Renewals
from troth.http.tracing.requests import trace_fields
from troth.http.wire.errors import ApiError
from troth.http.wire.in_flight import SMALL_BYTES, InFlight
from troth.http.wire.requests import JSON_TYPE, ReadyStream, Request, Response, json_response
from troth.http.wire.status_lines import STATUS_LINES
from troth.persistence.memory_reserve import RESERVE
from troth.shards.errors import Overloaded, ShardsError
from troth.shards.held import HeldMessages
from troth.shards.turns import Asker

from .lane_streams import LaneStream

_log = structlog.get_logger("troth.http.lane_exchange")


class Questions(Protocol):
    """The part of the lane that carries questions to the shards and gives handlers a task."""

    @property
    def submit(self) -> Callable[[Command, HeldMessages | None, Asker], None]:
        """Return what takes a command and calls the asker back. It raises ShardsError."""
        ...

    def submit_renewals(self, renewals: Renewals, held: HeldMessages, asker: Asker) -> int:
        """Take renewals; the asker is called back that many times. Raises ShardsError."""
        ...

    @property
    def in_flight(self) -> InFlight:
        """The memory that all connections take."""
        ...

    def defer(self, exchange: "Exchange", reply: Reply) -> None:
        """Call `answer` with the reply when there is room for a large answer."""
        ...

    def start(self, exchange: "Exchange") -> None:
        """Call the exchange's `carry_out` in a task."""
        ...


class Requester(Protocol):
    """The receiver of an answer: the connection that the request came by."""

    def answered(self, data: bytes, held: HeldMessages) -> None:
        """Write an answer; release the messages when that is done or can never be."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...

    def streams(self, stream: LaneStream) -> None:
        """Write a stream; close it at its end or when it can be written no longer."""
        ...


class Exchange(Struct, eq=False):
    """One request being answered; also the `Asker` that the shards call back.

    Made when the request has been read whole, in a pass that began at `started_s`; `run` begins,
    and the client is called once, at the end. Nothing here raises: every failure becomes an answer.
    """

    questions: Questions
    dispatcher: Dispatcher
    request: Request
    held: HeldMessages
    match: Match
    client: Requester
    started_s: float
    call: Call | None = None
    awaited_count: int = 1

    def run(self) -> None:
        """Ask the shards, or have a task run the handler if it does more than ask.

        A task, too, for a long body: others get their turn between looking at it and writing it.
        """
        match, request = self.match, self.request
        handler, body = match.endpoint.in_halves, request.body
        if handler is None or (body and len(body) > LONG_BODY_BYTES):
            self.questions.start(self)
            return
        dispatcher = self.dispatcher
        try:
            self.call = call = dispatcher.admit(request, match)
            asked = handler.question(dispatcher.api, call)
            if isinstance(asked, Command):
                submit = self.questions.submit  # called as a method, an attribute costs more
                submit(asked, self.held, self)
            elif asked is None:
                self.questions.start(self)
            else:
                self.awaited_count = self.questions.submit_renewals(asked, self.held, self)
        except Overloaded as error:
            self._fail_unless_waits(error)
        except ApiError as error:
            if error.code is Code.STARTING:
                self._fail_unless_waits(error)
            else:
                self._fail(error)
        except MemoryError:
            RESERVE.give_away()
            self._fail(no_memory())  # nothing was carried out
        except Exception as error:
            self._fail(error)

    def answer(self, place: int, reply: Reply) -> None:  # noqa: ARG002  any reply is the last one
        """Take the shards' reply; answer with the last of them."""
        if self.awaited_count != 1:
            self.awaited_count -= 1
            return
        if self.questions.in_flight.is_full and _is_large(reply):
            self.questions.defer(self, reply)
            return
        dispatcher, request = self.dispatcher, self.request
        handler, call = self.match.endpoint.in_halves, self.call
        assert handler is not None, "the others do not ask this way"
        assert call is not None, "it was made when the question was asked"
        try:
            try:
                if reply.claimed is not None:
                    reply = dispatcher.api.shards.with_leaf(reply)
                status, body = handler.rendered(dispatcher.api, call, reply)
                now_s = perf_counter()
                if body and dispatcher.is_plain and not request.principal.session_id:
                    # As `_with_headers`, but with nothing to choose.
                    size_bytes, date = len(body), _date
                    if now_s >= date.ends_s:
                        date.renew()
                    before = (
                        _BEFORE_IDS[size_bytes]
                        if size_bytes < _PREPARED_BYTES
                        else _BEFORE_ID % size_bytes
                    )
                    parts = STATUS_LINES[status], before, request.id.encode(), date.after_id, body
                    answer = b"".join(parts)
                else:
                    answer = self._with_headers(status, body)
            except MemoryError:
                if not RESERVE.give_away():
                    raise
                status, answer = self._rendered_again(handler, call, reply)
                now_s = perf_counter()
            except Exception as error:
                response = self._refusal(error)
                status, answer = response.status, render(response)
                now_s = perf_counter()
            self.client.answered(answer, self.held)
        except MemoryError as error:
            self._lose(error)
            return
        api, duration_s = dispatcher.api, now_s - self.started_s
        api.metrics.requests.answered(request.endpoint, status, duration_s)
        if status >= 400 or duration_s > api.request_log.above_s or not request.is_plain:
            self._note(status, duration_s)

    def _with_headers(self, status: int, body: bytes) -> bytes:
        """Return the bytes of an answer that has not only the headers that every one has."""
        response = json_response(status, body) if body else Response(status)
        return render(self.dispatcher.finish(self.request, response))

    def _rendered_again(
        self, handler: HalvedHandler, call: Call, reply: Reply
    ) -> tuple[int, bytes]:
        """Return status and bytes of the answer, now that there is memory. Raises MemoryError."""
        try:
            status, body = handler.rendered(self.dispatcher.api, call, reply)
            return status, self._with_headers(status, body)
        except MemoryError:
            raise
        except Exception as error:
            response = self._refusal(error)
            return response.status, render(response)

    def _lose(self, error: MemoryError) -> None:
        """End the connection: no answer that can be made would be true, so its client asks again.

        Where nothing can have been carried out, it is told so.
        """
        RESERVE.give_away()
        request = self.request
        if request.method in ("GET", "HEAD"):
            self._fail(no_memory())
            return
        _log.error(
            "there was no memory for an answer; its connection was closed",
            endpoint=request.endpoint,
            request_id=request.id,
            peer=request.peer,
            exc_info=error,
        )
        self.held.release()
        self.client.close()

    def _fail_unless_waits(self, error: Exception) -> None:
        """Fail, unless the endpoint says that a task waits for what is missing now."""
        if self.match.endpoint.waits:
            self.questions.start(self)
        else:
            self._fail(error)

    def refuse(self, error: ShardsError) -> None:
        """Take the shards' refusal; the first of several counts."""
        if self.awaited_count < 1:
            return
        self.awaited_count = 0
        if isinstance(error, Overloaded) and self.match.endpoint.waits:
            self.questions.start(self)
        else:
            self._fail(error)

    async def carry_out(self) -> None:
        """Run a handler that waits for more than one shard; what was admitted stays so."""
        try:
            response = await self.dispatcher.carry_out(self.request, self.match, self.call)
        except trio.Cancelled:  # the process ends
            self._fail(ApiError(Code.SHUTTING_DOWN))
            raise
        except MemoryError as error:
            self._lose(error)
        except Exception as error:
            self._fail(error)
        else:
            self._finish(response)

    def _fail(self, error: Exception) -> None:
        self._finish(self._refusal(error))

    def _refusal(self, error: Exception) -> Response:
        """Return the answer to what has failed."""
        request = self.request
        if isinstance(error, ShardsError):
            error = ApiError(error.code)
        elif not isinstance(error, ApiError):
            _log.error(
                "a request failed",
                endpoint=request.endpoint,
                request_id=request.id,
                peer=request.peer,
                exc_info=error,
                **trace_fields(request),
            )
            error = ApiError(Code.INTERNAL)
        return self.dispatcher.refuse(request, error)

    def _finish(self, response: Response) -> None:
        if response.stream is None:
            self._end(response.status, render(response))
            return
        assert isinstance(response.stream, ReadyStream), "the lane serves no others"
        self.held.release()
        self.client.streams(LaneStream(render_head(response), response.stream, self._count_stream))

    def _count_stream(self) -> None:
        api, request = self.dispatcher.api, self.request
        api.metrics.count(request.endpoint, 200, None)
        duration_s = perf_counter() - self.started_s
        if duration_s > api.request_log.above_s:
            api.request_log.note(request, 200, duration_s)

    def _end(self, status: int, answer: bytes) -> None:
        self.client.answered(answer, self.held)
        duration_s = perf_counter() - self.started_s
        self.dispatcher.api.metrics.requests.answered(self.request.endpoint, status, duration_s)
        self._note(status, duration_s)

    def _note(self, status: int, duration_s: float) -> None:
        """Note more of a request that was counted, where there is more to note."""
        api, request = self.dispatcher.api, self.request
        if not request.is_plain and b"traceparent" in request.headers:
            api.metrics.requests.note_trace(
                request.endpoint, status, duration_s, request.headers[b"traceparent"]
            )
        if status >= 400 or duration_s > api.request_log.above_s:
            api.request_log.note(request, status, duration_s)


def _is_large(reply: Reply) -> bool:
    """Return whether the answer will be large."""
    claimed = reply.claimed
    promises = [reply.promise] if claimed is None else [claimed.root, claimed.leaf]
    size_characters = sum(
        value.size
        for promise in promises
        if promise is not None
        for value in (promise.param, promise.value)
    )
    return size_characters > SMALL_BYTES


_BEFORE_ID: Final = b"content-length: %%d\r\ncontent-type: %b\r\nrequest-id: " % JSON_TYPE
_AFTER_ID: Final = b"\r\nresonate-version: %b\r\ndate: " % VERSION_HEADER_VALUE
_PREPARED_BYTES: Final = 2 * 1024
_BEFORE_IDS: Final = [_BEFORE_ID % size_bytes for size_bytes in range(_PREPARED_BYTES)]
"""What comes before the id, for the lengths that most answers have: joining costs half of `%`."""


_WITHOUT_LENGTH: Final = frozenset({204, 304})
"""Statuses without a body: 304 would otherwise say that what the client has is empty."""


def render(response: Response) -> bytes:
    """Return an answer's bytes, as Quart and hypercorn would write them."""
    body = response.body
    parts = [STATUS_LINES[response.status]]
    if response.status not in _WITHOUT_LENGTH:
        parts.append(b"content-length: %d\r\n" % len(body))
    parts += [b"%s: %s\r\n" % header for header in response.headers]
    parts.append(b"date: %s\r\n\r\n" % _date.text())
    parts.append(body)
    return b"".join(parts)


def render_continue() -> bytes:
    """Return what tells a client to send its body, as hypercorn would write it."""
    return b"%bdate: %b\r\n\r\n" % (STATUS_LINES[100], _date.text())


def render_head(response: Response) -> bytes:
    """Return what comes before a stream's first chunk, as Quart and hypercorn would write it."""
    headers = b"".join([b"%s: %s\r\n" % header for header in response.headers])
    date = _date.text()
    return (b"%b%bdate: %b\r\nTransfer-Encoding: chunked\r\n\r\n") % (
        STATUS_LINES[response.status],
        headers,
        date,
    )


class _Date:
    """The time for the header Date, which changes once a second."""

    __slots__ = ("_text", "after_id", "ends_s")

    def __init__(self) -> None:
        self.ends_s = 0.0
        """Until then nothing changes, by the clock that measures requests."""
        self.after_id = self._text = b""
        """What comes between the id and the body of a JSON answer."""

    def text(self) -> bytes:
        """Return the present time, as HTTP writes it."""
        if perf_counter() >= self.ends_s:
            self.renew()
        return self._text

    def renew(self) -> None:
        """Take the present time. If that is set, it is noticed within a second."""
        now_s = time()
        second = int(now_s)
        self.ends_s = perf_counter() + (second + 1 - now_s)
        self._text = formatdate(second, usegmt=True).encode()
        self.after_id = b"%b%b\r\n\r\n" % (_AFTER_ID, self._text)


_date: Final = _Date()


class RequestIds:
    """New request ids: in the form of a UUID, unique, but easily guessed; nothing hangs on them."""

    def __init__(self) -> None:
        """Choose the part that no other server has."""
        self.new: Final[Callable[[], str]] = self._made().__next__
        """Make one more."""

    def _made(self) -> Iterator[str]:
        chosen = os.urandom(10).hex()
        prefix = f"{chosen[:8]}-{chosen[8:12]}-4{chosen[12:15]}-8{chosen[15:18]}-"
        # Formatting a number costs four times as much as joining two texts.
        endings = [f"{number:03x}" for number in range(16**3)]
        for number in itertools.count():
            beginning = f"{prefix}{number:09x}"
            for ending in endings:
                yield beginning + ending
