"""One execution on a node: assigned, its code fetched, run, its result sent."""

import contextlib
from collections.abc import Callable
from typing import Final

import structlog
import trio

from . import frames
from .client import ServerAnswer
from .errors import AnswerTooLarge, CodeRefused, NotReached, SandboxError, ServerRefused
from .exchanges import Exchanges, Wish
from .frames import FunctionResponse, failure
from .limits import PACKAGE_LIMIT_BYTES, Allowance
from .link import Assignment, Link
from .workers import SandboxKind

_BROKEN_PAUSE_S: Final = 5.0
"""After a sandbox could not be set up; so that executions do not come and go without end."""
_RESULT_REFUSED: Final = {
    400: "BadResponse",
    413: "ResultTooLarge",
    414: "BadResponse",
    422: "BadResponse",
    431: "BadResponse",
}
"""Statuses that say that this result will never be taken, however often it is sent."""

_log = structlog.get_logger("troth.node.task")


class LocalExecution:
    """An execution that the server has offered; `confirmed_at`: its lease was renewed last."""

    def __init__(
        self,
        link: Link,
        exchanges: Exchanges,
        execution_id: str,
        counter: int,
        on_progress: Callable[[], None],
        on_over: Callable[["LocalExecution"], None],
    ) -> None:
        """Initialize. `on_over` is called once: when the server has the result or it has none."""
        self.execution_id = execution_id
        self.counter = counter
        self.has_begun = False
        """It does not wait for a slot any more; the server may know it as assigned."""
        self.is_assigned = False
        self.progress: int | None = None
        self.confirmed_at = 0.0
        self._link = link
        self._exchanges = exchanges
        self._on_progress = on_progress
        self._on_over = on_over
        self._is_over = False
        self._scope = trio.CancelScope()
        self._wish: Wish | None = None
        self._assigned = trio.Event()
        self._assignment: Assignment | None = None
        self._response: FunctionResponse | None = None
        self._was_refused = False
        self._begun_at = 0.0

    @property
    def key(self) -> tuple[str, int]:
        """The server's name for it."""
        return self.execution_id, self.counter

    @property
    def lease_end(self) -> float:
        """The time, by trio's clock, at which the node loses it."""
        return self.confirmed_at + self._link.lease_s

    def take_given(self, assignment: Assignment | None, since: float) -> None:
        """Note that the server has assigned it unasked; what to run is asked for if it is None."""
        self.has_begun = self.is_assigned = True
        self.confirmed_at = since
        self._begun_at = trio.current_time()
        self._assignment = assignment

    def cancel(self) -> None:
        """End it, whatever it is doing, without a result."""
        self._scope.cancel()
        if self._wish is not None:
            self._wish.is_dropped = True
        self._end()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._on_over(self)

    async def run(self, slots: trio.Semaphore) -> None:
        """Carry it out. Its slot is free, and the server may have its result, before it returns."""
        with self._scope, contextlib.ExitStack() as slot:
            try:
                slots.acquire_nowait()
            except trio.WouldBlock:
                await slots.acquire()
            slot.callback(slots.release)
            self.has_begun = True
            assignment = self._assignment or await self._take_on()
            if assignment is not None:
                self.is_assigned = True
                await self._run_in_sandbox(assignment, slot.close)
                if self._response is None:
                    await self.give_back()
                    await trio.sleep(_BROKEN_PAUSE_S)
        if self._response is None:
            self._end()

    async def _take_on(self) -> Assignment | None:
        """Ask the server to assign it; return None if it does not."""
        self.confirmed_at = trio.current_time()
        self._put(None)
        await self._assigned.wait()
        self._begun_at = trio.current_time()
        return self._assignment

    def _put(self, response: FunctionResponse | None) -> None:
        answered = self._not_assigned if response is None else self._result_answered
        self._wish = Wish(
            self.execution_id,
            self.counter,
            response,
            lambda: self.lease_end,
            answered,
            self._take_assignment,
        )
        self._exchanges.put(self._wish)

    def _take_assignment(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._assigned.set()

    def _not_assigned(self, answer: ServerAnswer | None) -> None:
        if answer is not None:
            problem = str(answer.refusal())
            _log.info("a task was not assigned", task=self.execution_id, problem=problem)
        self._assigned.set()

    async def give_back(self) -> None:
        """Tell the server that it is not going to be carried out here."""
        if not self.has_begun:
            return
        _log.info("a task is returned", task=self.execution_id)
        path = f"{self._link.path}/return/{self.execution_id}/{self.counter}"
        try:
            answer = await self._link.client.ask("POST", path)
        except NotReached as error:
            # Its lease will run out.
            _log.warning("a task could not be returned", task=self.execution_id, problem=str(error))
            return
        if not answer.is_success:
            _log.debug("a returned task was refused", task=self.execution_id, status=answer.status)

    async def _run_in_sandbox(self, assignment: Assignment, free_slot: Callable[[], None]) -> None:
        """Run it; returns when the sandbox is free again."""
        link = self._link
        capabilities = assignment.capabilities
        allowance = Allowance(
            timeout_s=assignment.timeout,
            cpu_count=capabilities.cpu_count or link.cpu_count,
            memory_mb=capabilities.memory_mb or link.memory_mb,
            result=link.result,
        )
        kind = SandboxKind(assignment.account, assignment.language, assignment.digest, allowance)
        deadline = self._begun_at + assignment.timeout
        try:
            request = frames.request_frame(self.execution_id, assignment.request)

            async def fetch() -> bytes:
                return await self._fetch(assignment.build_id)

            async with link.builds.fetched(assignment.digest, fetch) as build:
                await link.workers.run(
                    kind, build, request, deadline, self._note_progress, self._respond, free_slot
                )
        except CodeRefused as error:
            self._respond(failure(500, "BadCode", str(error)), "")
        except (ServerRefused, AnswerTooLarge) as error:
            message = f"the function's code cannot be fetched: {error}"
            self._respond(failure(500, "BadCode", message), "")
        except (SandboxError, OSError, NotReached) as error:
            _log.error("a task cannot be run here", task=self.execution_id, problem=str(error))

    async def _fetch(self, build_id: str) -> bytes:
        answer = await self._link.insist(
            "GET",
            f"/v1/build/{build_id}/archive",
            task=self.execution_id,
            lease_end=lambda: self.lease_end,
            limit_bytes=PACKAGE_LIMIT_BYTES,
            apart=True,
        )
        if answer is None:
            raise NotReached("it did not send the function's code in time")
        if not answer.is_success:
            raise answer.refusal()
        return answer.body

    def _note_progress(self, percent: int) -> None:
        self.progress = percent
        self._on_progress()

    def _respond(self, response: FunctionResponse, output: str) -> None:
        if output:
            _log.info("a function has printed", task=self.execution_id, output=output)
        if response.error is not None:
            _log.info("a function has failed", task=self.execution_id, problem=response.error)
        self._response = response
        if not self._is_over:
            self._put(response)

    def _result_answered(self, answer: ServerAnswer | None) -> None:
        response = self._response
        assert response is not None, "it was sent"
        if answer is not None and answer.status in _RESULT_REFUSED and not self._was_refused:
            kind = _RESULT_REFUSED[answer.status]
            message = f"the server does not take the result ({_size(response)}): {answer.refusal()}"
            _log.warning("a result was refused", task=self.execution_id, problem=message)
            self._was_refused = True
            self._response = failure(500, kind, message)
            self._put(self._response)
            return
        if answer is None:
            _log.warning("a result could not be sent in time", task=self.execution_id)
        elif not answer.is_success:
            _log.info(
                "a result was not taken", task=self.execution_id, problem=str(answer.refusal())
            )
        else:
            _log.debug("a task is finished", task=self.execution_id, status=response.status)
        self._end()


def _size(response: FunctionResponse) -> str:
    headers_bytes = sum(len(name) + len(text) for name, text in response.headers)
    return f"{len(response.body)} bytes, and {headers_bytes} of headers"
