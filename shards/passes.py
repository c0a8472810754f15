"""A pass of the event loop, and how long shards may work in it.

Between two looks for I/O the loop runs every task that can run, once. What has arrived in the
sockets waits for that long, so all work that can come due together shares one budget of time:
commands, timers, schedules, messages between shards, what is released when the log is durable. Work
that is left over continues in the next pass. Whatever the budget says, each kind makes a little
progress, so none waits forever. The garbage collector works within a pass, too; see `collector.py`.
"""

from collections.abc import Callable
from typing import Final, final

import trio

PASS_LIMIT_S: Final = 0.010
CLIENTS_LIMIT_S: Final = 0.006
"""How long clients' commands may take in a pass."""
OWN_LIMIT_S: Final = 0.003
"""How long the server's own work may: what comes due, messages between shards and to workers.

It is all that a pass takes while clients ask for little. A client waits for several passes: one
that takes its request, and more until that is durable and answered.
"""
assert CLIENTS_LIMIT_S + OWN_LIMIT_S <= PASS_LIMIT_S


@final
class Pass(trio.abc.Instrument):
    """The pass that is going on; trio tells it when one begins.

    Trio decides which task is first in a pass. So the server's own work has its own budget,
    wherever in the pass it comes, and what it uses is not taken from the clients'. It goes by
    trio's clock; in a test with a `MockClock` no time passes within a pass.
    """

    def __init__(self) -> None:
        """Begin in a pass without end, until the loop has looked for I/O."""
        self._time_s: Callable[[], float] = trio.current_time
        self._ends_s = float("inf")
        self._clients_end_s = float("inf")
        self._own_left_s = float("inf")
        self._own_began_s = 0.0
        self._own_ends_s = float("inf")
        self.passes_count = 0
        self._at_end: Callable[[], None] | None = None

    def start(self, at_end: Callable[[], None] | None = None) -> None:
        """Follow the passes of the loop that calls this; `stop` ends that.

        `at_end` is called at the end of each. It may wake no task, since the loop has decided by
        then how long to wait.
        """
        self._at_end = at_end
        # What `trio.current_time` asks, without the calls between.
        self._time_s = trio.lowlevel.current_clock().current_time
        trio.lowlevel.add_instrument(self)

    def stop(self) -> None:
        """Follow them no longer."""
        trio.lowlevel.remove_instrument(self)

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002  trio's name and arguments
        """Begin a pass: the loop has looked for I/O."""
        now_s = self._time_s()
        self._ends_s = now_s + PASS_LIMIT_S
        self._clients_end_s = now_s + CLIENTS_LIMIT_S
        self._own_left_s = OWN_LIMIT_S
        self.passes_count += 1

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002  trio's name and arguments
        """End a pass: the loop looks for I/O next."""
        if self._at_end is not None:
            self._at_end()

    @property
    def is_over(self) -> bool:
        """Return whether the whole budget is used up."""
        return self._time_s() >= self._ends_s

    def has_time_for_clients(self) -> bool:
        """Return whether something is left of the clients' part of the budget."""
        return self._time_s() < self._clients_end_s

    def begin_own(self) -> None:
        """Begin a piece of the server's own work; `end_own` follows before any task waits."""
        self._own_began_s = now_s = self._time_s()
        self._own_ends_s = now_s + self._own_left_s

    def end_own(self) -> None:
        """End the piece that was begun last."""
        used_s = self._time_s() - self._own_began_s
        self._own_left_s -= used_s
        self._clients_end_s += used_s

    def has_time_for_own(self) -> bool:
        """Return whether something is left for the server's own work. Within a piece of it."""
        return self._time_s() < self._own_ends_s
