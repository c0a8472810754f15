"""Calls of HTTP functions: the server is the node that runs them.

A call goes through the same life as an execution on a node: it is assigned, its lease is renewed
while it lasts, its result completes the promise. If the server stops during a call, the lease runs
out and the function is called again, so functions see a call at least once; `Troth-Task-Id` tells
calls of the same task.

What a function's host cannot do, whatever it answers: hold a call longer than the function's
timeout, make the server keep more than the limit of a body, lead it to another host by redirects,
or to an address that is not public (setting `function_private_networks` allows those).
"""

import base64
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, final

import httpx
import structlog
import trio

from troth import __version__
from troth.core import limits
from troth.core.codes import Code
from troth.core.commands import AssignExecution, Command, FinishExecution, ReportExecution
from troth.core.executions import ExecutionPlan
from troth.core.limits import NODE_HEARTBEAT_MS, NODE_LEASE_MS
from troth.core.model import Promise, PromiseState, Value
from troth.core.replies import Reply
from troth.http.outgoing.connections import (
    NETWORK_ERRORS,
    AddressRefused,
    OutgoingRoom,
    Pieces,
    exchange,
    is_same_place,
    make_transport,
    reason,
)
from troth.http.outgoing.guards import Guard
from troth.http.wire.in_flight import Hold, InFlight
from troth.shards.errors import Overloaded, ShardsError
from troth.shards.placement.executions import PlacedExecution
from troth.shards.placement.placement import Calls, Placement

from .values import FunctionRequest, base64_of, failure_value, function_request, result_value

SERVER_NODE_ID: Final = "00000000-0000-4000-8000-000000000000"
"""The node that executions of HTTP functions say they ran on: this server."""

_REDIRECTS_LIMIT_COUNT: Final = 5
_CHANGED_TO_GET: Final = frozenset({301, 302, 303})
_REDIRECTS: Final = _CHANGED_TO_GET | {307, 308}
_OVERLOADED_PAUSE_S: Final = 0.2
_ROOM_WAIT_S: Final = 5.0

_log = structlog.get_logger("troth.http.function_calls")

Result = tuple[PromiseState, Value]


class _AnswerUnusable(Exception):
    """Inside this module: the function gave no usable answer; says why."""


@dataclass(frozen=True, slots=True)
class FunctionCallsStatistics:
    """Totals since the start."""

    begun_total_count: int
    answered_total_count: int
    failed_total_count: int
    stopped_total_count: int


@final
class FunctionCalls(Calls):
    """Calls functions when placement says so. Use: `attach`, then `run` in a nursery."""

    def __init__(
        self,
        *,
        ask: Callable[[Command], Awaitable[Reply]],
        body_limit_bytes: int,
        guard: Guard | None,
        room: OutgoingRoom | None = None,
        in_flight: InFlight | None = None,
    ) -> None:
        """Initialize. `ask` makes the shards carry out a command.

        `guard` judges the addresses that may be called; None allows all.
        """
        self._ask_shards = ask
        self._body_limit_bytes = body_limit_bytes
        self._transport = make_transport(guard=guard, room=room)
        self._in_flight = in_flight or InFlight(limits.IN_FLIGHT_LIMIT_BYTES)
        self._placement: Placement | None = None
        self._nursery: trio.Nursery | None = None
        self._early: list[PlacedExecution] = []
        self._scopes: dict[PlacedExecution, trio.CancelScope] = {}
        self._begun_count = 0
        self._answered_count = 0
        self._failed_count = 0
        self._stopped_count = 0

    def attach(self, placement: Placement) -> None:
        """Name the one who says what to call; before `run`."""
        self._placement = placement

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry calls out, until canceled; their leases then run out. Closes all connections."""
        try:
            async with trio.open_nursery() as self._nursery:
                early, self._early = self._early, []
                for execution in early:
                    self._nursery.start_soon(self._call, execution)
                try:
                    task_status.started()
                    await trio.sleep_forever()
                finally:
                    self._nursery = None  # what begins from here on is left to the next start
        finally:
            await self._transport.aclose()

    def begin(self, execution: PlacedExecution) -> None:
        """See Calls."""
        self._begun_count += 1
        self._scopes[execution] = trio.CancelScope()
        if self._nursery is None:
            self._early.append(execution)
        else:
            self._nursery.start_soon(self._call, execution)

    def stop(self, execution: PlacedExecution) -> None:
        """See Calls."""
        scope = self._scopes.get(execution)
        if scope is not None:
            self._stopped_count += 1
            scope.cancel()

    def statistics(self) -> FunctionCallsStatistics:
        """Return totals since the start."""
        return FunctionCallsStatistics(
            begun_total_count=self._begun_count,
            answered_total_count=self._answered_count,
            failed_total_count=self._failed_count,
            stopped_total_count=self._stopped_count,
        )

    async def _call(self, execution: PlacedExecution) -> None:
        """Run one call from beginning to end. Whatever happens, its place is free afterwards."""
        assert self._placement is not None
        try:
            with self._scopes[execution]:
                await self._carry_out(execution, self._placement)
        except* ShardsError as group:
            # The server stops, or its log has failed. The lease runs out, and it is called again.
            _log.warning(
                "a call was given up", task=execution.id, problem=repr(group.exceptions[0])
            )
        except* Exception:
            # A defect of ours; it must not end the server.
            _log.exception("a call failed unexpectedly", task=execution.id)
        finally:
            del self._scopes[execution]
            self._placement.call_ended(execution)

    async def _carry_out(self, execution: PlacedExecution, placement: Placement) -> None:
        assigned = await self._ask(
            AssignExecution(execution.task_id, execution.counter, SERVER_NODE_ID, NODE_LEASE_MS)
        )
        if assigned.promise is None or assigned.execution is None:
            _log.debug("a task went away before its function was called", task=execution.id)
            return
        placement.assigned(execution.promise_id, execution.counter)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._renew, execution, nursery.cancel_scope)
            state, value = await self._result(execution, assigned.execution.plan, assigned.promise)
            placement.ending(execution.promise_id, execution.counter)
            finish = FinishExecution(
                execution.task_id, execution.counter, SERVER_NODE_ID, state, value
            )
            await self._ask(finish)
            nursery.cancel_scope.cancel()

    async def _ask(self, command: Command) -> Reply:
        """Send a command to the shards; wait and retry while they cannot carry it out.

        They refuse it before it waits in a mailbox, or answer that memory ran out in the middle.
        """
        while True:
            with suppress(Overloaded):
                reply = await self._ask_shards(command)
                if reply.code is not Code.OVERLOADED:
                    return reply
            await trio.sleep(_OVERLOADED_PAUSE_S)

    async def _renew(self, execution: PlacedExecution, scope: trio.CancelScope) -> None:
        """Keep the lease; give the call up when it is lost."""
        command = ReportExecution(execution.task_id, execution.counter, SERVER_NODE_ID)
        while True:
            await trio.sleep(NODE_HEARTBEAT_MS / 1000)
            reply = await self._ask(command)
            if reply.code is not Code.OK:
                scope.cancel()

    async def _result(
        self, execution: PlacedExecution, plan: ExecutionPlan, promise: Promise
    ) -> Result:
        """Call the function and make its answer, or what went wrong, the execution's result."""
        self._failed_count += 1
        timeout_s = plan.capabilities.timeout_s
        try:
            with trio.fail_after(timeout_s):
                result = await self._exchange(execution, plan.url or "", function_request(promise))
        except trio.TooSlowError:
            return failure_value(504, f"the function took longer than {timeout_s} s")
        except AddressRefused:
            return failure_value(502, "the function's host has no public address")
        except _AnswerUnusable as error:
            return failure_value(502, str(error))
        except NETWORK_ERRORS as error:
            return failure_value(502, f"the function could not be called: {reason(error)}")
        except Exception:
            # A defect of ours: it must neither end the server nor be tried again and again.
            _log.exception("a call failed unexpectedly", task=execution.id)
            return failure_value(500, "the server could not call the function")
        self._failed_count -= 1
        self._answered_count += 1
        return result

    async def _exchange(
        self, execution: PlacedExecution, url: str, asked: FunctionRequest
    ) -> Result:
        request = _request(execution.id, url, asked)
        for _ in range(_REDIRECTS_LIMIT_COUNT + 1):
            response = await exchange(self._transport, request)
            try:
                if response.status_code not in _REDIRECTS or "location" not in response.headers:
                    body = await self._body(response)
                    headers = [
                        (name.decode("latin-1"), text.decode("latin-1"))
                        for name, text in response.headers.raw
                    ]
                    return result_value(response.status_code, headers, base64_of(body))
            finally:
                await response.aclose()
            request = _redirected(request, response)
        raise _AnswerUnusable(f"the function redirects more than {_REDIRECTS_LIMIT_COUNT} times")

    async def _body(self, response: httpx.Response) -> bytes:
        """Read an answer's body. Raises _AnswerUnusable if it is too long, or in small pieces."""
        parts: list[bytes] = []
        length_bytes = 0
        pieces, are_too_many = Pieces(), False
        with trio.CancelScope() as scope, self._in_flight.hold(scope.cancel) as hold:
            async for part in response.aiter_raw():
                if not hold.grow(len(part)) and not await self._has_room(hold, len(part)):
                    scope.cancel()
                parts.append(part)
                length_bytes += len(part)
                are_too_many = are_too_many or pieces.are_too_many(part)
                if length_bytes > self._body_limit_bytes or are_too_many:
                    # Not `break`: canceling ends the generators below this one in order.
                    scope.cancel()
        if length_bytes > self._body_limit_bytes:
            limit = self._body_limit_bytes
            raise _AnswerUnusable(f"the function's answer is longer than {limit} bytes")
        if scope.cancelled_caught and not are_too_many:
            raise _AnswerUnusable("there was not enough memory for the function's answer")
        if are_too_many:
            raise _AnswerUnusable("the function's answer comes in too many, too small pieces")
        return b"".join(parts)

    async def _has_room(self, hold: Hold, count_bytes: int) -> bool:
        """Wait for room; whether there is any. Shielded: no generator below must be left."""
        with trio.move_on_after(_ROOM_WAIT_S, shield=True) as waiting:
            await self._in_flight.grown(hold, count_bytes)
        return not waiting.cancelled_caught


def _request(execution_id: str, url: str, asked: FunctionRequest) -> httpx.Request:
    """Return the request that a function is called with. Raises httpx.InvalidURL."""
    target = httpx.URL(url)
    if asked.query:
        query = b"&".join(part for part in (target.query, asked.query.encode("latin-1")) if part)
        target = target.copy_with(query=query)
    headers = httpx.Headers({"accept": "*/*", "user-agent": f"troth/{__version__}"})
    headers.update({name.encode(): text.encode() for name, text in asked.headers})
    headers["accept-encoding"] = "identity"
    headers["troth-task-id"] = execution_id
    if target.userinfo:
        credentials = base64.b64encode(f"{target.username}:{target.password}".encode()).decode()
        headers["authorization"] = f"Basic {credentials}"
    return httpx.Request(
        asked.method, target, headers=headers, content=base64.b64decode(asked.body)
    )


def _redirected(request: httpx.Request, response: httpx.Response) -> httpx.Request:
    """Return the request that an answer redirects to. Raises _AnswerUnusable."""
    try:
        url = request.url.join(response.headers["location"])
    except (httpx.InvalidURL, ValueError):
        raise _AnswerUnusable("the function redirects to an invalid URL") from None
    if not is_same_place(request.url, url):
        raise _AnswerUnusable("the function redirects to another host")
    headers = request.headers.copy()
    for name in ("host", "content-length", "transfer-encoding"):
        headers.pop(name, None)
    if response.status_code in _CHANGED_TO_GET:
        headers.pop("content-type", None)
        return httpx.Request("GET", url, headers=headers)
    return httpx.Request(request.method, url, headers=headers, content=request.content)
