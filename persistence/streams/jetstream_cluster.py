"""What is kept of a cluster in NATS JetStream: README.md section 5. Imported only when it is used.

A bucket next to the streams of the groups has it, under the name at the end of the URL. Nothing
spans two streams, so a cluster is made in steps: `description` is written first, on the condition
that there is none, which fixes name and shape; then the streams are made; then `whole` is written.
Without that there is no cluster yet, and the next `create` of the same one goes on.
"""

from collections.abc import Mapping
from typing import Any, Final, final

import orjson

from troth.core.limits import JETSTREAM_ANSWER_LIMIT_MS, STREAM_READER_GONE_MS
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
from .jetstream_connection import (
    WRONG_LAST_SEQUENCE,
    JetStreamConnection,
    JetStreamRefusal,
    unreachable,
)
from .jetstream_keeping import STARTING, newest_of
from .jetstream_layout import (
    COMMON,
    REPLICAS_DEFAULT_COUNT,
    JetStreamLayout,
    check_config,
    config_of,
    make,
    refused,
)
from .jetstream_notes import Note, Notes, node_key, read_all_of
from .jetstream_url import read_jetstream_url
from .jetstream_watch import NotesWatch
from .sharing import Wishes, decode_wishes
from .stream import StreamRefused, StreamUnreachable

CREATE_LIMIT_MS: Final = 20_000
"""To make a stream takes longer than to append a frame: its servers choose who leads it."""

_TRIES_COUNT: Final = 500
"""All processes of a node may note together what they own: a try fails if another's succeeds."""

_MEMBER: Final = "member."
"""Begins the keys of what is noted of nodes."""


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
        self._watch = NotesWatch(self._connection, self._notes)
        self._replicas_count = replicas_count
        self._groups_count = 0  # until it is known

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
        return ClusterDescription(fields["name"], identity, fields["features"])

    def description(self) -> ClusterDescription | None:
        """See `ClusterBook.description`."""
        with refused(self.name):
            begun = self._begun(self._connection)
            return None if begun is None or self._notes.read("whole") is None else begun

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
        noted = MemberSeen(node, address, version, 0, mesh, features, home)._asdict()
        del noted["seen_ms"]  # NATS knows when a value was written
        with unreachable():
            self._notes.write(f"{_MEMBER}{node_key(node)}", orjson.dumps(noted))

    def finalize(self, features: int) -> bool:
        """See `ClusterBook.finalize`."""
        with unreachable():
            note = self._notes.read("description")
        if note is None:
            return False
        found = self._read(note.body)
        present = (one for one in self.members() if one.seen_ms <= STREAM_READER_GONE_MS)
        if found.features >= features or any(one.features < features for one in present):
            return False
        return self._changed("description", _encode(found._replace(features=features)), note)

    def _changed(self, key: str, body: bytes, noted: Note | None) -> bool:
        """Write a value unless the key has another than was read; return whether it was written."""
        with unreachable():
            try:
                self._notes.write(key, body, 0 if noted is None else noted.revision)
            except JetStreamRefusal as error:
                if error.number != WRONG_LAST_SEQUENCE:
                    raise
                return False
        return True

    def note_owner(self, group: int, node: str, epoch: int, incarnation: int) -> None:
        """See `ClusterBook.note_owner`. What others have noted in between is looked at again."""
        for _ in range(_TRIES_COUNT):
            noted, held = self._held()
            if str(group) in held and held[str(group)]["epoch"] >= epoch:
                return
            with unreachable():
                since_ms = self._notes.now_ms()
            held[str(group)] = {
                "node": node,
                "epoch": epoch,
                "incarnation": incarnation,
                "since_ms": since_ms,
            }
            if self._changed("holders", orjson.dumps(held), noted):
                return
        raise StreamUnreachable("others note at the same time what they own")

    def _held(self) -> tuple[Note | None, dict[str, dict[str, Any]]]:
        """Return the note about owners, and what is in it, by group."""
        with unreachable():
            noted = self._notes.read("holders")
        return noted, {} if noted is None else _fields(noted)

    def members(self) -> list[MemberSeen]:
        """See `ClusterBook.members`."""
        with unreachable():
            noted = self._notes.read_all(_MEMBER).values()
            now_ms = self._notes.now_ms()
        found = [MemberSeen(**_fields(one), seen_ms=_age_ms(one, now_ms)) for one in noted]
        return sorted(found, key=lambda one: one.node)

    def holders(self) -> list[HolderSeen]:
        """See `ClusterBook.holders`."""
        _, held = self._held()
        if not held:
            return []
        with unreachable():
            now_ms = self._notes.now_ms()
        return _holders(held, now_ms)

    def look(self) -> BookSeen:
        """See `ClusterBook.look`."""
        with unreachable():
            noted, now_ms = self._watch.look(), self._watch.now_ms()
        members = (
            MemberSeen(**_fields(one.note), seen_ms=self._watch.age_ms(one))
            for key, one in noted.items()
            if key.startswith(_MEMBER)
        )
        held = noted.get("holders")
        wishes = noted.get("wishes")
        begun = noted.get("description") if "whole" in noted else None
        return BookSeen(
            _holders({} if held is None else _fields(held.note), now_ms),
            sorted(members),
            Wishes() if wishes is None else decode_wishes(wishes.note.body),
            0 if begun is None else int(_fields(begun.note)["features"]),
        )

    def readers(self) -> dict[int, tuple[ReaderSeen, ...]]:
        """See `ClusterBook.readers`."""
        with unreachable():
            buckets = [Notes(self._connection, one.bucket) for one in self._layouts()]
            found = read_all_of(self._connection, buckets, "reader.")
            now_ms = self._notes.now_ms()
        return {
            group: tuple(
                sorted(
                    ReaderSeen(**_fields(one), seen_ms=_age_ms(one, now_ms))
                    for key, one in noted.items()
                    if not key.endswith(STARTING) and f"{key}{STARTING}" not in noted
                )
            )
            for group, noted in enumerate(found)
            if noted
        }

    def wishes(self) -> Wishes:
        """See `ClusterBook.wishes`."""
        with unreachable():
            noted = self._notes.read("wishes")
        return Wishes() if noted is None else decode_wishes(noted.body)

    def wish(self, before: Wishes, after: Wishes) -> bool:
        """See `ClusterBook.wish`."""
        with unreachable():
            noted = self._notes.read("wishes")
        found = Wishes() if noted is None else decode_wishes(noted.body)
        return found == before and self._changed("wishes", after.encoded().encode(), noted)

    def _layouts(self) -> list[JetStreamLayout]:
        """Return the streams of all groups; none if there is no cluster. Their number is fixed."""
        if not self._groups_count:
            found = self.description()
            self._groups_count = 0 if found is None else found.identity.groups_count
        return [JetStreamLayout(self._url.name, group) for group in range(self._groups_count)]

    def groups(self) -> list[GroupSeen]:
        """See `ClusterBook.groups`."""
        readers = self.readers()
        _, held = self._held()
        found = []
        for group, layout in enumerate(self._layouts()):
            with unreachable():
                number, epoch = layout.last_frame(self._connection)
                snapshot = Notes(self._connection, layout.bucket).read("snapshot")
                now_ms = self._notes.now_ms()
            holder = held.get(str(group), {})
            is_known = holder.get("epoch") == epoch
            has_snapshot = newest_of(snapshot)[0] is not None
            found.append(
                GroupSeen(
                    group,
                    epoch,
                    holder["node"] if is_known else None,
                    holder["incarnation"] if is_known else None,
                    number,
                    _age_ms(snapshot, now_ms) if snapshot is not None and has_snapshot else None,
                    readers.get(group, ()),
                )
            )
        return found

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _encode(new: ClusterDescription) -> bytes:
    identity = encode_identity(new.identity).decode()
    return orjson.dumps({"name": new.name, "identity": identity, "features": new.features})


def _fields(note: Note) -> dict[str, Any]:
    fields: dict[str, Any] = orjson.loads(note.body)
    return fields


def _holders(held: Mapping[str, Mapping[str, Any]], now_ms: int) -> list[HolderSeen]:
    """Return who owns groups, from what is noted of each."""
    return sorted(
        HolderSeen(int(group), one["node"], one["epoch"], max(now_ms - one["since_ms"], 0))
        for group, one in held.items()
    )


def _age_ms(note: Note, now_ms: int) -> int:
    return max(now_ms - note.written_ms, 0)
