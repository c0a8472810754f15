"""HTTP/1.1 as a load generator needs it: requests made in advance, answers taken apart fast.

One request is in flight on a connection at a time. It understands any server's answers (a length,
chunks, no body, an announced end of the connection). What breaks the protocol raises
`ProtocolError`.
"""

import json
from typing import Final

_BLANK_LINE: Final = b"\r\n\r\n"


class ProtocolError(Exception):
    """The server sent something that is not an answer to one HTTP/1.1 request."""


Answer = tuple[int, bytes, bool]
"""A whole answer: its status, its body, and whether the server closes the connection after.

A plain tuple: there are tens of thousands a second.
"""


class Requests:
    """Makes requests for one server as bytes."""

    def __init__(self, host: str, authorization: str | None = None) -> None:
        """Name the server as its `Host` header has it; `authorization` is that header's content."""
        lines = [f"Host: {host}"]
        if authorization is not None:
            lines.append(f"Authorization: {authorization}")
        self._shared = "".join(f"{line}\r\n" for line in lines)

    def head(self, method: str, path: str, body_length_bytes: int) -> bytes:
        """Return the part before the body, for a body of this many bytes."""
        about_body = (
            f"Content-Type: application/json\r\nContent-Length: {body_length_bytes}\r\n"
            if body_length_bytes
            else ""
        )
        return f"{method} {path} HTTP/1.1\r\n{self._shared}{about_body}\r\n".encode()

    def make(self, method: str, path: str, body: object = None) -> bytes:
        """Return a whole request; the body as JSON, unless it is None."""
        content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        return self.head(method, path, len(content)) + content


def parse_answer(data: bytes) -> Answer | None:
    """Read the answer that `data` holds; None if it is not complete. Raises ProtocolError."""
    end = data.find(_BLANK_LINE)
    if end < 0:
        return None
    head = data[:end].lower()
    if not head.startswith(b"http/1.") or not head[9:12].isdigit():
        raise ProtocolError(f"this is not an HTTP/1.1 answer: {data[:60]!r}")
    status = int(head[9:12])
    start = end + 4
    closes = b"\r\nconnection: close" in head
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        stop = head.find(b"\r\n", at + 17)
        length = head[at + 17 : stop if stop >= 0 else end].strip()
        if not length.isdigit():
            raise ProtocolError(f"Content-Length is {length!r}")
        whole = start + int(length)
        if len(data) < whole:
            return None
        if len(data) > whole:
            raise ProtocolError("more came than was asked for")
        return status, data[start:], closes
    if b"\r\ntransfer-encoding: chunked" in head:
        chunks = Chunks()
        body = chunks.feed(data[start:])
        return (status, body, closes) if chunks.finished else None
    if len(data) > start:
        raise ProtocolError("a body without a length")
    return status, b"", closes


class Chunks:
    """Takes the chunks of a body apart as they come."""

    def __init__(self) -> None:
        self._rest = b""
        self.finished = False

    def feed(self, data: bytes) -> bytes:
        """Return what is new of the content, in `data` and what was left over.

        Raises ProtocolError.
        """
        self._rest += data
        content = b""
        while not self.finished:
            line_end = self._rest.find(b"\r\n")
            if line_end < 0:
                break
            size_text = self._rest[:line_end].partition(b";")[0].strip()
            try:
                size = int(size_text, 16)
            except ValueError as error:
                raise ProtocolError(f"the size of a chunk is {size_text!r}") from error
            stop = line_end + 2 + size
            if len(self._rest) < stop + 2:
                break
            content += self._rest[line_end + 2 : stop]
            self._rest = self._rest[stop + 2 :]
            self.finished = size == 0
        return content


class Events:
    """The messages of a server-sent event stream, from its connection's bytes."""

    def __init__(self) -> None:
        self._head = b""
        self._chunks: Chunks | None = None
        self._is_open = False
        self._text = b""

    @property
    def is_open(self) -> bool:
        """Return whether the server has answered with a stream."""
        return self._is_open

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of each message that has become complete. Raises ProtocolError."""
        if not self._is_open:
            self._head += data
            head, blank, data = self._head.partition(_BLANK_LINE)
            if not blank:
                return []
            if head[9:12] != b"200":
                raise ProtocolError(f"a stream was refused: {head[:60]!r}")
            if b"transfer-encoding: chunked" in head.lower():
                self._chunks = Chunks()
            self._is_open = True
        self._text += self._chunks.feed(data) if self._chunks is not None else data
        *events, self._text = self._text.split(b"\n\n")
        return [
            line[5:].strip()
            for event in events
            for line in event.split(b"\n")
            if line.startswith(b"data:")
        ]
