"""Bytes on a connection, and what comes back: for clients that do not keep to HTTP."""

import json
import os
import socket
import time
from dataclasses import dataclass
from typing import Any, Final

from .support import connect

NO_BODY_STATUSES: Final = {100, 204, 304}


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP response as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def code(self) -> int:
        """The error code in the body."""
        code: int = self.json["error"]["code"]
        return code


class Hangup(Exception):
    """The server closed the connection without a (further) answer."""


class Wire:
    """A connection that sends whatever it is told and reads answers one by one.

    Every read has a limit: a server that says nothing fails the test with `TimeoutError`.
    """

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        """Connect."""
        self.socket = connect(url, timeout_s)
        self._buffer = b""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, content: bytes) -> None:
        """Send everything, or as much as the server takes before it hangs up."""
        try:
            self.socket.sendall(content)
        except (BrokenPipeError, ConnectionResetError):
            return  # its answer may be there even so

    def answer(self, *, without_body: bool = False) -> Answer:
        """Read the next answer. Raises `Hangup` if there is none."""
        head = self._until(b"\r\n\r\n").decode("latin-1")
        status_line, *lines = head.split("\r\n")
        version, status, *_ = status_line.split(" ")
        assert version == "HTTP/1.1", status_line
        headers = {
            name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)
        }
        body = b""
        if int(status) not in NO_BODY_STATUSES and not without_body:
            if headers.get("transfer-encoding") == "chunked":
                body = self._chunks()
            elif "content-length" in headers:
                body = self._exactly(int(headers["content-length"]))
            else:
                body = self.rest()
        return Answer(int(status), headers, body)

    def rest(self) -> bytes:
        """Read until the server closes the connection."""
        while self._more():
            pass
        content, self._buffer = self._buffer, b""
        return content

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._until(b"\r\n"), 16):
            body += self._exactly(size)
            self._exactly(2)
        self._until(b"\r\n")
        return body

    def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            if not self._more():
                raise Hangup(self._buffer)
        found, _, self._buffer = self._buffer.partition(end)
        return found

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if not self._more():
                raise Hangup(self._buffer)
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def _more(self) -> bool:
        try:
            content = self.socket.recv(65536)
        except ConnectionResetError:
            return False
        self._buffer += content
        return bool(content)


def exchange(url: str, content: bytes, timeout_s: float = 10.0) -> list[Answer]:
    """Send bytes and end; all answers until the server closes the connection."""
    answers: list[Answer] = []
    with Wire(url, timeout_s) as wire:
        wire.send(content)
        try:
            wire.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return answers  # it has hung up already
        try:
            while True:
                answers.append(wire.answer())
        except Hangup as end:
            if end.args[0]:
                raise
    return answers


def memory_bytes(process_id: int) -> int:
    """Resident memory of a process."""
    with open(f"/proc/{process_id}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def processor_s(process_id: int) -> float:
    """Processor time that a process has used, all its threads together."""
    with open(f"/proc/{process_id}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_closed_within(wire: Wire, limit_s: float) -> bool:
    """Whether the server closes the connection in time; what it still says is read."""
    wire.socket.settimeout(limit_s)
    started = time.monotonic()
    try:
        wire.rest()
    except TimeoutError:
        return False
    return time.monotonic() - started < limit_s
