"""What a service manager is told of a server: ready, stopping, alive. Nothing blocks.

READY and STOPPING are sent again until the manager takes them. A sign of life that it does not take
is dropped, since the next one follows. Who uses this says when: a loop that serves
(`service_manager.py`), or the supervisor of several processes (`cli/supervising/notices.py`).

The protocol is described in sd_notify(3).
"""

from typing import Final

import structlog

from .manager_environment import send_notice

SIGNS_IN_A_TIMEOUT_COUNT: Final = 3
"""How many signs of life there are in the time after which the manager acts: one may be late."""

EXTENSION_S: Final = 30.0
"""How much more time is asked for while the server starts or stops; three times in that time."""

_log = structlog.get_logger("troth.supervision")


class Notices:
    """What the manager has been told, and has to be told again.

    `address` is that of its datagram socket; None: there is nothing to be told. `watchdog_s` is
    after which time without a sign of life it acts; None: it does not watch.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        """Begin with a server that starts."""
        self.address = address
        self.watchdog_s = watchdog_s
        self.is_changing = True
        """Whether the server starts or stops."""
        self._is_warned = False
        self._unsent: list[bytes] = []

    @property
    def has_unsent(self) -> bool:
        """Return whether the manager has not taken all that it is to be told."""
        return bool(self._unsent)

    def ready(self, status: str) -> None:
        """Say that the start has ended. `status` is one line that `systemctl status` shows."""
        self.is_changing = False
        self._tell(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """Say that the stop has begun."""
        self.is_changing = True
        self._tell("STOPPING=1\nSTATUS=finishing what is in flight")

    def status(self, text: str) -> None:
        """Say in one line what the server does, if the manager takes it now."""
        if self.address is not None:
            self._send(f"STATUS={text}".encode())

    def send_signs(self) -> None:
        """Give a sign of life, and ask for more time while the server starts or stops."""
        if self.is_changing:
            self._send(b"EXTEND_TIMEOUT_USEC=%d" % (EXTENSION_S * 1e6))
        if self.watchdog_s is not None:
            self._send(b"WATCHDOG=1")

    def send_unsent(self) -> None:
        """Repeat what was not taken."""
        while self._unsent and self._send(self._unsent[0]):
            del self._unsent[0]

    def _tell(self, text: str) -> None:
        """Say something until it is taken; who looks at times may be woken by it."""
        if self.address is not None:
            self._unsent.append(text.encode())
            self.send_unsent()

    def _send(self, message: bytes) -> bool:
        """Send a datagram; return whether it was taken."""
        assert self.address is not None, "there is a manager"
        try:
            send_notice(self.address, message)
        except BlockingIOError:
            return False
        except OSError as error:
            # The server is none the worse for it, and the manager may come back.
            if not self._is_warned:
                _log.warning("the service manager cannot be told", reason=str(error))
            self._is_warned = True
            return False
        return True
