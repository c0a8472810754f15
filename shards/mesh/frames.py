"""Frames: how what processes say to each other stands in a stream of bytes.

A frame is a head of 16 bytes and a body: the body's length, the kind, flags, the index of a shard,
and a correlation, by which an answer finds its question. A stream that does not begin with a frame
of a known kind is damaged, and the link that it came by ends.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, final

from msgspec import Struct

from troth.core.limits import FRAME_LIMIT_BYTES

_HEAD: Final = struct.Struct("<IBBHQ")
HEAD_BYTES: Final = _HEAD.size


class Kind(IntEnum):
    """What a frame says."""

    HELLO = 1
    """Who this is; the first frame in each direction."""
    ASK = 2
    """Questions: commands for shards. Each is answered."""
    REPLY = 3
    """Answers to questions."""
    REFUSE = 4
    """A command was not carried out, or it is unknown whether it was; the body says which."""
    TELL = 5
    """A command for a shard; it is not answered, and may be lost with the link."""
    POST = 6
    """A message from an outbox, with the time of its sending (`Receive.sent_ms`, which earlier
    versions leave out); it comes again until it is acknowledged."""
    RECEIVED = 7
    """The body's POSTs are in the mailboxes."""
    RELEASED = 8
    """The answers to the body's questions are written: messages that waited for that may go."""
    RETURNED = 9
    """A pass is over; the body is its name."""
    PING = 10
    """Nothing but a sign of life."""
    CALL = 11
    """A question to the process itself (`calls.py`); it is answered with RESULT or REFUSE."""
    RESULT = 12
    """The answer to a CALL."""
    NOTE = 13
    """Something said to the process itself; it is not answered, and may be lost with the link."""
    LAST = 14
    """The group has stopped: what was asked and is not answered by now was not carried out."""
    PARCELS = 15
    """What is handed over in order, each once (`parcels.py`)."""


class FrameFlag(IntEnum):
    """What else is said with a frame; to be added up."""

    HOLDS = 1
    """With POST: messages to workers wait for RELEASED."""
    JSON = 2
    """The body is JSON: it has numbers that msgpack cannot write."""


class LinkDamaged(Exception):
    """What came by a link is not what the other end can have sent."""


class PeerSucceeded(LinkDamaged):
    """Another process serves the other end's group by now. Nothing is wrong: its link ends."""


class LinkFrame(Struct, frozen=True, gc=False):
    """One frame as it was read."""

    kind: int
    flags: int
    index: int
    correlation: int
    body: bytes


def encode_frame(
    kind: Kind, body: bytes = b"", correlation: int = 0, index: int = 0, flags: int = 0
) -> bytes:
    """Return the bytes of a frame."""
    return _HEAD.pack(len(body), kind, flags, index, correlation) + body


def write_head(frame: bytearray, kind: Kind) -> None:
    """Write the head of a frame whose body is there already, behind the room for the head."""
    _HEAD.pack_into(frame, 0, len(frame) - HEAD_BYTES, kind, 0, 0, 0)


_KNOWN: Final = frozenset(Kind)


@final
class LinkReader:
    """Finds the frames in what comes, piece by piece."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def read(self, data: bytes) -> Iterator[LinkFrame]:
        """Yield the frames that are whole now. Raises LinkDamaged."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        start, end = 0, len(data)
        while end - start >= HEAD_BYTES:
            length, kind, flags, index, correlation = _HEAD.unpack_from(data, start)
            if kind not in _KNOWN or length > FRAME_LIMIT_BYTES:
                raise LinkDamaged(f"a frame of kind {kind} with {length} bytes")
            body_start = start + HEAD_BYTES
            if end - body_start < length:
                break
            start = body_start + length
            yield LinkFrame(kind, flags, index, correlation, data[body_start:start])
        self._rest = data[start:]


_NUMBERS: Final = struct.Struct("<Q")


_NAME: Final = struct.Struct("<H")


def encode_named(name: str, body: bytes) -> bytes:
    """Return the body of a CALL or NOTE."""
    encoded = name.encode()
    return _NAME.pack(len(encoded)) + encoded + body


def decode_named(content: bytes) -> tuple[str, bytes]:
    """Return the name and the body that a CALL or NOTE has. Raises LinkDamaged."""
    try:
        (length,) = _NAME.unpack_from(content)
        end = _NAME.size + length
        return content[_NAME.size : end].decode(), content[end:]
    except (struct.error, UnicodeDecodeError) as error:
        raise LinkDamaged("a name that cannot be read") from error


def encode_numbers(numbers: list[int]) -> bytes:
    """Return the body of a frame that names several correlations."""
    return b"".join(map(_NUMBERS.pack, numbers))


def decode_numbers(body: bytes) -> list[int]:
    """Return the correlations that a body names. Raises LinkDamaged."""
    if len(body) % _NUMBERS.size:
        raise LinkDamaged("a list of numbers that is cut off")
    return [number for (number,) in _NUMBERS.iter_unpack(body)]
