"""Streams in PostgreSQL: a few tables, one statement a frame. Imported only when it is used.

A frame is one row, and its number the key, so a number is taken once. The epoch fences an old owner
whose next number was trimmed: each statement locks the group's row and inserts only if the epoch is
the owner's. The statement also looks whether its commit will wait for the disk, because a pooler in
between may run it in another session than the one that was checked.

The log's tables take turns (`postgres_tables.py`). When the one that is appended to has become
large and the next one is empty, the next one is appended to.
"""

import struct
from typing import Final, final

from troth.core.limits import (
    STREAM_ANSWER_LIMIT_MS,
    STREAM_READ_LIMIT_BYTES,
    STREAM_TABLE_BYTES,
)

from .postgres_connection import PostgresConnection, QueryFailed
from .postgres_tables import LOG_TABLES_COUNT, GroupTables
from .stream import StreamRefused, StreamUnreachable

READ_LIMIT_COUNT: Final = 1024  # rows

_NUMBER: Final = struct.Struct(">q")
_PLACE: Final = struct.Struct(">i")
_READ_LIMITS: Final = (_NUMBER.pack(READ_LIMIT_COUNT), _NUMBER.pack(STREAM_READ_LIMIT_BYTES))
_ROW_BYTES: Final = 100  # what a row takes besides its body, about
_TURN_AGAIN_SHARE: Final = 16
"""If the next table is not empty yet, it is looked at again after this part of a table."""

_NO_SUCH_TABLE: Final = "42P01"
_NO_SUCH_COLUMN: Final = "42703"


@final
class PostgresStream:
    """One group's stream in a PostgreSQL database. `url` is a connection string of libpq.

    Raises StreamRefused if that is not one. Nothing is connected before it is needed.
    """

    behind_ms = 0

    def __init__(
        self,
        url: str,
        group: int = 0,
        *,
        answer_limit_ms: int = STREAM_ANSWER_LIMIT_MS,
        table_bytes: int = STREAM_TABLE_BYTES,
    ) -> None:
        self._tables = GroupTables(group)
        statements = self._tables.frame_statements()
        self._connection = PostgresConnection(url, statements, answer_limit_ms)
        self.name = self._connection.name + (f" (group {group})" if group else "")
        self._table_bytes = table_bytes
        self._place: int | None = None
        """The place of the table that is appended to; None if it has to be looked up."""
        self._filled_bytes = 0
        """About how many bytes were appended to that table."""

    @property
    def has_standby(self) -> bool:
        """Return whether commits wait for another machine, as of the last connection."""
        return self._connection.has_standby

    def found(self, identity: bytes) -> bytes:
        """Make the tables and the group's row unless they are there; see `Stream.found`."""
        try:
            stored = self._identity()
            if stored is not None:
                return stored
            self._connection.query(self._tables.creation())
            self._connection.run(b"found", [identity])
            stored = self._identity()
        except QueryFailed as error:
            if error.state == _NO_SUCH_COLUMN:
                raise StreamRefused(
                    f"{self.name}: an earlier version of Troth has made its tables, in another "
                    "way. Nothing was changed. Choose a database without them."
                ) from error
            raise StreamRefused(
                f"{self.name}: {error}. The role needs to read and write the tables troth_owner "
                "and troth_log_…, and to create them if they are not there."
            ) from error
        if stored is None:
            raise StreamUnreachable("what was just inserted is not there")
        return stored

    def _identity(self) -> bytes | None:
        """Return the group's identity, or None if it has none."""
        try:
            result = self._connection.run(b"identity")
        except QueryFailed as error:
            if error.state != _NO_SUCH_TABLE:
                raise
            return None
        return result.get_value(0, 0) if result.ntuples else None

    def append(self, number: int, epoch: int, frame: bytes, *, is_claim: bool) -> bool:
        """Insert a frame; see `Stream.append`."""
        parameters = (_NUMBER.pack(number), _NUMBER.pack(epoch), frame)
        try:
            place = self._place_for(epoch, is_claim=is_claim)
            kind = b"claim %d" if is_claim else b"append %d"
            result = self._connection.run(kind % place, parameters)
        except QueryFailed as error:
            if error.state.startswith("23"):  # the number is taken
                return False
            raise StreamUnreachable(str(error)) from error
        if result.command_tuples != 1:
            self._place = None  # perhaps it is another
            return False
        self._filled_bytes += len(frame) + _ROW_BYTES
        # A commit whose wait for a standby was broken off warns, and looks like any other.
        return not self._connection.has_warned

    def _place_for(self, epoch: int, *, is_claim: bool) -> int:
        """Return the place of the table for the next frame. Raises QueryFailed."""
        if self._place is None or is_claim:
            self._place = self._look_up_place()
            self._filled_bytes = 0
        elif self._filled_bytes >= self._table_bytes:
            turned = self._connection.run(b"turn %d" % self._place, [_NUMBER.pack(epoch)])
            if turned.command_tuples == 1:
                self._place = (self._place + 1) % LOG_TABLES_COUNT
                self._filled_bytes = 0
            else:
                self._filled_bytes -= self._table_bytes // _TURN_AGAIN_SHARE
        return self._place

    def _look_up_place(self) -> int:
        result = self._connection.run(b"identity")
        value = result.get_value(0, 1) if result.ntuples else None
        if value is None:
            raise StreamUnreachable("the group's row is not there")
        place: int = _PLACE.unpack(value)[0]
        return place

    def read(self, from_number: int) -> list[tuple[int, bytes]]:
        """Return frames from a number on; see `Stream.read`."""
        try:
            result = self._connection.run(b"read", [_NUMBER.pack(from_number), *_READ_LIMITS])
        except QueryFailed as error:
            raise StreamUnreachable(str(error)) from error
        frames = []
        for row in range(result.ntuples):
            number, body = result.get_value(row, 0), result.get_value(row, 1)
            assert number is not None
            assert body is not None
            frames.append((_NUMBER.unpack(number)[0], body))
        return frames

    def first(self) -> int:
        """Return the number of the first frame; see `Stream.first`."""
        try:
            result = self._connection.run(b"first")
        except QueryFailed as error:
            raise StreamUnreachable(str(error)) from error
        value = result.get_value(0, 0)
        return 0 if value is None else int(_NUMBER.unpack(value)[0])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
