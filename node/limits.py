"""The limits of a node: what one execution may use, and how much the node keeps."""

from dataclasses import dataclass
from typing import Final

from troth.core.limits import BODY_LIMIT_BYTES, BODY_SETTING_LIMIT_BYTES

MEBIBYTE: Final = 1024 * 1024

# What one execution may use, besides time and memory, which its function or the node decides.
PROCESSES_LIMIT_COUNT: Final = 64
FILES_LIMIT_COUNT: Final = 256
"""Descriptors open in one process."""
DISK_LIMIT_BYTES: Final = 256 * MEBIBYTE
DISK_ENTRIES_LIMIT_COUNT: Final = 10_000
DISK_DEPTH_LIMIT_COUNT: Final = 100
"""Folders within each other; each is opened on the way to the next one."""
RESULT_LIMIT_BYTES: Final = BODY_LIMIT_BYTES
"""Unless the server says another number: its limit of a body is a setting."""
RESULT_HEADERS_LIMIT_BYTES: Final = 12 * 1024
"""As JSON, unless the server takes fewer: in base64 they are a header of a request."""
RESULT_HEADERS_MIN_BYTES: Final = 256
REQUEST_HEAD_EXTRA_BYTES: Final = 2 * 1024
"""Of a request with a result, for all headers but those of the result."""
OUTPUT_KEPT_BYTES: Final = 16 * 1024
"""Of what an execution prints, the end is logged."""
OUTPUT_LIMIT_BYTES: Final = 16 * MEBIBYTE
PROGRESS_LIMIT_BYTES: Final = MEBIBYTE
DATA_EXTRA_BYTES: Final = 128 * MEBIBYTE
"""What a process may have for itself beyond its memory: an interpreter does not use all of it."""

WATCH_FIRST_S: Final = 0.1
WATCH_INTERVAL_S: Final = 0.1
"""Between two looks at memory and disk. What grows faster meets the limits of the kernel."""
TERMINATE_GRACE_S: Final = 1.0
"""Between SIGTERM and SIGKILL for what runs too long."""
END_GRACE_S: Final = 0.5
"""For a process to end after it has closed its channel."""

IDLE_LIMIT_S: Final = 60.0
"""A warm sandbox that is unused for this long is ended."""
SANDBOX_EXECUTIONS_LIMIT_COUNT: Final = 1_000
"""A zygote is replaced after this many executions: it uses up its own CPU time, too."""

BUILDS_LIMIT_BYTES: Final = 2 * 1024 * MEBIBYTE
BUILDS_LIMIT_COUNT: Final = 500
PACKAGE_LIMIT_BYTES: Final = BODY_SETTING_LIMIT_BYTES
"""The largest that any server may have taken, however its settings are now."""

USERS_COUNT: Final = 1_000
"""A node that runs as root takes this many user ids from its base on, and as many group ids."""

assert BUILDS_LIMIT_COUNT <= USERS_COUNT, "each build has its own group"
assert OUTPUT_KEPT_BYTES < OUTPUT_LIMIT_BYTES


@dataclass(frozen=True)
class ResultLimits:
    """How large a result may be; the headers are counted as JSON."""

    body_bytes: int = RESULT_LIMIT_BYTES
    headers_bytes: int = RESULT_HEADERS_LIMIT_BYTES

    @classmethod
    def of_server(cls, body_bytes: int, request_head_bytes: int) -> "ResultLimits":
        """Return the limits for a server with these limits of a request's body and head."""
        # Base64 makes four bytes of three.
        room_bytes = (request_head_bytes - REQUEST_HEAD_EXTRA_BYTES) * 3 // 4
        headers_bytes = min(RESULT_HEADERS_LIMIT_BYTES, max(RESULT_HEADERS_MIN_BYTES, room_bytes))
        return cls(body_bytes, headers_bytes)


DEFAULT_RESULT_LIMITS: Final = ResultLimits()


@dataclass(frozen=True)
class Allowance:
    """What an execution may use at most; `cpu_count` processors for `timeout_s` seconds."""

    timeout_s: int
    cpu_count: int
    memory_mb: int
    result: ResultLimits = DEFAULT_RESULT_LIMITS

    @property
    def memory_bytes(self) -> int:
        """The memory of all its processes together."""
        return self.memory_mb * MEBIBYTE

    @property
    def processor_s(self) -> int:
        """The processor time of one process."""
        return self.timeout_s * self.cpu_count + 1
