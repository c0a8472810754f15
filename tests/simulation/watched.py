"""The seams at which a life of the server is watched: what it writes, and what leaves it."""

from collections.abc import Sequence

from troth.core.commands import Command
from troth.core.machine import Machine, Step
from troth.core.replies import Message, Reply
from troth.persistence.wal.log import LogRecord, NewRecord
from troth.shards.committer import Committer
from troth.shards.mesh.passes import PassedFence, PassedWorkflowFence
from troth.shards.turns import Outgoing

from .invariants import BrokenPromise, Watch


class WatchedRoutes:
    """Looks at each message on its way to delivery or placement."""

    def __init__(self, routes: Outgoing, watch: Watch) -> None:
        self._routes = routes
        self._watch = watch

    def send(self, message: Message) -> None:
        """See Outgoing."""
        self._watch.sending(message)
        self._routes.send(message)

    def withdraw(self, task_id: str) -> None:
        """See Outgoing."""
        self._routes.withdraw(task_id)

    def finished(self, promise_ids: list[str]) -> None:
        """See Outgoing."""
        self._routes.finished(promise_ids)


def watch_committer(committer: Committer, watch: Watch, group: int = 0) -> None:
    """Tell the watch what is appended, and what is durable before anybody else hears of it."""
    append, tell_shards = committer.append, committer._on_durable

    def appended(records: Sequence[NewRecord], *, is_awaited: bool = True) -> int:
        position = append(records, is_awaited=is_awaited)
        watch.appended([LogRecord(*record) for record in records], group)
        return position

    def durable(position: int) -> None:
        watch.durable(position, group)
        tell_shards(position)

    committer.append = appended  # type: ignore[method-assign]
    committer._on_durable = durable


def watch_machine(machine: Machine, watch: Watch) -> None:
    """Show each step of a machine to the watch."""
    carry_out = machine.carry_out

    def carried_out(command: Command, now_ms: int) -> Step | Reply:
        fence = getattr(command, "fence", None)
        result = carry_out(command, now_ms)
        reply = result.reply if isinstance(result, Step) else result
        # What a link asks again is answered as it was done, and nothing is done then.
        is_repeated = getattr(command, "is_again", False) and not getattr(result, "records", ())
        is_done = reply.code.status < 300 and not is_repeated
        if is_done and isinstance(fence, PassedFence | PassedWorkflowFence):
            try:
                watch.fenced(fence)
            except BrokenPromise as error:
                watch.broken = watch.broken or error  # a shard would take it for a defect
        if isinstance(result, Step) and result.sends:
            watch.stepped(machine.state, result)
        return result

    machine.carry_out = carried_out  # type: ignore[method-assign]
