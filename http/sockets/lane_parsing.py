"""The requests that the hot lane accepts: a small, strict part of HTTP/1.1.

Everything accepted here is accepted by h11 too, with the same meaning; whatever is not surely so is
`NotServed`, and the connection goes to hypercorn, which reads the same bytes from their first.
So no byte is judged by two parsers that could differ, and this one need not explain refusals.

Accepted are: HTTP/1.1, and HTTP/1.0 without chunks; GET, POST, PATCH and DELETE; targets that begin
with a slash; names that are tokens; values of visible characters, spaces and tabs; exactly one
Host; at most one Content-Length; no Expect but 100-continue, no Transfer-Encoding but chunked
(without extensions and trailers), no Upgrade but h2c, which is ignored (Java's HTTP client sends it
with every request), no Connection but `close` and what these need, no Content-Encoding but
identity. Lines end in CR LF; a bare CR or LF, NUL and folded lines are left to hypercorn.
"""

import re
from collections.abc import Mapping
from typing import Final, TypeVar

from msgspec import Struct

from troth.http.api.router import Match
from troth.http.wire.requests import add_repeated

from .departures import CHUNKS, FIELDS, LARGE, REQUEST_LINE

BODY_KEPT_LIMIT_BYTES: Final = 256 * 1024
"""Longer bodies are not collected here: reading them dominates their cost anyway."""

_REQUEST_LINE: Final = re.compile(rb"(GET|POST|PATCH|DELETE) (/[!-~]*) HTTP/1\.([01])")
_LINE_LIMIT_BYTES: Final = 2 * 1024
_PLAIN_LINES: Final = {
    method: re.compile(rb"%b (/[!->@-~]{0,%d}) HTTP/1\.1" % (method, _LINE_LIMIT_BYTES - 17))
    for method in (b"GET", b"PATCH", b"DELETE")
}
"""The beginning of most requests whose paths have ids in them; nothing follows a `?`."""
_VALUE_BYTES: Final = rb"[\t\x20-\x7e\x80-\xff]*"
_VALUE: Final = re.compile(_VALUE_BYTES)
_FIELDS: Final = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:" + _VALUE_BYTES + rb"\r\n)+")
_FIRST_BYTES: Final = b"GPD"
_NOT_HERE: Final = frozenset({b"trailer", b"te"})
_ONLY: Final = {
    b"connection": frozenset({b"keep-alive", b"close", b"upgrade, http2-settings"}),
    b"content-encoding": frozenset({b"identity"}),
    b"expect": frozenset({b"100-continue"}),
    b"transfer-encoding": frozenset({b"chunked"}),
    b"upgrade": frozenset({b"h2c"}),
}
_SAME: Final = frozenset({b"host", *_NOT_HERE, *_ONLY})
"""Fields whose value decides more than their own meaning: with another one, all are read."""
_ONCE: Final = frozenset({b"transfer-encoding", b"upgrade"})
_CHUNK_HEAD: Final = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_CHUNK_HEAD_BEGUN: Final = re.compile(rb"[0-9A-Fa-f]{0,8}\r?")
_CHUNKS_LIMIT_COUNT: Final = 256  # they are looked at again whenever more comes
_LENGTH_DIGITS_COUNT: Final = 9
_METHODS: Final = {b"GET": "GET", b"POST": "POST", b"PATCH": "PATCH", b"DELETE": "DELETE"}


def without_empty_lines(buffer: bytes) -> bytes:
    """Return what follows the empty lines that a buffer begins with: they mean nothing there."""
    start = 0
    while buffer.startswith(b"\r\n", start):
        start += 2
    return buffer[start:]


class NotServed(Exception):
    """These bytes are not for the lane; they say nothing about whether they are a good request.

    `reason` is one of `departures.py`; `home` is the process that they are for, if it is another.
    """

    def __init__(self, reason: str, home: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.home = home


_KINDS_KEPT_COUNT: Final = 4
"""Of so many kinds of requests that a client sends in turn: a worker's create, claim, complete."""

_HEAD_KEPT_BYTES: Final = 2 * 1024
"""Longer ones are not kept: what a connection remembers is not counted as in flight."""

HEADS_KEPT_COUNT: Final = 128
"""Of so many different heads, and texts of fields, for all connections of a lane: requests of one
program have the same, but for a few lengths."""

_NEVER_AGAIN: Final = frozenset({b"idempotency-key", b"request-id", b"traceparent"})
"""Fields that differ in each request: a text with one of them is not kept."""


class Fields(Struct, gc=False):
    """What the fields of a head say. `is_plain` is what `Dispatcher.is_plain_head` says of them.

    `is_waited_for` says that the body comes only when it was asked for (100).
    """

    headers: Mapping[bytes, bytes]
    repeated: Mapping[bytes, bytes] | None
    length_bytes: int
    is_chunked: bool
    is_last: bool = False
    is_plain: bool | None = None
    is_waited_for: bool = False


class Head(Struct, gc=False):
    """What the head of a request says; `is_old` is HTTP/1.0.

    If it `is_last`, its client wants the connection closed after the answer. `match` is the
    endpoint that it asks for, noted by who serves requests with this head.
    """

    method: str
    path: bytes
    query: bytes
    is_old: bool
    is_last: bool
    fields: Fields
    match: Match | None = None


class Parsed(Struct, gc=False):
    """One complete request. `end` is where the next one begins in the buffer."""

    head: Head
    body: bytes
    end: int


class KnownHeads:
    """What several parsers know: heads with POST, whose paths have no ids in them, and fields."""

    __slots__ = ("fields", "heads")

    def __init__(self) -> None:
        """Know nothing yet."""
        self.heads: dict[bytes, Head] = {}
        self.fields: dict[bytes, Fields] = {}


_Kept = TypeVar("_Kept")


def _keep(known: dict[bytes, _Kept], text: bytes, one: _Kept) -> None:
    """Note what a text says, instead of what was noted first."""
    if len(known) == HEADS_KEPT_COUNT:
        del known[next(iter(known))]
    known[text] = one


_LENGTH: Final = b"content-length"


class _KnownFields(Struct, gc=False):
    """A request's fields, each as it came, and what they say together; no name is repeated."""

    lines: list[bytes]
    fields: Fields


class Parser:
    """Finds the requests of one connection.

    Clients repeat themselves. What was found out about a head is used again when it is, byte for
    byte, that of the request before, or one with POST that another request had; about its fields
    alone, when another request had the same. All that there is to a GET, PATCH or DELETE like the
    one before is the path that it has instead. Of one of the last few kinds of requests, with as
    many fields of the same names, only those are read whose values have changed.
    """

    __slots__ = (
        *("_body_limit_bytes", "_head_limit_bytes", "_may_be_long", "_kinds", "_known"),
        *("_awaited", "_head", "_text"),
        *("_like_fields", "_like_line", "_like_method", "_like_text"),
    )

    def __init__(
        self, head_limit_bytes: int, body_limit_bytes: int, known: KnownHeads | None = None
    ) -> None:
        """Take the limits beyond which a request is not served here.

        `known` is what several parsers know, and fill together.
        """
        self._head_limit_bytes = head_limit_bytes
        self._may_be_long = head_limit_bytes >= _LINE_LIMIT_BYTES + _HEAD_KEPT_BYTES
        self._body_limit_bytes = min(body_limit_bytes, BODY_KEPT_LIMIT_BYTES)
        # Of the head that was read last; nothing begins, or ends, with an empty tuple.
        self._text: bytes | tuple[()] = ()
        self._head = _NO_HEAD
        # Of the last request of such a method; the text is that of its fields.
        self._like_text: bytes | tuple[()] = ()
        self._like_fields = _NO_HEAD.fields
        self._like_method = "GET"
        self._like_line = _PLAIN_LINES[b"GET"]
        self._awaited = _NO_HEAD  # whose body was not complete
        self._kinds: dict[int, _KnownFields] = {}  # by the number of fields
        self._known = known or KnownHeads()

    def parse(self, buffer: bytes) -> Parsed | None:
        """Return the request that a buffer begins with, or None if it is not complete.

        Raises NotServed, as soon as that is certain.
        """
        if buffer.startswith(self._text):
            head, body_start = self._head, len(self._text)
            fields = head.fields
        else:
            line_end = buffer.find(b"\r\n")
            line = None
            if buffer.startswith(self._like_text, line_end):
                line = self._like_line.fullmatch(buffer, 0, line_end)
            if line is not None:
                fields = self._like_fields
                head = Head(self._like_method, line[1], b"", False, fields.is_last, fields)
                body_start = line_end + len(self._like_text)
                if not fields.length_bytes:
                    return Parsed(head, b"", body_start)
            else:
                head_end = buffer.find(b"\r\n\r\n")
                if head_end < 0:
                    self._refuse_hopeless(buffer)
                    return None
                body_start = head_end + 4
                text = buffer[:body_start]
                known = self._known.heads.get(text)
                head = self._read_head(text) if known is None else known
                self._text, self._head = text, head
                fields = head.fields
        if fields.is_chunked:
            if head.is_old:
                raise NotServed(CHUNKS)
            found = self._read_chunks(buffer, body_start)
            if found is not None:
                return Parsed(head, *found)
        else:
            end = body_start + fields.length_bytes
            if end <= len(buffer):
                return Parsed(head, buffer[body_start:end], end)
        self._awaited = head
        return None

    def _read_chunks(self, buffer: bytes, start: int) -> tuple[bytes, int] | None:
        """Return a chunked body and its end in the buffer, or None if it is not complete."""
        chunks: list[bytes] = []
        size_bytes = 0
        for _ in range(_CHUNKS_LIMIT_COUNT):
            head = _CHUNK_HEAD.match(buffer, start)
            if head is None:
                if _CHUNK_HEAD_BEGUN.fullmatch(buffer, start) is None:
                    raise NotServed(CHUNKS)
                return None
            length_bytes = int(head[1], 16)
            size_bytes += length_bytes
            if size_bytes > self._body_limit_bytes:
                raise NotServed(LARGE)
            start, end = head.end(), head.end() + length_bytes
            if not b"\r\n".startswith(buffer[end : end + 2]):
                raise NotServed(CHUNKS)
            if len(buffer) < end + 2:
                return None
            if not length_bytes:
                return b"".join(chunks), end + 2
            chunks.append(buffer[start:end])
            start = end + 2
        raise NotServed(CHUNKS)

    def awaited_headers(self, buffer: bytes) -> Mapping[bytes, bytes] | None:
        """Return the headers of a request that `parse` found incomplete, or None if they are."""
        return self._awaited.fields.headers if b"\r\n\r\n" in buffer else None

    @property
    def is_waited_for(self) -> bool:
        """Return whether the client whose body is not complete waits until it is asked for it."""
        return self._awaited.fields.is_waited_for and not self._awaited.is_old

    def awaited(self, buffer: bytes) -> Parsed | None:
        """Return a request that `parse` found incomplete without its body, if that is all of it."""
        if not buffer.endswith(b"\r\n\r\n"):
            return None  # the body has begun to come, so its client no longer waits
        return Parsed(self._awaited, b"", len(buffer))

    def _refuse_hopeless(self, buffer: bytes) -> None:
        """Do not wait for the end of a head that cannot be served."""
        if len(buffer) > self._head_limit_bytes:
            raise NotServed(LARGE)
        if buffer[0] not in _FIRST_BYTES or buffer.count(b"\n") != buffer.count(b"\r\n"):
            raise NotServed(REQUEST_LINE)

    def _read_head(self, text: bytes) -> Head:
        """Return what a head says that no other request had, as far as is known."""
        if len(text) > self._head_limit_bytes:
            raise NotServed(LARGE)
        line, _, rest = text.partition(b"\r\n")
        found = _REQUEST_LINE.fullmatch(line)
        if found is None:
            raise NotServed(REQUEST_LINE)
        method, target, version = found.groups()
        path, _, query = target.partition(b"?")
        known = self._known.fields.get(rest)
        fields = self._find_fields(rest) if known is None else known
        is_old = version == b"0"
        head = Head(_METHODS[method], path, query, is_old, is_old or fields.is_last, fields)
        if method == b"POST":
            if _is_to_be_kept(text, fields):
                _keep(self._known.heads, text, head)
        elif known is not None and self._may_be_long and not known.is_chunked:
            self._like_text, self._like_fields = b"\r\n" + rest, known
            self._like_method, self._like_line = _METHODS[method], _PLAIN_LINES[method]
        return head

    def _find_fields(self, text: bytes) -> Fields:
        """Return what fields mean. Those that another request had are not read."""
        lines = text[:-4].split(b"\r\n")
        kind = self._kinds.get(len(lines))
        fields = None if kind is None else self._like(kind, lines)
        if fields is None:
            fields = self._read_fields(text[:-2])
            if len(text) <= _HEAD_KEPT_BYTES and fields.repeated is None:
                if kind is None and len(self._kinds) == _KINDS_KEPT_COUNT:
                    del self._kinds[next(iter(self._kinds))]
                self._kinds[len(lines)] = _KnownFields(lines, fields)
        if _is_to_be_kept(text, fields):
            _keep(self._known.fields, text, fields)
        return fields

    def _like(self, kind: _KnownFields, lines: list[bytes]) -> Fields | None:
        """Return what fields mean that differ from others in some values; None if in more.

        Raises NotServed for a length that is beyond the limit.
        """
        like = kind.fields
        headers, length_bytes = {**like.headers}, like.length_bytes
        for line, known, name in zip(lines, kind.lines, like.headers, strict=True):
            if line == known:
                continue
            if name in _SAME or not line.startswith(known[: len(name) + 1]):
                return None
            value = line[len(name) + 1 :].strip(b" \t")
            if _VALUE.fullmatch(value) is None:
                return None
            if name == _LENGTH:
                length_bytes = self._length(value)
            headers[name] = value
        return Fields(
            headers,
            None,
            length_bytes,
            like.is_chunked,
            like.is_last,
            like.is_plain,
            like.is_waited_for,
        )

    def _length(self, value: bytes) -> int:
        """Return the length of a body. Raises NotServed if it is none, or beyond the limit."""
        if not value.isdigit():
            raise NotServed(FIELDS)
        if len(value) > _LENGTH_DIGITS_COUNT:
            raise NotServed(LARGE)
        if (length_bytes := int(value)) > self._body_limit_bytes:
            raise NotServed(LARGE)
        return length_bytes

    def _read_fields(self, text: bytes) -> Fields:
        if _FIELDS.fullmatch(text) is None:
            raise NotServed(FIELDS)
        headers: dict[bytes, bytes] = {}
        repeated: dict[bytes, bytes] = {}
        hosts_count = lengths_count = 0
        is_last = False
        for field in text[:-2].split(b"\r\n"):
            name, _, value = field.partition(b":")
            name = name.lower()
            value = value.strip(b" \t")
            if name == b"host":
                hosts_count += 1
            elif name == _LENGTH:
                lengths_count += 1
            elif name in _ONLY:
                if value.lower() not in _ONLY[name] or (name in headers and name in _ONCE):
                    raise NotServed(FIELDS)
                if name == b"transfer-encoding":
                    value = b"chunked"
                is_last |= name == b"connection" and value.lower() == b"close"
            elif name in _NOT_HERE:
                raise NotServed(FIELDS)
            if name in headers:
                add_repeated(repeated, name, headers[name], value)
            else:
                headers[name] = value
        is_chunked = b"transfer-encoding" in headers
        if hosts_count != 1 or lengths_count > 1 or (lengths_count and is_chunked):
            raise NotServed(FIELDS)
        length_bytes = self._length(headers.get(_LENGTH, b"0"))
        is_waited_for = b"expect" in headers
        return Fields(
            headers, repeated or None, length_bytes, is_chunked, is_last, None, is_waited_for
        )


def _is_to_be_kept(text: bytes, fields: Fields) -> bool:
    """Return whether other requests may have the same text, which has these fields."""
    return len(text) <= _HEAD_KEPT_BYTES and _NEVER_AGAIN.isdisjoint(fields.headers)


_NO_HEAD: Final = Head("", b"", b"", True, True, Fields({}, None, 0, is_chunked=False))
"""Stands for the head of a request before the first one."""
