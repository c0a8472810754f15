"""Why a promise is pending, as one sentence for people."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from troth.shards.surveys.rows import Cause, Reason, Why, WhyLink

LINKS_SHOWN_COUNT: Final = 3

SOON_MS: Final = 365 * 86_400_000
"""A timeout that is further away is not worth a mention."""

_UNITS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))
_SECONDS_MAX: Final = 253_402_300_799  # the end of the year 9999
PART_OF: Final = "part of"


def sentence(promise_id: str, why: Why, now_ms: int) -> str:
    """Return the sentence; `promise_id` is how the caller names the promise."""
    if why.cause.reason is Reason.COMPLETED:
        return f"{promise_id} has completed: it is {why.promise.state.value}."
    last = why.cause.promise_id if why.links else promise_id
    clause = _CLAUSES[why.cause.reason](_Clause(last, why.cause, now_ms))
    text = f"{_way(promise_id, why.links)}: {clause}" if why.links else clause
    due = why.next
    is_soon = due is not None and due.at - now_ms <= SOON_MS
    if due is not None and is_soon and due.what == "timeout" and due.at != why.cause.at:
        named = "it" if due.id == why.promise.id else due.id
        text += f"; {named} times out {_moment(due.at, now_ms)}"
    return text[0].upper() + text[1:] + "." if not why.links else text + "."


def hint(cause: Cause) -> str | None:
    """Return what is wrong where nothing will happen without help; None if nothing is known."""
    if cause.reason is Reason.NO_LISTENER:
        return f"no worker listens to the group `{cause.group}`{_elsewhere(cause)}"
    if cause.reason is Reason.UNDELIVERABLE:
        return f"its receiver cannot be reached: {cause.detail}"
    if cause.reason is Reason.NOT_CONNECTED:
        return f"the worker `{cause.connection_id}` of the group `{cause.group}` is not connected"
    if cause.reason is Reason.OTHER_PROTOCOL:
        return f"the workers of the group `{cause.group}` speak the other API"
    return None


def _way(promise_id: str, links: Sequence[WhyLink]) -> str:
    shown = list(links)
    text = f"{promise_id}"
    if len(shown) > LINKS_SHOWN_COUNT:
        skipped_count = len(shown) - 2
        first, last = shown[0], shown[-1]
        return f"{text} {_step(first)}, and through {skipped_count} more for {last.id}"
    for place, link in enumerate(shown):
        text += f"{', which' if place else ''} {_step(link)}"
    return text


def _step(link: WhyLink) -> str:
    return f"is part of the work on {link.id}" if link.how == PART_OF else f"waits for {link.id}"


def _span(ms: int) -> str:
    """Return a duration in its largest unit, and the next one if that says more."""
    if ms < 1_000:
        return f"{max(ms, 0)} ms"
    for place, (unit_ms, name) in enumerate(_UNITS):
        if ms >= unit_ms:
            text = f"{ms // unit_ms} {name}"
            if place + 1 < len(_UNITS):
                lower_ms, lower = _UNITS[place + 1]
                rest = ms % unit_ms // lower_ms
                text += f" {rest} {lower}" if rest else ""
            return text
    return f"{ms} ms"


def _utc(ms: int) -> str:
    seconds = min(max(ms // 1000, 0), _SECONDS_MAX)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment(ms: int | None, now_ms: int) -> str:
    """Return a moment that comes, with how far it is."""
    if ms is None:
        return "later"
    if ms // 1000 > _SECONDS_MAX:
        return "never"
    return f"in {_span(ms - now_ms)} ({_utc(ms)})" if ms > now_ms else "now"


def _elsewhere(cause: Cause) -> str:
    if not cause.connected_groups:
        return " (no worker is connected at all)"
    groups = ", ".join(f"`{name}`" for name in cause.connected_groups)
    return f" (workers listen to {groups})"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


class _Clause(Struct, frozen=True):
    """What is said of one cause, as a part of a sentence; `name` is the promise's."""

    name: str
    cause: Cause
    now_ms: int

    @property
    def group(self) -> str:
        return f"the group `{self.cause.group}`"

    @property
    def listeners(self) -> str:
        return f"{_count(self.cause.listeners_count, 'worker')} of {self.group}"

    @property
    def receiver(self) -> str:
        task = self.cause.task
        return "its receiver" if task is None else task.receiver

    @property
    def holder(self) -> str:
        task = self.cause.task
        return "the worker" if task is None else f"the worker `{task.process_id}`"

    @property
    def heard(self) -> str:
        heard_on = self.cause.heard_on
        return "" if heard_on is None else f", last heard from {_span(self.now_ms - heard_on)} ago"

    @property
    def so_long(self) -> str:
        since = self.cause.since
        return "" if since is None else f" for {_span(self.now_ms - since)}"

    @property
    def then(self) -> str:
        return _moment(self.cause.at, self.now_ms)

    def no_listener(self) -> str:
        return (
            f"no worker listens to {self.group}{_elsewhere(self.cause)}, so the task of "
            f"{self.name} has waited{self.so_long}"
        )

    def not_connected(self) -> str:
        return (
            f"the worker `{self.cause.connection_id}` of {self.group}, which alone may have the "
            f"task of {self.name}, is not connected"
        )

    def other_protocol(self) -> str:
        return (
            f"{self.listeners} cannot take the task of {self.name}: they speak the other of the "
            "two APIs"
        )

    def full(self) -> str:
        return (
            f"{self.listeners} are all busy: each has as many messages as it may, so the task of "
            f"{self.name} waits{self.so_long}"
        )

    def sending(self) -> str:
        return f"the task of {self.name} is on its way to {self.receiver}"

    def sent(self) -> str:
        return (
            f"the task of {self.name} was sent to {self.receiver} and no worker has claimed it "
            f"yet; it is sent again {self.then}"
        )

    def held(self) -> str:
        return (
            f"{self.holder} is busy with {self.name}{self.heard}; its lease ends {self.then} "
            "unless it is renewed"
        )

    def gone(self) -> str:
        return (
            f"{self.holder}, which holds the task of {self.name}, is not connected{self.heard}; "
            f"unless it renews its lease, another worker gets the task {self.then}"
        )

    def receiver_fails(self) -> str:
        task = self.cause.task
        failed_count = 0 if task is None else task.sending.failed_count
        return (
            f"the receiver {self.receiver} of the task of {self.name} fails "
            f"({self.cause.detail}); {_count(failed_count, 'attempt')} so far, the next one "
            f"{self.then}"
        )

    def undeliverable(self) -> str:
        return (
            f"the task of {self.name} can never be sent: its receiver {self.receiver} is no "
            f"usable address ({self.cause.detail})"
        )

    def halted(self) -> str:
        return f"the task of {self.name} is halted, until a client continues it"

    def no_task(self) -> str:
        return (
            f"no worker is asked to work on {self.name}: it waits{self.so_long} for a client to "
            "complete it"
        )

    def delayed(self) -> str:
        return f"the task of {self.name} is not sent before its time, {self.then}"

    def sleeps(self) -> str:
        return f"{self.name} is a timer that ends {self.then}"

    def runs(self) -> str:
        return (
            f"the node `{self.cause.detail}` has been running {self.name}{self.so_long}; it has "
            f"to end {self.then}"
        )

    def no_node(self) -> str:
        return (
            f"no node that can run {self.name} is connected; the function task has waited"
            f"{self.so_long}"
        )

    def nodes_busy(self) -> str:
        return (
            f"{_count(self.cause.listeners_count, 'node')} that can run {self.name} are all busy; "
            f"the function task has waited{self.so_long}"
        )

    def call_waits(self) -> str:
        return f"{self.name} waits for its turn to call {self.cause.detail}"

    def disabled(self) -> str:
        return f"{self.name} does not start, because its account is disabled"

    def hidden(self) -> str:
        return "it waits for a promise whose id the token may not see"

    def circle(self) -> str:
        return f"{self.name} waits for itself: promises wait for each other in a circle"

    def too_many(self) -> str:
        return f"it waits for {self.name}, and for more promises than are looked at"

    def completed(self) -> str:
        return f"{self.name} has completed"


_CLAUSES: Final[Mapping[Reason, Callable[[_Clause], str]]] = {
    Reason.COMPLETED: _Clause.completed,
    Reason.HIDDEN: _Clause.hidden,
    Reason.CIRCLE: _Clause.circle,
    Reason.UNDELIVERABLE: _Clause.undeliverable,
    Reason.NO_LISTENER: _Clause.no_listener,
    Reason.NOT_CONNECTED: _Clause.not_connected,
    Reason.OTHER_PROTOCOL: _Clause.other_protocol,
    Reason.RECEIVER_FAILS: _Clause.receiver_fails,
    Reason.NO_NODE: _Clause.no_node,
    Reason.ACCOUNT_DISABLED: _Clause.disabled,
    Reason.HOLDER_GONE: _Clause.gone,
    Reason.HALTED: _Clause.halted,
    Reason.LISTENERS_FULL: _Clause.full,
    Reason.NODES_BUSY: _Clause.nodes_busy,
    Reason.CALL_WAITS: _Clause.call_waits,
    Reason.NO_TASK: _Clause.no_task,
    Reason.TOO_MANY: _Clause.too_many,
    Reason.DELAYED: _Clause.delayed,
    Reason.SLEEPS: _Clause.sleeps,
    Reason.SENT: _Clause.sent,
    Reason.SENDING: _Clause.sending,
    Reason.HELD: _Clause.held,
    Reason.RUNS: _Clause.runs,
}
