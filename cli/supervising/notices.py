"""What the supervisor tells the service manager that started it: ready, stopping, alive.

Nothing blocks. READY and STOPPING are sent again until the manager takes them; of a sign of life
that it does not take, the next one follows.
"""

from typing import Final, final

import structlog

from troth.http.supervision.manager_environment import send_notice

SIGNS_IN_A_TIMEOUT_COUNT: Final = 3
"""How many signs of life there are in the time after which the manager acts: one may be late."""

EXTENSION_S: Final = 30.0
"""How much more time is asked for while the server starts or stops; three times in that time."""

_log = structlog.get_logger("troth.supervisor")


@final
class Notices:
    """What the manager has been told, and has to be told again. None: there is no manager."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self._address = address
        self._watchdog_s = watchdog_s
        self._is_changing = True
        self._is_warned = False
        self._unsent: list[bytes] = []
        self._next_sign_s = float("-inf")

    def ready(self, status: str) -> None:
        """Say that all serve; `status` is one line for people."""
        self._is_changing = False
        self._tell(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._is_changing = True
        self._tell("STOPPING=1\nSTATUS=finishing what is in flight")

    def status(self, text: str) -> None:
        """Say in one line how the server is, if the manager takes it now."""
        if self._address is not None:
            self._send(f"STATUS={text}".encode())

    def look(self, now_s: float) -> None:
        """Repeat what was not taken, and give a sign of life when it is time for one."""
        if self._address is None:
            return
        self._send_unsent()
        if now_s < self._next_sign_s:
            return
        if self._is_changing:
            self._send(b"EXTEND_TIMEOUT_USEC=%d" % (EXTENSION_S * 1e6))
        if self._watchdog_s is not None:
            self._send(b"WATCHDOG=1")
        timeout_s = EXTENSION_S if self._watchdog_s is None else min(self._watchdog_s, EXTENSION_S)
        self._next_sign_s = now_s + timeout_s / SIGNS_IN_A_TIMEOUT_COUNT

    def _tell(self, text: str) -> None:
        if self._address is not None:
            self._unsent.append(text.encode())
            self._next_sign_s = float("-inf")
            self._send_unsent()

    def _send_unsent(self) -> None:
        while self._unsent and self._send(self._unsent[0]):
            del self._unsent[0]

    def _send(self, message: bytes) -> bool:
        assert self._address is not None
        try:
            send_notice(self._address, message)
        except BlockingIOError:
            return False
        except OSError as error:
            # The server is none the worse for it, and the manager may come back.
            if not self._is_warned:
                _log.warning("the service manager cannot be told", reason=str(error))
            self._is_warned = True
            return False
        return True
