"""What starts and watches this process: systemd, or anything that speaks its protocol.

What it says in the environment is read in `manager_environment.py`. This module promises:

- Sending never blocks. READY and STOPPING are sent again until the manager takes them; a sign of
  life that it does not take is dropped, since the next one follows.
- While the process starts or stops, the manager is asked for more time as long as the loop runs: a
  long log is read back, and a last checkpoint written, however long that takes.
- Without a manager nothing is sent, and no task runs.

The protocol is described in sd_notify(3), sd_listen_fds(3) and sd_watchdog_enabled(3).
"""

import os
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from .manager_environment import NO_SOCKETS, GivenSockets, send_notice, take_environment

SIGNS_IN_A_TIMEOUT_COUNT: Final = 3
"""How many signs of life there are in the time after which the manager acts: one may be late."""

EXTENSION_S: Final = 30.0
"""How much more time is asked for while the process starts or stops; three times in that time."""

_RETRY_S: Final = 1.0
_log = structlog.get_logger("troth.supervision")


@dataclass(slots=True)
class ServiceManager:
    """The manager of this process, if there is one: hears that it is ready, stops, lives."""

    address: str | None = None
    """Of its datagram socket; None: there is nothing to be told. `@` begins an abstract name."""

    watchdog_s: float | None = None
    """After which time without a sign of life it acts; None: it does not watch."""

    handed_over: GivenSockets = NO_SOCKETS
    _is_changing: bool = True
    _is_warned: bool = False
    _unsent: list[bytes] = field(default_factory=list)
    _stirred: trio.Event = field(default_factory=trio.Event)

    def ready(self, status: str) -> None:
        """Say that the start has ended. `status` is one line that `systemctl status` shows."""
        self._is_changing = False
        self._tell(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """Say that the stop has begun."""
        self._is_changing = True
        self._tell("STOPPING=1\nSTATUS=finishing what is in flight")

    def status(self, text: str) -> None:
        """Say in one line what the process does, if the manager takes it now."""
        if self.address is not None:
            self._send(f"STATUS={text}".encode())

    async def run(self) -> None:
        """Give signs of life, and repeat what was not taken; returns only if there is no manager.

        It runs on the loop that serves: a loop that hangs gives none.
        """
        if self.address is None:
            return
        try:
            while True:
                self._send_unsent()
                if self._is_changing:
                    self._send(b"EXTEND_TIMEOUT_USEC=%d" % (EXTENSION_S * 1e6))
                if self.watchdog_s is not None:
                    self._send(b"WATCHDOG=1")
                self._stirred = trio.Event()
                with trio.move_on_after(self._pause_s()):
                    await self._stirred.wait()
        finally:
            self._send_unsent()

    def _pause_s(self) -> float:
        watchdog_s = float("inf") if self.watchdog_s is None else self.watchdog_s
        timeout_s = min(watchdog_s, EXTENSION_S) if self._is_changing else watchdog_s
        pause_s = timeout_s / SIGNS_IN_A_TIMEOUT_COUNT
        return min(pause_s, _RETRY_S) if self._unsent else pause_s

    def _tell(self, text: str) -> None:
        if self.address is not None:
            self._unsent.append(text.encode())
            self._send_unsent()
            self._stirred.set()

    def _send_unsent(self) -> None:
        while self._unsent and self._send(self._unsent[0]):
            del self._unsent[0]

    def _send(self, message: bytes) -> bool:
        """Send a datagram; return whether it was taken."""
        assert self.address is not None
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


def taken(environment: MutableMapping[str, str] = os.environ) -> ServiceManager:
    """Read who manages this process, and remove it from the environment.

    Raises HandedOverRefused if it handed over sockets that this server cannot listen on.
    """
    given = take_environment(environment)
    return ServiceManager(given.address, given.watchdog_s, given.handed_over)
