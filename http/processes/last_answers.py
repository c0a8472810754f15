"""What clients hear that wait for answers when their process has to end: 503, before it does.

A connection that ends without an answer costs some of them more (envelope.md 1). So a process whose
log has failed, or whose group another node has taken over, answers first.
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol, final

import trio

from troth.http.sockets.lane import Lane
from troth.http.sockets.listener import SocketListener

STOPPED_LIMIT_S: Final = 1.5
"""How long requests may take that others can answer; most are refused immediately."""

_LOOK_S: Final = 0.01


class OtherProcesses(Protocol):
    """Where requests wait for other processes: a `MeshMember`."""

    def refuse_all(self) -> None:
        """Refuse them all."""
        ...  # pragma: no cover


@final
class LastAnswers:
    """Runs lanes so that they can be ended by themselves: what waits there is answered then."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, Callable[[], None]] = {}

    async def run_lane(
        self, lane: Lane, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run a lane until canceled, or until the last answers were given."""
        with trio.CancelScope() as scope:
            self._lanes[lane] = scope.cancel
            try:
                await lane.run(task_status=task_status)
            finally:
                del self._lanes[lane]

    async def give(
        self, listeners: Iterable[SocketListener], others: OtherProcesses | None
    ) -> None:
        """Answer all requests that wait, and end the lanes. The server refuses already."""
        with trio.move_on_after(STOPPED_LIMIT_S):
            async with trio.open_nursery() as stopping:
                for listener in listeners:
                    stopping.start_soon(listener.stop)
        if others is not None:
            others.refuse_all()
        for end in list(self._lanes.values()):
            end()
        while self._lanes:  # noqa: ASYNC110  it is a matter of one pass
            await trio.sleep(_LOOK_S)
