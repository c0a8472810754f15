"""The sandboxes of a node: which are warm, which may be used for an execution, and when they end.

A sandbox belongs to one account, one build and one allowance, runs one execution at a time, and as
long as it exists has a user id of its own (if the node can give one). A sandbox that an execution
has changed is ended, and its user id is free again only when nothing runs for it any more.
"""

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from .builds import UnpackedBuild
from .errors import SandboxError
from .frames import FunctionResponse, failure
from .languages import SANDBOXES
from .limits import IDLE_LIMIT_S, SANDBOX_EXECUTIONS_LIMIT_COUNT, USERS_COUNT, Allowance
from .processes import resident_bytes
from .sandbox import Computer, Sandbox
from .sandboxed_execution import SandboxedExecution

_SWEEP_INTERVAL_S: Final = 2.0

_log = structlog.get_logger("troth.node.workers")


@dataclass(frozen=True)
class SandboxKind:
    """The properties that sandboxes must share to run each other's tasks."""

    account_id: str
    language: str
    digest: str
    allowance: Allowance


@dataclass
class _Idle:
    sandbox: Sandbox
    kind: SandboxKind
    since: float


@dataclass(frozen=True)
class WorkersStatistics:
    """`warm_count` sandboxes wait for an execution, of `sandbox_count` in all; starts since the
    start.
    """

    sandbox_count: int
    warm_count: int
    started_total_count: int


class Workers:
    """All sandboxes of a node. Made by `open_workers`."""

    def __init__(self, machine: Computer, idle_limit_count: int, nursery: trio.Nursery) -> None:
        """Initialize. Keeps at most `idle_limit_count` sandboxes warm; `nursery` ends the rest."""
        self._machine = machine
        self._idle_limit_count = idle_limit_count
        self._nursery = nursery
        self._idle: list[_Idle] = []  # the one used last is at the end
        first_uid = machine.first_uid
        self._free_uids = (
            None if first_uid is None else deque(range(first_uid, first_uid + USERS_COUNT))
        )
        self._sandbox_count = 0
        self._started_count = 0
        self._is_open = True

    def statistics(self) -> WorkersStatistics:
        """Return numbers about the sandboxes."""
        return WorkersStatistics(self._sandbox_count, len(self._idle), self._started_count)

    async def run(
        self,
        kind: SandboxKind,
        build: UnpackedBuild,
        request: bytes,
        deadline: float,
        on_progress: Callable[[int], None],
        on_response: Callable[[FunctionResponse, str], None],
        on_lingering: Callable[[], None],
    ) -> None:
        """Run one execution until `deadline` (trio's clock); `on_response` is called once.

        Returns when the sandbox is free again or on its way out; `on_lingering` is called, perhaps
        more than once, if that takes longer after the response than usual. Raises SandboxError.
        """
        sandbox = self._take(kind)
        if sandbox is None:
            sandbox = self._make(kind, build)
        try:
            problem: FunctionResponse | None = failure(
                504,
                "TimedOut",
                f"the function's code was not loaded within {kind.allowance.timeout_s} s",
            )
            with trio.move_on_at(deadline):
                problem = await self._load(sandbox, kind)
            if problem is not None:
                sandbox.is_broken = True
                sandbox.output.close()
                on_response(problem, sandbox.output.text())
                return
            execution = SandboxedExecution(
                sandbox, kind.allowance, on_progress, on_response, on_lingering
            )
            await execution.run(request, deadline)
        except BaseException:
            sandbox.is_broken = True
            raise
        finally:
            with trio.CancelScope(shield=True):
                await self._give_back(sandbox, kind)
        if sandbox.has_spare and self._is_open:
            # Where it has ended with the execution, the next one finds another one.
            on_lingering()
            await self._start_spare(kind, build)

    def _take(self, kind: SandboxKind) -> Sandbox | None:
        for idle in reversed(self._idle):
            if idle.kind == kind:
                self._idle.remove(idle)
                if idle.sandbox.exit_status() is None:
                    return idle.sandbox
                self._retire(idle.sandbox)
                return self._take(kind)
        return None

    def _make(self, kind: SandboxKind, build: UnpackedBuild) -> Sandbox:
        if self._free_uids is None:
            uid = None
        elif self._free_uids:
            # The one that was free for longest: whatever was left of it is surely gone.
            uid = self._free_uids.popleft()
        else:
            raise SandboxError("all user ids are in use by processes that do not end")
        self._started_count += 1
        self._sandbox_count += 1
        directory = self._machine.directory / f"{self._started_count:x}"
        return SANDBOXES[kind.language](self._machine, build, uid, directory, kind.allowance)

    async def _load(self, sandbox: Sandbox, kind: SandboxKind) -> FunctionResponse | None:
        """Start a sandbox if it is not, wait until it has loaded its code; a failure if any."""
        if sandbox.is_loaded:
            return None
        if not sandbox.is_started:
            await sandbox.start()
        problem: FunctionResponse | None = None
        machine_problem: SandboxError | None = None

        async def read_output() -> None:
            nonlocal problem
            if not await sandbox.output.read():
                message = "the function's code printed too much while it was loaded"
                problem = failure(500, "OutputLimit", message)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_output)
            try:
                problem = await sandbox.wait_until_ready()
            except SandboxError as error:
                machine_problem = error
            nursery.cancel_scope.cancel()
        if machine_problem is not None:
            raise machine_problem
        sandbox.keep_output()
        if problem is None:
            printed = sandbox.output.text()
            if printed:
                _log.info("a function's code has printed", digest=kind.digest, output=printed)
            await self._remove_files(sandbox, kind)
        return problem

    async def _remove_files(self, sandbox: Sandbox, kind: SandboxKind) -> None:
        """Remove what the import has written: else the first execution alone would find it."""
        try:
            if await sandbox.remove_files():
                _log.info("removed files that code wrote while it was loaded", digest=kind.digest)
        except OSError as error:
            _log.warning("files written while loading cannot be removed", problem=str(error))

    async def _start_spare(self, kind: SandboxKind, build: UnpackedBuild) -> None:
        if len(self._idle) < self._idle_limit_count and not any(
            idle.kind == kind for idle in self._idle
        ):
            sandbox = self._make(kind, build)
            try:
                await sandbox.start()
            except BaseException:
                self._retire(sandbox)
                raise
            self._idle.append(_Idle(sandbox, kind, trio.current_time()))

    async def _give_back(self, sandbox: Sandbox, kind: SandboxKind) -> None:
        try:
            is_clean = (
                self._is_open
                and sandbox.executions_count < SANDBOX_EXECUTIONS_LIMIT_COUNT
                and await sandbox.is_clean()
                and self._is_open
            )
        except OSError as error:
            _log.warning("a task's directory cannot be emptied", problem=str(error))
            is_clean = False
        if not is_clean:
            self._retire(sandbox)
            return
        self._idle.append(_Idle(sandbox, kind, trio.current_time()))
        if len(self._idle) > self._idle_limit_count:
            self._retire(self._idle.pop(0).sandbox)

    def _retire(self, sandbox: Sandbox) -> None:
        self._nursery.start_soon(self._end, sandbox)

    async def _end(self, sandbox: Sandbox) -> None:
        # Also when the node itself ends in a hurry: it takes its time to leave nothing.
        with trio.CancelScope(shield=True):
            try:
                is_ended = await sandbox.end()
            except OSError as error:
                _log.error("a sandbox cannot be removed", problem=str(error))
                is_ended = False
        self._sandbox_count -= 1
        if is_ended and sandbox.uid is not None and self._free_uids is not None:
            self._free_uids.append(sandbox.uid)

    async def sweep(self) -> None:
        """End what was not needed for long, has ended or has grown; forever."""
        while True:
            await trio.sleep(_SWEEP_INTERVAL_S)
            limit = trio.current_time() - IDLE_LIMIT_S
            for idle in [*self._idle]:
                sandbox = idle.sandbox
                if (
                    idle.since < limit
                    or sandbox.exit_status() is not None
                    or resident_bytes(sandbox.process_id) > idle.kind.allowance.memory_bytes
                ):
                    self._idle.remove(idle)
                    self._retire(sandbox)

    def close(self) -> None:
        """End all that wait; those in use end when their executions do."""
        self._is_open = False
        while self._idle:
            self._retire(self._idle.pop().sandbox)


@contextlib.asynccontextmanager
async def open_workers(machine: Computer, idle_limit_count: int) -> AsyncIterator[Workers]:
    """Run the workers of a node for a block. At its end nothing of them is left."""
    async with trio.open_nursery() as nursery:
        workers = Workers(machine, idle_limit_count, nursery)
        sweeping = trio.CancelScope()

        async def sweep() -> None:
            with sweeping:
                await workers.sweep()

        nursery.start_soon(sweep)
        try:
            yield workers
        finally:
            sweeping.cancel()
            workers.close()
