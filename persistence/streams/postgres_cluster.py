"""What is kept of a cluster in PostgreSQL: README.md section 4. Imported only when it is used.

A database has one cluster at most. It is made in one transaction, with the tables of all groups:
either all of it is there, or nothing.
"""

import contextlib
import struct
from typing import Final, final

import orjson
from psycopg import pq

from troth.core.limits import STREAM_ANSWER_LIMIT_MS, STREAM_READER_GONE_MS
from troth.persistence.identity import decode_identity, encode_identity

from .cluster import (
    BookSeen,
    ClusterDescription,
    GroupSeen,
    HolderSeen,
    MemberSeen,
    ReaderSeen,
)
from .features import FEATURES
from .postgres_connection import INT8, TEXT, PostgresConnection, QueryFailed, Statement
from .postgres_tables import GroupTables
from .sharing import Wishes, decode_wishes
from .stream import StreamRefused, StreamUnreachable

CREATION_LIMIT_MS: Final = 60_000
"""To make the tables of many groups takes longer than to append a frame."""

_NUMBER: Final = struct.Struct(">q")
_NO_SUCH_TABLE: Final = "42P01"
_TAKEN: Final = "23505"

_CREATION: Final = """
    CREATE TABLE IF NOT EXISTS troth_cluster (
        one boolean PRIMARY KEY CHECK (one), name text NOT NULL, identity bytea NOT NULL,
        made timestamptz NOT NULL, features integer NOT NULL, wishes text
    );
    CREATE TABLE IF NOT EXISTS troth_member (
        node text PRIMARY KEY, address text NOT NULL, version text NOT NULL,
        seen timestamptz NOT NULL, mesh text, features integer NOT NULL, home text
    );
    CREATE TABLE IF NOT EXISTS troth_holder (
        grp integer PRIMARY KEY, node text NOT NULL, epoch bigint NOT NULL,
        incarnation bigint NOT NULL, since timestamptz NOT NULL
    );
    INSERT INTO troth_cluster (one, name, identity, made, features)
        VALUES (true, {name}, {identity}, now(), {features});
    INSERT INTO troth_owner (grp, epoch, place, identity)
        SELECT grp, 0, 0, {identity} FROM generate_series(0, {last}) AS grp
"""

_AGE: Final = "(extract(epoch FROM now() - {}) * 1000)::bigint"
_LOOK: Final = f"""
    SELECT json_build_object(
        'holders', (SELECT json_agg(json_build_array(grp, node, epoch, {_AGE.format("since")})
            ORDER BY grp) FROM troth_holder),
        'members', (SELECT json_agg(json_build_array(node, address, version,
            {_AGE.format("seen")}, mesh, features, home) ORDER BY node) FROM troth_member),
        'wishes', to_jsonb(cluster) ->> 'wishes', 'features', features)
    FROM troth_cluster AS cluster
"""
"""All that is looked at often, in one statement; of a cluster of an earlier version, too."""

_STATEMENTS: Final[dict[bytes, Statement]] = {
    b"look": (_LOOK, []),
    b"member": (
        "INSERT INTO troth_member (node, address, version, seen, mesh, features, home) "
        "VALUES ($1, $2, $3, now(), nullif($4, ''), $6::bigint::integer, nullif($5, '')) "
        "ON CONFLICT (node) DO UPDATE SET address = excluded.address, version = excluded.version, "
        "seen = excluded.seen, mesh = excluded.mesh, features = excluded.features, "
        "home = excluded.home",
        [TEXT, TEXT, TEXT, TEXT, TEXT, INT8],
    ),
    b"finalize": (
        "UPDATE troth_cluster SET features = $1::bigint::integer WHERE features < $1 "
        "AND NOT EXISTS (SELECT FROM troth_member WHERE features < $1 AND "
        f"seen > now() - interval '{STREAM_READER_GONE_MS} ms')",
        [INT8],
    ),
    b"wish": (
        "UPDATE troth_cluster SET wishes = $2 WHERE coalesce(wishes, $3) = $1",
        [TEXT, TEXT, TEXT],
    ),
    b"owner": (
        "INSERT INTO troth_holder (grp, node, epoch, incarnation, since) "
        "VALUES ($1::bigint::integer, $2, $3, $4, now()) "
        "ON CONFLICT (grp) DO UPDATE SET node = excluded.node, epoch = excluded.epoch, "
        "incarnation = excluded.incarnation, since = excluded.since "
        "WHERE troth_holder.epoch < excluded.epoch",
        [INT8, TEXT, INT8, INT8],
    ),
}

_MEMBERS: Final = (
    f"SELECT node, address, version, {_AGE.format('seen')}, mesh, features, home "
    "FROM troth_member ORDER BY node"
)
_HOLDERS: Final = f"SELECT grp, node, epoch, {_AGE.format('since')} FROM troth_holder ORDER BY grp"
_READERS: Final = (
    f"SELECT grp, node, number, {_AGE.format('seen')} FROM troth_reader ORDER BY grp, node"
)
_WISHES: Final = "SELECT to_jsonb(cluster) ->> 'wishes' FROM troth_cluster AS cluster"
"""So also where the column is not there yet: in a cluster of an earlier version."""
_ROOM_FOR_WISHES: Final = "ALTER TABLE troth_cluster ADD COLUMN IF NOT EXISTS wishes text"
_GROUPS: Final = f"""
    SELECT owner.grp, owner.epoch, holder.node, holder.incarnation,
        {_AGE.format("snapshot.made")}
    FROM troth_owner AS owner
    LEFT JOIN troth_holder AS holder ON holder.grp = owner.grp AND holder.epoch = owner.epoch
    LEFT JOIN troth_snapshot AS snapshot ON snapshot.grp = owner.grp
    ORDER BY owner.grp
"""


@final
class PostgresCluster:
    """A `ClusterBook`. `url` is a connection string of libpq. Raises StreamRefused if it is not.

    A database that is lost without a word is looked for again after `answer_limit_ms`.
    """

    def __init__(self, url: str, *, answer_limit_ms: int = STREAM_ANSWER_LIMIT_MS) -> None:
        self._url = url
        self._connection = PostgresConnection(url, _STATEMENTS, answer_limit_ms)
        self.name = self._connection.name

    def create(self, new: ClusterDescription) -> ClusterDescription:
        """See `ClusterBook.create`."""
        found = self.description()
        if found is not None:
            return found
        groups_count = new.identity.groups_count
        statements = [GroupTables(group).creation() for group in range(groups_count)]
        values = {
            "name": _text_literal(new.name),
            "identity": f"'\\x{encode_identity(new.identity).hex()}'::bytea",
            "last": groups_count - 1,
            "features": new.features,
        }
        statements.append(_CREATION.format(**values))
        making = PostgresConnection(self._url, {}, CREATION_LIMIT_MS)
        try:
            with contextlib.closing(making):
                making.query(";".join(statements))
        except QueryFailed as error:
            if error.state != _TAKEN:
                raise StreamRefused(f"{self.name}: {error}. Nothing was made.") from error
            found = self.description()  # another one was faster
            if found is None:
                raise StreamRefused(
                    f"{self.name} has the log of a server without a cluster. Nothing was changed. "
                    "Choose an empty database."
                ) from error
            return found
        return new

    def description(self) -> ClusterDescription | None:
        """See `ClusterBook.description`."""
        try:
            rows = self._rows("SELECT name, encode(identity, 'hex'), features FROM troth_cluster")
        except QueryFailed as error:
            if error.state == _NO_SUCH_TABLE:
                return None
            raise StreamRefused(f"{self.name}: {error}.") from error
        if not rows:
            return None
        name, identity, features = rows[0]
        return ClusterDescription(
            name, decode_identity(self.name, bytes.fromhex(identity)), int(features)
        )

    def note_member(
        self,
        node: str,
        address: str,
        version: str,
        mesh: str | None = None,
        features: int = FEATURES,
        home: str | None = None,
    ) -> None:
        """See `ClusterBook.note_member`."""
        texts = (one.encode() for one in (node, address, version, mesh or "", home or ""))
        self._run(b"member", *texts, _NUMBER.pack(features))

    def finalize(self, features: int) -> bool:
        """See `ClusterBook.finalize`."""
        return self._run(b"finalize", _NUMBER.pack(features)) > 0

    def note_owner(self, group: int, node: str, epoch: int, incarnation: int) -> None:
        """See `ClusterBook.note_owner`."""
        self._run(
            b"owner",
            _NUMBER.pack(group),
            node.encode(),
            *map(_NUMBER.pack, (epoch, incarnation)),
        )

    def members(self) -> list[MemberSeen]:
        """See `ClusterBook.members`."""
        return [
            MemberSeen(
                node, address, version, int(seen_ms), mesh or None, int(features), home or None
            )
            for node, address, version, seen_ms, mesh, features, home in self._shown(_MEMBERS)
        ]

    def holders(self) -> list[HolderSeen]:
        """See `ClusterBook.holders`."""
        return [
            HolderSeen(int(group), node, int(epoch), int(since_ms))
            for group, node, epoch, since_ms in self._shown(_HOLDERS)
        ]

    def look(self) -> BookSeen:
        """See `ClusterBook.look`."""
        result = self._result(b"look")
        if not result.ntuples:
            return BookSeen([], [], Wishes(), 0)
        found = orjson.loads(result.get_value(0, 0) or b"")
        return BookSeen(
            [HolderSeen(*one) for one in found["holders"] or ()],
            [MemberSeen(*one) for one in found["members"] or ()],
            decode_wishes(found["wishes"] or ""),
            found["features"],
        )

    def readers(self) -> dict[int, tuple[ReaderSeen, ...]]:
        """See `ClusterBook.readers`."""
        found: dict[int, tuple[ReaderSeen, ...]] = {}
        for group, node, number, seen_ms in self._shown(_READERS):
            reader = ReaderSeen(node, int(number), int(seen_ms))
            found[int(group)] = (*found.get(int(group), ()), reader)
        return found

    def wishes(self) -> Wishes:
        """See `ClusterBook.wishes`."""
        rows = self._shown(_WISHES)
        return decode_wishes(rows[0][0]) if rows else Wishes()

    def wish(self, before: Wishes, after: Wishes) -> bool:
        """See `ClusterBook.wish`."""
        self._shown(_ROOM_FOR_WISHES)
        texts = (one.encoded().encode() for one in (before, after, Wishes()))
        return self._run(b"wish", *texts) > 0

    def groups(self) -> list[GroupSeen]:
        """See `ClusterBook.groups`."""
        readers = self.readers()
        return [
            GroupSeen(
                int(group),
                int(epoch),
                node or None,
                int(incarnation) if incarnation else None,
                self._last_number(int(group)),
                int(snapshot_ms) if snapshot_ms else None,
                readers.get(int(group), ()),
            )
            for group, epoch, node, incarnation, snapshot_ms in self._shown(_GROUPS)
        ]

    def _last_number(self, group: int) -> int:
        frames = GroupTables(group).all_frames
        ((number,),) = self._shown(f"SELECT max(number) FROM ({frames}) AS frames")
        return int(number or 0)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _rows(self, text: str) -> list[tuple[str, ...]]:
        """Return the rows of a query, as text; what is null is empty. Raises QueryFailed."""
        result = self._connection.query(text)
        columns = range(result.nfields)
        return [
            tuple((result.get_value(row, column) or b"").decode() for column in columns)
            for row in range(result.ntuples)
        ]

    def _shown(self, text: str) -> list[tuple[str, ...]]:
        """Return the rows of a query. Raises StreamUnreachable."""
        try:
            return self._rows(text)
        except QueryFailed as error:
            raise StreamUnreachable(str(error)) from error

    def _run(self, name: bytes, *parameters: bytes) -> int:
        """Run a statement; return how many rows it has changed. Raises StreamUnreachable."""
        return self._result(name, *parameters).command_tuples or 0

    def _result(self, name: bytes, *parameters: bytes) -> pq.abc.PGresult:
        """Run a statement; return its result. Raises StreamUnreachable."""
        try:
            return self._connection.run(name, parameters)
        except QueryFailed as error:
            raise StreamUnreachable(str(error)) from error


def _text_literal(text: str) -> str:
    """Return a literal of a text that holds no backslash and no zero."""
    assert not {"\\", "\0"} & {*text}, "names are checked before"
    return "'" + text.replace("'", "''") + "'"
