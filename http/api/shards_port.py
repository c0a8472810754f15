"""The shards as the API uses them: one protocol for handlers and the lane, one way to ask.

`troth.shards.shards.Shards` says what each method does. Nothing above this module handles a
`ShardsError`: `answered` and `ask` raise ApiError instead.
"""

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from troth.core.codes import Code
from troth.core.commands import Command
from troth.core.executions import Execution, Usage
from troth.core.failures import Failures
from troth.core.model import Promise, PromiseState, Schedule
from troth.core.replies import Reply
from troth.core.state.activity import Activity
from troth.core.state.counts import Counts
from troth.core.state.watching import Watch
from troth.core.workflows import WorkflowState, WorkflowView
from troth.http.wire.errors import ApiError
from troth.http.wire.requests import Request
from troth.shards.committer import BellListener
from troth.shards.errors import ShardsError
from troth.shards.gathering import UNBOUNDED, EntryKind, SearchBounds
from troth.shards.held import HeldMessages
from troth.shards.turns import Asker

from .permissions import refuse_unless_permitted

Result = TypeVar("Result")

REFUSALS_FROM: Final = 40000
"""Codes from here on have a status of 400 or more."""


class ShardsPort(Protocol):
    """What `http/` needs of the shards. For each method see `troth.shards.shards.Shards`."""

    failures: Failures
    activity: Activity
    watch: Watch

    @property
    def cursor_secret(self) -> bytes: ...

    async def wait_shown(self) -> None: ...

    def look_at_log(self) -> None: ...

    def let_hear(self, listener: BellListener | None) -> bool: ...

    def begin_pass(self) -> None: ...

    def end_pass(self) -> None: ...

    async def ask(self, command: Command, held: HeldMessages | None = None) -> Reply: ...

    async def ask_each(self, commands: Sequence[Command]) -> list[Reply]: ...

    def submit(self, command: Command, held: HeldMessages | None, asker: Asker) -> None: ...

    def submit_all(
        self, commands: Sequence[Command], places: range, held: HeldMessages | None, asker: Asker
    ) -> int: ...

    def run_in_order(
        self, commands: Sequence[Command], places: range, held: HeldMessages | None, asker: Asker
    ) -> int: ...

    def stretches(self, promise_ids: Sequence[str]) -> Iterable[range]: ...

    def submit_renewals(
        self, pid: str, tasks: Sequence[tuple[str, int]], held: HeldMessages | None, asker: Asker
    ) -> int: ...

    def run_turn(self, *, is_last: bool = True) -> None: ...

    def flush(self) -> None: ...

    def with_leaf(self, reply: Reply) -> Reply: ...

    async def search_promises(
        self,
        pattern: str,
        states: tuple[PromiseState, ...],
        tags: Mapping[str, str],
        limit_count: int,
        before_serial: int | None,
        id_prefix: str = "",
        more: SearchBounds = UNBOUNDED,
    ) -> tuple[list[Promise], int | None]: ...

    def counts(self) -> Counts: ...

    @property
    def largest_serial(self) -> int: ...

    @property
    def oldest_serial(self) -> int: ...

    async def search_schedules(
        self,
        pattern: str,
        tags: Mapping[str, str],
        limit_count: int,
        before_serial: int | None,
        id_prefix: str = "",
        promise_tags: Mapping[str, str] | None = None,
    ) -> tuple[list[Schedule], int | None]: ...

    async def search_workflows(
        self,
        state: WorkflowState | None,
        limit_count: int,
        before_serial: int | None,
        id_prefix: str = "",
    ) -> tuple[list[WorkflowView], int | None]: ...

    async def renew_workflows(self, pid: str, tasks: Sequence[tuple[str, int]]) -> int: ...

    async def search_executions(
        self,
        account_id: str,
        function_id: str | None,
        limit_count: int,
        before_serial: int | None,
    ) -> tuple[list[tuple[Promise, Execution | None]], int | None]: ...

    async def list_entries(
        self, kind: type[EntryKind], account_id: str | None
    ) -> list[EntryKind]: ...

    def unfinished_executions(self) -> Iterable[Execution]: ...

    async def usage(self, account_id: str | None) -> dict[str, Usage]: ...

    async def delete_packages(self, promise_ids: Iterable[str]) -> int: ...

    async def heartbeat_tasks(self, process_id: str, id_prefix: str = "") -> int: ...

    async def heartbeat_locks(self, process_id: str, id_prefix: str = "") -> int: ...


async def answered(asked: Awaitable[Result]) -> Result:
    """Return what the shards answer. Raises ApiError (503) if they fail."""
    try:
        return await asked
    except ShardsError as error:
        raise ApiError(error.code) from error


async def ask(
    shards: ShardsPort,
    command: Command,
    request: Request | None = None,
    *,
    tolerated: frozenset[Code] = frozenset(),
) -> Reply:
    """Make the shards carry out a command and return their reply.

    With a request, its sender must be permitted to name the ids in the command, and messages to
    workers wait until it is answered. Raises ApiError for every refusal but the tolerated ones.
    """
    held = None
    if request is not None:
        refuse_unless_permitted(request.principal, command)
        held = request.held
    reply = await answered(shards.ask(command, held))
    if reply.code >= REFUSALS_FROM and reply.code not in tolerated:
        raise ApiError(reply.code)
    return reply
