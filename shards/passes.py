"""A pass of the event loop, and how long shards may work in it.

Between two looks for I/O the loop runs every task that can run, once. What has arrived in the
sockets waits for that long, so all work that can come due together shares one budget of time:
commands, timers, schedules, messages between shards, what is released when the log is durable. Work
that is left over continues in the next pass. Whatever the budget says, each kind makes a little
progress, so none waits forever.
"""

from typing import Final, final

import trio

PASS_LIMIT_S: Final = 0.010
CLIENTS_SHARE: Final = 0.6
"""The part of a pass that clients' commands may use up; the rest is for the server's own."""


@final
class Pass(trio.abc.Instrument):
    """The pass that is going on. Add it to trio's instruments, which tell it when one begins.

    It goes by trio's clock; in a test with a `MockClock` no time passes within a pass.
    """

    def __init__(self) -> None:
        """Begin in a pass without end, until the loop has looked for I/O."""
        self._ends_s = float("inf")
        self._clients_end_s = float("inf")
        self.passes_count = 0

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002  trio's name and arguments
        """Begin a pass: the loop has looked for I/O."""
        now_s = trio.current_time()
        self._ends_s = now_s + PASS_LIMIT_S
        self._clients_end_s = now_s + PASS_LIMIT_S * CLIENTS_SHARE
        self.passes_count += 1

    @property
    def is_over(self) -> bool:
        """Return whether the budget is used up."""
        return trio.current_time() >= self._ends_s

    @property
    def is_over_for_clients(self) -> bool:
        """Return whether the clients' part of the budget is used up."""
        return trio.current_time() >= self._clients_end_s
