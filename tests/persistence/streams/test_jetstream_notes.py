"""Values in a bucket that was just made, which servers hear of one after the other."""

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import pytest

from troth.persistence.streams import jetstream_notes
from troth.persistence.streams.jetstream_connection import (
    NO_MESSAGE_FOUND,
    JetStreamLeaderless,
    JetStreamRefusal,
)
from troth.persistence.streams.jetstream_notes import Notes


class Bucket:
    """A server that knows the bucket from its `known_after`-th question on."""

    def __init__(self, known_after: int) -> None:
        self.left_count = known_after
        self.written: list[bytes] = []

    def api(self, _call: str, _body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer what is stored."""
        if not self.written:
            raise JetStreamRefusal(NO_MESSAGE_FOUND, "no message found")
        data = b64encode(self.written[0]).decode()
        return {"message": {"data": data, "seq": 1, "time": "2026-12-01T00:00:00.0Z"}}

    def publish(self, _subject: str, body: bytes, _headers: Mapping[str, str]) -> int:
        """Store a value, if the bucket is known."""
        if self.left_count:
            self.left_count -= 1
            raise JetStreamLeaderless("no leader")
        self.written.append(body)
        return len(self.written)


def _notes(bucket: Any) -> Notes:
    return Notes(bucket, "one")


def test_a_bucket_that_was_just_made_is_waited_for() -> None:
    bucket = Bucket(3)
    assert _notes(bucket).write_first("identity", b"first") == b"first"
    assert bucket.written == [b"first"]
    assert _notes(bucket).write_first("identity", b"second") == b"first"


def test_it_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jetstream_notes, "MADE_LIMIT_S", -1)
    bucket = Bucket(1)
    with pytest.raises(JetStreamLeaderless):
        _notes(bucket).write_first("identity", b"first")
    assert bucket.written == []
