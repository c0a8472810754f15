"""What a group has in JetStream, and how each stream is set up: README.md section 5.

A group has three streams: its frames, notes (a bucket of keys and values), and pieces of snapshots.
`found` makes those that are missing and refuses those that could lose or hide something.
"""

import hashlib
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, final

from troth.core.limits import JETSTREAM_MESSAGE_LIMIT_BYTES

from .jetstream_connection import STREAM_NOT_FOUND, JetStreamConnection, JetStreamRefusal
from .jetstream_notes import Notes, last_message
from .stream import StreamRefused, StreamUnreachable

REPLICAS_DEFAULT_COUNT: Final = 3

EPOCH_HEADER: Final = "Troth-Epoch"
"""For people, and for what is kept next to the stream; the frame says it too."""

_EPOCH: Final = re.compile(rf"^{EPOCH_HEADER}: *(\d+)\s*$", re.MULTILINE)
_DUPLICATE_WINDOW_NS: Final = 100_000_000  # nothing is told apart by ids
_IDENTITY: Final = "troth_identity"

_NOT_FOR_ACCOUNT: Final = (10039, 10076)
_IN_USE: Final = 10058
_NO_CLUSTER: Final = 10074
_NO_PEERS: Final = 10005
_OFFLINE: Final = "offline"
"""What a server says where too few others can be reached for now."""

COMMON: Final[Mapping[str, Any]] = {
    "storage": "file",
    "retention": "limits",
    "discard": "new",
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "duplicate_window": _DUPLICATE_WINDOW_NS,
    "deny_delete": True,
    "deny_purge": False,
    "allow_direct": False,
}
"""How all streams are set up: nothing is lost or hidden in them."""

_NO_LIMIT: Final = {"max_msgs_per_subject": -1, "max_msg_size": JETSTREAM_MESSAGE_LIMIT_BYTES}


@final
class JetStreamLayout:
    """The names of one group's streams and subjects."""

    def __init__(self, name: str, group: int) -> None:
        self.frames = f"{name}_frames_{group}"
        self.frames_subject = f"{name}.{group}.frames"
        self.pieces = f"{name}_pieces_{group}"
        self.pieces_prefix = f"{name}.{group}.pieces"
        self.bucket = f"{name}_notes_{group}"

    def found(
        self,
        connection: JetStreamConnection,
        identity: bytes,
        replicas_count: int | None,
        *,
        may_make: bool = True,
    ) -> bytes:
        """Make the streams unless they are there; return the identity that is noted.

        If they may not be made, because that was done before, what is missing is refused. Raises
        StreamRefused or StreamUnreachable.
        """
        with refused(connection.name):
            if not may_make:
                self._check_are_there(connection)
            return self._found(connection, identity, replicas_count)

    def _check_are_there(self, connection: JetStreamConnection) -> None:
        """Raise StreamRefused if any of the streams is gone: an empty one would hide that."""
        for name in (self.frames, self.pieces, f"KV_{self.bucket}"):
            if config_of(connection, name) is None:
                raise StreamRefused(
                    f"{connection.name}, stream {name}: it is gone, but its cluster is there. "
                    "Nothing was changed. Restore it from a backup."
                )

    def last_frame(self, connection: JetStreamConnection) -> tuple[int, int]:
        """Return number and epoch of the last frame that is shown; zeros if there is none."""
        message = last_message(connection, self.frames, {"last_by_subj": self.frames_subject})
        if message is None:
            return 0, 0
        found = _EPOCH.search(b64decode(message.get("hdrs", "")).decode())
        return int(message["seq"]), int(found[1]) if found is not None else 0

    def _found(
        self, connection: JetStreamConnection, identity: bytes, replicas_count: int | None
    ) -> bytes:
        notes = Notes(connection, self.bucket)
        frames_config = config_of(connection, self.frames)
        if replicas_count is None and frames_config is not None:
            replicas_count = int(frames_config["num_replicas"])
        count = REPLICAS_DEFAULT_COUNT if replicas_count is None else replicas_count
        make(connection, notes.config(COMMON, count))
        noted = notes.write_first("identity", identity)
        digest = hashlib.sha256(noted).hexdigest()
        self._check(connection, notes, frames_config, digest)
        metadata = {_IDENTITY: digest}
        common = {**COMMON, **_NO_LIMIT, "num_replicas": count, "metadata": metadata}
        make(connection, {**common, "name": self.frames, "subjects": [self.frames_subject]})
        make(connection, {**common, "name": self.pieces, "subjects": [f"{self.pieces_prefix}.>"]})
        if notes.read("founded") is None:
            notes.write("founded", digest.encode())
        return noted

    def _check(
        self,
        connection: JetStreamConnection,
        notes: Notes,
        config: Mapping[str, Any] | None,
        digest: str,
    ) -> None:
        """Raise StreamRefused unless the frames are those that the notes are of."""
        place = f"{connection.name}, stream {self.frames}"
        if config is None:
            if notes.read("founded") is not None:
                raise StreamRefused(
                    f"{place}: it is gone, but its notes are there ({self.bucket}). Nothing was "
                    "changed. Restore it from a backup, or choose another name at the end of the "
                    "URL of the log."
                )
        elif config.get("metadata", {}).get(_IDENTITY) != digest:
            raise StreamRefused(
                f"{place}: it is of other data than the notes in {self.bucket}. Nothing was "
                "changed. Choose another name at the end of the URL of the log."
            )


@contextmanager
def refused(name: str) -> Iterator[None]:
    """Raise StreamRefused for what JetStream refuses while something is made.

    Raises StreamUnreachable while it has too few servers for it.
    """
    try:
        yield
    except JetStreamRefusal as error:
        if error.number == _NO_PEERS and _OFFLINE in str(error):
            raise StreamUnreachable(str(error)) from error
        if error.number in _NOT_FOR_ACCOUNT:
            text = "JetStream is not enabled, for this account at least"
        elif error.number == _NO_CLUSTER:
            text = f"JetStream refuses: {error}. For a single server, give --replicas 1"
        else:
            text = f"JetStream refuses: {error}"
        raise StreamRefused(f"{name}: {text}.") from error


def config_of(connection: JetStreamConnection, name: str) -> dict[str, Any] | None:
    """Return how a stream is set up; None if it is not there."""
    try:
        config: dict[str, Any] = connection.api(f"STREAM.INFO.{name}")["config"]
    except JetStreamRefusal as error:
        if error.number != STREAM_NOT_FOUND:
            raise
        return None
    return config


def make(connection: JetStreamConnection, wanted: Mapping[str, Any]) -> None:
    """Make a stream unless it is there. Raises StreamRefused if it is set up in another way."""
    name = wanted["name"]
    has = config_of(connection, name)
    if has is None:
        try:
            has = connection.api(f"STREAM.CREATE.{name}", wanted)["config"]
        except JetStreamRefusal as error:
            if error.number != _IN_USE:
                raise
            raise StreamUnreachable("another node makes it at this moment") from error
    assert has is not None
    check_config(connection.name, has, wanted)


def check_config(place: str, has: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise StreamRefused unless a stream is set up as wanted."""
    name = wanted["name"]
    for key, value in wanted.items():
        # Fields that are false or 0 may be left out, and a server adds metadata of its own.
        if key != "metadata" and (has.get(key) or None) != (value or None):
            raise StreamRefused(
                f"{place}, stream {name}: it has {key} {has.get(key)}, and {value} is "
                f"needed. Nothing was changed. Change it with: nats stream edit {name}."
            )
