"""One question and its answer on the socket of a connection, without the client's loop.

For each answer nats-py takes five rounds of its loop, in four tasks. Between calls that loop stands
still, and the socket is free: the question is written to it as it is, and the answer is read from
it. Only a plain answer is understood here. All else (a ping, an error, a status, an answer to
another question) is given to the client as if it had read it, and so is what did not fit of a
question. Then the client goes on.

This uses attributes of nats-py that are not public. If they are not there, or the connection is
encrypted, there is no line, and all questions go the usual way.
"""

import asyncio
import ctypes
import select
import socket
import time
from collections.abc import Mapping
from typing import Any, Final, final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

_system: Final = ctypes.PyDLL(None)
"""For calls that do not wait. They do not let go of the interpreter: this thread would get it back
when the server's loop has nothing to do, or after milliseconds."""

_send: Final = _system.send
_send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_send.restype = ctypes.c_ssize_t
_receive: Final = _system.recv
_receive.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_receive.restype = ctypes.c_ssize_t

_END: Final = b"\r\n"
_NO_WAIT: Final = socket.MSG_DONTWAIT
_NO_SIGNAL: Final = getattr(socket, "MSG_NOSIGNAL", 0)
_CHUNK_BYTES: Final = 64 << 10
_HEADERS_LIMIT_BYTES: Final = 1024
_SIZE_LIMIT_BYTES: Final = 12
"""How long the size of an answer may be, in digits and what follows them."""


@final
class JetStreamLine:
    """A way to ask one question at a time, if `open_line` has made one.

    `ask` is for when the loop stands still; if it returns None, `rest` is to be run in the loop.
    """

    def __init__(self, client: Client) -> None:
        """Raise AttributeError if there can be no line."""
        transport: Any = client._transport
        writer: asyncio.WriteTransport = transport._io_writer.transport
        if writer.get_extra_info("ssl_object") is not None:
            raise AttributeError("what is encrypted cannot be read here")
        self._client = client
        self._inbox = client.new_inbox()
        self._reader: Any = transport._io_reader
        self._writer = writer
        self._socket_number: int = writer.get_extra_info("socket").fileno()
        self._poll = select.poll()
        self._poll.register(self._socket_number, select.POLLIN)
        self._chunk = ctypes.create_string_buffer(_CHUNK_BYTES)
        self._view = memoryview(self._chunk)
        self._number = 0  # of the question
        self._subscription_number = 0
        self._ends_s = 0.0
        self._found: Msg | None = None
        self._is_found = asyncio.Event()

    async def listen(self) -> None:
        """Subscribe to the answers; goes to the server with the first question at the latest."""
        subscription: Any = await self._client.subscribe(f"{self._inbox}.*", cb=self._take)
        self._subscription_number = subscription._id

    @property
    def is_free(self) -> bool:
        """Return whether the socket is open, and nothing on its way between it and the client."""
        client = self._client
        return client.is_connected and not (
            self._writer.is_closing()  # perhaps its number is another file's by now
            or client._pending
            or client._ps.buf
            or self._reader._buffer
            or self._writer.get_write_buffer_size()
        )

    def takes(self, size_bytes: int) -> bool:
        """Return whether a question of a size can be asked now."""
        return self.is_free and size_bytes + _HEADERS_LIMIT_BYTES <= self._client.max_payload

    def ask(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None, limit_s: float
    ) -> bytes | None:
        """Return the answer, or None if the client has to go on. Raises TimeoutError."""
        self._number += 1
        self._found = None
        self._is_found.clear()
        self._ends_s = time.monotonic() + limit_s
        inbox = f"{self._inbox}.{self._number}"
        question = _question(subject, inbox, body, headers)
        flags = _NO_WAIT | _NO_SIGNAL
        sent_count = max(_send(self._socket_number, question, len(question), flags), 0)
        if sent_count < len(question):
            self._writer.write(question[sent_count:])
            return None
        return self._received(f"MSG {inbox} {self._subscription_number} ".encode())

    def _received(self, begin: bytes) -> bytes | None:
        """Return an answer that begins in a way; None if something else comes, for the client."""
        received = bytearray()
        whole_bytes = 0
        while True:
            left_s = self._ends_s - time.monotonic()
            if left_s <= 0 or not self._poll.poll(left_s * 1000):
                raise TimeoutError
            count = _receive(self._socket_number, self._chunk, _CHUNK_BYTES, _NO_WAIT)
            received += self._view[: max(count, 0)]
            if not whole_bytes:
                whole_bytes = _whole_bytes(received, begin)
            if count <= 0 or whole_bytes < 0:
                self._give(received)
                return None
            if 0 < whole_bytes <= len(received):
                self._give(received[whole_bytes:])
                start = received.index(_END) + len(_END)
                return bytes(received[start : whole_bytes - len(_END)])

    def _give(self, received: bytearray) -> None:
        """Give the client what it would have read."""
        if received:
            self._reader.feed_data(bytes(received))

    async def rest(self) -> bytes:
        """Return the answer that the client gets. Raises TimeoutError or NoRespondersError."""
        await asyncio.wait_for(self._is_found.wait(), max(self._ends_s - time.monotonic(), 0))
        assert self._found is not None
        if self._found.headers and "Status" in self._found.headers:
            raise NoRespondersError
        return self._found.data

    async def _take(self, message: Msg) -> None:
        if message.subject == f"{self._inbox}.{self._number}":
            self._found = message
            self._is_found.set()


async def open_line(client: Client) -> JetStreamLine | None:
    """Return a line of a client that is connected; None if there can be none."""
    try:
        line = JetStreamLine(client)
        await line.listen()
        _ = line.is_free
    except AttributeError:
        return None
    return line


def _question(subject: str, inbox: str, body: bytes, headers: Mapping[str, str] | None) -> bytes:
    """Return a message that asks for an answer. Headers are of ASCII, and in one line each."""
    if headers is None:
        return b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), inbox.encode(), len(body), body)
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    head = f"NATS/1.0\r\n{lines}\r\n".encode()
    sizes = f"{len(head)} {len(head) + len(body)}"
    begin = f"HPUB {subject} {inbox} {sizes}\r\n".encode()
    return b"".join((begin, head, body, _END))


def _whole_bytes(received: bytearray, begin: bytes) -> int:
    """Return the size of a message, in bytes with all around it.

    0 if it is not known yet, and -1 if it begins in another way.
    """
    if received[: len(begin)] != begin[: len(received)]:
        return -1
    end = received.find(_END, len(begin))
    if end < 0:
        return 0 if len(received) <= len(begin) + _SIZE_LIMIT_BYTES else -1
    size = received[len(begin) : end]
    return end + 2 * len(_END) + int(size) if size.isdigit() else -1
