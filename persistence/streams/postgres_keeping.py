"""What is kept next to a group's frames in PostgreSQL: who has read how far, and snapshots.

It has a connection of its own: a snapshot takes long, and frames do not wait for it. Everything
that changes something names the owner's epoch, so a node that was deposed changes nothing.
"""

import json
import struct
from typing import Final, final

from troth.core.limits import CLUSTER_STANDING_BY_MS, STREAM_ANSWER_LIMIT_MS

from .chain import ChainMark
from .postgres_connection import PostgresConnection, QueryFailed
from .postgres_tables import LOG_TABLES_COUNT, SNAPSHOT_TABLES_COUNT, GroupTables
from .stream import SnapshotDescription, StreamUnreachable

_NUMBER: Final = struct.Struct(">q")
_PLACE: Final = struct.Struct(">i")
_STARTING_AGE_MS: Final = CLUSTER_STANDING_BY_MS * 4
_LOCK_NOT_AVAILABLE: Final = "55P03"


@final
class PostgresKeeping:
    """One group's `StreamKeeping`. `url` is a connection string of libpq."""

    def __init__(
        self, url: str, group: int = 0, *, answer_limit_ms: int = STREAM_ANSWER_LIMIT_MS
    ) -> None:
        self._tables = GroupTables(group)
        statements = self._tables.keeping_statements()
        self._connection = PostgresConnection(url, statements, answer_limit_ms)

    def note_reader(self, node: str, number: int, *, is_starting: bool = False) -> None:
        """See `StreamKeeping.note_reader`. One that is starting was seen a while ago."""
        age_ms = _STARTING_AGE_MS if is_starting else 0
        self._run(b"note reader", node.encode(), _NUMBER.pack(number), _NUMBER.pack(age_ms))

    def needed_number(self) -> int | None:
        """See `StreamKeeping.needed_number`."""
        ((value,),) = self._run(b"needed")
        return None if value is None else int(_NUMBER.unpack(value)[0])

    def trim(self, number: int, epoch: int) -> int:
        """See `StreamKeeping.trim`: whole tables go."""
        before = self._first()
        for place in range(LOG_TABLES_COUNT):
            self._change(self._tables.trimming(place, number, epoch))
        return self._first() - before

    def _first(self) -> int:
        ((value,),) = self._run(b"first")
        return 0 if value is None else int(_NUMBER.unpack(value)[0])

    def snapshot(self) -> SnapshotDescription | None:
        """See `StreamKeeping.snapshot`."""
        found = self._run(b"snapshot")
        if not found:
            return None
        place, identifier, description = found[0]
        assert place is not None
        assert identifier is not None
        assert description is not None
        fields = json.loads(description)
        return SnapshotDescription(
            identifier=int(_NUMBER.unpack(identifier)[0]),
            place=int(_PLACE.unpack(place)[0]),
            mark=ChainMark(*fields.pop("mark")),
            **fields,
        )

    def begin_snapshot(self, epoch: int) -> int:
        """See `StreamKeeping.begin_snapshot`."""
        newest = self.snapshot()
        place = 0 if newest is None else (newest.place + 1) % SNAPSHOT_TABLES_COUNT
        if not self._change(self._tables.clearing(place, epoch)):
            raise StreamUnreachable("the older snapshot is being read")
        return place

    def add_piece(self, place: int, identifier: int, number: int, piece: bytes, epoch: int) -> None:
        """See `StreamKeeping.add_piece`."""
        parameters = (*map(_NUMBER.pack, (epoch, identifier, number)), piece)
        if self._count(b"add piece %d" % place, *parameters) != 1:
            raise StreamUnreachable("another node owns the stream")

    def piece(self, place: int, identifier: int, number: int) -> bytes | None:
        """See `StreamKeeping.piece`."""
        found = self._run(b"piece %d" % place, _NUMBER.pack(identifier), _NUMBER.pack(number))
        return found[0][0] if found else None

    def finish_snapshot(self, description: SnapshotDescription, epoch: int) -> None:
        """See `StreamKeeping.finish_snapshot`."""
        fields = description._asdict()
        place, identifier = fields.pop("place"), fields.pop("identifier")
        count = self._count(
            b"finish %d" % place,
            *map(_NUMBER.pack, (epoch, identifier)),
            json.dumps(fields).encode(),
        )
        if count != 1 or self._connection.has_warned:
            raise StreamUnreachable("another node owns the stream, or no standby has it")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _run(self, name: bytes, *parameters: bytes) -> list[tuple[bytes | None, ...]]:
        """Run a statement; return the rows. Raises StreamUnreachable."""
        try:
            result = self._connection.run(name, parameters)
        except QueryFailed as error:
            raise StreamUnreachable(str(error)) from error
        columns = range(result.nfields)
        return [
            tuple(result.get_value(row, column) for column in columns)
            for row in range(result.ntuples)
        ]

    def _count(self, name: bytes, *parameters: bytes) -> int:
        """Run a statement; return how many rows it has changed. Raises StreamUnreachable."""
        try:
            return self._connection.run(name, parameters).command_tuples or 0
        except QueryFailed as error:
            raise StreamUnreachable(str(error)) from error

    def _change(self, text: str) -> bool:
        """Run what empties a table; return False if others were using it for too long."""
        try:
            self._connection.query(text)
        except QueryFailed as error:
            if error.state == _LOCK_NOT_AVAILABLE:
                return False
            raise StreamUnreachable(str(error)) from error
        return True
