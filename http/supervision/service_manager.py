"""What starts and watches this process: systemd, or anything that speaks its protocol.

What it says in the environment is read in `manager_environment.py`; what it is told is in
`notices.py`. This module promises:

- The signs of life come from the loop that serves: a loop that hangs gives none.
- While the process starts or stops, the manager is asked for more time as long as the loop runs: a
  long log is read back, and a last checkpoint written, however long that takes.
- Without a manager nothing is sent, and no task runs.

The protocol is described in sd_notify(3), sd_listen_fds(3) and sd_watchdog_enabled(3).
"""

import os
from collections.abc import MutableMapping
from typing import Final, final

import trio

from .manager_environment import NO_SOCKETS, GivenSockets, take_environment
from .notices import EXTENSION_S, SIGNS_IN_A_TIMEOUT_COUNT, Notices

_RETRY_S: Final = 1.0


@final
class ServiceManager(Notices):
    """The manager of this process, if there is one: hears that it is ready, stops, lives."""

    def __init__(
        self,
        address: str | None = None,
        watchdog_s: float | None = None,
        handed_over: GivenSockets = NO_SOCKETS,
    ) -> None:
        """Take what the manager says of itself (see `Notices`), and the sockets that it opened."""
        super().__init__(address, watchdog_s)
        self.handed_over = handed_over
        self._stirred = trio.Event()

    async def run(self) -> None:
        """Give signs of life, and repeat what was not taken; returns only if there is no manager.

        It runs on the loop that serves: a loop that hangs gives none.
        """
        if self.address is None:
            return
        try:
            while True:
                self.send_unsent()
                self.send_signs()
                self._stirred = trio.Event()
                with trio.move_on_after(self._pause_s()):
                    await self._stirred.wait()
        finally:
            self.send_unsent()

    def _pause_s(self) -> float:
        watchdog_s = float("inf") if self.watchdog_s is None else self.watchdog_s
        timeout_s = min(watchdog_s, EXTENSION_S) if self.is_changing else watchdog_s
        pause_s = timeout_s / SIGNS_IN_A_TIMEOUT_COUNT
        return min(pause_s, _RETRY_S) if self.has_unsent else pause_s

    def _tell(self, text: str) -> None:
        super()._tell(text)
        self._stirred.set()


def taken(environment: MutableMapping[str, str] = os.environ) -> ServiceManager:
    """Read who manages this process, and remove it from the environment.

    Raises HandedOverRefused if it handed over sockets that this server cannot listen on.
    """
    given = take_environment(environment)
    return ServiceManager(given.address, given.watchdog_s, given.handed_over)
