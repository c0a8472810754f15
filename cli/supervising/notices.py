"""When the supervisor tells the service manager that started it that all live (`Notices`)."""

from typing import final

from troth.http.supervision.notices import EXTENSION_S, SIGNS_IN_A_TIMEOUT_COUNT, Notices


@final
class TimedNotices(Notices):
    """What the manager is told, with signs of life at their times, given the time."""

    _next_sign_s = float("-inf")

    def look(self, now_s: float) -> None:
        """Repeat what was not taken, and give a sign of life when it is time for one."""
        if self.address is None:
            return
        self.send_unsent()
        if now_s < self._next_sign_s:
            return
        self.send_signs()
        timeout_s = EXTENSION_S if self.watchdog_s is None else min(self.watchdog_s, EXTENSION_S)
        self._next_sign_s = now_s + timeout_s / SIGNS_IN_A_TIMEOUT_COUNT

    def _tell(self, text: str) -> None:
        super()._tell(text)
        self._next_sign_s = float("-inf")
