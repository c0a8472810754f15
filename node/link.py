"""What all executions of a node share: the server, the code and the sandboxes; and how to insist.

The server tells its settings in the first message of each work stream (`hello`): what a result may
be, how long a lease is, and `exchange`, the form of exchanges that it takes (0: none).
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog
import trio

from troth.core.json_errors import UNREADABLE_JSON

from .builds import Builds
from .client import ServerAnswer, ServerClient
from .errors import AnswerTooLarge, NotReached
from .frames import FunctionResponse
from .limits import DEFAULT_RESULT_LIMITS, ResultLimits
from .workers import Workers

RETRY_FIRST_S: Final = 0.1
RETRY_LIMIT_S: Final = 1.0
ERROR_LIMIT_CHARACTERS: Final = 1_000

_log = structlog.get_logger("troth.node.task")


class AllowedParts(msgspec.Struct):
    """What an execution may use; 0: what the node gives."""

    cpu_count: int = msgspec.field(name="cpuCount", default=0)
    memory_mb: int = msgspec.field(name="memSize", default=0)


class Assignment(msgspec.Struct):
    """What the server says of an execution that the node takes on."""

    build_id: str = msgspec.field(name="buildId")
    digest: str
    language: str
    timeout: int
    capabilities: AllowedParts
    account: str
    request: dict[str, Any]


@dataclass
class Link:
    """The parts that all executions of a node need.

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
    exchange_version: int = 0

    def decoded(self, event: bytes) -> dict[str, Any]:
        """Return a message of the work stream. Raises NotReached if it is not one."""
        try:
            return msgspec.json.decode(event, type=dict[str, Any])
        except UNREADABLE_JSON as error:
            raise NotReached("it sent something that is not a message") from error

    async def assign(
        self, execution_id: str, counter: int, lease_end: Callable[[], float]
    ) -> ServerAnswer | None:
        """Take one execution on. Raises what `insist` does."""
        named = {"id": execution_id, "counter": counter}
        return await self.insist(
            "POST", f"{self.path}/assign", named, task=execution_id, lease_end=lease_end
        )

    async def send_result(
        self,
        execution_id: str,
        counter: int,
        response: FunctionResponse,
        lease_end: Callable[[], float],
    ) -> ServerAnswer | None:
        """Send one result. Raises what `insist` does."""
        described = base64.b64encode(msgspec.json.encode(response.headers)).decode()
        headers = [("troth-status", str(response.status)), ("troth-headers", described)]
        error = self.shown_error(response)
        if error is not None:
            headers.append(("troth-error", base64.b64encode(error.encode()).decode()))
        path = f"{self.path}/result/{execution_id}/{counter}"
        return await self.insist(
            "POST", path, response.body, task=execution_id, lease_end=lease_end, headers=headers
        )

    def shown_error(self, response: FunctionResponse) -> str | None:
        """Return a response's error, no longer than the server takes it."""
        if response.error is None:
            return None
        error = response.error[:ERROR_LIMIT_CHARACTERS].encode(errors="replace")
        return error[: self.result.headers_bytes].decode(errors="ignore")

    async def insist(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        task: str,
        lease_end: Callable[[], float],
        **options: Any,
    ) -> ServerAnswer | None:
        """Ask until there is an answer that counts, while the lease lives; None if there is none.

        Takes what `ServerClient.ask` takes. Raises ServerRefused for status 401, AnswerTooLarge.
        """
        pause_s = RETRY_FIRST_S
        log = _log.info
        while True:
            problem = ""
            try:
                answer = await self.client.ask(method, path, body, **options)
                if answer.status == 401:
                    raise answer.refusal()
                if not is_passing(answer.status):
                    return answer
                problem = str(answer.refusal())
            except AnswerTooLarge:
                # It would be as large again.
                raise
            except NotReached as error:
                problem = str(error)
            if trio.current_time() + pause_s > lease_end():
                _log.warning("gave up asking", task=task, path=path, problem=problem)
                return None
            log("asking again", task=task, path=path, problem=problem)
            log = _log.debug
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_LIMIT_S)


def is_passing(status: int) -> bool:
    """Return whether a status says that the same request can be answered otherwise later."""
    return status >= 500 or status == 429


def assignment_of(answer: ServerAnswer) -> Assignment:
    """Return what an answer to `assign` says. Raises NotReached if it is something else."""
    try:
        return msgspec.json.decode(answer.body, type=Assignment)
    except UNREADABLE_JSON as error:
        raise NotReached("it assigned a task in a form that is not the API's") from error
