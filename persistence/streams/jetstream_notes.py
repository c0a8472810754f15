"""Small values by key, as NATS keeps them in a bucket: who the data is, who reads, who owns.

`nats kv` shows them. A value can be written on the condition that it has not changed since it was
read, which is how an owner that was deposed is kept from changing what the next one has written.
"""

import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, final

from .jetstream_connection import (
    NO_MESSAGE_FOUND,
    WRONG_LAST_SEQUENCE,
    JetStreamConnection,
    JetStreamLeaderless,
    JetStreamRefusal,
)
from .stream import StreamUnreachable

MADE_LIMIT_S: Final = 5.0
"""How long a bucket that was just made may be unknown to the server that is asked for it."""


class Note(NamedTuple):
    """A value, its revision, and when it was written by the server's clock, in ms since 1970."""

    body: bytes
    revision: int
    written_ms: int


@final
class Notes:
    """The values of one bucket. Calls raise StreamUnreachable or JetStreamRefusal."""

    def __init__(self, connection: JetStreamConnection, bucket: str) -> None:
        self._connection = connection
        self._stream = f"KV_{bucket}"
        self._prefix = f"$KV.{bucket}."

    def config(self, common: Mapping[str, Any], replicas_count: int) -> dict[str, Any]:
        """Return how the bucket is set up."""
        return {
            **common,
            "name": self._stream,
            "subjects": [f"{self._prefix}>"],
            "num_replicas": replicas_count,
            "max_msgs_per_subject": 1,
            "max_msg_size": -1,
            "allow_rollup_hdrs": True,
        }

    def read(self, key: str) -> Note | None:
        """Return what a key has; None if nothing."""
        message = last_message(self._connection, self._stream, self.question(key)[1])
        return None if message is None else _note(message)

    def read_all(self, prefix: str) -> dict[str, Note]:
        """Return what all keys have that begin with a prefix, which ends with a dot."""
        return read_all_of(self._connection, [self], prefix)[0]

    def listing(self, prefix: str) -> tuple[str, dict[str, Any]]:
        """Return the question for all keys that begin with a prefix."""
        return f"STREAM.INFO.{self._stream}", {"subjects_filter": f"{self._prefix}{prefix}>"}

    def keys(self, answer: Mapping[str, Any]) -> list[str]:
        """Return the keys in the answer to `listing`."""
        subjects = answer["state"].get("subjects") or {}
        return [subject.removeprefix(self._prefix) for subject in subjects]

    def next_after(self, revision: int) -> tuple[str, Note] | None:
        """Return the first value that was written after a revision, and its key; None if none."""
        question = {"seq": revision + 1, "next_by_subj": f"{self._prefix}>"}
        message = last_message(self._connection, self._stream, question)
        if message is None:
            return None
        return str(message["subject"]).removeprefix(self._prefix), _note(message)

    def write(self, key: str, body: bytes, revision: int | None = None) -> int:
        """Store a value and return its revision.

        With a revision, refuse if that is not the newest one of the key; 0 means that there is
        none yet.
        """
        headers = {}
        if revision is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(revision)
        return self._connection.publish(f"{self._prefix}{key}", body, headers)

    def remove(self, key: str) -> None:
        """Remove a key and what it has."""
        call = f"STREAM.PURGE.{self._stream}"
        self._connection.api(call, {"filter": f"{self._prefix}{key}"})

    def write_first(self, key: str, body: bytes) -> bytes:
        """Store a value unless the key has one; return the one that it has then.

        The bucket may have just been made: servers hear of it one after the other.
        """
        noted = self.read(key)
        if noted is None:
            try:
                self._write_when_made(key, body)
            except JetStreamRefusal as error:
                if error.number != WRONG_LAST_SEQUENCE:
                    raise  # else another was first
            noted = self.read(key)
        if noted is None:
            raise StreamUnreachable("what was just written is not shown")
        return noted.body

    def _write_when_made(self, key: str, body: bytes) -> None:
        ends_s = time.monotonic() + MADE_LIMIT_S
        while True:
            try:
                self.write(key, body, 0)
            except JetStreamLeaderless:
                if time.monotonic() > ends_s:
                    raise  # else the next attempt connects again, which takes a while
            else:
                return

    def now_ms(self) -> int:
        """Return the time of day of the server that leads the bucket, in ms since 1970."""
        return written_ms(self._connection.api(f"STREAM.INFO.{self._stream}")["ts"])

    def question(self, key: str) -> tuple[str, dict[str, Any]]:
        """Return the question for what a key has."""
        return f"STREAM.MSG.GET.{self._stream}", {"last_by_subj": f"{self._prefix}{key}"}


def read_all_of(
    connection: JetStreamConnection, buckets: Sequence[Notes], prefix: str
) -> list[dict[str, Note]]:
    """Return what keys have that begin with a prefix, of several buckets; all are asked together.

    Raises StreamUnreachable.
    """
    lists = connection.api_each([one.listing(prefix) for one in buckets])
    for listed in lists:
        if "error" in listed:
            raise StreamUnreachable(str(listed["error"].get("description")))
    return read_listed(connection, buckets, lists)


def read_listed(
    connection: JetStreamConnection, buckets: Sequence[Notes], lists: Sequence[Mapping[str, Any]]
) -> list[dict[str, Note]]:
    """Return what the keys have that are in the answers to `Notes.listing`, by bucket.

    Raises StreamUnreachable.
    """
    keys = [
        (notes, place, key)
        for place, (notes, listed) in enumerate(zip(buckets, lists, strict=True))
        for key in notes.keys(listed)
    ]
    answers = connection.api_each([notes.question(key) for notes, _, key in keys])
    found: list[dict[str, Note]] = [{} for _ in buckets]
    for (_, place, key), answer in zip(keys, answers, strict=True):
        if "message" not in answer:
            raise StreamUnreachable(f"the note {key} is listed, and cannot be read")
        found[place][key] = _note(answer["message"])
    return found


def last_message(
    connection: JetStreamConnection, stream: str, question: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return a stored message as JetStream shows it; None if there is none."""
    try:
        message: dict[str, Any] = connection.api(f"STREAM.MSG.GET.{stream}", question)["message"]
    except JetStreamRefusal as error:
        if error.number != NO_MESSAGE_FOUND:
            raise
        return None
    return message


def _note(message: Mapping[str, Any]) -> Note:
    body = b64decode(message.get("data", ""))
    return Note(body, int(message["seq"]), written_ms(message["time"]))


def node_key(node: str) -> str:
    """Return the part of a key that is a node's, whose name may have any characters."""
    return urlsafe_b64encode(node.encode()).decode()


def written_ms(time: str) -> int:
    """Return a time as NATS writes it, with nanoseconds, in ms since 1970."""
    whole, _, fraction = time.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}+00:00").timestamp() * 1000)
