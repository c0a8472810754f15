"""The audit log: who changed what about the server itself, from where, and with what outcome.

One JSON object a line in `audit.log` in the data directory, which only the server's user may read,
in ASCII: a text that a client chose can neither end a line nor control a terminal that shows the
file. A line is on disk before the act that it tells of is acknowledged. Beyond
`AUDIT_FILE_LIMIT_BYTES` the file becomes `audit.log.1`, that one `audit.log.2` and so on; the last
is dropped. Secrets never come here: not tokens, not passwords, not their digests. It is not part of
snapshots.

The processes of a server write into the same files: each holds a lock on `audit.log` while it adds
a line, and so does what renames it. Lines are in the order of their times, but for a clock that was
set back.

A server without a directory keeps the last lines in memory.
"""

import fcntl
import json
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
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
_WAIT_LIMIT_MS: Final = 5_000
"""A line that is so much earlier than the last one has waited for the lock; else for a clock."""
_LAST_LINE_BYTES: Final = 16_384
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
        entry: dict[str, Any] = {
            "time": "",
            "act": act,
            "outcome": outcome,
            "by": by,
            **{name: content for name, content in what.items() if content is not None},
        }
        async with self._one_at_a_time:
            now_ms = self._now_ms()
            if self._path is None:
                self._recent.append(_line(entry, now_ms))
                return
            try:
                with trio.CancelScope(shield=True):
                    await in_thread(lambda: self._append(entry, now_ms))
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

    def _append(self, entry: dict[str, Any], now_ms: int) -> None:
        assert self._path is not None
        self._check_place()
        is_written = False
        while not is_written:
            with self._locked(os.O_RDWR | os.O_APPEND | os.O_CREAT, fcntl.LOCK_EX) as descriptor:
                is_written = self._append_to(descriptor, entry, now_ms)

    def _append_to(self, descriptor: int, entry: dict[str, Any], now_ms: int) -> bool:
        """Add a line to the file, or rename it if it is full; return whether it was added."""
        size = os.fstat(descriptor).st_size
        last = _end_of(descriptor)
        before = last if size else self._end_of_older()
        line = _line(entry, _in_order(now_ms, before)).encode() + b"\n"
        if size and size + len(line) > self._limit_bytes:
            self._rotate()
            return False
        if size and not last.endswith(b"\n"):
            line = b"\n" + line  # a crash has left half a line
        while line:
            line = line[os.write(descriptor, line) :]
        os.fdatasync(descriptor)
        if not size:
            self._sync_directory()
        return True

    def _end_of_older(self) -> bytes:
        """Return the end of the file that was renamed last, or nothing if there is none."""
        for path in self._names()[1:2]:
            with suppress(FileNotFoundError):
                descriptor = self._open(path, os.O_RDONLY)
                try:
                    return _end_of(descriptor)
                finally:
                    os.close(descriptor)
        return b""

    @contextmanager
    def _locked(self, flags: int, kind: int) -> Iterator[int]:
        """Open the newest file, and hold a lock on it for a block. Raises OSError."""
        assert self._path is not None
        while True:
            descriptor = self._open(self._path, flags)
            try:
                fcntl.flock(descriptor, kind)
                if self._is_newest(descriptor):
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    def _is_newest(self, descriptor: int) -> bool:
        """Return whether no other process has renamed a file while its lock was waited for."""
        assert self._path is not None
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False

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
        """Return the last lines. No file is renamed in the meantime, if there is a newest one."""
        try:
            with self._locked(os.O_RDONLY, fcntl.LOCK_SH):
                return self._last_of_all(limit_count)
        except FileNotFoundError:
            return self._last_of_all(limit_count)

    def _last_of_all(self, limit_count: int) -> list[str]:
        found: list[str] = []
        for name in self._names():
            try:
                with open(
                    self._open(name, os.O_RDONLY), encoding="utf-8", errors="replace"
                ) as file:
                    text = file.read()
            except FileNotFoundError:
                if not found and name == self._path:
                    continue  # it was just renamed
                break
            found = [*text.split("\n")[:-1], *found][-limit_count:]
            if len(found) == limit_count:
                break
        return found


def _end_of(descriptor: int) -> bytes:
    """Return the end of a file, with its last line."""
    start = os.fstat(descriptor).st_size - _LAST_LINE_BYTES
    return os.pread(descriptor, _LAST_LINE_BYTES, max(start, 0))


def _line(entry: dict[str, Any], now_ms: int) -> str:
    """Return an entry with its time."""
    moment = datetime.fromtimestamp(now_ms / 1000, UTC)
    time = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({**entry, "time": time})


def _in_order(now_ms: int, text: bytes) -> int:
    """Return a time that is not before that of the last whole line of a text.

    Unless it is much before: then the clock was set back.
    """
    last = _parsed(text[:-1].rpartition(b"\n")[2].decode(errors="replace"))
    try:
        moment = datetime.fromisoformat(str((last or {})["time"]))
    except (KeyError, ValueError):
        return now_ms
    last_ms = round(moment.timestamp() * 1000)
    return last_ms if now_ms < last_ms <= now_ms + _WAIT_LIMIT_MS else now_ms


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
