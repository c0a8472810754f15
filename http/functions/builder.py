"""Builds after their upload: checked one after the other, and removed when no longer needed.

What this module promises:

- A build that was acknowledged is checked, if not now then after the next start: it is PENDING in
  the catalog, with its package, before its id is returned to the client. Its status changes once.
- New executions run the newest build that has succeeded. They do so before it says SUCCESS: a
  client that reads that can rely on it.
- Of a function's builds the newest `BUILDS_KEPT_COUNT` stay, and also the one that new executions
  run and those that unfinished executions need. The package goes before the build, so that none is
  left over. A deleted function keeps only what unfinished executions need, as long as they do.
- No code of a package is run. It is read in a thread, a file of Python compiled in a process.
"""

import base64
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
import trio

from troth.core.catalog import Build, BuildStatus, BuildStep, Function, Language, package_id
from troth.core.codes import Code
from troth.core.commands import ReadPromise, StorePackage
from troth.core.failures import FailureKind
from troth.core.grammar.packages import Package, PackageLimits, PackageRefused, inspect
from troth.core.limits import (
    BUILDS_KEPT_COUNT,
    BUILDS_OF_ACCOUNT_WAITING_LIMIT_COUNT,
    BUILDS_WAITING_LIMIT_COUNT,
)
from troth.core.model import replace
from troth.http.api.context import Api
from troth.http.api.shards_port import answered, ask
from troth.http.wire.errors import ApiError
from troth.shards.threads import in_thread

from .entries import change_own, create, delete_own, list_all, read_own
from .python_check import VERSION, check_python

TIDY_INTERVAL_S: Final = 300.0
"""How often builds are looked for that unfinished executions have needed until now."""

_RETRY_S: Final = 1.0
_PASSING: Final = frozenset(
    {Code.OVERLOADED, Code.ENTRY_CHANGED, Code.OUT_OF_REACH, Code.LINK_BROKEN}
)
_ENDING: Final = frozenset({Code.SHUTTING_DOWN, Code.STORE_FAILED})
_GONE: Final = frozenset({Code.FUNCTION_NOT_FOUND, Code.BUILD_NOT_FOUND})
_NOT_STORED: Final = "the archive could not be stored; upload it again"

_log = structlog.get_logger("troth.builder")


@dataclass(frozen=True, slots=True)
class BuilderStatistics:
    """How many builds wait, and what became of the others since the start."""

    waiting_count: int
    succeeded_total_count: int
    failed_total_count: int
    removed_total_count: int


class Builder:
    """Checks what is uploaded. One per server; `run` keeps it going."""

    def __init__(self, api: Api) -> None:
        """Take what the handlers work with too."""
        self._api = api
        self._limits = PackageLimits(package_bytes=api.settings.build_limit_bytes)
        self._queue: deque[Build] = deque()
        self._waiting_of: Counter[str] = Counter()
        self._something = trio.Event()
        self._settled = trio.Event()
        self._has_leftovers = False
        self._reading = trio.CapacityLimiter(1)
        self._totals: Counter[str] = Counter()

    # What endpoints ask

    async def take(self, build: Build, package: bytes) -> None:
        """Store a new build, PENDING, with its package, and have it checked.

        Raises ApiError: 503 also while too many builds wait, of all accounts or of this one.
        """
        if (
            self._waiting_of.total() >= BUILDS_WAITING_LIMIT_COUNT
            or self._waiting_of[build.account_id] >= BUILDS_OF_ACCOUNT_WAITING_LIMIT_COUNT
        ):
            message = "Too many builds wait to be checked. Upload it again after `Retry-After`."
            raise ApiError(Code.OVERLOADED, message=message)
        self._waiting_of[build.account_id] += 1
        is_known = False
        try:
            # In this order: a package that is there has a build by which it is found.
            await create(self._api, build)
            is_known = True
            data = base64.b64encode(package).decode()
            await ask(self._api.shards, StorePackage(package_id(build.id), data))
        finally:
            # Without its package it fails, rather than being PENDING until the next start.
            if is_known:
                self._queue.append(build)
                self._something.set()
                if self._settled.is_set():
                    self._settled = trio.Event()
            else:
                self._done(build)

    async def wait_settled(self) -> None:
        """Wait until every build that was taken is checked, and what follows is done."""
        await self._settled.wait()

    def waiting_count(self, account_id: str) -> int:
        """Return how many builds of an account wait to be checked."""
        return self._waiting_of[account_id]

    async def tidy(self, account_id: str | None = None, function_id: str | None = None) -> None:
        """Remove builds that are no longer needed, of one function or of all. Raises ApiError."""
        # In this order: a function that is missing then was deleted after its build was made.
        builds = await list_all(self._api, Build, account_id)
        functions = {one.id: one for one in await list_all(self._api, Function, account_id)}
        superfluous = _superfluous(builds, functions, function_id)
        if not superfluous:
            return
        needed = await answered(self._api.builds_in_use())
        for build in superfluous:
            if build.id in needed:
                self._has_leftovers = True
            else:
                await self._remove(build)

    async def function_deleted(self, function: Function) -> None:
        """Remove what a deleted function leaves behind, now or, if that fails, later."""
        try:
            await self.tidy(function.account_id, function.id)
        except ApiError as error:
            _log.info("builds are removed later", function=function.id, problem=str(error))
            self._has_leftovers = True

    def statistics(self) -> BuilderStatistics:
        """Return counts."""
        return BuilderStatistics(
            waiting_count=self._waiting_of.total(),
            succeeded_total_count=self._totals["succeeded"],
            failed_total_count=self._totals["failed"],
            removed_total_count=self._totals["removed"],
        )

    # The work

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Go on with what an earlier run has left; then check builds as they come."""
        task_status.started()
        await self._persevere(self._take_up)
        while True:
            while self._queue:
                build = self._queue.popleft()
                await self._persevere(partial(self._check, build))
                self._done(build)
            self._something = trio.Event()
            self._settled.set()
            with trio.move_on_after(TIDY_INTERVAL_S) as waiting:
                await self._something.wait()
            if waiting.cancelled_caught and self._has_leftovers:
                self._has_leftovers = False
                await self._persevere(self.tidy)

    def _done(self, build: Build) -> None:
        self._waiting_of[build.account_id] -= 1
        if not self._waiting_of[build.account_id]:
            del self._waiting_of[build.account_id]

    async def _persevere(self, action: Callable[[], Awaitable[None]]) -> None:
        """Do something, again and again while the shards are too busy for it."""
        while True:
            try:
                return await action()
            except ApiError as error:
                if error.code in _PASSING:
                    _log.info("builds have to wait", problem=str(error))
                    await trio.sleep(_RETRY_S)
                    continue
                if error.code in _ENDING:
                    # What is PENDING is taken up at the next start. The server ends this task soon.
                    await trio.sleep_forever()
                _log.error("a build was left as it is", problem=str(error))
                return None
            except Exception:
                _log.exception("a build was left as it is")
                return None

    async def _take_up(self) -> None:
        for build in await list_all(self._api, Build, None):
            if build.status is BuildStatus.PENDING:
                self._waiting_of[build.account_id] += 1
                self._queue.append(build)
        await self.tidy()

    async def _check(self, build: Build) -> None:
        """Find out whether a build is good, and say so in the catalog."""
        try:
            function = await self._function_of(build)
            problems, log = await self._verdict(build, function)
            if function.build_id == build.id:
                problems = []  # it was found good before the server ended, and runs
            if not problems:
                await self._use(build)
            status = BuildStatus.FAILED if problems else BuildStatus.SUCCESS
            step = BuildStep(status, self._api.now_ms())

            def finish(build: Build) -> Build | None:
                if build.status is not BuildStatus.PENDING:
                    return None
                timeline = (*build.timeline, step)
                return replace(build, status=status, timeline=timeline, log=tuple(problems or log))

            await change_own(
                self._api, Build, build.id, build.account_id, Code.BUILD_NOT_FOUND, finish
            )
            self._totals["failed" if problems else "succeeded"] += 1
            if problems:
                self._api.shards.failures.note(
                    FailureKind.BUILD, step.at, build.id, problems[0], build.function_id
                )
        except ApiError as error:
            if error.code not in _GONE:
                raise
            _log.info("a build was deleted while it was checked", build=build.id)
        await self.tidy(build.account_id, build.function_id)

    async def _function_of(self, build: Build) -> Function:
        return await read_own(
            self._api, Function, build.function_id, build.account_id, Code.FUNCTION_NOT_FOUND
        )

    async def _verdict(self, build: Build, function: Function) -> tuple[list[str], list[str]]:
        """Return what is wrong with a build, and else what there is to say about it."""
        reply = await ask(
            self._api.shards,
            ReadPromise(package_id(build.id)),
            tolerated=frozenset({Code.PROMISE_NOT_FOUND}),
        )
        if reply.promise is None:
            return [_NOT_STORED], []
        content = base64.b64decode(reply.promise.value.data or "")
        assert function.language is not None, "only code has builds"
        try:
            return [], await self._inspect(content, function.language)
        except PackageRefused as error:
            return list(error.problems), []
        except Exception:
            # Whatever a package has caused, it affects only this build.
            _log.exception("a build could not be checked", build=build.id)
            return ["the server could not check it; see the server's log, and upload it again"], []

    async def _inspect(self, content: bytes, language: Language) -> list[str]:
        """Look at a package; what there is to say. Raises PackageRefused."""

        def read() -> tuple[Package, str, bytes]:
            package = inspect(content, self._limits)
            path = package.entry_file(language)
            return package, path, package.read(path)

        package, path, source = await in_thread(read, limiter=self._reading)
        files = "1 file" if len(package.files) == 1 else f"{len(package.files)} files"
        log = [f"{files}, {package.unpacked_bytes} bytes unpacked"]
        if language is Language.PYTHON:
            problems = await check_python(source, path)
            log.append(f"{path}: compiles with Python {VERSION} and has a handler")
        else:
            problems = [] if _is_text(source) else [f"{path}: is not UTF-8"]
            log.append(f"{path}: is there; JavaScript is not compiled before its first run")
        if problems:
            raise PackageRefused(problems)
        return log

    async def _use(self, build: Build) -> None:
        """Make new executions run this build, unless they run a newer one."""
        function = await self._function_of(build)
        if function.build_id is not None:
            try:
                present = await read_own(
                    self._api, Build, function.build_id, build.account_id, Code.BUILD_NOT_FOUND
                )
            except ApiError as error:
                if error.code is not Code.BUILD_NOT_FOUND:
                    raise
            else:
                if (present.created_on, present.id) >= (build.created_on, build.id):
                    return

        def change(function: Function) -> Function:
            return replace(function, build_id=build.id)

        await change_own(
            self._api, Function, function.id, build.account_id, Code.FUNCTION_NOT_FOUND, change
        )

    async def _remove(self, build: Build) -> None:
        try:
            await answered(self._api.shards.delete_packages([package_id(build.id)]))
            await delete_own(self._api, Build, build.id, build.account_id, Code.BUILD_NOT_FOUND)
            self._totals["removed"] += 1
        except ApiError as error:
            if error.code is not Code.BUILD_NOT_FOUND:  # otherwise another request has removed it
                raise


def _superfluous(
    builds: list[Build], functions: Mapping[str, Function], function_id: str | None
) -> list[Build]:
    """Return which of some builds, the oldest first, their functions do not need any more."""
    by_function: dict[str, list[Build]] = {}
    for build in builds:
        if function_id is None or build.function_id == function_id:
            by_function.setdefault(build.function_id, []).append(build)
    found: list[Build] = []
    for owner, own in by_function.items():
        function = functions.get(owner)
        if function is None:
            found += own
        else:
            found += (
                build
                for build in own[:-BUILDS_KEPT_COUNT]
                if build.id != function.build_id and build.status is not BuildStatus.PENDING
            )
    return found


def _is_text(source: bytes) -> bool:
    try:
        source.decode()
    except UnicodeDecodeError:
        return False
    return True
