"""The traces of a server, wired together; a server without traces has None instead.

    requests, records, deliveries ── FinishedSpan ──► SpanQueue ── when durable ──► Exporter

The event loop only decides what is sampled, keeps ids and appends finished spans. At most ten times
a second `run` takes what has ended, waits until all that it tells of is durable, and hands it to
the exporter's thread. When the server stops, the rest has `CLOSE_LIMIT_S` to leave.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final

import trio

from troth.core.commands import Command
from troth.core.failures import Failures
from troth.core.grammar.addresses import Address
from troth.core.model import Promise
from troth.core.state.watching import Watch
from troth.shards.threads import in_thread
from troth.shards.turns import Outgoing

from .contexts import Ids, SpanContext
from .environment import TracingPlan, plan_of
from .lifetimes import Lifetimes
from .requests import RequestNotes, RequestSpans
from .sendings import TracedOutgoing
from .spans import SpanQueue

if TYPE_CHECKING:
    from .exporter import Exporter

COLLECT_INTERVAL_S: Final = 0.1
"""How long finished spans are collected before they are handed over."""
CLOSE_LIMIT_S: Final = 2.0
"""How long a server that stops waits for its last spans to leave."""


class Tracing:
    """The traces of one server."""

    def __init__(
        self,
        plan: TracingPlan,
        exporter: "Callable[[SpanQueue], Exporter]",
        *,
        now_ns: Callable[[], int],
        ids: Ids | None = None,
        tags: tuple[str, ...] = (),
        shows_ids: bool = True,
    ) -> None:
        """Initialize. `tags` are those that spans of promises show, `shows_ids` whether any do."""
        self.plan = plan
        self.queue = SpanQueue()
        self._exporter = exporter(self.queue)
        self._now_ns = now_ns
        self._ids = Ids() if ids is None else ids
        self._tags = tags
        self._shows_ids = shows_ids
        self._finder: Callable[[str], Promise | None] = lambda _: None
        self._sendings: TracedOutgoing | None = None
        self._lifetimes: Lifetimes | None = None

    def outgoing(
        self,
        outgoing: Outgoing,
        names: Mapping[str, Address],
        finder: Callable[[str], Promise | None],
    ) -> Outgoing:
        """Return a layer around `outgoing` that notes the messages passing through it."""
        self._finder = finder
        self._sendings = TracedOutgoing(
            outgoing,
            self.queue,
            self._ids,
            names=names,
            now_ns=self._now_ns,
            finder=finder,
            shows_ids=self._shows_ids,
        )
        return self._sendings

    def heard(self, command: Command) -> None:
        """Note a report of delivery."""
        assert self._sendings is not None, "messages go through `outgoing` first"
        self._sendings.heard(command)

    def listen(self, watch: Watch, failures: Failures, log: RequestNotes) -> RequestSpans:
        """Listen to records; return the observer of requests, which passes them on to `log`."""
        assert self._sendings is not None, "messages go through `outgoing` first"
        requests = RequestSpans(
            self.queue,
            self.plan.sampler,
            self._ids,
            now_ns=self._now_ns,
            context_of_task=self.context_of_task,
            finder=self._finder,
            log=log,
            shows_ids=self._shows_ids,
        )
        self._lifetimes = Lifetimes(
            self.queue,
            self._ids,
            requests,
            self._sendings,
            failures,
            now_ns=self._now_ns,
            finder=self._finder,
            tags=self._tags,
            shows_ids=self._shows_ids,
        )
        watch.listen(self._lifetimes.hear)
        return requests

    def context_of_task(self, key: str) -> SpanContext | None:
        """Return the parent of the spans of a task's holder; None if unknown or not traced."""
        assert self._lifetimes is not None, "it is known after `listen`"
        return self._lifetimes.context_of_task(key)

    async def run(
        self,
        durable: Callable[[], Awaitable[bool]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Hand finished spans over until canceled, and then the rest.

        `durable` waits until all that has happened is durable, and returns whether it is: if the
        log has failed, spans would report what no restart will remember.
        """
        task_status.started()
        try:
            while True:
                await self.queue.wait()
                await trio.sleep(COLLECT_INTERVAL_S)
                await self._hand_over(durable)
        finally:
            with trio.CancelScope(shield=True):
                with trio.move_on_after(CLOSE_LIMIT_S):  # the log may have ended already
                    await self._hand_over(durable)
                await in_thread(lambda: self._exporter.close(CLOSE_LIMIT_S))

    async def _hand_over(self, durable: Callable[[], Awaitable[bool]]) -> None:
        # Nothing of a turn waits, so all that these spans tell of is in the log's queue by now.
        count = self.queue.count
        if await durable():
            self._exporter.give(self.queue.take(count))


def make_tracing(
    *, now_ns: Callable[[], int], tags: tuple[str, ...], shows_ids: bool
) -> Tracing | None:
    """Return the traces that the environment asks for. If it asks for none, import nothing."""
    plan = plan_of(os.environ)
    if plan is None:
        return None

    def exporter(queue: SpanQueue) -> "Exporter":
        from .exporter import Exporter

        return Exporter(queue, plan.service_name)

    return Tracing(plan, exporter, now_ns=now_ns, tags=tags, shows_ids=shows_ids)
