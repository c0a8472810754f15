"""What every connection is held to, and the form of an application behind one."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

WRITE_TIMEOUT_MS: Final = 30_000

ASGIApplication = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Sizes and times of a connection; see the settings of the same names."""

    header_timeout_ms: int
    keep_alive_timeout_ms: int
    header_limit_bytes: int
    write_timeout_ms: int = WRITE_TIMEOUT_MS
