"""One connection to a PostgreSQL database, made when it is needed and closed when it is in doubt.

Calls block for a limited time. A connection that does not answer in time is closed; what it was
asked may happen all the same.
"""

import select
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

from psycopg import OperationalError, ProgrammingError, conninfo, pq

from troth.core.limits import STREAM_ANSWER_LIMIT_MS

from .stream import StreamRefused, StreamUnreachable

VERSION_LEAST: Final = 120_000  # PostgreSQL 12

INT8, BYTEA, INT4, TEXT = 20, 17, 23, 25
"""Numbers of types in the protocol."""

Statement = tuple[str, list[int]]
"""The text of a statement that is prepared, and the types of its parameters."""

_BINARY: Final = pq.Format.BINARY
_NOT_PREPARED: Final = "26000"

_SETTINGS: Final = """
    SELECT current_setting('server_version_num'), current_setting('fsync'),
           current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
           pg_is_in_recovery()
"""


class QueryFailed(Exception):
    """The server has answered with an error, whose SQLSTATE this has."""

    def __init__(self, state: str, message: str) -> None:
        super().__init__(message)
        self.state = state


@final
class PostgresConnection:
    """A connection that runs prepared statements, by name.

    `url` is a connection string of libpq. Raises StreamRefused if that is not one. Nothing is
    connected before it is needed.
    """

    def __init__(
        self,
        url: str,
        statements: Mapping[bytes, Statement],
        answer_limit_ms: int = STREAM_ANSWER_LIMIT_MS,
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
        self._statements = statements
        self._answer_limit_s = answer_limit_ms / 1000
        self._connection: pq.abc.PGconn | None = None
        self.has_warned = False
        """Whether the last statement was answered with a warning."""
        self.has_standby = False
        """Whether commits wait for another machine, as of the last connection."""

    def run(self, name: bytes, parameters: Sequence[bytes] = ()) -> pq.abc.PGresult:
        """Run a prepared statement. Raises StreamUnreachable, and QueryFailed for an error of it.

        Parameters and results are binary.
        """
        formats = [_BINARY] * len(parameters)
        if self._connection is None:
            self._connect()
        try:
            return self._ask(
                lambda connection: connection.send_query_prepared(
                    name, parameters, formats, _BINARY
                )
            )
        except QueryFailed as error:
            if error.state != _NOT_PREPARED:  # in this session
                raise
        statement, types = self._statements[name]
        self._ask(lambda connection: connection.send_prepare(name, statement.encode(), types))
        return self._ask(
            lambda connection: connection.send_query_prepared(name, parameters, formats, _BINARY)
        )

    def query(self, text: str) -> pq.abc.PGresult:
        """Run statements as one transaction; return the last one's result, as text.

        Raises as `run`.
        """
        if self._connection is None:
            self._connect()
        return self._ask(lambda connection: connection.send_query(text.encode()))

    def close(self) -> None:
        """Close the connection; the next call connects again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.finish()

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
            result = self.query(_SETTINGS)
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
                self.query("SET synchronous_commit = on")
            self.has_standby = bool(standbys.strip())
        except QueryFailed as error:
            raise StreamUnreachable(str(error)) from error

    def _note_notice(self, notice: pq.abc.PGresult) -> None:
        state = notice.error_field(pq.DiagnosticField.SQLSTATE) or b""
        self.has_warned |= state.startswith(b"01")

    def _ask(self, send: Callable[[pq.abc.PGconn], None]) -> pq.abc.PGresult:
        """Send one question and return the last result. Raises StreamUnreachable, QueryFailed."""
        connection = self._connection
        if connection is None:
            raise StreamUnreachable("the connection is closed")
        deadline_s = time.monotonic() + self._answer_limit_s
        self.has_warned = False
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
            raise QueryFailed(state, message)
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
