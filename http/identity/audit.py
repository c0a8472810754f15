"""The audit log: who changed what about the server itself, from where, and with what outcome.

One JSON object a line in `audit.log` in the data directory, which only the server's user may read,
in ASCII: a text that a client chose can neither end a line nor control a terminal that shows the
file. A line is on disk before the act that it tells of is acknowledged. Beyond
`AUDIT_FILE_LIMIT_BYTES` the file becomes `audit.log.1`, that one `audit.log.2` and so on; the last
is dropped. Secrets never come here: not tokens, not passwords, not their digests. It is not part of
snapshots.

A server without a directory keeps the last lines in memory.
"""

import json
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from troth.core.codes import Code
from troth.core.limits import AUDIT_FILE_LIMIT_BYTES, AUDIT_FILES_COUNT, AUDIT_PAGE_LIMIT_COUNT
from troth.http.wire.errors import ApiError
from troth.http.wire.principals import Principal, PrincipalKind
from troth.http.wire.requests import Request
from troth.persistence.errors import DataDirectoryLost
from troth.persistence.shortage import opening
from troth.shards.threads import in_thread

FILE_NAME: Final = "audit.log"
Told = dict[str, str | int | bool | None]
"""What an act was about, by name; None is not noted."""

_MODE: Final = 0o600
_log = structlog.get_logger("troth.http.audit")


class AuditLog:
    """The audit log of one server. `directory` None: keep nothing on disk."""

    def __init__(
        self,
        now_ms: Callable[[], int],
        directory: Path | None = None,
        *,
        check: Callable[[], None] = lambda: None,
        limit_bytes: int = AUDIT_FILE_LIMIT_BYTES,
        files_count: int = AUDIT_FILES_COUNT,
    ) -> None:
        """Initialize; no file is touched before the first `write`.

        `check` raises DataDirectoryLost when the directory's name means another one by then.
        """
        self._check_place = check
        self._now_ms = now_ms
        self._path = None if directory is None else directory / FILE_NAME
        self._limit_bytes = limit_bytes
        self._files_count = files_count
        self._recent: deque[str] = deque(maxlen=AUDIT_PAGE_LIMIT_COUNT)
        self._one_at_a_time = trio.Lock()

    async def write(
        self, request: Request, act: str, outcome: str = "done", what: Told | None = None
    ) -> None:
        """Note an act of a request's sender, and its subject.

        Raises ApiError (500) if that is impossible.
        """
        sender: Told = {"from": request.peer, "request": request.id}
        await self.note(shown(request.principal), act, outcome, {**sender, **(what or {})})

    async def note(self, by: str, act: str, outcome: str, what: Told) -> None:
        """Note an act that is no request's own; `by` says who wanted it. Raises as `write`."""
        moment = datetime.fromtimestamp(self._now_ms() / 1000, UTC)
        entry: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "act": act,
            "outcome": outcome,
            "by": by,
            **{name: content for name, content in what.items() if content is not None},
        }
        line = json.dumps(entry)
        async with self._one_at_a_time:
            if self._path is None:
                self._recent.append(line)
                return
            try:
                with trio.CancelScope(shield=True):
                    await in_thread(lambda: self._append(line.encode() + b"\n"))
            except (OSError, DataDirectoryLost) as error:
                _log.error("the audit log cannot be written", file=FILE_NAME, problem=str(error))
                message = "The audit log cannot be written, so the outcome is not shown."
                raise ApiError(Code.INTERNAL, message=message) from error

    @asynccontextmanager
    async def act(
        self, request: Request, act: str, **what: str | int | bool | None
    ) -> AsyncIterator[Told]:
        """Note what is done within, when it is done, or that it is refused, and by which code.

        What the block puts into the dictionary is noted too. Raises as `write`.
        """
        told: Told = dict(what)
        try:
            yield told
        except ApiError as error:
            await self.write(request, act, f"refused {error.code.value}", told)
            raise
        await self.write(request, act, "done", told)

    async def read(self, limit_count: int) -> list[Any]:
        """Return the last entries, the oldest of them first. Raises OSError."""
        if self._path is None:
            lines = list(self._recent)[-limit_count:]
        else:
            async with self._one_at_a_time:
                lines = await in_thread(lambda: self._last(limit_count))
        return [entry for entry in map(_parsed, lines) if entry is not None]

    # In a thread

    def _append(self, line: bytes) -> None:
        assert self._path is not None
        self._check_place()
        with suppress(FileNotFoundError):  # the first line makes the file
            if self._path.stat().st_size + len(line) > self._limit_bytes:
                self._rotate()
        is_new = not self._path.exists()
        descriptor = self._open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line  # a crash has left half a line
            while line:
                line = line[os.write(descriptor, line) :]
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            self._sync_directory()

    def _rotate(self) -> None:
        names = self._names()
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            with suppress(FileNotFoundError):  # there are fewer files so far
                newer.replace(older)
        self._sync_directory()

    def _names(self) -> list[Path]:
        """Return all files there may be, the newest first."""
        assert self._path is not None
        path = self._path
        return [path, *(path.with_name(f"{path.name}.{n}") for n in range(1, self._files_count))]

    def _sync_directory(self) -> None:
        assert self._path is not None
        descriptor = self._open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _open(self, path: Path, flags: int) -> int:
        return opening(lambda: os.open(path, flags | os.O_CLOEXEC, _MODE))

    def _last(self, limit_count: int) -> list[str]:
        found: list[str] = []
        for name in self._names():
            try:
                with open(
                    self._open(name, os.O_RDONLY), encoding="utf-8", errors="replace"
                ) as file:
                    text = file.read()
            except FileNotFoundError:
                break
            found = [*text.split("\n")[:-1], *found][-limit_count:]
            if len(found) == limit_count:
                break
        return found


def _parsed(line: str) -> Mapping[str, Any] | None:
    """Return an entry, or None for a partial line of a crash, which was never acknowledged."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def shown(principal: Principal) -> str:
    """Return the principal's name for the log: never with a secret."""
    if principal.kind is PrincipalKind.TOKEN:
        return f"token {principal.token_id} of {principal.name} ({principal.account_id})"
    if principal.kind is PrincipalKind.USER:
        return f"user {principal.name}"
    return principal.kind.value
