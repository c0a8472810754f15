"""The tables of one group in PostgreSQL, and the statements on them: README.md section 4.

The log is in three tables that take turns, so that what is trimmed goes by TRUNCATE and leaves
nothing to vacuum; snapshots are in two, for the same reason. `troth_owner` has a row for each
group, which says in which of its tables frames are appended (`place`). Each statement that writes
locks that row, and writes only if epoch and place are what its sender takes them for.
"""

from typing import Final, final

from troth.core.limits import STREAM_READER_GONE_MS

from .postgres_connection import BYTEA, INT8, TEXT, Statement

LOG_TABLES_COUNT: Final = 3
SNAPSHOT_TABLES_COUNT: Final = 2

LOCK_LIMIT_MS: Final = 300
"""How long a TRUNCATE waits for others, who wait behind it: much less than a lease."""

_CREATION_LOCK: Final = 0x74726F7468  # one node at a time makes tables

_WAITS_FOR_DISK: Final = "current_setting('synchronous_commit') IN ('on', 'remote_apply')"


@final
class GroupTables:
    """The names and statements of one group."""

    def __init__(self, group: int) -> None:
        self.group = group
        self.logs = [f"troth_log_{group}_{place}" for place in range(LOG_TABLES_COUNT)]
        self.snapshots = [
            f"troth_snapshot_{group}_{place}" for place in range(SNAPSHOT_TABLES_COUNT)
        ]
        self.all_frames = " UNION ALL ".join(f"SELECT number, body FROM {log}" for log in self.logs)

    def creation(self) -> str:
        """Return what makes the tables unless they are there."""
        statements = [
            f"SELECT pg_advisory_xact_lock({_CREATION_LOCK})",
            """
            CREATE TABLE IF NOT EXISTS troth_owner (
                grp integer PRIMARY KEY, epoch bigint NOT NULL, place integer NOT NULL,
                identity bytea NOT NULL
            )
            """,
            """
            CREATE TABLE IF NOT EXISTS troth_reader (
                grp integer, node text, number bigint NOT NULL, seen timestamptz NOT NULL,
                PRIMARY KEY (grp, node)
            )
            """,
            """
            CREATE TABLE IF NOT EXISTS troth_snapshot (
                grp integer PRIMARY KEY, place integer NOT NULL, id bigint NOT NULL,
                description text NOT NULL, made timestamptz NOT NULL
            )
            """,
        ]
        for table in self.logs:
            columns = "number bigint PRIMARY KEY, body bytea NOT NULL"
            statements += _with_bodies(table, columns)
        for table in self.snapshots:
            columns = "id bigint, number integer, body bytea NOT NULL, PRIMARY KEY (id, number)"
            statements += _with_bodies(table, columns)
        return ";".join(statements)

    def frame_statements(self) -> dict[bytes, Statement]:
        """Return the statements by which frames are appended and read."""
        statements: dict[bytes, Statement] = {
            b"found": (
                "INSERT INTO troth_owner (grp, epoch, place, identity) "
                f"VALUES ({self.group}, 0, 0, $1) ON CONFLICT DO NOTHING",
                [BYTEA],
            ),
            b"identity": (f"SELECT identity, place FROM troth_owner WHERE grp = {self.group}", []),
            b"read": (
                f"""
                SELECT number, body FROM (
                    SELECT number, body, sum(octet_length(body)) OVER (ORDER BY number) AS total
                    FROM ({self.all_frames}) AS frames
                    WHERE number >= $1 ORDER BY number LIMIT $2
                ) AS first
                WHERE total - octet_length(body) < $3 ORDER BY number
                """,
                [INT8, INT8, INT8],
            ),
            b"first": (f"SELECT min(number) FROM ({self.all_frames}) AS frames", []),
        }
        for place in range(LOG_TABLES_COUNT):
            statements[b"append %d" % place] = (self._append(place), [INT8, INT8, BYTEA])
            statements[b"claim %d" % place] = (self._claim(place), [INT8, INT8, BYTEA])
            statements[b"turn %d" % place] = (self._turn(place), [INT8])
        return statements

    def _stands(self, place: int) -> str:
        """Return the condition that the frame before $1 stands: only the last ones are looked at.

        A frame that was sent long ago and comes now finds none there, if its table was emptied.
        """
        before = self.logs[place - 1]
        return (
            f"(EXISTS (SELECT FROM {self.logs[place]} WHERE number = $1 - 1) "
            f"OR EXISTS (SELECT FROM {before} WHERE number = $1 - 1))"
        )

    def _append(self, place: int) -> str:
        return f"""
            INSERT INTO {self.logs[place]} (number, body)
            SELECT $1, $3 FROM troth_owner
            WHERE grp = {self.group} AND epoch = $2 AND place = {place}
                AND {_WAITS_FOR_DISK} AND {self._stands(place)}
            FOR SHARE OF troth_owner
        """

    def _claim(self, place: int) -> str:
        return f"""
            WITH claimed AS (
                UPDATE troth_owner SET epoch = $2
                WHERE grp = {self.group} AND epoch = $2 - 1 AND place = {place}
                    AND {_WAITS_FOR_DISK} AND ($1 = 1 OR {self._stands(place)})
                RETURNING grp
            )
            INSERT INTO {self.logs[place]} (number, body) SELECT $1, $3 FROM claimed
        """

    def _turn(self, place: int) -> str:
        """Return what makes the next table the one that is appended to, if it is empty."""
        following = (place + 1) % LOG_TABLES_COUNT
        return f"""
            UPDATE troth_owner SET place = {following}
            WHERE grp = {self.group} AND epoch = $1 AND place = {place}
                AND NOT EXISTS (SELECT FROM {self.logs[following]})
        """

    def keeping_statements(self) -> dict[bytes, Statement]:
        """Return the statements about readers and snapshots."""
        statements: dict[bytes, Statement] = {
            b"note reader": (
                "INSERT INTO troth_reader (grp, node, number, seen) "
                f"VALUES ({self.group}, $1, $2, now() - $3 * interval '1 ms') "
                "ON CONFLICT (grp, node) "
                "DO UPDATE SET number = excluded.number, seen = excluded.seen",
                [TEXT, INT8, INT8],
            ),
            b"needed": (
                f"SELECT min(number) FROM troth_reader WHERE grp = {self.group} "
                f"AND seen > now() - interval '{STREAM_READER_GONE_MS} milliseconds'",
                [],
            ),
            b"first": (f"SELECT min(number) FROM ({self.all_frames}) AS frames", []),
            b"snapshot": (
                f"SELECT place, id, description FROM troth_snapshot WHERE grp = {self.group}",
                [],
            ),
        }
        for place in range(SNAPSHOT_TABLES_COUNT):
            table = self.snapshots[place]
            statements[b"add piece %d" % place] = (
                f"INSERT INTO {table} (id, number, body) SELECT $2, $3, $4 FROM troth_owner "
                f"WHERE grp = {self.group} AND epoch = $1 FOR SHARE OF troth_owner",
                [INT8, INT8, INT8, BYTEA],
            )
            statements[b"piece %d" % place] = (
                f"SELECT body FROM {table} WHERE id = $1 AND number = $2",
                [INT8, INT8],
            )
            statements[b"finish %d" % place] = (
                f"""
                INSERT INTO troth_snapshot (grp, place, id, description, made)
                SELECT {self.group}, {place}, $2, $3, now() FROM troth_owner
                WHERE grp = {self.group} AND epoch = $1 AND {_WAITS_FOR_DISK}
                FOR SHARE OF troth_owner
                ON CONFLICT (grp) DO UPDATE SET place = excluded.place, id = excluded.id,
                    description = excluded.description, made = excluded.made
                """,
                [INT8, INT8, TEXT],
            )
        return statements

    def trimming(self, place: int, number: int, epoch: int) -> str:
        """Return what empties a table of the log if all in it is below a number.

        Only the owner's does, and not in the table that is appended to. It is one step of the
        server, so a node that is halted in between can hold nothing up, and do no harm later.
        """
        table = self.logs[place]
        return _emptying(
            table,
            f"EXISTS (SELECT FROM {table}) "
            f"AND NOT EXISTS (SELECT FROM {table} WHERE number >= {number:d}) "
            f"AND EXISTS (SELECT FROM troth_owner WHERE grp = {self.group} "
            f"AND epoch = {epoch:d} AND place <> {place} FOR SHARE)",
        )

    def clearing(self, place: int, epoch: int) -> str:
        """Return what empties a table of snapshots, unless the newest is in it."""
        return _emptying(
            self.snapshots[place],
            f"EXISTS (SELECT FROM troth_owner WHERE grp = {self.group} "
            f"AND epoch = {epoch:d} FOR SHARE) "
            f"AND NOT EXISTS (SELECT FROM troth_snapshot "
            f"WHERE grp = {self.group} AND place = {place})",
        )


def _with_bodies(table: str, columns: str) -> list[str]:
    return [
        f"CREATE TABLE IF NOT EXISTS {table} ({columns})",
        f"ALTER TABLE {table} ALTER COLUMN body SET STORAGE EXTERNAL",
    ]


def _emptying(table: str, condition: str) -> str:
    # The table is locked before the row, as all other statements do it.
    return f"""
        DO $$ BEGIN
            PERFORM set_config('lock_timeout', '{LOCK_LIMIT_MS}ms', true);
            LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE;
            IF {condition} THEN
                TRUNCATE {table};
            END IF;
        END $$
    """
