"""What is kept of a cluster in NATS JetStream: README.md section 5. Imported only when it is used.

A bucket next to the streams of the groups has it, under the name at the end of the URL. Nothing
spans two streams, so a cluster is made in steps: `description` is written first, on the condition
that there is none, which fixes name and shape; then the streams are made; then `whole` is written.
Without that there is no cluster yet, and the next `create` of the same one goes on.
"""

from typing import Any, Final, final

import orjson

from troth.core.limits import JETSTREAM_ANSWER_LIMIT_MS
from troth.persistence.identity import decode_identity, encode_identity

from .cluster import ClusterDescription, GroupSeen, MemberSeen, ReaderSeen
from .jetstream_connection import (
    WRONG_LAST_SEQUENCE,
    JetStreamConnection,
    JetStreamRefusal,
    unreachable,
)
from .jetstream_keeping import newest_of
from .jetstream_layout import (
    COMMON,
    REPLICAS_DEFAULT_COUNT,
    JetStreamLayout,
    check_config,
    config_of,
    make,
    refused,
)
from .jetstream_notes import Note, Notes, node_key
from .jetstream_url import read_jetstream_url
from .stream import StreamRefused, StreamUnreachable

CREATE_LIMIT_MS: Final = 20_000
"""To make a stream takes longer than to append a frame: its servers choose who leads it."""


@final
class JetStreamCluster:
    """A `ClusterBook`. `url` is as in `jetstream_url.py`; raises StreamRefused.

    `replicas_count` is for a new cluster; None means the default.
    """

    def __init__(
        self,
        url: str,
        *,
        replicas_count: int | None = None,
        answer_limit_ms: int = JETSTREAM_ANSWER_LIMIT_MS,
    ) -> None:
        self._url = read_jetstream_url(url)
        self.name = self._url.shown
        self._connection = JetStreamConnection(self._url, answer_limit_ms)
        self._bucket = f"{self._url.name}_cluster"
        self._notes = Notes(self._connection, self._bucket)
        self._replicas_count = replicas_count

    def create(self, new: ClusterDescription) -> ClusterDescription:
        """See `ClusterBook.create`. One that was begun and has the same shape is made whole."""
        connection = JetStreamConnection(self._url, CREATE_LIMIT_MS)
        try:
            with refused(self.name):
                return self._create(connection, new)
        finally:
            connection.close()

    def _create(
        self, connection: JetStreamConnection, new: ClusterDescription
    ) -> ClusterDescription:
        notes = Notes(connection, self._bucket)
        begun = self._begun(connection)
        if begun is None:
            frames = JetStreamLayout(self._url.name, 0).frames
            if config_of(connection, frames) is not None:
                raise self._no_cluster()
            count = self._replicas_count or REPLICAS_DEFAULT_COUNT
            make(connection, notes.config(COMMON, count))
            begun = self._read(notes.write_first("description", _encode(new)))
        if (begun.name, begun.identity.group_shards) != (new.name, new.identity.group_shards):
            return begun
        if notes.read("whole") is not None:
            self._check_replicas(connection)
            return begun
        identity = encode_identity(begun.identity)
        for group in range(begun.identity.groups_count):
            layout = JetStreamLayout(self._url.name, group)
            if layout.found(connection, identity, self._replicas_count) != identity:
                raise self._no_cluster()
        notes.write_first("whole", b"1")
        return begun

    def _no_cluster(self) -> StreamRefused:
        return StreamRefused(
            f"{self.name} has the log of a server without a cluster. Nothing was changed. Choose "
            "another name at the end of the URL."
        )

    def _check_replicas(self, connection: JetStreamConnection) -> None:
        """Raise StreamRefused if other copies are wanted than a cluster has that is there."""
        frames = JetStreamLayout(self._url.name, 0).frames
        config = config_of(connection, frames)
        if self._replicas_count is None or config is None:
            return
        if config["num_replicas"] != self._replicas_count:
            raise StreamRefused(
                f"{self.name} has the cluster already, with --replicas {config['num_replicas']}. "
                f"Nothing was changed. Change each stream with: nats stream edit {frames}."
            )

    def _begun(self, connection: JetStreamConnection) -> ClusterDescription | None:
        """Return the cluster that was made, or was begun.

        Raises JetStreamRefusal, or StreamRefused if the bucket could lose or hide something.
        """
        notes = Notes(connection, self._bucket)
        has = config_of(connection, f"KV_{self._bucket}")
        if has is None:
            return None
        check_config(self.name, has, notes.config(COMMON, has["num_replicas"]))
        note = notes.read("description")
        return None if note is None else self._read(note.body)

    def _read(self, body: bytes) -> ClusterDescription:
        fields = orjson.loads(body)
        identity = decode_identity(self.name, fields["identity"].encode())
        return ClusterDescription(fields["name"], identity)

    def description(self) -> ClusterDescription | None:
        """See `ClusterBook.description`."""
        with refused(self.name):
            begun = self._begun(self._connection)
            return None if begun is None or self._notes.read("whole") is None else begun

    def note_member(self, node: str, address: str, version: str) -> None:
        """See `ClusterBook.note_member`."""
        fields = {"node": node, "address": address, "version": version}
        with unreachable():
            self._notes.write(f"member.{node_key(node)}", orjson.dumps(fields))

    def note_owner(self, group: int, node: str, epoch: int, incarnation: int) -> None:
        """See `ClusterBook.note_owner`. Another that was noted in between is looked at."""
        key = f"holder.{group}"
        fields = {"node": node, "epoch": epoch, "incarnation": incarnation}
        with unreachable():
            noted = self._notes.read(key)
            while noted is None or _fields(noted)["epoch"] < epoch:
                revision = 0 if noted is None else noted.revision
                try:
                    self._notes.write(key, orjson.dumps(fields), revision)
                except JetStreamRefusal as error:
                    if error.number != WRONG_LAST_SEQUENCE:
                        raise
                    noted = self._notes.read(key)
                    if noted is None or noted.revision == revision:
                        raise StreamUnreachable("what was just written is not shown") from error
                else:
                    return

    def members(self) -> list[MemberSeen]:
        """See `ClusterBook.members`."""
        with unreachable():
            noted = self._notes.read_all("member.").values()
            now_ms = self._notes.now_ms()
        return sorted(MemberSeen(**_fields(one), seen_ms=_age_ms(one, now_ms)) for one in noted)

    def groups(self) -> list[GroupSeen]:
        """See `ClusterBook.groups`."""
        found = self.description()
        if found is None:
            return []
        with unreachable():
            now_ms = self._notes.now_ms()
            return [self._group(group, now_ms) for group in range(found.identity.groups_count)]

    def _group(self, group: int, now_ms: int) -> GroupSeen:
        layout = JetStreamLayout(self._url.name, group)
        notes = Notes(self._connection, layout.bucket)
        number, epoch = layout.last_frame(self._connection)
        noted = self._notes.read(f"holder.{group}")
        holder = None if noted is None else _fields(noted)
        if holder is not None and holder["epoch"] != epoch:
            holder = None
        snapshot = notes.read("snapshot")
        readers = sorted(
            ReaderSeen(**_fields(one), seen_ms=_age_ms(one, now_ms))
            for one in notes.read_all("reader.").values()
        )
        return GroupSeen(
            group,
            epoch,
            None if holder is None else holder["node"],
            None if holder is None else holder["incarnation"],
            number,
            _age_ms(snapshot, now_ms) if snapshot is not None and newest_of(snapshot)[0] else None,
            tuple(readers),
        )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _encode(new: ClusterDescription) -> bytes:
    return orjson.dumps({"name": new.name, "identity": encode_identity(new.identity).decode()})


def _fields(note: Note) -> dict[str, Any]:
    fields: dict[str, Any] = orjson.loads(note.body)
    return fields


def _age_ms(note: Note, now_ms: int) -> int:
    return max(now_ms - note.written_ms, 0)
