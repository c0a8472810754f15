"""Streams in PostgreSQL: two tables, one statement a frame. Imported only when it is used.

A frame is one row, and its number the key, so a number is taken once. The epoch fences an old owner
whose next number was trimmed: each statement locks the group's row and inserts only if the epoch is
the owner's. The statement also looks whether its commit will wait for the disk, because a pooler in
between may run it in another session than the one that was checked.

A connection that does not answer in time is closed; what it was asked may happen all the same.
"""

import select
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, final

from psycopg import OperationalError, ProgrammingError, conninfo, pq

from troth.core.limits import STREAM_ANSWER_LIMIT_MS, STREAM_READ_LIMIT_BYTES

from .stream import StreamRefused, StreamUnreachable

VERSION_LEAST: Final = 120_000  # PostgreSQL 12
READ_LIMIT_COUNT: Final = 1024  # rows

_INT8, _BYTEA, _INT4 = 20, 17, 23  # type numbers of the protocol
_BINARY: Final = pq.Format.BINARY
_NUMBER: Final = struct.Struct(">q")
_GROUP: Final = struct.Struct(">i")
_READ_LIMITS: Final = (_NUMBER.pack(READ_LIMIT_COUNT), _NUMBER.pack(STREAM_READ_LIMIT_BYTES))
_NO_SUCH_TABLE: Final = "42P01"

_TABLES: Final = (
    """
    CREATE TABLE IF NOT EXISTS troth_owner (
        grp integer PRIMARY KEY, epoch bigint NOT NULL, identity bytea NOT NULL
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS troth_log (
        grp integer, number bigint, epoch bigint NOT NULL, body bytea NOT NULL,
        PRIMARY KEY (grp, number)
    )
    """,
    "ALTER TABLE troth_log ALTER COLUMN body SET STORAGE EXTERNAL",
)

_STATEMENTS: Final[dict[bytes, tuple[str, list[int]]]] = {
    b"found": (
        "INSERT INTO troth_owner (grp, epoch, identity) VALUES ($1, 0, $2) ON CONFLICT DO NOTHING",
        [_INT4, _BYTEA],
    ),
    b"identity": ("SELECT identity FROM troth_owner WHERE grp = $1", [_INT4]),
    b"append": (
        """
        INSERT INTO troth_log (grp, number, epoch, body)
        SELECT $1, $2, $3, $4 FROM troth_owner
        WHERE grp = $1 AND epoch = $3
            AND current_setting('synchronous_commit') IN ('on', 'remote_apply')
            AND ($2 = 1 OR EXISTS (SELECT FROM troth_log WHERE grp = $1 AND number = $2 - 1))
        FOR SHARE OF troth_owner
        """,
        [_INT4, _INT8, _INT8, _BYTEA],
    ),
    b"claim": (
        """
        WITH claimed AS (
            UPDATE troth_owner SET epoch = $3
            WHERE grp = $1 AND epoch = $3 - 1
                AND current_setting('synchronous_commit') IN ('on', 'remote_apply')
                AND ($2 = 1 OR EXISTS (SELECT FROM troth_log WHERE grp = $1 AND number = $2 - 1))
            RETURNING grp
        )
        INSERT INTO troth_log (grp, number, epoch, body) SELECT $1, $2, $3, $4 FROM claimed
        """,
        [_INT4, _INT8, _INT8, _BYTEA],
    ),
    b"read": (
        """
        SELECT number, body FROM (
            SELECT number, body, sum(octet_length(body)) OVER (ORDER BY number) AS total
            FROM troth_log WHERE grp = $1 AND number >= $2 ORDER BY number LIMIT $3
        ) AS first
        WHERE total - octet_length(body) < $4 ORDER BY number
        """,
        [_INT4, _INT8, _INT8, _INT8],
    ),
}

_SETTINGS: Final = """
    SELECT current_setting('server_version_num'), current_setting('fsync'),
           current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
           pg_is_in_recovery()
"""


class _Failed(Exception):
    """The server has answered with an error, whose SQLSTATE this has."""

    def __init__(self, state: str, message: str) -> None:
        super().__init__(message)
        self.state = state


@final
class PostgresStream:
    """One group's stream in a PostgreSQL database. `url` is a connection string of libpq.

    Raises StreamRefused if that is not one. Nothing is connected before it is needed.
    """

    def __init__(
        self, url: str, group: int = 0, *, answer_limit_ms: int = STREAM_ANSWER_LIMIT_MS
    ) -> None:
        try:
            given = conninfo.conninfo_to_dict(url)
        except ProgrammingError as error:
            raise StreamRefused(
                f"{_first_line(str(error))}. Give a connection string such as "
                "postgresql://user@host/database."
            ) from error
        added: dict[str, Any] = {
            "application_name": "troth",
            "target_session_attrs": "read-write",
            "connect_timeout": max(answer_limit_ms // 1000, 2),
        }
        self._conninfo = conninfo.make_conninfo("", **{**added, **given}).encode()
        host = given.get("host") or given.get("hostaddr") or "localhost"
        port = f":{given['port']}" if given.get("port") else ""
        self.name = f"postgresql://{host}{port}/{given.get('dbname') or ''}"
        self._group = _GROUP.pack(group)
        self._answer_limit_s = answer_limit_ms / 1000
        self._connection: pq.abc.PGconn | None = None
        self._has_warned = False
        self.has_standby = False
        """Whether commits wait for another machine, as of the last connection."""

    def found(self, identity: bytes) -> bytes:
        """Make the tables and the group's row unless they are there; see `Stream.found`."""
        try:
            stored = self._identity()
            if stored is not None:
                return stored
            self._run(b"found", [self._group, identity])
            stored = self._identity()
        except _Failed as error:
            raise StreamRefused(
                f"{self.name}: {error}. The role needs to read and write the tables troth_owner "
                "and troth_log, and to create them if they are not there."
            ) from error
        if stored is None:
            raise StreamUnreachable("what was just inserted is not there")
        return stored

    def _identity(self) -> bytes | None:
        """Return the group's identity, or None if it has none. Makes the tables."""
        try:
            result = self._run(b"identity", [self._group])
        except _Failed as error:
            if error.state != _NO_SUCH_TABLE:
                raise
            for statement in _TABLES:
                self._query(statement)
            result = self._run(b"identity", [self._group])
        return result.get_value(0, 0) if result.ntuples else None

    def append(self, number: int, epoch: int, frame: bytes, *, is_claim: bool) -> bool:
        """Insert a frame; see `Stream.append`."""
        parameters = (self._group, _NUMBER.pack(number), _NUMBER.pack(epoch), frame)
        try:
            result = self._run(b"claim" if is_claim else b"append", parameters)
        except _Failed as error:
            if error.state.startswith("23"):  # the number is taken
                return False
            raise StreamUnreachable(str(error)) from error
        # A commit whose wait for a standby was broken off warns, and looks like any other.
        return result.command_tuples == 1 and not self._has_warned

    def read(self, from_number: int) -> list[tuple[int, bytes]]:
        """Return frames from a number on; see `Stream.read`."""
        try:
            result = self._run(b"read", [self._group, _NUMBER.pack(from_number), *_READ_LIMITS])
        except _Failed as error:
            raise StreamUnreachable(str(error)) from error
        frames = []
        for row in range(result.ntuples):
            number, body = result.get_value(row, 0), result.get_value(row, 1)
            assert number is not None
            assert body is not None
            frames.append((_NUMBER.unpack(number)[0], body))
        return frames

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.finish()

    # The connection

    def _run(self, name: bytes, parameters: Sequence[bytes]) -> pq.abc.PGresult:
        """Run a prepared statement. Raises StreamUnreachable, and _Failed for an error of it."""
        formats = [_BINARY] * len(parameters)
        if self._connection is None:
            self._connect()
        try:
            return self._ask(
                lambda connection: connection.send_query_prepared(
                    name, parameters, formats, _BINARY
                )
            )
        except _Failed as error:
            if error.state != "26000":  # it was never prepared in this session
                raise
        statement, types = _STATEMENTS[name]
        self._ask(lambda connection: connection.send_prepare(name, statement.encode(), types))
        return self._ask(
            lambda connection: connection.send_query_prepared(name, parameters, formats, _BINARY)
        )

    def _connect(self) -> None:
        """Connect and look at the settings. Raises StreamUnreachable or StreamRefused."""
        deadline_s = time.monotonic() + self._answer_limit_s
        self._connection = connection = pq.PGconn.connect_start(self._conninfo)
        try:
            while True:
                if connection.status == pq.ConnStatus.BAD:
                    raise StreamUnreachable(_first_line(connection.get_error_message()))
                polled = connection.connect_poll()
                if polled == pq.PollingStatus.OK:
                    break
                if polled == pq.PollingStatus.FAILED:
                    raise StreamUnreachable(_first_line(connection.get_error_message()))
                _wait(connection, deadline_s, writes=polled == pq.PollingStatus.WRITING)
            connection.nonblocking = 1
            connection.notice_handler = self._note_notice
            self._look_at_settings()
        except (StreamUnreachable, StreamRefused):
            self.close()
            raise

    def _look_at_settings(self) -> None:
        try:
            result = self._query(_SETTINGS)
            texts = [(result.get_value(0, column) or b"").decode() for column in range(5)]
            version, fsync, commit, standbys, is_standby = texts
            if int(version) < VERSION_LEAST:
                raise StreamRefused(f"{self.name}: PostgreSQL 12 or newer is needed.")
            if fsync != "on":
                raise StreamRefused(
                    f"{self.name}: the database runs with fsync = {fsync}, so that it can lose "
                    "what it has confirmed. Set fsync = on."
                )
            if is_standby != "f":
                raise StreamUnreachable("it is a standby, which takes no writes")
            if commit not in ("on", "remote_apply"):
                self._query("SET synchronous_commit = on")
            self.has_standby = bool(standbys.strip())
        except _Failed as error:
            raise StreamUnreachable(str(error)) from error

    def _note_notice(self, notice: pq.abc.PGresult) -> None:
        state = notice.error_field(pq.DiagnosticField.SQLSTATE) or b""
        self._has_warned |= state.startswith(b"01")

    def _query(self, text: str) -> pq.abc.PGresult:
        return self._ask(lambda connection: connection.send_query(text.encode()))

    def _ask(self, send: Callable[[pq.abc.PGconn], None]) -> pq.abc.PGresult:
        """Send one statement and return its result. Raises StreamUnreachable or _Failed."""
        connection = self._connection
        if connection is None:
            raise StreamUnreachable("the connection is closed")
        deadline_s = time.monotonic() + self._answer_limit_s
        self._has_warned = False
        try:
            send(connection)
            while connection.flush():
                _wait(connection, deadline_s, writes=True)
            result = None
            while True:
                while connection.is_busy():
                    _wait(connection, deadline_s, writes=False)
                    connection.consume_input()
                following = connection.get_result()
                if following is None:
                    break
                result = following
        except (StreamUnreachable, OperationalError) as error:
            self.close()
            raise StreamUnreachable(_first_line(str(error))) from error
        assert result is not None
        if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
            message = _first_line(result.get_error_message())
            if connection.status == pq.ConnStatus.BAD:
                self.close()
                raise StreamUnreachable(message)
            raise _Failed(state, message)
        return result


def _wait(connection: pq.abc.PGconn, deadline_s: float, *, writes: bool) -> None:
    """Wait until a connection can be read, or written. Raises StreamUnreachable."""
    waits_for = select.POLLOUT | select.POLLIN if writes else select.POLLIN
    poll = select.poll()
    poll.register(connection.socket, waits_for)
    left_ms = (deadline_s - time.monotonic()) * 1000
    if left_ms <= 0 or not poll.poll(left_ms):
        raise StreamUnreachable("no answer in time")


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0].rstrip(".") if text.strip() else "the connection broke"
