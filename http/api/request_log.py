"""The request log: a line for each request that the setting `log_requests` chooses.

- `refused`: requests that the server could not carry out (5xx) or that lacked a right, so that the
`requestId`
  of an error body leads somewhere. Other refusals are part of the API's ordinary work, and so is
  that a server which still starts says so: probes ask until it is ready.
- `slow`: also what took longer than `SLOW_REQUEST_MS`. `all`: everything. `off`: nothing.

A line says the id, who it was and from where, the endpoint, the status and how long it took, but
nothing of what was sent. Unless it is `all`, at most `REQUEST_LINES_PER_SECOND_COUNT` lines are
written in a second, and the next line says how many were left out, so that no client can fill the
log.
"""

import math
import time
from collections.abc import Callable
from typing import Final

import structlog

from troth.core.codes import Code
from troth.core.limits import REQUEST_LINES_PER_SECOND_COUNT, SLOW_REQUEST_MS
from troth.http.identity.audit import shown
from troth.http.wire.requests import Request

RIGHTS: Final = frozenset(
    {
        Code.UNAUTHORIZED,
        Code.ORIGIN_FORBIDDEN,
        Code.FORBIDDEN_SCOPE,
        Code.FORBIDDEN_PREFIX,
        Code.RESERVED_ID,
        Code.MISDIRECTED,
        Code.TOO_MANY_ATTEMPTS,
    }
)
"""Refusals of rights."""

_FIRST_FAILURE: Final = 500
_DEFECTS: Final = frozenset({Code.INTERNAL, Code.STORE_FAILED})
_NOT_READY: Final = frozenset({Code.STARTING, Code.SHUTTING_DOWN})
_PROBE: Final = "ready"  # the endpoint that is asked whether the server is ready
_log = structlog.get_logger("troth.requests")


class RequestLog:
    """The log of one server's requests. `choice` is the setting."""

    def __init__(self, choice: str, now_s: Callable[[], float] = time.monotonic) -> None:
        """Initialize. `now_s` is the clock by which lines are counted."""
        self._is_off = choice == "off"
        self._is_all = choice == "all"
        # A request that took longer than this is noted, whatever its status.
        self.above_s: Final = {"all": -1.0, "slow": SLOW_REQUEST_MS / 1000}.get(choice, math.inf)
        self._now_s = now_s
        self._second = -1
        self._lines_count = 0
        self._left_out_count = 0

    def note(self, request: Request, status: int, duration_s: float) -> None:
        """Write the line of an answered request, if it is one of those that are wanted.

        The caller may leave out requests with a status below 400 that took at most `above_s`.
        """
        refusal = request.refusal
        # What a function has answered is no failure of ours, and probes ask for these refusals.
        is_expected = (
            refusal in _NOT_READY if request.endpoint == _PROBE else refusal is Code.STARTING
        )
        is_failure = status >= _FIRST_FAILURE and refusal is not None and not is_expected
        is_refused = is_failure or refusal in RIGHTS
        if self._is_off or not (is_refused or duration_s > self.above_s) or not self._has_room():
            return
        about: dict[str, object] = {}
        if refusal is not None:
            about["code"] = refusal.value
        if self._left_out_count:
            about["left_out"], self._left_out_count = self._left_out_count, 0
        write = _log.error if refusal in _DEFECTS else _log.warning if is_refused else _log.info
        write(
            "request",
            request_id=request.id,
            who=shown(request.principal),
            peer=request.peer,
            endpoint=request.endpoint,
            status=status,
            ms=round(duration_s * 1000, 1),
            **about,
        )

    def _has_room(self) -> bool:
        if self._is_all:
            return True
        second = int(self._now_s())
        if second != self._second:
            self._second, self._lines_count = second, 0
        self._lines_count += 1
        if self._lines_count <= REQUEST_LINES_PER_SECOND_COUNT:
            return True
        self._left_out_count += 1
        return False
