"""One execution on a node: assigned, its code fetched, run, its result sent."""

import base64
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog
import trio

from troth.core.json_errors import UNREADABLE_JSON

from . import frames
from .builds import Builds
from .client import ServerAnswer, ServerClient
from .errors import AnswerTooLarge, CodeRefused, NotReached, SandboxError, ServerRefused
from .frames import FunctionResponse, failure
from .limits import DEFAULT_RESULT_LIMITS, PACKAGE_LIMIT_BYTES, Allowance, ResultLimits
from .workers import SandboxKind, Workers

_RETRY_FIRST_S: Final = 0.1
_RETRY_LIMIT_S: Final = 1.0
_BROKEN_PAUSE_S: Final = 5.0
"""After a sandbox could not be set up; so that executions do not come and go without end."""
_FREE_S: Final = 0.05
"""Longer than a sandbox usually needs to be free after the result."""
_ERROR_LIMIT_CHARACTERS: Final = 1_000
_RESULT_REFUSED: Final = {
    400: "BadResponse",
    413: "ResultTooLarge",
    414: "BadResponse",
    422: "BadResponse",
    431: "BadResponse",
}
"""Statuses that say that this result will never be taken, however often it is sent."""

_log = structlog.get_logger("troth.node.task")


@dataclass
class Link:
    """The parts that all executions of a node need: the server, the code and the sandboxes.

    `path` is that of the node on the server; `lease_s` how long an execution is the node's after a
    report that the server has heard; `result` how large a result the server takes.
    """

    client: ServerClient
    path: str
    builds: Builds
    workers: Workers
    memory_mb: int
    cpu_count: int
    lease_s: float = 10.0
    result: ResultLimits = DEFAULT_RESULT_LIMITS

    def decoded(self, event: bytes) -> dict[str, Any]:
        """Return a message of the work stream. Raises NotReached if it is not one."""
        try:
            return msgspec.json.decode(event, type=dict[str, Any])
        except UNREADABLE_JSON as error:
            raise NotReached("it sent something that is not a message") from error


class _Capabilities(msgspec.Struct):
    cpu_count: int = msgspec.field(name="cpuCount", default=0)
    memory_mb: int = msgspec.field(name="memSize", default=0)


class _Assignment(msgspec.Struct):
    build_id: str = msgspec.field(name="buildId")
    digest: str
    language: str
    timeout: int
    capabilities: _Capabilities
    account: str
    request: dict[str, Any]


class LocalExecution:
    """An execution that the server has offered; `confirmed_at`: its lease was renewed last."""

    def __init__(
        self, link: Link, execution_id: str, counter: int, on_progress: Callable[[], None]
    ) -> None:
        self.execution_id = execution_id
        self.counter = counter
        self.has_begun = False
        """It does not wait for a slot any more; the server may know it as assigned."""
        self.is_assigned = False
        self.progress: int | None = None
        self.confirmed_at = 0.0
        self._link = link
        self._on_progress = on_progress
        self._scope = trio.CancelScope()
        self._working = trio.CancelScope()
        self._response: FunctionResponse | None = None
        self._responded = trio.Event()
        self._freed = trio.Event()
        self._begun_at = 0.0

    @property
    def key(self) -> tuple[str, int]:
        """The server's name for it."""
        return self.execution_id, self.counter

    @property
    def lease_end(self) -> float:
        """The time, by trio's clock, at which the node loses it."""
        return self.confirmed_at + self._link.lease_s

    def cancel(self) -> None:
        """End it, whatever it is doing, without a result."""
        self._scope.cancel()
        self._working.cancel()

    async def run(self, slots: trio.Semaphore, nursery: trio.Nursery) -> None:
        """Carry it out. `nursery` cleans up behind it when its slot is free again already.

        Raises ServerRefused (status 401) if the node's token is no longer accepted.
        """
        try:
            await self._run(slots, nursery)
        except AnswerTooLarge as error:
            _log.error("a task cannot be run here", task=self.execution_id, problem=str(error))

    async def _run(self, slots: trio.Semaphore, nursery: trio.Nursery) -> None:
        with self._scope:
            await slots.acquire()
            with contextlib.ExitStack() as slot:
                slot.callback(slots.release)
                self.has_begun = True
                self.confirmed_at = trio.current_time()
                named = {"id": self.execution_id, "counter": self.counter}
                answer = await self._insist("POST", f"{self._link.path}/assign", named)
                if answer is None:
                    return
                if not answer.is_success:
                    problem = str(answer.refusal())
                    _log.info("a task was not assigned", task=self.execution_id, problem=problem)
                    return
                self.is_assigned = True
                self._begun_at = trio.current_time()
                nursery.start_soon(self._work, answer)
                await self._responded.wait()
                if self._response is None:
                    await self.give_back()
                    await trio.sleep(_BROKEN_PAUSE_S)
                    return
                # The next execution does not wait for the server to take this one's result.
                nursery.start_soon(self._free, slot.pop_all())
                await self._send_result(self._response)

    async def _free(self, slot: contextlib.ExitStack) -> None:
        """Give up the slot when the sandbox is free, so that the next execution finds it warm."""
        with slot, trio.move_on_after(_FREE_S):
            await self._freed.wait()

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

    async def _work(self, answer: ServerAnswer) -> None:
        """Run it in a sandbox; goes on after the response until the sandbox is free."""
        try:
            with self._working:
                await self._run_in_sandbox(_decoded(answer))
        except NotReached as error:
            _log.error("a task cannot be run here", task=self.execution_id, problem=str(error))
        finally:
            self._responded.set()
            self._freed.set()

    async def _run_in_sandbox(self, assignment: _Assignment) -> None:
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
                    kind, build, request, deadline, self._note_progress, self._respond
                )
        except CodeRefused as error:
            self._respond(failure(500, "BadCode", str(error)), "")
        except (ServerRefused, AnswerTooLarge) as error:
            message = f"the function's code cannot be fetched: {error}"
            self._respond(failure(500, "BadCode", message), "")
        except (SandboxError, OSError) as error:
            _log.error("a task cannot be run here", task=self.execution_id, problem=str(error))

    async def _fetch(self, build_id: str) -> bytes:
        path = f"/v1/build/{build_id}/archive"
        answer = await self._insist("GET", path, limit_bytes=PACKAGE_LIMIT_BYTES, apart=True)
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
        self._responded.set()

    async def _send_result(self, response: FunctionResponse) -> None:
        answer = await self._post_result(response)
        if answer is not None and answer.status in _RESULT_REFUSED:
            kind = _RESULT_REFUSED[answer.status]
            message = f"the server does not take the result ({_size(response)}): {answer.refusal()}"
            _log.warning("a result was refused", task=self.execution_id, problem=message)
            answer = await self._post_result(failure(500, kind, message))
        if answer is None:
            _log.warning("a result could not be sent in time", task=self.execution_id)
        elif not answer.is_success:
            _log.info(
                "a result was not taken", task=self.execution_id, problem=str(answer.refusal())
            )
        else:
            _log.debug("a task is finished", task=self.execution_id, status=response.status)

    async def _post_result(self, response: FunctionResponse) -> ServerAnswer | None:
        described = base64.b64encode(msgspec.json.encode(response.headers)).decode()
        headers = [("troth-status", str(response.status)), ("troth-headers", described)]
        if response.error is not None:
            limit_bytes = self._link.result.headers_bytes
            error = response.error[:_ERROR_LIMIT_CHARACTERS].encode(errors="replace")[:limit_bytes]
            shown = error.decode(errors="ignore").encode()
            headers.append(("troth-error", base64.b64encode(shown).decode()))
        path = f"{self._link.path}/result/{self.execution_id}/{self.counter}"
        return await self._insist("POST", path, response.body, headers=headers)

    async def _insist(
        self, method: str, path: str, body: object = None, **options: Any
    ) -> ServerAnswer | None:
        """Ask until there is an answer that counts, while the lease lives; None if there is none.

        Takes what `ServerClient.ask` takes. Raises ServerRefused for status 401,
        AnswerTooLarge.
        """
        pause_s = _RETRY_FIRST_S
        log = _log.info
        while True:
            problem = ""
            try:
                answer = await self._link.client.ask(method, path, body, **options)
                if answer.status == 401:
                    raise answer.refusal()
                if answer.status < 500 and answer.status != 429:
                    return answer
                problem = str(answer.refusal())
            except AnswerTooLarge:
                # It would be as large again.
                raise
            except NotReached as error:
                problem = str(error)
            if trio.current_time() + pause_s > self.lease_end:
                _log.warning("gave up asking", task=self.execution_id, path=path, problem=problem)
                return None
            log("asking again", task=self.execution_id, path=path, problem=problem)
            log = _log.debug
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RETRY_LIMIT_S)


def _size(response: FunctionResponse) -> str:
    headers_bytes = sum(len(name) + len(text) for name, text in response.headers)
    return f"{len(response.body)} bytes, and {headers_bytes} of headers"


def _decoded(answer: ServerAnswer) -> _Assignment:
    try:
        return msgspec.json.decode(answer.body, type=_Assignment)
    except UNREADABLE_JSON as error:
        raise NotReached("it assigned a task in a form that is not the API's") from error
