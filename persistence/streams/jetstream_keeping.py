"""What is kept next to a group's frames in JetStream: who has read how far, and snapshots.

It has a connection of its own: a snapshot takes long, and frames do not wait for it. Nothing spans
two streams in JetStream, so an owner that was deposed is kept from doing harm in this way:

* The note `snapshot` says which is the newest one, and the epoch of who wrote it last. It changes
  only from the revision that was read, and never to an earlier epoch.
* An owner begins a snapshot by writing that note again, as it is. What was sent before it and
  comes late finds another revision. Only then it removes pieces, of its own epoch and of earlier
  ones, but for those of the newest snapshot. Pieces of later owners have later epochs.
* What is trimmed stays so: each node needs later frames only as time goes on.
"""

from base64 import b64decode
from typing import Final, final

import orjson

from troth.core.limits import JETSTREAM_ANSWER_LIMIT_MS, STREAM_READER_GONE_MS

from .chain import ChainMark
from .jetstream_connection import ANOTHER_OWNS, JetStreamConnection, unreachable
from .jetstream_layout import EPOCH_HEADER, JetStreamLayout
from .jetstream_notes import Note, Notes, last_message, node_key
from .jetstream_url import read_jetstream_url
from .stream import SnapshotDescription, StreamUnreachable

STARTING: Final = ".starting"
"""Ends the key of the note of a reader that has not read all there is."""

_FIRST_NUMBER: Final = 1


@final
class JetStreamKeeping:
    """One group's `StreamKeeping`. `url` is as in `jetstream_url.py`.

    A snapshot's place is the epoch of the owner that has made it.
    """

    def __init__(
        self, url: str, group: int = 0, *, answer_limit_ms: int = JETSTREAM_ANSWER_LIMIT_MS
    ) -> None:
        read = read_jetstream_url(url)
        self._connection = JetStreamConnection(read, answer_limit_ms)
        self._layout = JetStreamLayout(read.name, group)
        self._notes = Notes(self._connection, self._layout.bucket)
        self._is_starting = False

    def note_reader(self, node: str, number: int, *, is_starting: bool = False) -> None:
        """See `StreamKeeping.note_reader`. One that is starting has another note besides."""
        body = orjson.dumps({"node": node, "number": number})
        key = f"reader.{node_key(node)}"
        with unreachable():
            if is_starting:
                self._notes.write(f"{key}{STARTING}", body)
                self._is_starting = True
                return
            self._notes.write(key, body)
            if self._is_starting:
                self._notes.remove(f"{key}{STARTING}")
                self._is_starting = False

    def needed_number(self) -> int | None:
        """See `StreamKeeping.needed_number`. The time is that of the newest note."""
        with unreachable():
            readers = self._notes.read_all("reader.").values()
        now_ms = max((reader.written_ms for reader in readers), default=0)
        return min(
            (
                int(orjson.loads(reader.body)["number"])
                for reader in readers
                if reader.written_ms > now_ms - STREAM_READER_GONE_MS
            ),
            default=None,
        )

    def trim(self, number: int, epoch: int) -> int:
        """See `StreamKeeping.trim`."""
        with unreachable():
            # A purge takes sequence 0 for no sequence, and removes everything.
            if number <= _FIRST_NUMBER or not self._owns(epoch):
                return 0
            call = f"STREAM.PURGE.{self._layout.frames}"
            return int(self._connection.api(call, {"seq": number})["purged"])

    def _owns(self, epoch: int) -> bool:
        """Return whether the last frame that is shown is of an epoch. That is no fence."""
        return self._layout.last_frame(self._connection)[1] == epoch

    def snapshot(self) -> SnapshotDescription | None:
        """See `StreamKeeping.snapshot`."""
        return self._newest()[0]

    def _newest(self) -> tuple[SnapshotDescription | None, int, int]:
        """Return what `newest_of` says of the note as it is now."""
        with unreachable():
            return newest_of(self._notes.read("snapshot"))

    def _write_newest(
        self, description: SnapshotDescription | None, epoch: int, revision: int
    ) -> None:
        """Note which snapshot is the newest one, unless that has changed since it was read."""
        fields = {}
        if description is not None:
            fields = {**description._asdict(), "mark": [*description.mark]}
        with unreachable():
            self._notes.write("snapshot", orjson.dumps({"epoch": epoch, **fields}), revision)

    def begin_snapshot(self, epoch: int) -> int:
        """See `StreamKeeping.begin_snapshot`."""
        newest, last_epoch, revision = self._newest()
        self._check_epoch(last_epoch, epoch)
        self._write_newest(newest, epoch, revision)
        prefix = self._layout.pieces_prefix
        with unreachable():
            info = self._connection.api(
                f"STREAM.INFO.{self._layout.pieces}", {"subjects_filter": f"{prefix}.>"}
            )
            made = {
                tuple(map(int, subject.removeprefix(f"{prefix}.").split(".")[:2]))
                for subject in info["state"].get("subjects") or {}
            }
            kept = None if newest is None else (newest.place, newest.identifier)
            for place, identifier in sorted(made):
                if place <= epoch and (place, identifier) != kept:
                    self._connection.api(
                        f"STREAM.PURGE.{self._layout.pieces}",
                        {"filter": f"{prefix}.{place}.{identifier}.>"},
                    )
        return epoch

    def _check_epoch(self, last_epoch: int, epoch: int) -> None:
        """Raise StreamUnreachable if this node is known to own the stream no longer."""
        with unreachable():
            if last_epoch > epoch or not self._owns(epoch):
                raise StreamUnreachable(ANOTHER_OWNS)

    def add_piece(self, place: int, identifier: int, number: int, piece: bytes, epoch: int) -> None:
        """See `StreamKeeping.add_piece`. Pieces of an old owner are in no one's way."""
        subject = self._piece_subject(place, identifier, number)
        with unreachable():
            self._connection.publish(subject, piece, {EPOCH_HEADER: str(epoch)})

    def piece(self, place: int, identifier: int, number: int) -> bytes | None:
        """See `StreamKeeping.piece`."""
        asked = {"last_by_subj": self._piece_subject(place, identifier, number)}
        with unreachable():
            message = last_message(self._connection, self._layout.pieces, asked)
        return None if message is None else b64decode(message.get("data", ""))

    def _piece_subject(self, place: int, identifier: int, number: int) -> str:
        return f"{self._layout.pieces_prefix}.{place}.{identifier}.{number}"

    def finish_snapshot(self, description: SnapshotDescription, epoch: int) -> None:
        """See `StreamKeeping.finish_snapshot`."""
        _, last_epoch, revision = self._newest()
        self._check_epoch(last_epoch, epoch)
        self._write_newest(description, epoch, revision)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def newest_of(note: Note | None) -> tuple[SnapshotDescription | None, int, int]:
    """Return the newest snapshot, the epoch of who wrote it last, and the note's revision."""
    if note is None:
        return None, 0, 0
    fields = orjson.loads(note.body)
    epoch = int(fields.pop("epoch"))
    if "identifier" not in fields:
        return None, epoch, note.revision
    mark = ChainMark(*fields.pop("mark"))
    return SnapshotDescription(mark=mark, **fields), epoch, note.revision
