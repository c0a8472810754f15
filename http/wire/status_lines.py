"""The first line of an answer, with its reason: people read it, and some programs show it."""

from http import HTTPStatus
from typing import Final

REASONS: Final = {status.value: status.phrase for status in HTTPStatus}
"""The reason of each status that has one."""


class _StatusLines(dict[int, bytes]):
    def __missing__(self, status: int) -> bytes:
        line = b"HTTP/1.1 %d %b\r\n" % (status, REASONS.get(status, "").encode())
        self[status] = line
        return line


STATUS_LINES: Final = _StatusLines()
"""The first line of an answer by its status, which has three digits."""
